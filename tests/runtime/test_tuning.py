"""Tuning on the real adapter: what is slow loses, what is wrong never wins, what was measured is not measured again."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch

import wgsl_kernels
from wgsl_kernels import Variant
from wgsl_kernels.judge import expectation
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.llama import ACTIVATIONS
from workbench.models.llama_config import LlamaConfig
from workbench.models.shapes import describe_by_config
from workbench.runtime import rotation, timing
from workbench.runtime.launch import port_types, sizes_of
from workbench.runtime.tuning import race as races
from workbench.runtime.tuning import sampling
from workbench.runtime.tuning import tune as tuning
from workbench.runtime.tuning.candidates import MOST_COMBINATIONS, candidates, digest
from workbench.runtime.tuning.cases import Case, PlannedCase, case_of, planned_cases
from workbench.runtime.tuning.race import gain, race, wins
from workbench.runtime.tuning.report import MEASURED, NOT_REACHED, ONE_WAY, REMEMBERED, SKIPPED
from workbench.runtime.tuning.sampling import sample
from workbench.runtime.tuning.store import Store, machine_facts
from workbench.runtime.tuning.trial import CannotMakeError, Trial, make_arguments
from workbench.runtime.tuning.tune import measure_case, tune, tune_cases

from .planted import BROKEN, CASE, FAST, LAST_WRONG, SLOW, WRONG, planted, variant

GEMV = Case(
    "linear_int4",
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
LLAMA3_8B = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}


@pytest.fixture(scope="module")
def device(open_promised):
    return open_promised()


# ---- who wins ---------------------------------------------------------------------------------------------------


def test_a_slow_default_loses(device):
    outcome = measure_case(CASE, device, kernel=planted(slow=SLOW, fast=FAST), rounds=3)
    entry = outcome.entry
    assert outcome.status == MEASURED and entry.variant == "fast" and entry.default_variant == "slow"
    assert entry.faster > 1 and entry.seconds < entry.default_seconds / 2
    assert entry.rounds == 3 and entry.measured == 2 and entry.failed == ()


def test_a_slow_rival_loses(device):
    entry = measure_case(CASE, device, kernel=planted(fast=FAST, slow=SLOW), rounds=3).entry
    assert entry.is_default and entry.variant == "fast" and entry.faster == 0
    assert entry.spread is None  # the rival had left before the deciding rounds


@pytest.mark.parametrize("wrong", [WRONG, LAST_WRONG])
def test_wrong_numbers_never_win(device, wrong):
    entry = measure_case(CASE, device, kernel=planted(slow=SLOW, wrong=wrong), rounds=3).entry
    assert entry.variant == "slow" and entry.measured == 1
    (failed,) = entry.failed
    assert failed.startswith("wrong (workgroup 64): wrong numbers: ") and "expected" in failed


def test_what_does_not_compile_is_told_and_skipped(device):
    entry = measure_case(CASE, device, kernel=planted(slow=SLOW, broken=BROKEN, fast=FAST), rounds=3).entry
    assert entry.variant == "fast" and entry.measured == 2
    (failed,) = entry.failed
    assert failed.startswith("broken (workgroup 64): KernelError") and "missing" in failed


def test_a_default_that_is_wrong_has_no_time(device):
    outcome = measure_case(CASE, device, kernel=planted(wrong=WRONG, slow=SLOW, fast=FAST), rounds=3)
    assert outcome.entry.variant == "fast" and outcome.entry.default_seconds is None
    assert "the default did not pass" in outcome.detail
    assert "wrong" in outcome.cells()


def test_where_nothing_passes_nothing_is_chosen(device):
    outcome = measure_case(CASE, device, kernel=planted(wrong=WRONG, broken=BROKEN), rounds=3)
    assert outcome.status == SKIPPED and outcome.entry is None and "no candidate passed" in outcome.detail


def test_tunables_are_raced_too(device):
    """A workgroup of one thread wastes seven lanes of eight, and needs 64 times the workgroups."""
    kernel = planted(only=variant(SLOW, workgroups=(1, 64)))
    entry = measure_case(CASE, device, kernel=kernel, rounds=3).entry
    assert entry.tunables == {"workgroup": 64} and entry.default_tunables == {"workgroup": 1}


def test_the_wall_clock_decides_where_there_are_no_timestamps(device):
    kernel = planted(slow=SLOW, fast=FAST)
    entry = measure_case(CASE, device, kernel=kernel, rounds=3, timestamps=False).entry
    assert entry.clock == timing.WALL and entry.variant == "fast"


def test_clearly_slower_ones_leave_the_race(device):
    kernel = planted(fast=FAST, slow=SLOW, same="y[i] = b[i] + a[i];")
    with Trial(device, CASE, 0, kernel) as made:
        ready = [
            made.check(each).compiled for each in candidates(kernel, CASE.sizes, CASE.types, device.adapter)
        ]
        result = race(device, made.recorders(ready), rounds=4)
    assert [len(each) for each in result.heats[:2]] == [4, 1] and result.rival != 1
    assert len(result.samples) == len(result.default_samples) == 4


def test_a_case_that_outlasts_the_deadline_is_given_up(device):
    before = device.allocated
    kernel = planted(slow=SLOW, fast=FAST)
    for margin in (-1.0, 0.02):  # before the first check, and somewhere on the way
        outcome = measure_case(CASE, device, kernel=kernel, rounds=50, deadline=time.perf_counter() + margin)
        assert (outcome.status, outcome.entry) == (NOT_REACHED, None)
    assert device.allocated == before


def test_what_is_hopeless_is_not_raced(device, monkeypatch):
    """And what makes it so is not tried again: of six combinations the two that share it are left out."""
    monkeypatch.setattr(tuning, "LONG", 0.0)
    body = FAST + " if (LOAD > 1u) { " + SLOW.replace("3000u", "300000u") + " }"
    many = replace(variant(body), tunables={"workgroup": (64, 32, 16), "load": (1, 2)})
    checked = []
    monkeypatch.setattr(
        Trial, "check", lambda self, c, really=Trial.check: (checked.append(c), really(self, c))[1]
    )
    entry = measure_case(CASE, device, kernel=planted(only=many), rounds=3).entry
    assert [c.tunables["load"] for c in checked].count(2) == 1 and len(checked) == 4
    assert entry.measured <= 3 and entry.tunables["load"] == 1 and not entry.failed


def test_the_race_gives_its_buffers_back(device):
    before = device.allocated
    measure_case(CASE, device, kernel=planted(slow=SLOW, wrong=WRONG), rounds=3)
    assert device.allocated == before


def test_on_a_gpu_copies_take_turns_and_the_clock_settles(monkeypatch):
    """The software adapter, taken for a GPU: as much as can be seen of that path without one."""
    from workbench.runtime.device import Device, adapter_missing, find_adapter

    if reason := adapter_missing():
        pytest.skip(reason)
    device = Device(find_adapter(), promised=True)
    device.adapter = replace(device.adapter, is_cpu=False)
    for name, seconds in (("GPU_WARM", 0.002), ("GPU_LEAD", 0.001), ("GPU_PASS", 0.002), ("PATIENCE", 0.01)):
        monkeypatch.setattr(races, name, seconds)
    settled = []
    monkeypatch.setattr(races, "settle", lambda each, really=races.settle: (settled.append(1), really(each)))
    size = 2 * 2 * 512 * 4  # a and b
    monkeypatch.setattr(rotation, "ROTATED_BYTES", 3 * size)
    kernel = planted(slow=SLOW, fast=FAST)
    with Trial(device, CASE, 0, kernel) as made:
        assert made.rotation.copies == 5
        found = candidates(kernel, CASE.sizes, CASE.types, device.adapter)
        recorders = made.recorders([made.check(each).compiled for each in found])
        assert [len(each) for each in recorders] == [5, 5]
        result = race(device, recorders, rounds=3)
    assert result.winner == 1 and len(settled) == 6 and device.allocated == 0


# ---- the verdict, in numbers ------------------------------------------------------------------------------------


def test_a_drift_that_both_share_cancels():
    drift = [1.0, 3.0, 2.0, 5.0, 1.5]
    faster, spread = gain([1.2 * d for d in drift], drift)
    assert faster == pytest.approx(0.2) and spread == pytest.approx(0, abs=1e-12)
    assert wins(faster, spread)


def test_less_than_the_spread_is_no_win():
    faster, spread = gain([1.1, 1.3, 0.9, 1.0, 1.2], [1.0] * 5)
    assert faster == pytest.approx(0.1) and spread == pytest.approx(0.2)
    assert not wins(faster, spread)


def test_a_large_ratio_wins_however_it_wanders():
    faster, spread = gain([100.0, 300.0, 200.0], [1.0, 1.0, 1.0])
    assert faster == pytest.approx(199) and spread == pytest.approx(3**0.5 - 1)
    assert wins(faster, spread)


def test_a_timer_has_a_resolution():
    assert not wins(0.001, 0.0) and wins(0.01, 0.0)


def test_too_few_rounds_are_refused(device):
    with pytest.raises(ValueError, match="at least 3 rounds"):
        race(device, [], rounds=2)
    with pytest.raises(WorkbenchError, match="at least 3"):
        tune("anything", rounds=1)


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
    ],
    ids=str,
)
def test_inputs_can_be_made_for_every_case_of_a_model(device, dtype, fmt, fused):
    """Of exactly the sizes and types of the device plans: a case that cannot be made would never be tuned."""
    shape = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 32}
    if not fused:
        shape = {"hidden_size": 72, "intermediate_size": 172, "num_attention_heads": 6, "head_dim": 16}
    config = LlamaConfig.parse(
        {
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
        describe_by_config(config, form),
        (16, 1),
        activations=dtype,
        capacity=50,
        adapter=device.adapter,
        binding_bytes=device.binding_bytes,
        steps=16,
    )
    assert {each.case.kernel.partition("_")[0] for each in planned} >= {
        "linear",
        "attention",
        "rms",
        "embedding",
    }
    for each in planned:
        kernel = wgsl_kernels.get(each.case.kernel)
        if len(candidates(kernel, each.case.sizes, each.case.types, device.adapter)) > 1:
            make_arguments(kernel, each.case)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_kernels_of_an_int8_cache_pass(device, dtype):
    """As the device plans of a prompt and of a step dispatch them; a step is tuned like any other."""
    if dtype == "f16" and not device.adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    config = LlamaConfig.parse(
        {
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
        describe_by_config(config, WeightFormat("int8", block_size=32)),
        (16, 1),
        activations=dtype,
        cache="int8",
        capacity=50,
        adapter=device.adapter,
        binding_bytes=device.binding_bytes,
        steps=16,
    )
    mine = [each.case for each in planned if "kv8" in each.case.kernel or "qkv_rows" in each.case.kernel]
    kernels = {"attention_kv8", "kv8_append", "kv8_append_rows", "norm_qkv_rows_int8"}
    split = set() if device.adapter.is_cpu else {"attention_split_kv8"}
    assert {case.kernel for case in mine} == kernels | split
    for case in mine:
        first, *_ = candidates(wgsl_kernels.get(case.kernel), case.sizes, case.types, device.adapter)
        with Trial(device, case) as made:
            assert made.check(first).wrong == ""


def test_inputs_of_other_sizes_are_noticed():
    with pytest.raises(CannotMakeError, match="linear_int4: no random inputs"):
        make_arguments(wgsl_kernels.get("linear_int4"), replace(GEMV, sizes={**GEMV.sizes, "words": 9}))


def test_every_variant_of_a_linear_layer_passes(device):
    found = candidates(wgsl_kernels.get("linear_int4"), GEMV.sizes, GEMV.types, device.adapter)
    assert len({(each.variant, *each.tunables.values()) for each in found}) == len(found) > 10
    variants = {each.variant: each for each in reversed(found)}.values()  # compiling them all takes long
    with Trial(device, GEMV) as made:
        assert [made.check(each).wrong for each in variants] == [""] * len(variants)


def test_of_a_large_matrix_some_rows_are_compared(device, monkeypatch):
    """The edges are among them: a last row that is wrong is found."""
    monkeypatch.setattr(sampling, "MOST_WEIGHTS", 1000)
    rows = 700
    case = Case(
        "linear_f32",
        {"tokens": 2, "columns": 32, "rows": rows, "padded": 32},
        {"x": "f32", "values": "f32", "y": "f32"},
    )
    variants = {
        name: Variant("planted", grid=lambda c: (-(-c["rows"] // 64), c["tokens"], 1), text=LINEAR % extra)
        for name, extra in (("right", ""), ("wrong", "if (id.x == ROWS - 1u) { sum += 1.0; }"))
    }
    kernel = replace(wgsl_kernels.get("linear_f32"), variants=variants, prefer=None)
    chosen = sample(kernel, make_arguments(kernel, case)).rows
    assert len(chosen) == len(chosen.unique()) == sampling.SAMPLED_ROWS < rows
    assert chosen[0] == 0 and chosen[-1] == rows - 1 and bool((chosen.diff() > 0).all())
    with Trial(device, case, 0, kernel) as made:
        right, wrong = candidates(kernel, case.sizes, case.types, device.adapter)
        assert made.check(right).wrong == ""
        assert "wrong numbers: 2 of 1024 of y" in made.check(wrong).wrong


@pytest.mark.parametrize("name", ["norm_argmax_int4", "norm_linear_max_int4"])
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
    case = case_of(kernel, sizes_of(kernel, arguments), port_types(kernel, arguments))
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
    config = LlamaConfig.parse(LLAMA3_8B)
    planned = planned_cases(
        config,
        describe_by_config(config, WeightFormat("int4")),
        (256, 64, 16, 4, 1),
        activations="f32",
        capacity=8192,
        adapter=device.adapter,
        binding_bytes=1 << 30,
        steps=16,
    )
    uses = {(each.case.kernel, each.case.shape): each.uses for each in planned if each.case.tokens == 1}
    assert uses["norm_gate_up_int4", "28672x4096, block 128"] == {1: 32}  # gate and up of 32 layers
    head = {kernel: found for (kernel, shape), found in uses.items() if shape.startswith("128256x4096")}
    used = [tokens for found in head.values() for tokens, count in found.items() if count == 1]
    assert set(used) == {1, 4, 16, 64, 256}  # the last token's, with the norm in front of it or without
    # Greedy decoding keeps a number a group, top-k sampling the logits too, and only scoring runs the head alone.
    assert (
        head["norm_argmax_int4"] == {1: 1} and head["norm_linear_max_int4"] == {} == head["norm_linear_int4"]
    )
    assert planned[0].case.kernel.startswith(("attention", "linear", "norm"))  # most bytes first
    tokens = [each.case.tokens for each in planned]
    assert set(tokens) == {1, 4, 16, 64, 256}
    assert len({each.case.name for each in planned}) == len(planned)


def test_a_shape_class_forgets_what_does_not_matter():
    kernel = wgsl_kernels.get("linear_int4")
    whole = case_of(kernel, {**GEMV.sizes, "row_offset": 40, "out_rows": 80}, GEMV.types)
    assert whole == GEMV
    attention = wgsl_kernels.get("attention")
    sizes = {"tokens": 1, "width": 64, "sequences": 1, "kv_heads": 2, "head_dim": 16, "scale": 0.25}
    cases = [case_of(attention, {**sizes, "capacity": n}, {}) for n in (257, 512, 513)]
    assert cases[0] == cases[1] != cases[2]


# ---- remembering ------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    """The planted pair under the name that the plan uses."""
    pair = planted(slow=SLOW, fast=FAST)
    monkeypatch.setitem(wgsl_kernels.pair.REGISTRY, "add", pair)
    return pair


@pytest.fixture
def no_clock(monkeypatch):
    """From now on, nothing can be timed."""

    def forbid():
        def refuse(*_, **__):
            raise AssertionError("something was timed")

        monkeypatch.setattr(timing.Stopwatch, "__init__", refuse)

    return forbid


def test_a_second_run_uses_what_the_first_has_written(device, registered, no_clock, tmp_path):
    store = Store(tmp_path, machine_facts(device))
    planned = [PlannedCase(CASE, {1: 3})]
    first = tune_cases(planned, device, store, rounds=3)
    no_clock()
    second = tune_cases(planned, device, store, rounds=3)
    assert [each.status for each in first.outcomes] == [MEASURED]
    assert [each.status for each in second.outcomes] == [REMEMBERED]
    assert second.outcomes[0].entry == first.outcomes[0].entry
    with pytest.raises(AssertionError, match="something was timed"):
        tune_cases(planned, device, store, rounds=3, force=True)


def test_other_wgsl_is_measured_anew(device, registered, no_clock, monkeypatch, tmp_path):
    store = Store(tmp_path, machine_facts(device))
    planned = [PlannedCase(CASE, {1: 3})]
    tune_cases(planned, device, store, rounds=3)
    edited = planted(slow=SLOW, fast=FAST + " // the same, and yet another text")
    monkeypatch.setitem(wgsl_kernels.pair.REGISTRY, "add", edited)
    no_clock()
    with pytest.raises(AssertionError, match="something was timed"):
        tune_cases(planned, device, store, rounds=3)


def test_a_spent_budget_begins_nothing(device, registered, no_clock, tmp_path):
    no_clock()
    seen = []
    report = tune_cases(
        [PlannedCase(CASE, {1: 3})],
        device,
        Store(tmp_path, machine_facts(device)),
        budget=0,
        progress=lambda done, total, doing: seen.append((done, total)),
    )
    assert [each.status for each in report.outcomes] == [NOT_REACHED]
    assert any("not reached within the budget" in note for note in report.notes())
    assert seen == [(0, 1), (1, 1)] and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_costs_a_warning(device, registered, tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file", machine_facts(device))
    with pytest.warns(UserWarning, match="cannot be written"):
        report = tune_cases([PlannedCase(CASE, {})], device, store, rounds=3)
    assert report.outcomes[0].entry.variant == "fast"


def test_a_kernel_with_one_way_to_run_is_skipped(device):
    case = Case("last_row", {"tokens": 4, "width": 8}, {"x": "f32", "state": "u32", "y": "f32"})
    outcome = measure_case(case, device)
    assert outcome.status == SKIPPED and outcome.detail == ONE_WAY


def test_the_report_says_who_won_by_how_much(device, registered):
    report = tune_cases([PlannedCase(CASE, {1: 3})], device, None, rounds=3)
    head, row = report.rows()
    assert len(head) == len(row) and row[3] == "slow (workgroup 64)" and row[5] == "fast (workgroup 64)"
    ((tokens, before, after),) = report.steps()
    entry = report.outcomes[0].entry
    assert (tokens, before, after) == (1, 3 * entry.default_seconds, 3 * entry.seconds)
    assert "spread" in str(report) and "<table>" in report._repr_html_()


# ---- the whole way ----------------------------------------------------------------------------------------------


def test_a_configuration_alone_needs_a_format(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA3_8B))
    for model in (path, tmp_path):
        with pytest.raises(WorkbenchError, match="give a format, such as int4/128"):
            tune(model)
    path.write_text("[1, 2")
    with pytest.raises(WorkbenchError, match="is not valid JSON"):
        tune(path, fmt=WeightFormat("int4"))


def test_steps_that_no_plan_has_are_refused(device, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA3_8B))
    with pytest.raises(WorkbenchError, match="no step has 3 tokens; steps have 256, "):
        tune(path, fmt=WeightFormat("int4"), tokens=[3])
