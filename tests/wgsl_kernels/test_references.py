"""The references against other people's code: PyTorch's attention, transformers' rotary embedding, our file format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.models.llama4.modeling_llama4 import Llama4TextL2Norm
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as apply_partial_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

import wgsl_kernels
from tests.wgsl_kernels.dealing import BLOCKS, ZERO_POINTS
from wgsl_kernels.attention.rope import inverse_frequencies, rope_table
from wgsl_kernels.cache.kv8 import dequantized, quantized
from wgsl_kernels.layout import cache_words
from wgsl_kernels.state import make_state
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor
from workbench.runtime.launch import run_kernel

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SCALINGS = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": LLAMA3,
    "llama3.2": {**LLAMA3, "factor": 32.0},
}


def rotary(head_dim: int, theta: float, scaling: dict | None) -> LlamaRotaryEmbedding:
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        max_position_embeddings=16384,
        rope_parameters={"rope_type": "default", **(scaling or {}), "rope_theta": theta},
    )
    return LlamaRotaryEmbedding(config)


@pytest.mark.parametrize("head_dim", [8, 48, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_inverse_frequencies_are_those_of_transformers(head_dim, theta, scaling):
    expected = rotary(head_dim, theta, SCALINGS[scaling]).inv_freq.numpy()
    got = inverse_frequencies(head_dim, theta, SCALINGS[scaling])
    assert got.dtype == np.float32
    # where llama3 blends two frequencies, differences of nearly equal numbers magnify their rounding
    np.testing.assert_allclose(got, expected, rtol=2e-6 if "llama3" in scaling else 3e-7)


def test_the_older_name_of_a_scaling_and_unknown_ones():
    assert np.array_equal(
        inverse_frequencies(16, 1e4, {"type": "linear", "factor": 2.0}), inverse_frequencies(16, 1e4) / 2
    )
    with pytest.raises(ValueError, match="'yarn' is not known; default, linear and llama3 are"):
        inverse_frequencies(16, 1e4, {"rope_type": "yarn"})


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rope_turns_as_transformers_does(scaling):
    heads, head_dim, tokens, position = 3, 16, 7, 900
    module = rotary(head_dim, 10000.0, SCALINGS[scaling])
    x = torch.randn(tokens, heads * head_dim, generator=torch.Generator().manual_seed(5))
    positions = torch.arange(position, position + tokens)[None]
    cos, sin = module(x, positions)
    queries = x.view(1, tokens, heads, head_dim).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(queries, queries, cos, sin)
    expected = expected.transpose(1, 2).reshape(tokens, -1)
    table = torch.from_numpy(rope_table(module.inv_freq.numpy(), position + tokens))
    arguments = {"x": x, "table": table, "state": make_state(position, tokens)}
    got = wgsl_kernels.get("rope").run_reference(arguments)["y"]
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)


def test_partial_rotation_is_that_of_transformers():
    heads, head_dim, passed, tokens, position = 3, 24, 8, 5, 40
    module = rotary(head_dim - passed, 10000.0, None)
    x = torch.randn(tokens, heads * head_dim, generator=torch.Generator().manual_seed(6))
    queries = x.view(1, tokens, heads, head_dim).transpose(1, 2)
    cos, sin = module(x, torch.arange(position, position + tokens)[None])
    expected, _ = apply_partial_rotary_pos_emb(queries, queries, cos, sin)
    table = torch.from_numpy(rope_table(module.inv_freq.numpy(), position + tokens))
    arguments = {"x": x, "table": table, "state": make_state(position, tokens), "passed": passed}
    got = wgsl_kernels.get("rope").run_reference(arguments)["y"]
    torch.testing.assert_close(got, expected.transpose(1, 2).reshape(tokens, -1), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("tokens,position", [(1, 0), (1, 40), (9, 0), (9, 31)])
def test_attention_is_that_of_pytorch(groups, tokens, position):
    kv_heads, head_dim = 2, 24
    kernel = wgsl_kernels.get("attention")
    arguments = kernel.inputs(
        seed=groups,
        tokens=tokens,
        heads=kv_heads * groups,
        kv_heads=kv_heads,
        head_dim=head_dim,
        capacity=64,
        position=position,
    )
    end = position + tokens
    keys, values = (part[None, :, :end] for part in arguments["kv"][1])
    q = arguments["q"].view(1, tokens, -1, head_dim).transpose(1, 2)
    mask = torch.ones(tokens, end, dtype=torch.bool).tril(position)
    expected = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, enable_gqa=True)
    expected = expected.transpose(1, 2).reshape(tokens, -1)
    torch.testing.assert_close(kernel.run_reference(arguments)["y"], expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("head_dim", [8, 24, 64, 256])
def test_an_int8_cache_holds_what_pytorch_quantizes(head_dim):
    """Packed and back against torch's own symmetric per-channel quantization, and attention over what that gives."""
    x = torch.randn(6, head_dim, generator=torch.Generator().manual_seed(head_dim))
    words, scales = quantized(x)
    assert words.shape == (6, cache_words(head_dim)) and words.dtype == torch.int32
    zeros = torch.zeros(6, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x, scales, zeros, 0, -127, 127)
    torch.testing.assert_close(
        dequantized(words, scales, head_dim, torch.float32), expected, atol=0, rtol=1e-6
    )
    assert torch.equal(scales, x.abs().amax(-1) / 127)

    kernel = wgsl_kernels.get("attention[kv8]")
    arguments = kernel.inputs(seed=1, tokens=5, heads=4, kv_heads=2, head_dim=head_dim, position=9)
    cache = dequantized(arguments["kv"], arguments["kv_scales"], head_dim, torch.float32)
    plain = {name: arguments[name] for name in ("q", "state", "scale")}
    expected = wgsl_kernels.get("attention").run_reference({**plain, "kv": cache})["y"]
    torch.testing.assert_close(kernel.run_reference(arguments)["y"], expected)


