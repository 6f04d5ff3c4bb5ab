"""The configuration of a Llama checkpoint: the fields of `config.json` that decide the computation, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.errors import UnsupportedModelError

ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class LlamaConfig:
    """The fields of a Llama `config.json` that decide the computation; `parse` checks them."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Mapping | None
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool

    @classmethod
    def parse(cls, config: Mapping) -> LlamaConfig:
        """Raises `UnsupportedModelError` naming the field, its value and what is allowed."""

        def need(name: str, default=None) -> int:
            value = config.get(name)
            value = default if value is None else value  # null stands for the default, as in transformers
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UnsupportedModelError(
                    f"config.json: {name} is {value!r}, but a positive integer is needed"
                )
            return value

        _require_plain_llama(config)
        act = config.get("hidden_act", "silu")
        if act not in ("silu", "swish"):
            raise UnsupportedModelError(f"config.json: hidden_act is {act!r}; only 'silu' is known")
        heads, hidden = need("num_attention_heads"), need("hidden_size")
        kv_heads = need("num_key_value_heads", heads)
        head_dim = need("head_dim", hidden // heads)
        if heads % kv_heads:
            raise UnsupportedModelError(
                f"config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if head_dim % 8:
            raise UnsupportedModelError(f"config.json: head size {head_dim} is not a multiple of 8")
        rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type not in ROPE_TYPES:
            raise UnsupportedModelError(
                f"config.json: rope type is {rope_type!r}; {', '.join(ROPE_TYPES)} are known"
            )
        rotated = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
        if rotated != 1.0:
            raise UnsupportedModelError(f"config.json: partial_rotary_factor is {rotated!r}; only 1 is known")
        wanted = {
            "linear": ("factor",),
            "llama3": (
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ),
        }.get(rope_type, ())
        for name in wanted:
            if not isinstance(rope.get(name), int | float) or rope[name] <= 0:
                raise UnsupportedModelError(
                    f"config.json: rope {rope_type} needs a positive {name}, not {rope.get(name)!r}"
                )
        theta = (config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta") or 10000.0
        eps = config.get("rms_norm_eps", 1e-6)
        for name, value in (("rope_theta", theta), ("rms_norm_eps", eps)):
            if not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise UnsupportedModelError(
                    f"config.json: {name} is {value!r}, but a positive number is needed"
                )
        return cls(
            vocab_size=need("vocab_size"),
            hidden_size=hidden,
            intermediate_size=need("intermediate_size"),
            layers=need("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            context_length=need("max_position_embeddings", 2048),
            norm_eps=float(eps),
            rope_theta=float(theta),
            rope_scaling=None if rope_type == "default" else {**rope, "rope_type": rope_type},
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
        )


def _require_plain_llama(config: Mapping) -> None:
    kind, architectures = (
        config.get("model_type", "llama"),
        config.get("architectures") or ["LlamaForCausalLM"],
    )
    if kind != "llama":
        raise UnsupportedModelError(f"config.json: model_type is {kind!r}; only 'llama' is known")
    if "LlamaForCausalLM" not in architectures:
        raise UnsupportedModelError(
            f"config.json: architectures is {architectures!r}; only ['LlamaForCausalLM'] is known"
        )
    if method := config.get("quantization_config"):
        method = method.get("quant_method", method) if isinstance(method, dict) else method
        raise UnsupportedModelError(
            f"config.json: quantization_config says that the weights are quantized ({method!r}); "
            "allowed: f32, f16, bf16"
        )
