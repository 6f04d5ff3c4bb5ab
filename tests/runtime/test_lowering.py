"""Lowering: fusion, buffers reused only after their last reader, rows in several ranges; layer by layer comparisons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import wgsl_kernels
from tests.models.lora_cases import write_adapter
from wgsl_kernels import Adapter
from wgsl_kernels.attention.attention_split import SPLIT_ATTENTION
from wgsl_kernels.linear.linear import LINEAR_SUM
from workbench.errors import OutOfMemoryError
from workbench.formats.text import parse_format
from workbench.model_bench.synthetic import RandomSource
from workbench.models.adapted import adapted
from workbench.models.endings import HEADS
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.plan.bind import bind
from workbench.plan.builder import PlanBuilder
from workbench.plan.constants import RotaryTable
from workbench.plan.count import buffer_bytes, plane_bytes
from workbench.plan.plan import PlanError, step_sizes
from workbench.runtime.lowering import assign, lower, matrix_of, row_ranges

from .models import SHAPES, STACKABLE, Shape, check_parity, model_on, random_ids, reference_on, write_random
from .rewriting import GPU, kernels, rewritten, stacks_of, with_gelu

SIZES = step_sizes(16, 64, steps=16)
#: One name in every part of a layer; fusion would remove those that end with `.out` of attention and feed-forward.
NAMES = (
    "embedded",
    "layers.0.attn.input",
    "layers.0.attn.q",
    "layers.0.attn.k",
    "layers.0.attn.v",
    "layers.0.attn.q_rotated",
    "layers.0.attn.k_rotated",
    "layers.0.attn.context",
    "layers.0.attn.out",
    "layers.0.attn.residual",
    "layers.0.mlp.input",
    "layers.0.mlp.gate",
    "layers.0.mlp.up",
    "layers.0.mlp.hidden",
    "layers.0.mlp.out",
    "layers.0.out",
    "layers.1.mlp.out",
    "final",
)
SHAPE = SHAPES[5]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("lowering") / "model", SHAPE)


@pytest.fixture(scope="module")
def plans(checkpoint):
    source = open_source(checkpoint)
    config = architecture_of(source.config)
    return {head: config.build(source.describe, head=head) for head in HEADS}


# ---- what comes out is what the references compute ---------------------------------------------------------------


def test_kept_activations_agree_layer_by_layer(checkpoint, open_promised):
    ids = random_ids(SHAPE.vocab, 21)
    ours = model_on(checkpoint, open_promised).forward(ids, keep=NAMES)
    theirs = reference_on(checkpoint).forward(ids, keep=NAMES)
    assert set(ours.kept) == set(NAMES) == set(theirs.kept)
    for name in NAMES:
        assert ours.kept[name].shape == theirs.kept[name].shape == (21, ours.kept[name].shape[1])
        error = np.abs(ours.kept[name] - theirs.kept[name]).max() / np.abs(theirs.kept[name]).max()
        assert error <= 1e-5, f"{name}: {error:.1e}"
    assert np.array_equal(
        ours.kept["layers.0.out"], ours.kept["layers.0.attn.residual"] + ours.kept["layers.0.mlp.out"]
    )


def test_keeping_names_does_not_change_logits(checkpoint, open_promised):
    """With everything kept nothing is fused and no buffer reused, so this is the unfused plan against the fused one."""
    model = model_on(checkpoint, open_promised)
    ids = random_ids(SHAPE.vocab, 21)
    kept = model.forward(ids, keep=NAMES)
    fused = model.forward(ids)
    assert np.abs(kept.logits - fused.logits).max() <= 2e-6 * np.abs(fused.logits).max()


def test_one_name_as_a_string(checkpoint, open_promised):
    kept = model_on(checkpoint, open_promised).forward(random_ids(SHAPE.vocab, 4), keep="final").kept
    assert list(kept) == ["final"]


@pytest.mark.parametrize("name", ["layers.0.atn.out", "layers.7.mlp.out", "rope_table", "ids"])
def test_unknown_names_are_refused_with_near_ones(checkpoint, open_promised, name):
    for model in (model_on(checkpoint, open_promised), reference_on(checkpoint)):
        with pytest.raises(PlanError, match=f"no activation '{name}'; near it: "):
            model.forward([1, 2], keep=[name])
    with pytest.raises(PlanError, match=r"layers\.0\.attn\.out"):
        model.forward([1, 2], keep=["layers.0.atn.out"])


# ---- fusion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_each_fused_call_replaces_a_linear_layer_and_its_sum(plans, head):
    plan = plans[head]
    fused = rewritten(plan, rules=[LINEAR_SUM])
    before = {name: call for call in plan.calls for name in call.outputs.values()}
    with_residual = [call for call in fused.calls if "residual" in call.inputs]
    assert len(with_residual) == 2 * SHAPE.layers
    for call in with_residual:
        total = before[call.outputs["y"]]
        (name,) = set(total.inputs.values()) - {call.inputs["residual"]}
        linear = before[name]
        assert total.op == "add" and linear.op == call.op and linear.params == call.params
        assert {**linear.inputs, "residual": call.inputs["residual"]} == call.inputs
        assert name not in fused.buffers
    assert not any(call.op == "add" for call in fused.calls)
    untouched = [call for call in fused.calls if call not in with_residual]
    assert untouched == [call for call in plan.calls if call in untouched]
    fused.check()


def test_a_factor_belongs_to_what_it_multiplies(plans):
    """Granite's residuals: factor * product + residual is one call, product + factor * residual is not."""
    plan = plans["all"]

    def with_factor(swapped: bool):
        def changed(call):
            one, other = call.inputs.values()
            inputs = {"a": other, "b": one} if swapped else call.inputs
            return dataclasses.replace(call, inputs=inputs, params={"factor": 0.22})

        calls = tuple(changed(call) if call.op == "add" else call for call in plan.calls)
        return dataclasses.replace(plan, calls=calls)

    fused = rewritten(with_factor(False), rules=[LINEAR_SUM])
    assert [call.params for call in fused.calls if "residual" in call.inputs] == [{"factor": 0.22}] * (
        2 * SHAPE.layers
    )
    assert rewritten(with_factor(True), rules=[LINEAR_SUM]) == with_factor(True)


