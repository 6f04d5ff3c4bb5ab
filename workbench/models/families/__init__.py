"""The families by `model_type`: the one place that lists them."""

from __future__ import annotations

from collections.abc import Mapping

from workbench.errors import UnsupportedModelError
from workbench.models.architecture import Architecture
from workbench.models.families.dense import WHERE
from workbench.models.families.gemma import Gemma2, Gemma3
from workbench.models.families.granite import Granite
from workbench.models.families.llama import Llama
from workbench.models.families.llama4 import Llama4
from workbench.models.families.mistral import Mistral
from workbench.models.families.mixtral import Mixtral
from workbench.models.families.multimodal import MULTIMODAL, text_part
from workbench.models.families.olmo2 import Olmo2
from workbench.models.families.phi3 import Phi3
from workbench.models.families.qwen2 import Qwen2
from workbench.models.families.qwen3 import Qwen3
from workbench.models.families.qwen3_moe import Qwen3Moe
from workbench.models.families.smollm3 import SmolLM3
from workbench.models.keys import refused

FAMILIES: dict[str, type[Architecture]] = {
    "llama": Llama,
    "llama4_text": Llama4,
    "mistral": Mistral,
    "mixtral": Mixtral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "qwen3_moe": Qwen3Moe,
    "smollm3": SmolLM3,
    "granite": Granite,
    "olmo2": Olmo2,
    "phi3": Phi3,
    "gemma2": Gemma2,
    "gemma3_text": Gemma3,
}


def architecture_of(config: Mapping) -> Architecture:
    """The architecture of the contents of a config.json.

    Of a model of `MULTIMODAL` it is that of its decoder of text.

    Raises `UnsupportedModelError` for a family that is none of these, and as `Architecture.parse` does.
    """
    if "model_type" not in config:  # what a file describes is not guessed, nor does transformers
        raise UnsupportedModelError(f"{WHERE}: model_type is missing; allowed: {_allowed()}")
    config = text_part(config)
    kind = config["model_type"]
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise refused(WHERE, "model_type", kind, _allowed())
    return FAMILIES[kind].parse(config)


def _allowed() -> str:
    return ", ".join(map(repr, (*FAMILIES, *MULTIMODAL)))
