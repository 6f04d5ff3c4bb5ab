"""The end of a step: logits that stay in registers, the largest of groups, and the tokens that come out."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from wgsl_kernels import Adapter
from workbench.runtime.fusion import fuse_norms
from workbench.runtime.head_fusion import drop_last_row, fuse_argmax, fuse_top_k
from workbench.runtime.lowering import lower
from workbench.runtime.sampling import SamplingOptions
from workbench.runtime.stacks import find_stacks

from .models import STACKABLE, model_on, random_ids

SIZES = {"tokens": 16, "capacity": 64, "sequences": 1, "steps": 16}


def whole(name):
    return [(0, STACKABLE.vocab)]


def fused_norms(plan, keep=()):
    return fuse_norms(plan, find_stacks(plan, 128 << 20), keep)


@pytest.mark.parametrize("is_cpu, groups", [(True, 9), (False, 5)])
def test_a_greedy_step_leaves_no_logits(stackable_plans, is_cpu, groups):
    plan = fused_norms(stackable_plans["greedy"])
    fused = fuse_argmax(plan, adapter=Adapter(is_cpu=is_cpu), ranges=whole)
    assert [call.kernel for call in fused.calls[-3:]] == ["norm_argmax_f32", "argmax_reduce", "advance"]
    assert fused.calls[:-3] == plan.calls[:-3] and fused.calls[-1] == plan.calls[-1]
    product, reduce = fused.calls[-3:-1]
    assert product.inputs == plan.calls[-3].inputs and reduce.outputs == {"best": "top1"}
    assert "logits" not in fused.buffers and fused.buffers["logits.largest"].shape == ("tokens", groups)
    fused.check()


def test_logits_that_something_needs_stay(stackable_plans):
    for head, keep in (("greedy", ["logits"]), ("score", []), ("all", [])):
        plan = fused_norms(stackable_plans[head], keep)
        assert fuse_argmax(plan, keep, adapter=Adapter(), ranges=whole) == plan
    plan = fused_norms(stackable_plans["greedy"], ["final"])
    assert fuse_argmax(plan, ["final"], adapter=Adapter(), ranges=whole) == plan


def test_a_head_in_ranges_of_whole_groups_only(stackable_plans):
    plan = fused_norms(stackable_plans["greedy"])
    for first, fused in ((64, True), (48, False), (4, False)):
        found = fuse_argmax(plan, adapter=Adapter(), ranges=lambda name, f=first: [(0, f), (f, 131)])
        assert (found != plan) is fused


def test_the_largest_logits_come_from_groups_of_the_product(stackable_plans):
    """Logits stay, for the groups of winners are looked through; not where somebody else may change them."""
    plan = fused_norms(drop_last_row(stackable_plans["told"]))
    assert fuse_top_k(plan, ["logits"], adapter=Adapter(), ranges=whole) == plan
    fused = fuse_top_k(plan, adapter=Adapter(), ranges=whole)
    rest = [call.kernel for call in plan.calls[-4:]]
    assert rest == ["sample", "exp_sums", "tell", "advance"] and fused.calls[-4:] == plan.calls[-4:]
    product, reduce = fused.calls[-6:-4]
    assert [product.kernel, reduce.kernel] == ["norm_linear_max_f32", "top_k_reduce"]
    assert fused.calls[:-6] == plan.calls[:-6] and product.inputs == plan.calls[-6].inputs
    assert product.outputs["y"] == reduce.inputs["x"] == "logits" in fused.buffers
    assert reduce.outputs == plan.calls[-5].outputs and reduce.params == {"k": 5, "group": 32}
    fused.check()
    assert fuse_top_k(plan, adapter=Adapter(), ranges=lambda name: [(0, 48), (48, 131)]) == plan
    plain = stackable_plans["told"]  # its norm is no part of the product
    assert fuse_top_k(plain, adapter=Adapter(), ranges=whole) == plain


def test_one_token_has_one_row(stackable_plans):
    plan = stackable_plans["last"]
    short = drop_last_row(plan)
    assert [c for c in plan.calls if c.kernel == "last_row"] and len(short.calls) == len(plan.calls) - 1
    assert short.calls[-1] == dataclasses.replace(
        plan.calls[-1], inputs={**plan.calls[-1].inputs, "x": "final"}
    )
    assert "last" not in short.buffers
    short.check()
    assert (
        drop_last_row(plan, ["last"]) == plan
        and drop_last_row(stackable_plans["all"]) == stackable_plans["all"]
    )
    sizes = {**SIZES, "tokens": 1}
    lowered = lower(plan, sizes, Adapter(), 128 << 20)
    assert lowered.steps[-1].call.kernel == "norm_linear_f32"
    assert any(step.call.kernel == "last_row" for step in lower(plan, SIZES, Adapter(), 128 << 20).steps)


def told(model, prompt, count, options):
    with contextlib.closing(model.session()) as session:
        session.feed(prompt)
        return list(session.stream(session.draw(options).id, count, options, told=True))


@pytest.mark.parametrize("fmt, is_cpu", [("float", True), ("float", False), ("int4", True), ("int2", False)])
def test_tokens_are_those_of_the_unfused_end(stackable, open_promised, tmp_path, monkeypatch, fmt, is_cpu):
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.spec import WeightFormat
    from workbench.runtime import lowering, wgpu_executor

    if fmt != "float":
        convert(stackable, tmp_path / "model", ConvertOptions(WeightFormat(fmt, block_size=32)))
    checkpoint = stackable if fmt == "float" else tmp_path / "model"
    device = open_promised()
    monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=is_cpu))
    prompt = random_ids(STACKABLE.vocab, 5).tolist()
    fused = model_on(checkpoint, open_promised)
    tokens = list(fused.generate_ids(prompt, 60))
    options = SamplingOptions(temperature=1.0, top_k=20, seed=1)
    drawn = told(fused, prompt, 40, options)
    plan = fused.plan("greedy")
    kernels = [s.call.kernel for s in lower(plan, {**SIZES, "tokens": 1}, device.adapter, 128 << 20).steps]
    assert kernels[-2] == "argmax_reduce"

    def in_three(plan, weight, binding_bytes):
        rows = plan.weights[weight].shape[0]
        return [(0, 64), (64, 128), (128, rows)] if weight == "lm_head" else [(0, rows)]

    split = model_on(checkpoint, open_promised)
    with monkeypatch.context() as patch:
        for module in (lowering, wgpu_executor):
            patch.setattr(module, "row_ranges", in_three)
        assert list(split.generate_ids(prompt, 60)) == tokens
        assert told(split, prompt, 40, options) == drawn
    plain = model_on(checkpoint, open_promised)
    monkeypatch.setattr(lowering, "fuse_argmax", lambda plan, keep, **_: plan)
    monkeypatch.setattr(lowering, "fuse_top_k", lambda plan, keep, **_: plan)
    monkeypatch.setattr(lowering, "drop_last_row", lambda plan, keep: plan)
    assert list(plain.generate_ids(prompt, 60)) == tokens
    assert [d.id for d in told(plain, prompt, 40, options)] == [d.id for d in drawn]