def test_kept_names_are_not_fused_away(plans):
    fused = rewritten(plans["all"], ["layers.0.attn.out"], rules=[LINEAR_SUM])
    assert "layers.0.attn.out" in fused.buffers and "layers.1.attn.out" not in fused.buffers
    assert sum(call.op == "add" for call in fused.calls) == 1
    fused.check()


def test_a_fused_call_computes_what_it_replaces():
    """The reference of a linear layer with residual against that of the layer, then of the sum."""
    for fmt in ("f32", "bf16", "int4"):
        linear = wgsl_kernels.get(f"linear[{fmt}]")
        arguments = linear.inputs(seed=3, tokens=5, rows=24, columns=64, bias=True, residual=True)
        fused = linear.run_reference(arguments)["y"]
        residual = arguments.pop("residual")
        plain = linear.run_reference(arguments)["y"]
        assert (fused == wgsl_kernels.get("add").run_reference({"a": plain, "b": residual})["y"]).all()


def test_a_layer_of_a_decode_step_is_five_dispatches(stackable_plans):
    plan = stackable_plans["greedy"]
    assert sorted(len(stack.members) for stack in stacks_of(plan)) == sorted([3, 2] * STACKABLE.layers)
    fused = rewritten(plan, adapter=Adapter())
    layer = ["norm_qkv[f32]", "attention", "linear[f32]", "norm_gate_up[f32]", "linear[f32]"]
    end = ["norm_argmax[f32]", "argmax_reduce", "advance"]
    assert kernels(fused) == ["embedding[f32]", *layer * STACKABLE.layers, *end]


def test_an_int8_cache_adds_a_dispatch(stackable):
    """Its append is a call of its own, and all of it fits what browsers promise; splitting takes one more."""
    source = open_source(stackable)
    plan = architecture_of(source.config).build(source.describe, head="greedy", cache="int8")
    fused = rewritten(plan, capacity=1024)
    layer = ["norm_qkv_rows[f32]", "kv_append_rows[kv8]", "attention_split[kv8]", "attention_reduce"]
    layer += ["linear[f32]", "norm_gate_up[f32]", "linear[f32]"]
    assert kernels(fused)[1:-3] == layer * STACKABLE.layers
    kept = kernels(rewritten(plan, ["layers.0.attn.k_rotated"]))
    assert kept.count("norm_qkv_rows[f32]") == STACKABLE.layers - 1 and "kv_append[kv8]" in kept


