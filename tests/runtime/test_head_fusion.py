"""The end of a step: logits that stay in registers, the largest of groups, and the tokens that come out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import pytest

from wgsl_kernels import Adapter
from wgsl_kernels.fusions import RULES
from wgsl_kernels.logits.norm_argmax import ARGMAX
from wgsl_kernels.logits.top_k import TOP_K
from wgsl_kernels.tokens.rows import ONLY_ROW
from workbench.plan.plan import step_sizes
from workbench.runtime import lowering
from workbench.runtime.lowering import lower
from workbench.runtime.sampling import SamplingOptions
from workbench.runtime.wgpu_executor import STEPS

from .models import STACKABLE, model_on, random_ids
from .rewriting import kernels, rewritten

SIZES = step_sizes(16, 64, steps=16)
#: Tokens that are written: more than two readbacks.
NEW = 2 * STEPS + 2


def whole(name):
    return [(0, STACKABLE.vocab)]


#: What happens before the end of a step is looked at.
BEFORE = [rule for rule in RULES if rule not in (*ARGMAX, *TOP_K)]


def before(plan, keep=()):
    """The plan with its norms in the products behind them."""
    return rewritten(plan, keep, adapter=Adapter(), rules=BEFORE, capacity=32)


def end(plan, keep=(), rules=(*ARGMAX, *TOP_K), adapter=None, ranges=whole):
    return rewritten(plan, keep, adapter=adapter or Adapter(), rules=rules, ranges=ranges)


@pytest.mark.parametrize("is_cpu, groups", [(True, 33), (False, 5)])
def test_a_greedy_step_leaves_no_logits(stackable_plans, is_cpu, groups):
    plan = before(stackable_plans["greedy"])
    fused = end(plan, adapter=Adapter(is_cpu=is_cpu))
    assert kernels(fused)[-3:] == ["norm_argmax[f32]", "argmax_reduce", "advance"]
    assert fused.calls[:-3] == plan.calls[:-3] and fused.calls[-1] == plan.calls[-1]
    product, reduce = fused.calls[-3:-1]
    assert product.inputs == plan.calls[-3].inputs and reduce.outputs == {"best": "top1"}
    assert "logits" not in fused.buffers and fused.buffers[product.outputs["largest"]].shape == (
        "tokens",
        groups,
    )


def test_logits_that_something_needs_stay(stackable_plans):
    for head, keep in (("greedy", ["logits"]), ("score", []), ("all", [])):
        plan = before(stackable_plans[head], keep)
        assert end(plan, keep, ARGMAX) == plan
    plan = before(stackable_plans["greedy"], ["final"])
    assert end(plan, ["final"]) == plan


def test_a_head_in_ranges_of_whole_groups_only(stackable_plans):
    plan = before(stackable_plans["greedy"])
    for first, fused in ((64, True), (48, False), (4, False)):
        found = end(plan, ranges=lambda name, f=first: [(0, f), (f, 131)])
        assert (found != plan) is fused


def test_the_largest_logits_come_from_groups_of_the_product(stackable_plans):
    """Logits stay, for the groups of winners are looked through; not where somebody else may change them."""
    plan = before(stackable_plans["told"])
    assert end(plan, ["logits"]) == plan
    fused = end(plan)
    rest = [call.op for call in plan.calls[-4:]]
    assert rest == ["sample", "exp_sums", "tell", "advance"] and fused.calls[-4:] == plan.calls[-4:]
    product, reduce = fused.calls[-6:-4]
    assert kernels(fused)[-6:-4] == ["norm_linear_max[f32]", "top_k_reduce"]
    assert fused.calls[:-6] == plan.calls[:-6] and product.inputs == plan.calls[-6].inputs
    assert product.outputs["y"] == reduce.inputs["x"] == "logits" in fused.buffers
    assert reduce.outputs == plan.calls[-5].outputs and reduce.params == {"k": 5, "group": 32}
    assert end(plan, ranges=lambda name: [(0, 48), (48, 131)]) == plan
    plain = stackable_plans["told"]  # its norm is no part of the product
    assert end(plain) == plain


def test_one_token_has_one_row(stackable_plans):
    plan = stackable_plans["last"]
    short = rewritten(plan, rules=[ONLY_ROW])
    assert [c for c in plan.calls if c.op == "select_rows"] and len(short.calls) == len(plan.calls) - 1
    assert short.calls[-1] == dataclasses.replace(
        plan.calls[-1], inputs={**plan.calls[-1].inputs, "x": "final"}
    )
    assert "last" not in short.buffers
    for name, keep in (("last", ["last"]), ("all", [])):
        assert rewritten(stackable_plans[name], keep, rules=[ONLY_ROW]) == stackable_plans[name]
    sizes = {**SIZES, "tokens": 1}
    lowered = lower(plan, sizes, Adapter(), 128 << 20)
    assert lowered.steps[-1].kernel.name == "norm_linear[f32]"
    assert any(step.kernel.name == "select_rows" for step in lower(plan, SIZES, Adapter(), 128 << 20).steps)


def told(model, prompt, count, options):
    with contextlib.closing(model.session()) as session:
        session.feed(prompt)
        return list(session.stream(session.draw(options).id, count, options, told=True))


@pytest.mark.parametrize(
    "fmt, is_cpu",
    [
        ("float", True),
        pytest.param("float", False, marks=pytest.mark.release),
        ("int4", True),
        pytest.param("int2", False, marks=pytest.mark.release),
    ],
)
def test_tokens_are_those_of_the_unfused_end(stackable, open_promised, tmp_path, monkeypatch, fmt, is_cpu):
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.spec import WeightFormat
    from workbench.runtime import link

    if fmt != "float":
        convert(stackable, tmp_path / "model", ConvertOptions(WeightFormat(fmt, block_size=32)))
    checkpoint = stackable if fmt == "float" else tmp_path / "model"
    device = open_promised()
    monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=is_cpu))
    prompt = random_ids(STACKABLE.vocab, 1).tolist()  # steps of more tokens would be compiled for nothing
    fused = model_on(checkpoint, open_promised)
    tokens = list(fused.generate_ids(prompt, NEW))
    options = SamplingOptions(temperature=1.0, top_k=20, seed=1)
    drawn = told(fused, prompt, NEW, options)
    plan = fused.plan("greedy")
    assert (
        lower(plan, {**SIZES, "tokens": 1}, device.adapter, 128 << 20).steps[-2].kernel.op == "argmax_reduce"
    )

    def in_three(matrix, binding_bytes):
        rows = matrix.shape[0]
        return [(0, 64), (64, 128), (128, rows)] if matrix.name == "lm_head" else [(0, rows)]

    split = model_on(checkpoint, open_promised)
    with monkeypatch.context() as patch:
        for module in (lowering, link):
            patch.setattr(module, "row_ranges", in_three)
        assert list(split.generate_ids(prompt, NEW)) == tokens
        assert told(split, prompt, NEW, options) == drawn
    plain = model_on(checkpoint, open_promised)
    others = [rule for rule in RULES if rule not in (ONLY_ROW, *ARGMAX, *TOP_K)]
    monkeypatch.setattr(lowering, "rewrite", functools.partial(lowering.rewrite, rules=others))
    assert list(plain.generate_ids(prompt, NEW)) == tokens
    assert [d.id for d in told(plain, prompt, NEW, options)] == [d.id for d in drawn]
