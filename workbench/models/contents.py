"""Which tensors of a file are the model's, and what becomes of the others.

A model reads what its configuration asks for (`Architecture.tensors`): all of it must be there, in the shape that the
configuration says. Of what a file holds besides, a part means nothing to the model: buffers that follow from the
configuration, layers beyond the last, matrices of an adapter, heads of other tasks. That is listed once with its
reason, and neither used, stored nor counted. The rest says that the file is of another family than its config.json
(a bias that is not declared, norms of q and k, experts): what the model would compute without it is wrong, and it is
refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from workbench.errors import LONGEST_WORD, CheckpointError, UnsupportedModelError, shortened
from workbench.models.architecture import Architecture
from workbench.models.specs import TensorSpec

#: (shape, dtype as safetensors names it)
Header = tuple[tuple[int, ...], str]

_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_ADAPTER = re.compile(r"(^|[._])lora_")
_BUFFER = re.compile(r"(rotary_emb\.\w+|masked_bias|attn\.bias|attn\.masked_bias|position_ids)$")
#: Where an LM head is looked for that a configuration calls tied.
HEAD = "lm_head.weight"
_FLOATS = ("F", "BF")  # F8_E4M3, F16, ...


def check_read(tensors: Mapping[str, TensorSpec], headers: Mapping[str, Header], where: str) -> None:
    """Raise CheckpointError for a tensor that is missing, and UnsupportedModelError for one of another shape."""
    for name, spec in tensors.items():
        if name not in headers:
            raise CheckpointError(
                f"{where}: tensor {name!r} is missing, but config.json asks for it ({', '.join(spec.keys)})"
            )
        shape = tuple(headers[name][0])
        if shape != spec.shape:
            raise UnsupportedModelError(
                f"{where}: {name} has shape {list(shape)}, but config.json asks for {list(spec.shape)} "
                f"({', '.join(spec.keys)})"
            )


def unread(architecture: Architecture, headers: Mapping[str, Header], where: str) -> dict[str, str]:
    """Tensors of the file that the model does not read, and why each means nothing to it.

    Raises UnsupportedModelError naming those that mean something.
    """
    tensors, reasons, foreign = architecture.tensors(), {}, {}
    for name, (shape, dtype) in headers.items():
        if name in tensors:
            continue
        reason = _reason(name, shape, dtype, architecture)
        if reason is not None:
            reasons[name] = reason
        else:
            foreign[name] = _foreign(name, architecture.family)
    if foreign:
        them = "it" if len(foreign) == 1 else "them"
        raise UnsupportedModelError(
            f"{where}: {some(foreign)}: no {architecture.family} of this config.json reads {them}: "
            f"{next(iter(foreign.values()))}. Without {them} the numbers would be another model's"
        )
    return reasons


def _reason(name: str, shape: tuple[int, ...], dtype: str, architecture: Architecture) -> str | None:
    """Why a tensor means nothing to a model that does not read it; None if it may mean something."""
    layer = _LAYER.fullmatch(name)
    if layer and int(layer[1]) >= architecture.layers:
        return f"layer {layer[1]} of a model that has {architecture.layers} by num_hidden_layers"
    if _ADAPTER.search(name):
        return "a matrix of an adapter that is not merged"
    if _BUFFER.search(name) and (not name.endswith("attn.bias") or len(shape) > 1):
        return "a buffer that follows from the configuration"
    if name == HEAD and architecture.tied_embeddings:
        return f"tied to {architecture.embedding}"
    if not dtype.startswith(_FLOATS):
        return f"a buffer of {dtype}: weights are floats"
    if math.prod(shape) <= 1:
        return "a single number or none, no weight"
    if not name.startswith(("model.", "lm_head.")):
        return "no part of the decoder and its LM head"
    return None


def _foreign(name: str, family: str) -> str:
    if name.endswith(".bias"):
        declares = "mlp_bias" if ".mlp." in name else "attention_bias"
        known = ".self_attn." in name or ".mlp." in name
        return (
            f"a bias, which {declares} does not declare" if known else f"a bias, which {family} has not there"
        )
    if "norm" in name:
        return f"a norm that {family} has not"
    if "expert" in name or "router" in name or name.endswith(".gate.weight"):
        return f"a mixture of experts, which {family} is not"
    return f"a part that {family} has not"


def some(names: Iterable[str], limit: int = 4) -> str:
    """A few names and how many more."""
    names = list(names)
    told = ", ".join(shortened(name, LONGEST_WORD) for name in names[:limit])
    return told + (f" and {len(names) - limit} more" if len(names) > limit else "")


def unread_notes(reasons: Mapping[str, str]) -> list[str]:
    """One sentence for each reason: which tensors are not read."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        kind = re.sub(r"^layer \d+ of", "layers beyond those of", reason)
        by_reason.setdefault(kind, []).append(name)
    return [f"not read: {some(names)} ({reason})" for reason, names in by_reason.items()]