@pytest.mark.parametrize("name", ["layers.0.attn.q", "layers.0.attn.k_rotated", "layers.0.attn.input"])
def test_what_is_kept_is_not_fused_into_a_product(stackable_plans, name):
    plan = stackable_plans["all"]
    fused = rewritten(plan, [name])
    assert name in fused.buffers and kernels(fused).count("norm_qkv[f32]") == STACKABLE.layers - 1
    assert kernels(fused).count("norm_gate_up[f32]") == STACKABLE.layers


def test_what_a_layer_cannot_fuse_costs_its_own_layer_alone(stackable, stackable_plans, tmp_path):
    """A LoRA on one matrix, or a layer without rotation: the other layers, and the rest of this one, stay fused. Where
    a kernel may bind enough buffers, the LoRA is a dispatch more, with q, k and v still one product."""
    wide = Adapter(storage_buffers=16)
    fused = kernels(rewritten(stackable_plans["greedy"], adapter=Adapter()))
    rest = fused[fused.index("attention") :]
    path = write_adapter(tmp_path / "adapter", stackable, {"model.layers.0.self_attn.q_proj": 4})
    with_lora = adapted(open_source(stackable), path, None)
    source = open_source(stackable)
    names = {
        "model_type": "smollm3",
        "architectures": None,
        "no_rope_layers": [0] + [1] * (STACKABLE.layers - 1),
    }
    without_rotation = source, architecture_of({**source.config, **names})
    for (source, config), adapter, most in (
        (with_lora, Adapter(), 10),
        (with_lora, wide, 1),
        (without_rotation, Adapter(), 4),
    ):
        found = kernels(rewritten(config.build(source.describe, head="greedy"), adapter=adapter))
        assert found[-len(rest) :] == rest
        assert len(found) <= len(fused) + most


def test_no_stack_where_its_members_could_not_be_bound_alone(stackable_plans):
    plan = stackable_plans["all"]
    buffers = dict(plan.buffers)
    for name in ("layers.0.attn.q_proj", "layers.0.attn.k_proj", "layers.0.attn.v_proj"):
        buffers[name] = dataclasses.replace(buffers[name], shape=(buffers[name].shape[0] - 1, 24))
    odd = [stack.name for stack in stacks_of(dataclasses.replace(plan, buffers=buffers))]
    assert not any("layers.0.attn" in name for name in odd) and any("layers.0.mlp" in name for name in odd)
    assert stacks_of(plan, 1024) == []
    fine = [stack.name for stack in stacks_of(dataclasses.replace(plan, buffers=buffers), alignment=32)]
    assert any("layers.0.attn" in name for name in fine)


def test_small_matrices_are_stacked_where_bindings_begin_at_finer_steps(open_promised, tmp_path):
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.spec import WeightFormat
    from workbench.runtime.device import open_device

    device = open_device()
    if device.adapter.offset_alignment > 32:
        pytest.skip("this adapter's bindings begin at multiples of more than 32 bytes")
    # A plane of k has 384 bytes, one and a half times what every device takes.
    checkpoint = write_random(tmp_path / "small", Shape("small", 96, 192, 4, 2, 32))
    convert(checkpoint, tmp_path / "model", ConvertOptions(WeightFormat("int4", block_size=32)))
    ids = random_ids(131, 4)
    expected = reference_on(tmp_path / "model").forward(ids).logits
    for give, layers in ((open_promised, 0), (lambda: device, 2)):
        model = model_on(tmp_path / "model", give)
        session = model.session()
        check_parity(np.stack([session.feed([int(token)]) for token in ids]), expected)
        steps = model.executor.device_plan("last", 1, session._cache, ()).steps
        session.close()
        assert sum(step.kernel.name == "norm_qkv[int4]" for step in steps) == layers
        check_parity(
            model.forward(ids).logits, expected
        )  # k and v by themselves, where they lie in the stack


