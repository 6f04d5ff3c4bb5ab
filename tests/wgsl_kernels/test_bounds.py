"""Bounds of attention: which positions a token sees and reads, capped scores, and what a plan makes of both."""

from __future__ import annotations

import pytest
import torch
from transformers.masking_utils import chunked_overlay, sliding_window_overlay
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

import wgsl_kernels
from tests.runtime.rewriting import rewritten
from wgsl_kernels.attention.attention_split import SPLIT_ATTENTION
from wgsl_kernels.layout import KV8
from wgsl_kernels.shapes import sizes_of
from workbench.plan.builder import PlanBuilder
from workbench.plan.plan import Plan
from workbench.plan.types import Int8Cache
from workbench.runtime.launch import run_kernel

HEADS, KV_HEADS, HEAD_DIM, CAPACITY = 4, 2, 24, 128
BOUNDS = ({}, {"window": 1}, {"window": 9}, {"chunk": 16}, {"window": 20, "chunk": 16}, {"softcap": 0.5})


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("tokens, position", [(1, 0), (1, 100), (40, 0), (20, 50)])
def test_attention_sees_what_that_of_transformers_does(bounds, tokens, position):
    kernel = wgsl_kernels.get("attention")
    shape = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "capacity": CAPACITY}
    arguments = kernel.inputs(seed=2, tokens=tokens, position=position, **shape, **bounds)
    end = position + tokens
    overlays = [lambda batch, head, q, kv: kv <= q]
    if "window" in bounds:
        overlays.append(sliding_window_overlay(bounds["window"]))
    if "chunk" in bounds:
        overlays.append(chunked_overlay(bounds["chunk"], torch.zeros(1, dtype=torch.long)))
    own = torch.arange(position, end).unsqueeze(1)
    seen = torch.stack([overlay(0, 0, own, torch.arange(end)) for overlay in overlays]).all(0)
    module = torch.nn.Module()
    module.num_key_value_groups = HEADS // KV_HEADS
    keys, values = (part[None, :, :end] for part in arguments["kv"][1])
    q = arguments["q"].view(1, tokens, HEADS, HEAD_DIM).transpose(1, 2)
    mask = torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    expected, _ = eager_attention_forward(
        module, q, keys, values, mask, scaling=arguments["scale"], softcap=bounds.get("softcap")
    )
    got = kernel.run_reference(arguments)["y"]
    torch.testing.assert_close(got, expected.reshape(tokens, -1), atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("subgroups", [False, True], ids=["tree", "subgroups"])
@pytest.mark.parametrize("bounds, tokens, first", [({"window": 10}, 8, 51), ({"chunk": 32}, 3, 32)], ids=str)
@pytest.mark.parametrize("name", ["attention", "attention[kv8]", "attention_split", "attention_split[kv8]"])
def test_what_lies_before_is_not_read(device_with, name, bounds, tokens, first, subgroups):
    """Positions that no token of a step sees hold no numbers; the results stay as they are, bit for bit."""
    kernel, device = wgsl_kernels.get(name), device_with(subgroups)
    shape = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "capacity": CAPACITY}
    arguments = kernel.inputs(seed=3, tokens=tokens, position=60, **shape, **bounds)
    poisoned = {**arguments}
    plane = "kv_scales" if "kv_scales" in arguments else "kv"
    poisoned[plane] = arguments[plane].clone()
    poisoned[plane][:, :, :, :first] = float("nan")
    sizes = sizes_of(kernel, {n: v.shape for n, v in arguments.items() if isinstance(v, torch.Tensor)})
    params = {n: arguments[n] for n in kernel.params}
    ran = 0
    for label, variant in kernel.variants.items():
        context = kernel.specialise(label, {**sizes, **params}, {}, device.adapter)
        if variant.refuse(context) is None:
            one, other = (
                run_kernel(kernel, each, variant=label, device=device) for each in (arguments, poisoned)
            )
            for output in one:
                assert one[output].isfinite().all() and torch.equal(one[output], other[output])
            ran += 1
    assert ran or not subgroups


@pytest.mark.parametrize("name", ["attention", "attention[kv8]", "attention_split", "attention_split[kv8]"])
def test_costs_count_what_is_seen(name):
    kernel = wgsl_kernels.get(name)
    sizes = {"tokens": 4, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "words": 4, "splits": 2}

    def cost(capacity: int, **bounds):
        return kernel.cost(kernel.complete({**sizes, "capacity": capacity, **bounds}))

    assert cost(1000, window=97) == cost(2000, window=97) == cost(2000, chunk=97)
    assert cost(1000, window=97).flops == cost(97).flops
    assert cost(1000, window=97).read == cost(100).read  # the last of four tokens sees three more positions
    assert cost(90, window=97, chunk=1000) == cost(90)


def plan_of(cache, **bounds) -> Plan:
    """One attention over a cache of a type."""
    builder = PlanBuilder()
    q = builder.buffer("q", ("tokens", HEADS * HEAD_DIM), "f32", "input")
    kv = builder.buffer("kv", ("sequences", 2, KV_HEADS, "capacity", HEAD_DIM), cache, "cache")
    state = builder.buffer("state", ("tokens", 4), "u32", "state")
    y = builder.buffer("y", ("tokens", HEADS * HEAD_DIM), "f32", "activation")
    builder.call("attention", {"q": q, "kv": kv, "state": state}, {"y": y}, scale=0.25, **bounds)
    return builder.finish([y])


@pytest.mark.parametrize("cache", ["f32", Int8Cache()], ids=["f32", KV8])
@pytest.mark.parametrize(
    "bounds, splits",
    [({}, 64), ({"softcap": 0.5}, 64), ({"window": 144}, 5), ({"window": 320, "chunk": 256}, 8)],
    ids=str,
)
def test_attention_in_parts_keeps_its_bounds(cache, bounds, splits):
    """Parts share what is seen, not the cache; parameters that a call leaves out stay left out."""
    split = rewritten(plan_of(cache, **bounds), capacity=4096, rules=[SPLIT_ATTENTION])
    assert [call.op for call in split.calls] == ["attention_split", "attention_reduce"]
    assert split.calls[0].params == {"scale": 0.25, "splits": splits, **bounds}


def test_attention_over_a_short_window_stays_whole():
    for bounds in ({"window": 32}, {"chunk": 8, "window": 4096}):
        plan = plan_of("f32", **bounds)
        assert rewritten(plan, capacity=4096, rules=[SPLIT_ATTENTION]) == plan
