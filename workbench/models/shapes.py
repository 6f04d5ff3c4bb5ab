"""The tensors of a Llama checkpoint by its configuration alone: what a model reads, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.errors import UnsupportedModelError
from workbench.formats.spec import WeightFormat

from .llama_config import LlamaConfig

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"
VECTOR = WeightFormat("f32")


@dataclass(frozen=True)
class TensorSpec:
    """A tensor that the model reads. keys: of config.json that decide that it is there, and its shape."""

    shape: tuple[int, ...]
    keys: tuple[str, ...]


def llama_tensors(config: LlamaConfig) -> dict[str, TensorSpec]:
    """Every tensor that a model of this configuration reads, by its Hugging Face name, in order of use."""
    c = config
    width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
    head_keys = ("num_attention_heads", "head_dim", "hidden_size")
    kv_keys, mlp_keys = ("num_key_value_heads", *head_keys), ("intermediate_size", "hidden_size")
    norm = TensorSpec((c.hidden_size,), ("hidden_size", "num_hidden_layers"))
    table = TensorSpec((c.vocab_size, c.hidden_size), ("vocab_size", "hidden_size"))
    linears = {
        "self_attn.q_proj": ((width, c.hidden_size), head_keys),
        "self_attn.k_proj": ((kv_width, c.hidden_size), kv_keys),
        "self_attn.v_proj": ((kv_width, c.hidden_size), kv_keys),
        "self_attn.o_proj": ((c.hidden_size, width), head_keys),
        "mlp.gate_proj": ((c.intermediate_size, c.hidden_size), mlp_keys),
        "mlp.up_proj": ((c.intermediate_size, c.hidden_size), mlp_keys),
        "mlp.down_proj": ((c.hidden_size, c.intermediate_size), mlp_keys),
    }
    biases = {"self_attn": ("attention_bias", c.attention_bias), "mlp": ("mlp_bias", c.mlp_bias)}
    layer = {"input_layernorm.weight": norm, "post_attention_layernorm.weight": norm}
    for name, (shape, keys) in linears.items():
        layer[f"{name}.weight"] = TensorSpec(shape, (*keys, "num_hidden_layers"))
        key, declared = biases[name.partition(".")[0]]
        if declared:
            layer[f"{name}.bias"] = TensorSpec(shape[:1], (key, *keys, "num_hidden_layers"))
    found = {EMBEDDING: table}
    for index in range(c.layers):
        found |= {f"model.layers.{index}.{name}": spec for name, spec in layer.items()}
    found["model.norm.weight"] = norm
    if not c.tied_embeddings:
        found[LM_HEAD] = TensorSpec(table.shape, (*table.keys, "tie_word_embeddings"))
    return found


def describe_by_config(
    config: LlamaConfig, fmt: WeightFormat
) -> Callable[[str], tuple[tuple[int, ...], WeightFormat]]:
    """What `source.describe` gives, with every matrix in `fmt`; raises `UnsupportedModelError` for other names."""
    tensors = llama_tensors(config)

    def describe(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        if name not in tensors:
            raise UnsupportedModelError(f"a Llama checkpoint of this configuration has no tensor {name!r}")
        shape = tensors[name].shape
        return shape, fmt.fitted(shape[1]) if len(shape) == 2 else VECTOR

    return describe


def describe_as(describe: Callable, fmt: WeightFormat) -> Callable:
    """A description of the same tensors with every matrix in `fmt`."""

    def described(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        shape, stored = describe(name)
        return tuple(shape), fmt.fitted(shape[1]) if len(shape) == 2 else stored

    return described