@pytest.mark.parametrize(
    "formats",
    [
        {"q_proj": "int4/32", "k_proj": "int4/32/sym", "v_proj": "int4/32/sym"},
        {"q_proj": "int4/32/sym", "k_proj": "int4/32/sym", "v_proj": "int4/32"},
        {"q_proj": "int4/32", "k_proj": "int4/32", "v_proj": "int4/32/f32"},
        {"q_proj": "int8/32", "k_proj": "int4/32", "v_proj": "int4/32"},
    ],
    ids=str,
)
def test_matrices_of_different_formats_are_not_stacked(stackable, tmp_path, open_promised, formats):
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.text import parse_format

    overrides = {f"*.self_attn.{name}.weight": parse_format(text) for name, text in formats.items()}
    convert(stackable, tmp_path / "model", ConvertOptions(parse_format("int4/32"), overrides=overrides))
    source = open_source(tmp_path / "model")
    plan = architecture_of(source.config).build(source.describe, head="all")
    assert [len(stack.members) for stack in stacks_of(plan)] == [2] * STACKABLE.layers
    ids = random_ids(STACKABLE.vocab, 1)
    found = model_on(tmp_path / "model", open_promised).forward(ids).logits
    check_parity(found, reference_on(tmp_path / "model").forward(ids).logits)


def test_attention_in_parts_only_where_units_are_idle(stackable_plans):
    plan = stackable_plans["greedy"]

    def split(capacity: int, adapter: Adapter):
        return rewritten(plan, adapter=adapter, capacity=capacity, rules=[SPLIT_ATTENTION])

    assert split(32, GPU) == plan == split(8192, Adapter(is_cpu=True))
    assert split(8192, Adapter()) == plan  # no subgroups
    found = kernels(split(8192, GPU))
    assert "attention" not in found and found.count("attention_split") == STACKABLE.layers


@pytest.mark.parametrize(
    "lanes, activations, tokens, products",
    [
        (4, "f32", 16, {"batch"}),
        (4, "f32", 64, {"batch"}),
        (4, "int8", 16, {"batch"}),
        (8, "f32", 16, {"broadcast"}),
        (8, "int8", 16, {"batch"}),
        (8, "int8", 64, {"tile"}),
        (8, "f32", 4, {"gemv"}),
    ],
)
def test_software_adapters_meet_no_barrier_where_sums_of_a_subgroup_do(
    stackable, lanes, activations, tokens, products
):
    """Which variants of products prompts take: tiles wait at barriers, and each costs a switch of every invocation."""
    source = RandomSource("random", open_source(stackable).config, parse_format("int4/32"))
    plan = architecture_of(source.config).build(source.describe, head="last", activations=activations)
    software = Adapter(subgroups=True, subgroup_size=lanes, is_cpu=True)
    steps = lower(plan, step_sizes(tokens, 128, results=1), software, 128 << 20).steps
    chosen = {
        each.variant for each in steps if each.kernel.op in ("linear", "gate_up") and each.sizes["tokens"] > 1
    }
    assert chosen == products
    fused = any(each.kernel.op == "gate_up" for each in steps)
    assert fused == bool(products & {"tile", "broadcast"})


@pytest.mark.parametrize("cache, op", [("f32", "norm_qkv"), ("int8", "norm_qkv_rows")])
def test_rotations_of_a_part_of_each_head_are_fused_too(stackable, cache, op):
    source = open_source(stackable)
    plan = architecture_of(source.config).build(source.describe, head="all", cache=cache)
    table = dataclasses.replace(plan.buffers["rope_table"], shape=("capacity", STACKABLE.head_dim - 8))
    calls = [dataclasses.replace(c, params={"passed": 8}) if c.op == "rope" else c for c in plan.calls]
    partial = dataclasses.replace(plan, buffers={**plan.buffers, "rope_table": table}, calls=tuple(calls))
    fused = rewritten(partial)
    assert kernels(fused) == kernels(rewritten(plan))
    found = [call.params["passed"] for call in fused.calls if call.op == op]
    assert found == [8] * STACKABLE.layers
    for call in fused.calls:
        bound = bind(fused, call, SIZES)
        bound.kernel.complete(bound.sizes())


def test_gelu_takes_the_place_of_silu(stackable_plans):
    plan, other = stackable_plans["greedy"], {"norm_gate_up[f32]": "norm_gate_up_gelu[f32]"}
    assert kernels(rewritten(with_gelu(plan))) == [other.get(name, name) for name in kernels(rewritten(plan))]


