"""The tensors of a Llama checkpoint by its configuration alone, for plans of models whose weights are not here."""

from __future__ import annotations

from collections.abc import Callable

from workbench.errors import UnsupportedModelError
from workbench.formats.spec import WeightFormat

from .llama import LlamaConfig

VECTOR = WeightFormat("f32")


def describe_by_config(
    config: LlamaConfig, fmt: WeightFormat
) -> Callable[[str], tuple[tuple[int, ...], WeightFormat]]:
    """What `source.describe` gives, with every matrix in `fmt`; raises `UnsupportedModelError` for other names."""
    c = config
    width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
    matrices = {
        "embed_tokens": (c.vocab_size, c.hidden_size),
        "lm_head": (c.vocab_size, c.hidden_size),
        "q_proj": (width, c.hidden_size),
        "k_proj": (kv_width, c.hidden_size),
        "v_proj": (kv_width, c.hidden_size),
        "o_proj": (c.hidden_size, width),
        "gate_proj": (c.intermediate_size, c.hidden_size),
        "up_proj": (c.intermediate_size, c.hidden_size),
        "down_proj": (c.hidden_size, c.intermediate_size),
    }

    def describe(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        *_, module, kind = ("", *name.split("."))
        if module in matrices and kind == "weight":
            return matrices[module], fmt.fitted(matrices[module][1])
        if module in matrices and kind == "bias":
            return matrices[module][:1], VECTOR
        if module.endswith("norm") and kind == "weight":
            return (c.hidden_size,), VECTOR
        raise UnsupportedModelError(f"a Llama checkpoint has no tensor {name!r}")

    return describe


def describe_as(describe: Callable, fmt: WeightFormat) -> Callable:
    """A description of the same tensors with every matrix in `fmt`."""

    def described(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        shape, stored = describe(name)
        return tuple(shape), fmt.fitted(shape[1]) if len(shape) == 2 else stored

    return described
