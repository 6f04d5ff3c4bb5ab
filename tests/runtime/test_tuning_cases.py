"""What is tuned of a model, on which inputs, and in which rows it is compared with the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import wgsl_kernels
from wgsl_kernels import Variant
from wgsl_kernels.judge import expectation
from workbench.formats.spec import WeightFormat
from workbench.models.blocks import ACTIVATIONS
from workbench.models.families import architecture_of
from workbench.models.specs import described_in
from workbench.runtime.launch import Workload
from workbench.runtime.tuning import sampling
from workbench.runtime.tuning.candidates import MOST_COMBINATIONS, candidates, digest
from workbench.runtime.tuning.cases import Case, case_of, planned_cases
from workbench.runtime.tuning.sampling import sample
from workbench.runtime.tuning.trial import CannotMakeError, Trial, workload_of

from .models import LLAMA3_8B
from .planted import CASE, FAST, planted, variant
from .rewriting import GPU

GEMV = Case(
    "linear[int4]",
    {
        "tokens": 1,
        "columns": 64,
        "rows": 40,
        "words": 8,
        "scale_rows": 40,
        "scale_blocks": 2,
        "block": 32,
        "scale_stride": 2,
        "zero_unit": 1.0,
    },
    {"x": "f32", "quants": "u32", "scales": "f16", "zeros": "i8", "y": "f32"},
)
#: A linear layer with f32 weights, one thread an output.
LINEAR = """
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read> values: array<f32>;
@group(0) @binding(6) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= ROWS) { return; }
  var sum = 0.0;
  for (var k = 0u; k < COLUMNS; k++) { sum += x[id.y * COLUMNS + k] * values[id.x * PADDED + k]; }
  %s
  y[id.y * OUT_ROWS + id.x] = sum;
}
"""


@pytest.fixture(scope="module")
def device(open_promised):
    return open_promised()


# ---- inputs and reference ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ACTIVATIONS)
@pytest.mark.parametrize("fused", [False, True], ids=["apart", "fused"])
@pytest.mark.parametrize(
    "fmt",
    [
        "f32",
        "f16",
        "bf16",
        ("int8", "channel"),
        ("int8", "block", 64, True),
        ("int4", "block", 32),
        ("int4", "tensor"),
        ("int4", "block", 64, False, "f32", 3),
        ("int2", "block", 256, False, "f16", 5),
        ("int4", "block", 32, False, "f32", 0, "low-first", True),
    ],
    ids=str,
)
def test_inputs_can_be_made_for_every_case_of_a_model(device, dtype, fmt, fused):
    """Of exactly the sizes and types of the device plans: a case that cannot be made would never be tuned."""
    shape = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 32}
    if not fused:
        shape = {"hidden_size": 72, "intermediate_size": 172, "num_attention_heads": 6, "head_dim": 16}
    config = architecture_of(
        {
            "model_type": "llama",
            **shape,
            "vocab_size": 131,
            "num_hidden_layers": 1,
            "num_key_value_heads": 2,
            "max_position_embeddings": 50,
            "attention_bias": not fused,
        }
    )
    form = WeightFormat(fmt) if isinstance(fmt, str) else WeightFormat(*fmt)
    planned = planned_cases(
        config,
        described_in(config.tensors(), form),
        (16, 1),
        activations=dtype,
        capacity=50,
        adapter=device.adapter,
        binding_bytes=device.binding_bytes,
        steps=16,
    )
    ops = {wgsl_kernels.get(each.case.kernel).op for each in planned}
    assert ops >= {"linear", "attention", "rms_norm", "embedding"}
    for each in planned:
        kernel = wgsl_kernels.get(each.case.kernel)
        try:
            workload_of(kernel, each.case)
        except CannotMakeError:  # allowed where there is nothing to choose; to list the choices takes long
            assert len(candidates(kernel, each.case.sizes, each.case.types, device.adapter)) <= 1, each.case


def test_inputs_can_be_made_for_what_a_gpu_fuses_in_steps_of_several_tokens():
    config = architecture_of(
        {
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_attention_heads": 4,
            "head_dim": 32,
            "vocab_size": 5000,
            "num_hidden_layers": 1,
            "num_key_value_heads": 2,
            "max_position_embeddings": 200,
        }
    )
    planned = planned_cases(
        config,
        described_in(config.tensors(), WeightFormat("int4", block_size=32)),
        (4, 1),
        activations="int8",
        capacity=200,
        adapter=GPU,
        binding_bytes=128 << 20,
        steps=16,
    )
    made = {workload_of(wgsl_kernels.get(each.case.kernel), each.case).kernel.name for each in planned}
    assert made >= {"swiglu[a8]", "rms_norm[a8]", "attention_reduce[a8]", "linear[int4, a8]", "argmax_parts"}


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_kernels_of_an_int8_cache_pass(device, dtype):
    """As the device plans of a prompt and of a step dispatch them; a step is tuned like any other."""
    if dtype == "f16" and not device.adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    config = architecture_of(
        {
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_attention_heads": 4,
            "head_dim": 32,
            "vocab_size": 131,
            "num_hidden_layers": 1,
            "num_key_value_heads": 2,
            "max_position_embeddings": 50,
        }
    )
    planned = planned_cases(
        config,
        described_in(config.tensors(), WeightFormat("int8", block_size=32)),
        (16, 1),
        activations=dtype,
        cache="int8",
        capacity=50,
        adapter=device.adapter,
        binding_bytes=device.binding_bytes,
        steps=16,
    )
    mine = [each.case for each in planned if "kv8" in each.case.kernel or "qkv_rows" in each.case.kernel]
    kernels = {"attention[kv8]", "rope_append[kv8]", "kv_append_rows[kv8]", "norm_qkv_rows[int8]"}
    split = set() if device.adapter.is_cpu else {"attention_split[kv8]"}
    assert {case.kernel for case in mine} == kernels | split
    for case in mine:
        first, *_ = candidates(wgsl_kernels.get(case.kernel), case.sizes, case.types, device.adapter)
        with Trial(device, case) as made:
            assert made.check(first).wrong == ""


def test_inputs_of_other_sizes_are_noticed():
    with pytest.raises(CannotMakeError, match=r"linear\[int4\]: no random inputs"):
        workload_of(wgsl_kernels.get("linear[int4]"), replace(GEMV, sizes={**GEMV.sizes, "words": 9}))


def test_every_variant_of_a_linear_layer_passes(device):
    found = candidates(wgsl_kernels.get("linear[int4]"), GEMV.sizes, GEMV.types, device.adapter)
    assert len({(each.variant, *each.tunables.values()) for each in found}) == len(found) > 10
    variants = {each.variant: each for each in reversed(found)}.values()  # compiling them all takes long
    with Trial(device, GEMV) as made:
        assert [made.check(each).wrong for each in variants] == [""] * len(variants)


def test_of_a_large_matrix_some_rows_are_compared(device, monkeypatch):
    """The edges are among them: a last row that is wrong is found."""
    monkeypatch.setattr(sampling, "MOST_WEIGHTS", 1000)
    rows = 700
    case = Case(
        "linear[f32]",
        {"tokens": 2, "columns": 32, "rows": rows, "padded": 32},
        {"x": "f32", "values": "f32", "y": "f32"},
    )
    variants = {
        name: Variant("planted", grid=lambda c: (-(-c["rows"] // 64), c["tokens"], 1), text=LINEAR % extra)
        for name, extra in (("right", ""), ("wrong", "if (id.x == ROWS - 1u) { sum += 1.0; }"))
    }
    kernel = replace(wgsl_kernels.get("linear[f32]"), variants=variants, prefer=None)
    chosen = sample(kernel, workload_of(kernel, case).arguments).rows
    assert len(chosen) == len(chosen.unique()) == sampling.SAMPLED_ROWS < rows
    assert chosen[0] == 0 and chosen[-1] == rows - 1 and bool((chosen.diff() > 0).all())
    with Trial(device, case, 0, kernel) as made:
        right, wrong = candidates(kernel, case.sizes, case.types, device.adapter)
        assert made.check(right).wrong == ""
        assert "wrong numbers: 2 of 1024 of y" in made.check(wrong).wrong


@pytest.mark.parametrize("name", ["norm_argmax[int4]", "norm_linear_max[int4]"])
def test_of_a_large_matrix_some_groups_are_compared(device, monkeypatch, name):
    """Numbers of rows are those of the whole matrix; the last group, which is short, is among them."""
    monkeypatch.setattr(sampling, "MOST_WEIGHTS", 1000)
    kernel, group = wgsl_kernels.get(name), 16
    arguments = kernel.inputs(seed=4, tokens=2, rows=999, columns=64, block=32, group=group)
    some = sample(kernel, arguments)
    assert some.group == group and some.rows[-1] == 998 and len(some.rows) < 600
    whole, few = (expectation(kernel, each) for each in (arguments, some.arguments(kernel, arguments)))
    for output, (expected, bound) in few.items():
        found, _ = whole[output]
        assert torch.equal(some.output(kernel, output, found), expected) and bound.shape == expected.shape
    whole = Workload(kernel, arguments)
    case = case_of(kernel, whole.sizes, whole.types)
    gemv = replace(kernel.variants["gemv"], tunables={}, defaults=lambda context: context_free)
    context_free = {"workgroup": 8, "teams": 1, "rows_per_team": 16, "piece": 32}
    text = gemv.body().replace("ROW_OFFSET + found;", "ROW_OFFSET + found + u32(group == GROUPS - 1u);")
    planted = replace(kernel, variants={"right": gemv, "wrong": replace(gemv, text=text)})
    right, wrong = candidates(planted, case.sizes, case.types, device.adapter)
    with Trial(device, case, 0, planted) as made:
        assert made.check(right).wrong == ""
        assert "wrong numbers: 2 of" in made.check(wrong).wrong


def test_a_variant_with_many_tunables_is_searched_in_part(device):
    many = replace(
        variant(FAST), tunables={"workgroup": (64, 32, 16, 8), "p": (1, 2, 3, 4, 5), "q": (1, 2, 3, 4, 5)}
    )
    found = candidates(planted(only=many), CASE.sizes, CASE.types, device.adapter)
    assert len(found) == MOST_COMBINATIONS and found[0].tunables == {"workgroup": 64, "p": 1, "q": 1}
    alone = {tuple(each.tunables.values()) for each in found}
    assert {(8, 1, 1), (64, 5, 1), (64, 1, 4)} <= alone
    again = candidates(planted(only=many), CASE.sizes, CASE.types, device.adapter)
    assert digest(found) == digest(again)


# ---- cases of a model -------------------------------------------------------------------------------------------


def test_a_model_of_8b_parameters_is_planned_without_weights(device):
    config = architecture_of(LLAMA3_8B)
    planned = planned_cases(
        config,
        described_in(config.tensors(), WeightFormat("int4")),
        (256, 64, 16, 4, 1),
        activations="f32",
        capacity=8192,
        adapter=device.adapter,
        binding_bytes=1 << 30,
        steps=16,
    )
    uses = {(each.case.kernel, each.case.shape): each.uses for each in planned if each.case.tokens == 1}
    assert uses["norm_gate_up[int4]", "28672x4096, block 128"] == {1: 32}  # gate and up of 32 layers
    head = {kernel: found for (kernel, shape), found in uses.items() if shape.startswith("128256x4096")}
    used = [tokens for found in head.values() for tokens, count in found.items() if count == 1]
    assert set(used) == {1, 4, 16, 64, 256}  # the last token's, with the norm in front of it or without
    # Greedy decoding keeps a number a group, top-k sampling the logits too, and only scoring runs the head alone.
    assert (
        head["norm_argmax[int4]"] == {1: 1}
        and head["norm_linear_max[int4]"] == {} == head["norm_linear[int4]"]
    )
    assert planned[0].case.kernel.startswith(("attention", "linear", "norm"))  # most bytes first
    tokens = [each.case.tokens for each in planned]
    assert set(tokens) == {1, 4, 16, 64, 256}
    assert len({each.case.name for each in planned}) == len(planned)


def test_a_shape_class_forgets_what_does_not_matter():
    kernel = wgsl_kernels.get("linear[int4]")
    whole = case_of(kernel, {**GEMV.sizes, "row_offset": 40, "out_rows": 80}, GEMV.types)
    assert whole == GEMV
    attention = wgsl_kernels.get("attention")
    sizes = {"tokens": 1, "width": 64, "sequences": 1, "kv_heads": 2, "head_dim": 16, "scale": 0.25}
    cases = [case_of(attention, {**sizes, "capacity": n}, {}) for n in (257, 512, 513)]
    assert cases[0] == cases[1] != cases[2]