@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize("more", [{}, {"passed": 8}], ids=str)
def test_heads_are_normalised_where_they_are_turned(tokens, more):
    builder = PlanBuilder()
    x = builder.buffer("q", ("tokens", 96), "f32", "input")
    weight = builder.weight_vector("q_norm.weight", 24)
    angles = RotaryTable((1.0,) * (12 - more.get("passed", 0) // 2))
    shape = ("capacity", 2 * len(angles.frequencies))
    table = builder.buffer("rope_table", shape, "f32", "constant", initial=angles)
    state = builder.buffer("state", (4,), "u32", "state")
    normed, turned = (builder.buffer(n, ("tokens", 96), "f32", "activation") for n in ("normed", "turned"))
    builder.call("head_norm", {"x": x, "weight": weight}, {"y": normed}, eps=1e-6)
    builder.call("rope", {"x": normed, "table": table, "state": state}, {"y": turned}, **more)
    plan = builder.finish([turned])
    fused = rewritten(plan, tokens=tokens)
    assert kernels(fused) == ["head_norm_rope"] and fused.calls[0].params == {"eps": 1e-6, **more}
    assert rewritten(plan, ["normed"], tokens=tokens) == plan


@pytest.fixture
def decoded(stackable, open_promised, tmp_path, monkeypatch):
    """`decoded(fmt, dtype)`: logits of one token a step by the device plan of a GPU, on weights that are stacked; those
    of the references; and kernel -> variant of a step."""
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.spec import WeightFormat

    device = open_promised()
    ids = random_ids(STACKABLE.vocab, 6)

    def decode(fmt: str, dtype: str):
        if dtype == "f16" and not device.adapter.f16:
            pytest.skip("the adapter has no shader-f16")
        if fmt != "float":
            convert(stackable, tmp_path / "model", ConvertOptions(WeightFormat(fmt, block_size=32)))
        checkpoint = stackable if fmt == "float" else tmp_path / "model"
        monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=False))
        model = model_on(checkpoint, open_promised, dtype=dtype, max_tokens=1024)
        session = model.session()
        found = np.stack([session.feed([int(token)]) for token in ids])
        steps = model.executor.device_plan("last", 1, session._cache, ()).steps
        session.close()
        expected = reference_on(checkpoint, dtype=dtype).forward(ids).logits
        return found, expected, {step.kernel.op: step.variant for step in steps}

    return decode


@pytest.mark.parametrize("fmt", ["float", "int4", "int2"])
def test_decoding_fused_and_split_computes_what_the_references_do(decoded, fmt):
    found, expected, _ = decoded(fmt, "f32")
    check_parity(found, expected)


@pytest.mark.parametrize("fmt", ["float", "int8", "int4", "int2"])
def test_decoding_in_f16_arithmetic_rounds_and_no_more(decoded, fmt):
    """Integer weights meet f16 activations in f16; norms read the residual stream, which is f32."""
    found, expected, used = decoded(fmt, "f16")
    assert used["linear"] == ("gemv_f16" if fmt in ("int4", "int2") else "gemv")
    check_parity(found, expected, 1e-2)


# ---- buffers ----------------------------------------------------------------------------------------------------


def interpret(plan, slots, keep) -> int:
    """Walk a plan with a slot assignment and assert that each read finds what was last written under its name.

    Returns how many slots held more than one activation.
    """
    holds: dict[int, str] = {}
    held: dict[int, set] = {}

    def planes(names) -> list[str]:
        found = [plan.buffers[name] for name in names]
        return [own for b in found if b.kind == "activation" for own, _, _ in b.planes().values()]

    for call in plan.calls:
        reads, writes = planes(call.inputs.values()), planes(call.outputs.values())
        for name in reads:
            assert holds[slots[name]] == name, f"{call} reads {name}, but {holds[slots[name]]} lies there"
        for name in writes:
            assert slots[name] not in {slots[other] for other in reads if other != name}, f"{call} overwrites"
            holds[slots[name]] = name
            held.setdefault(slots[name], set()).add(name)
        assert len({slots[name] for name in writes}) == len(writes)
    for name in (*plan.results, *keep):
        if plan.buffers[name].kind == "activation":
            assert holds[slots[name]] == name, f"{name} was overwritten before it could be read back"
    return sum(len(names) > 1 for names in held.values())