def test_rms_norm_is_that_of_transformers():
    arguments = wgsl_kernels.get("rms_norm").inputs(seed=2, tokens=5, hidden=96)
    module = LlamaRMSNorm(96, eps=arguments["eps"])
    module.weight.data = arguments["weight"]
    got = wgsl_kernels.get("rms_norm").run_reference(arguments)["y"]
    torch.testing.assert_close(got, module(arguments["x"]))


def test_head_norm_is_that_of_transformers():
    kernel = wgsl_kernels.get("head_norm")
    for weight, module in ((True, Qwen3RMSNorm(24, eps=1e-6)), (False, Llama4TextL2Norm(1e-6))):
        arguments = kernel.inputs(seed=2, tokens=5, heads=3, head_dim=24, weight=weight)
        if weight:
            module.weight.data = arguments["weight"]
        expected = module(arguments["x"].view(5, 3, 24)).view(5, 72)
        torch.testing.assert_close(kernel.run_reference(arguments)["y"], expected)


def random_weight(fmt: str, rows: int, columns: int, options: dict, seed: int = 0) -> WeightTensor:
    """A packed weight by the code of the file format: the kernels' own maker of inputs takes no part."""
    rng = np.random.default_rng(seed)
    options = {"block_size" if name == "block" else name: value for name, value in options.items()}
    format = WeightFormat(fmt, **options)
    if not format.is_quantized:
        return float_tensor("w", rng.normal(size=(rows, columns)), fmt)
    low, high = (-128, 127) if fmt == "int8" else (0, 2**format.bits - 1)
    q = rng.integers(low, high + 1, (rows, format.padded_columns(columns)))
    shape = format.scale_shape(rows, columns)
    scales = rng.uniform(0.001, 0.1, shape).astype("f2" if format.scale_dtype == "f16" else "f4")
    zeros = None
    if format.offset:
        zeros = rng.normal(0, 0.1, shape).astype(scales.dtype)
    elif not format.symmetric:
        zeros = rng.integers(low, min(((high + 1) << format.zero_frac_bits), 128), shape)
    return quantized_tensor("w", (rows, columns), format, q, scales, zeros)


def planes_of(tensor: WeightTensor) -> dict:
    """A stored weight as the kernels take it."""
    columns, format = tensor.shape[1], tensor.format
    if not format.is_quantized:
        values = np.pad(tensor.planes["values"], ((0, 0), (0, -columns % 32)))
        if format.dtype == "bf16":
            return {"values": torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)}
        return {"values": torch.from_numpy(values)}
    planes = {n: torch.from_numpy(p.view(np.int32) if n == "quants" else p) for n, p in tensor.planes.items()}
    return {
        **planes,
        "block": format.block(columns),
        "scale_stride": 0 if format.granularity == "tensor" else format.blocks(columns),
        "zero_unit": 2.0**-format.zero_frac_bits,
    }


def stored_weights() -> list:
    options = [(fmt, {}) for fmt in ("f32", "f16", "bf16")]
    for fmt, zeros in ZERO_POINTS.items():
        for i, blocks in enumerate(BLOCKS):
            options.append((fmt, {**blocks, **zeros[i % len(zeros)]}))
        options += [(fmt, {"block": 64, **zero}) for zero in zeros]
        options.append((fmt, {"block": 32, "scale_dtype": "f32"}))
    return [
        pytest.param(fmt, given, id=f"{fmt}-" + ",".join(f"{k}={v}" for k, v in given.items()))
        for fmt, given in options
    ]


@pytest.mark.parametrize("fmt,options", stored_weights())
def test_kernels_and_files_mean_the_same_weights(fmt, options, device_with):
    rows, columns = 7, 172
    tensor = random_weight(fmt, rows, columns, options)
    stored = torch.from_numpy(tensor.dequantize())
    arguments = {**planes_of(tensor), "columns": columns}
    kernel = wgsl_kernels.get(f"dequantize[{fmt}]")
    assert torch.equal(kernel.run_reference(arguments)["y"], stored)
    written = run_kernel(kernel, arguments, device=device_with(False))["y"]
    if options.get("scale_dtype") == "f32" or options.get(
        "offset"
    ):  # roundings of scale * q, and of what is added
        torch.testing.assert_close(written, stored, atol=2e-5, rtol=0)
    else:  # products of f16 scales and quants are exact in f32
        assert torch.equal(written, stored)

    ids = torch.tensor([6, 0, 3], dtype=torch.int32)
    embedding = wgsl_kernels.get(f"embedding[{fmt}]")
    got = embedding.run_reference({**arguments, "ids": ids, "row_offset": 0})["y"]
    assert torch.equal(got, stored[ids.long()])

    x = torch.randn(3, columns, generator=torch.Generator().manual_seed(1))
    bias = torch.linspace(-1, 1, rows)
    linear = wgsl_kernels.get(f"linear[{fmt}]")
    got = linear.run_reference({**planes_of(tensor), "x": x, "bias": bias})["y"]
    torch.testing.assert_close(got, F.linear(x, stored, bias), atol=1e-5, rtol=1e-5)
