"""What a GGUF file says of its model, as a config.json and names of tensors: both ways, one table an architecture.

Metadata are understood key by key, or refused: a key that is ignored may change numbers. llama.cpp stores the rows of a
Llama's q and k in the order that its rotary embedding wants, and the scaling of Llama 3.1's as a tensor of factors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from wgsl_kernels.attention.rope import inverse_frequencies
from workbench.errors import UnsupportedModelError

#: Keys of metadata without the architecture, and what they are in config.json.
CONFIG = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
#: Those that may be missing.
OPTIONAL = {"rope.freq_base": "rope_theta", "vocab_size": "vocab_size"}
_HEAD = ("rope.dimension_count", "attention.key_length", "attention.value_length")
_SCALING = ("rope.scaling.type", "rope.scaling.factor")
#: Of a tensor: what it is called there, and in a Hugging Face checkpoint.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_THERE = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<own>\w+)\.(?P<what>weight|bias)")
_HERE = re.compile(r"(?:model\.layers\.(?P<layer>\d+)\.)?(?P<own>[\w.]+)\.(?P<what>weight|bias)")
#: Factors by which Llama 3.1's scaling divides its frequencies.
ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


#: Norms of heads, which some have; matrices of an MLP, and what a layer with experts has in their place.
_NORMS = ("attn_q_norm", "attn_k_norm")
_MLP = ("ffn_gate", "ffn_up", "ffn_down")
_EXPERTS = {"ffn_gate_inp": "gate", **{f"{name}_exps": f"experts.{name[4:]}_proj" for name in _MLP}}
_COUNT = "expert_count"


@dataclass(frozen=True)
class Known:
    """A family in GGUF. name: of its architecture there. permuted: q and k are in the order of llama.cpp's interleaved
    rotation. head_dim: whether config.json may say it.

    norms: of heads; biases: tensors that have one. experts: beginning of the names of a layer's experts in a Hugging
    Face checkpoint; keys: of metadata that they bring, as `CONFIG`; fixed: of config.json what follows.
    """

    name: str
    model_type: str
    transformers: str
    permuted: bool
    head_dim: bool
    norms: bool = False
    biases: tuple[str, ...] = ()
    experts: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> dict[str, str]:
        """Tensors without their layer and ending: what they are called there, and in a Hugging Face checkpoint."""
        absent = {*(() if self.norms else _NORMS), *(_MLP if self.experts else ())}
        found = {there: here for there, here in NAMES.items() if there not in absent}
        if not self.experts:
            return found
        return found | {there: f"{self.experts}.{here}" for there, here in _EXPERTS.items()}


_MIXTURE = {_COUNT: "num_experts", "expert_used_count": "num_experts_per_tok"}
KNOWN = (
    Known("llama", "llama", "LlamaForCausalLM", True, True),
    Known("qwen2", "qwen2", "Qwen2ForCausalLM", False, False, biases=("attn_q", "attn_k", "attn_v")),
    Known("qwen3", "qwen3", "Qwen3ForCausalLM", False, True, norms=True),
    Known(
        "llama", "mixtral", "MixtralForCausalLM", True, True, experts="block_sparse_moe",
        keys=_MIXTURE | {_COUNT: "num_local_experts"},
    ),
    Known(
        "qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", False, True, norms=True, experts="mlp",
        keys=_MIXTURE | {"expert_feed_forward_length": "moe_intermediate_size"}, fixed={"norm_topk_prob": True},
    ),
)  # fmt: skip


def known(metadata: Mapping[str, Any], where: str) -> Known:
    """The family of a file. Raises UnsupportedModelError for others."""
    said = metadata.get("general.architecture")
    name = said if isinstance(said, str) else ""
    count = metadata.get(f"{name}.{_COUNT}", 0)
    experts = not isinstance(count, int) or count != 0
    found = [kind for kind in KNOWN if kind.name == name and bool(kind.experts) == experts]
    if not found:
        allowed = ", ".join(dict.fromkeys(repr(kind.name) for kind in KNOWN))
        but = f" with {name}.{_COUNT}" if experts else ""
        raise UnsupportedModelError(f"{where}: general.architecture is {said!r}{but}; allowed: {allowed}")
    return found[0]


def under(
    prefix: str, metadata: Mapping[str, Any], needed: Iterable[str], optional: Iterable[str], where: str
) -> dict[str, Any]:
    """What of the metadata begins with the prefix, without it. Raises UnsupportedModelError for what is neither needed
    nor optional, and for what is missing."""
    found = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    allowed = {*needed, *optional}
    if unknown := sorted(found.keys() - allowed):
        names = ", ".join(prefix + name for name in sorted(allowed))
        raise UnsupportedModelError(f"{where}: {prefix}{unknown[0]} is not understood; allowed: {names}")
    if missing := sorted(set(needed) - found.keys()):
        raise UnsupportedModelError(f"{where}: {prefix}{missing[0]} is missing")
    return found


def config_of(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: np.ndarray | None, where: str
) -> dict[str, Any]:
    """config.json. shapes: of the tensors by their names there; factors: `ROPE_FACTORS`, where the file has them."""
    kind = known(metadata, where)
    prefix = f"{metadata['general.architecture']}."
    heads = f"{prefix}attention.head_count"
    if heads in metadata:  # keys and values have as many, unless a file says otherwise
        metadata = {f"{heads}_kv": metadata[heads], **metadata}
    found = under(prefix, metadata, {**CONFIG, **kind.keys}, (*OPTIONAL, *_HEAD, *_SCALING), where)
    for key, value in found.items():
        if not isinstance(value, str if key == "rope.scaling.type" else int | float):
            raise UnsupportedModelError(f"{where}: {prefix}{key} is {type(value).__name__}, not one number")
    # Numbers are stored as f32: 1e-5 is recovered from 9.999999747378752e-06.
    values: dict[str, Any] = {
        name: float(str(np.float32(found[key]))) if isinstance(found[key], float) else found[key]
        for key, name in {**CONFIG, **OPTIONAL, **kind.keys}.items()
        if key in found
    }
    values.setdefault("rope_theta", 10000.0)
    values |= _head_dim(found, values, kind, where)
    if "token_embd.weight" in shapes:
        values.setdefault("vocab_size", shapes["token_embd.weight"][0])
    values |= _rope_scaling(found, factors, values, where)
    return {
        "architectures": [kind.transformers],
        "model_type": kind.model_type,
        **values,
        **kind.fixed,
        "tie_word_embeddings": "output.weight" not in shapes,
    }


def _head_dim(found: Mapping[str, Any], values: Mapping[str, Any], kind: Known, where: str) -> dict[str, Any]:
    given = {key: found[key] for key in _HEAD if key in found}
    heads, hidden = values["num_attention_heads"], values["hidden_size"]
    if type(heads) is not int or heads < 1 or type(hidden) is not int:
        raise UnsupportedModelError(f"{where}: attention.head_count is {heads!r}; allowed: from 1")
    sizes = set(given.values()) or {hidden // heads}
    if len(sizes) != 1 or (not kind.head_dim and sizes != {hidden // heads}):
        raise UnsupportedModelError(
            f"{where}: heads have other sizes than this architecture's: {given}; all of a head is rotated"
        )
    return {"head_dim": sizes.pop()} if kind.head_dim else {}


def _rope_scaling(
    found: Mapping[str, Any], factors: np.ndarray | None, values: Mapping[str, Any], where: str
) -> dict[str, Any]:
    kind = found.get("rope.scaling.type", "none")
    if kind == "linear" and factors is None and "rope.scaling.factor" in found:
        return {"rope_scaling": {"rope_type": "linear", "factor": float(found["rope.scaling.factor"])}}
    if kind != "none" or "rope.scaling.factor" in found:
        raise UnsupportedModelError(
            f"{where}: rope.scaling.type is {kind!r}; allowed: none, linear with a factor"
        )
    if factors is None:
        return {}
    size = values.get("head_dim", values["hidden_size"] // values["num_attention_heads"])
    theta = values["rope_theta"]
    for factor, original in product((8.0, 32.0, 4.0, 16.0), (8192, 4096)):
        scaling = {**_LLAMA3, "factor": factor, "original_max_position_embeddings": original}
        if np.allclose(rope_factors(size, theta, scaling), factors, rtol=1e-4):
            return {"rope_scaling": scaling}
    raise UnsupportedModelError(f"{where}: the factors of {ROPE_FACTORS} are not those of Llama 3.1 or 3.2")


def rope_factors(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> np.ndarray:
    """What a scaling divides the frequencies by, f32 [head_dim / 2]."""
    plain, scaled = (
        np.asarray(inverse_frequencies(head_dim, theta, each), np.float64) for each in (None, scaling)
    )
    return (plain / scaled).astype(np.float32)


def name_here(name: str, kind: Known, where: str) -> str:
    """What a Hugging Face checkpoint calls a tensor. Raises UnsupportedModelError for one of another model."""
    match, names = _THERE.fullmatch(name), kind.names
    own = match["own"] if match else ""
    biased = match is not None and match["what"] == "bias"
    if match is None or own not in names or (biased and own not in kind.biases):
        raise UnsupportedModelError(f"{where}: tensor {name!r} is not one of {kind.transformers}")
    layer = f"model.layers.{match['layer']}." if match["layer"] else ""
    return f"{layer}{names[own]}.{match['what']}"


def name_there(name: str, kind: Known) -> str | None:
    """What GGUF calls a tensor of a Hugging Face checkpoint; None where it has no name for it."""
    match = _HERE.fullmatch(name)
    there = {here: own for own, here in kind.names.items()}
    if match is None or match["own"] not in there:
        return None
    layer = f"blk.{match['layer']}." if match["layer"] else ""
    return f"{layer}{there[match['own']]}.{match['what']}"


def heads_of(name: str, kind: Known, config: Mapping[str, Any]) -> int | None:
    """Heads of a tensor whose rows are in llama.cpp's order, by its name in a Hugging Face checkpoint."""
    if not kind.permuted:
        return None
    if name.endswith("self_attn.q_proj.weight"):
        return config["num_attention_heads"]
    if name.endswith("self_attn.k_proj.weight"):
        return config["num_key_value_heads"]
    return None


def order_of_halves(rows: int, heads: int) -> np.ndarray:
    """Where the rows of q or k lie in GGUF: it rotates neighbours (2i, 2i + 1), transformers (i, i + head_dim / 2)."""
    return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)


def order_of_neighbours(rows: int, heads: int) -> np.ndarray:
    """The inverse of `order_of_halves`."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def metadata_of(config: Mapping[str, Any], kind: Known) -> Iterator[tuple[str, Any]]:
    """Metadata of a config.json, without the architecture in front. Raises KeyError for a key that is not there."""
    for key, name in {**CONFIG, **OPTIONAL, **kind.keys}.items():
        if name in config or key not in OPTIONAL:
            yield key, config[name]
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    for key in _HEAD:
        yield key, size