@pytest.mark.parametrize("keep", [(), ("layers.0.attn.out",), ("embedded", "layers.0.mlp.gate"), NAMES])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("tokens", [1, 16])
def test_no_activation_is_read_after_its_buffer_was_reused(stackable_plans, head, keep, tokens):
    sizes = {**SIZES, "tokens": tokens, "capacity": 1024}
    fused = rewritten(stackable_plans[head], keep, tokens=tokens, capacity=1024)
    assert tokens > 1 or any(call.op == "attention_reduce" for call in fused.calls)
    for plan in (stackable_plans[head], fused):
        slots, slot_bytes = assign(plan, sizes, keep)
        reused = interpret(plan, slots, keep)
        assert reused > 0
        needed = {own: n for b in plan.of_kind("activation") for own, n in plane_bytes(b, sizes).items()}
        assert needed.keys() == slots.keys()
        assert all(need <= slot_bytes[slots[own]] for own, need in needed.items())


def test_the_interpreter_sees_a_wrong_assignment(plans):
    plan = plans["all"]
    slots, _ = assign(plan, SIZES, ())
    slots["layers.0.attn.k"] = slots["layers.0.attn.q"]  # both live at once
    with pytest.raises(AssertionError, match=r"layers\.0\.attn\."):
        interpret(plan, slots, ())


def test_reuse_saves_memory(plans):
    lowered = lower(plans["last"], SIZES, Adapter(), 128 << 20)
    alone = sum(buffer_bytes(b, SIZES) for b in lowered.plan.of_kind("activation"))
    assert sum(lowered.slot_bytes) < alone / 2


# ---- ranges of rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1540, 4096, 5000, 33_000, 1 << 20])
def test_ranges_cover_all_rows_once_and_fit(plans, limit):
    for weight in plans["all"].weights.values():
        ranges = row_ranges(weight, limit)
        rows, columns = weight.shape
        row_bytes = -(-columns // 32) * 32 * 4
        assert [row for first, stop in ranges for row in range(first, stop)] == list(range(rows))
        assert all((stop - first) * row_bytes <= limit for first, stop in ranges)
        assert all(first % 4 == 0 for first, _ in ranges)


def test_a_row_that_fits_no_binding_is_refused(plans):
    with pytest.raises(OutOfMemoryError, match="four rows of embedding"):
        row_ranges(plans["all"].buffers["embedding"], 100)


@pytest.mark.parametrize(
    "dtype, limit, count", [("float", 20_000, 16), ("int2", 1100, 4), ("int8 of one scale", 4600, 4)]
)
def test_splitting_rows_changes_nothing(
    checkpoint, open_promised, tmp_path, monkeypatch, dtype, limit, count
):
    """Tied embedding and head, and a bias, in several ranges; integer planes whose rows are not whole words too.

    `limit` is so small that even few tokens and positions hardly fit.
    """
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.spec import WeightFormat

    if dtype != "float":
        fmt = WeightFormat("int8", "tensor") if "scale" in dtype else WeightFormat("int2", block_size=32)
        convert(checkpoint, tmp_path / "model", ConvertOptions(fmt))
        checkpoint = tmp_path / "model"
    device = open_promised()
    ids = random_ids(SHAPE.vocab, count)
    whole = model_on(checkpoint, open_promised, max_tokens=count).forward(ids).logits
    monkeypatch.setattr(device, "binding_bytes", limit)
    model = model_on(checkpoint, open_promised, max_tokens=count)
    lowered = lower(model.plan("all"), {**SIZES, "tokens": count}, device.adapter, limit)
    read = [(matrix_of(lowered.plan, step.call), step.rows) for step in lowered.steps]
    ranges = [rows for matrix, rows in read if matrix is not None and matrix.name == "embedding"]
    assert len(set(ranges)) > 1 and len(ranges) == 2 * len(set(ranges))
    logits = model.forward(ids).logits
    assert np.abs(logits - whole).max() <= 2e-6 * np.abs(whole).max()
    check_parity(logits, reference_on(checkpoint).forward(ids).logits)
