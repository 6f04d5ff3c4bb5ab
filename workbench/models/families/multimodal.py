"""The decoder of text in models that also see: its configuration is part of theirs, its tensors have a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from workbench.models.families.dense import WHERE
from workbench.models.keys import ANYTHING, OBJECT, TRUTH, Key, one_of, read_keys, refused
from workbench.models.pretrained_keys import PRETRAINED_KEYS


class Multimodal(NamedTuple):
    """text: `model_type` and class of the decoder of text. prefix: of its tensors. others: keys that are not its."""

    text: str
    architecture: str
    prefix: str
    others: tuple[str, ...]


#: By `model_type`; the decoder's configuration is `text_config`.
MULTIMODAL = {
    "llama4": Multimodal(
        "llama4_text",
        "Llama4ForCausalLM",
        "language_model.",
        ("vision_config", "boi_token_index", "eoi_token_index", "image_token_index", "image_token_id"),
    ),
}
NESTED, QUANTIZED = "text_config", "quantization_config"


def multimodal(config: Mapping) -> Multimodal | None:
    """What there is to know of a model of text and something else; None for one of text alone."""
    kind = config.get("model_type")
    return MULTIMODAL.get(kind) if isinstance(kind, str) else None


def text_part(config: Mapping) -> dict[str, Any]:
    """The configuration of the decoder of text, or the configuration itself where it is of text alone.

    Raises UnsupportedModelError naming the key that is not understood.
    """
    found = multimodal(config)
    if found is None:
        return dict(config)
    own = (
        Key("model_type", ANYTHING),
        Key("architectures", ANYTHING, None),
        Key(NESTED, OBJECT),
        Key("tie_word_embeddings", TRUTH, False),
        Key(QUANTIZED, ANYTHING, None),
        *(Key(name, ANYTHING, None) for name in found.others),
    )
    names = {key.name for key in own}
    read, _ = read_keys(config, (*own, *(key for key in PRETRAINED_KEYS if key.name not in names)), WHERE)
    text, where = dict(read[NESTED]), f"{WHERE}: {NESTED}"
    if not one_of(found.text).holds(text.setdefault("model_type", found.text)):
        raise refused(where, "model_type", text["model_type"], f'"{found.text}"')
    if read["tie_word_embeddings"] != text.get("tie_word_embeddings", False):
        raise refused(
            where,
            "tie_word_embeddings",
            text.get("tie_word_embeddings", False),
            f"that of the whole, {read['tie_word_embeddings']}".lower(),
        )
    text["architectures"] = [found.architecture]
    return text if read[QUANTIZED] is None else {**text, QUANTIZED: read[QUANTIZED]}
