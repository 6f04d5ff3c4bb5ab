"""Tuning on the real adapter: what is slow loses, what is wrong never wins, what was measured is not measured again."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest

import wgsl_kernels
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.runtime import rotation, timing
from workbench.runtime.tuning import race as races
from workbench.runtime.tuning import tune as tuning
from workbench.runtime.tuning.candidates import candidates
from workbench.runtime.tuning.cases import Case, PlannedCase
from workbench.runtime.tuning.race import RaceOptions, gain, race, wins
from workbench.runtime.tuning.report import MEASURED, NOT_REACHED, ONE_WAY, REMEMBERED, SKIPPED
from workbench.runtime.tuning.store import Store, machine_facts
from workbench.runtime.tuning.trial import Trial
from workbench.runtime.tuning.tune import measure_case, tune, tune_cases

from .models import LLAMA3_8B
from .planted import BROKEN, CASE, FAST, LAST_WRONG, SLOW, WRONG, planted, variant


@pytest.fixture(scope="module")
def device(open_promised):
    return open_promised()


# ---- who wins ---------------------------------------------------------------------------------------------------


def test_a_slow_default_loses(device):
    outcome = measure_case(CASE, device, kernel=planted(slow=SLOW, fast=FAST), options=RaceOptions(3))
    entry = outcome.entry
    assert outcome.status == MEASURED and entry.variant == "fast" and entry.default_variant == "slow"
    assert entry.faster > 1 and entry.seconds < entry.default_seconds / 2
    assert entry.rounds == 3 and entry.measured == 2 and entry.failed == ()


def test_a_slow_rival_loses(device):
    entry = measure_case(CASE, device, kernel=planted(fast=FAST, slow=SLOW), options=RaceOptions(3)).entry
    assert entry.is_default and entry.variant == "fast" and entry.faster == 0
    assert entry.spread is None  # the rival had left before the deciding rounds


@pytest.mark.parametrize("wrong", [WRONG, LAST_WRONG])
def test_wrong_numbers_never_win(device, wrong):
    entry = measure_case(CASE, device, kernel=planted(slow=SLOW, wrong=wrong), options=RaceOptions(3)).entry
    assert entry.variant == "slow" and entry.measured == 1
    (failed,) = entry.failed
    assert failed.startswith("wrong (workgroup 64): wrong numbers: ") and "expected" in failed


def test_what_does_not_compile_is_told_and_skipped(device):
    entry = measure_case(
        CASE, device, kernel=planted(slow=SLOW, broken=BROKEN, fast=FAST), options=RaceOptions(3)
    ).entry
    assert entry.variant == "fast" and entry.measured == 2
    (failed,) = entry.failed
    assert failed.startswith("broken (workgroup 64): KernelError") and "missing" in failed


def test_a_default_that_is_wrong_has_no_time(device):
    outcome = measure_case(
        CASE, device, kernel=planted(wrong=WRONG, slow=SLOW, fast=FAST), options=RaceOptions(3)
    )
    assert outcome.entry.variant == "fast" and outcome.entry.default_seconds is None
    assert "the default did not pass" in outcome.detail
    assert "wrong" in outcome.cells()


def test_where_nothing_passes_nothing_is_chosen(device):
    outcome = measure_case(CASE, device, kernel=planted(wrong=WRONG, broken=BROKEN), options=RaceOptions(3))
    assert outcome.status == SKIPPED and outcome.entry is None and "no candidate passed" in outcome.detail


def test_tunables_are_raced_too(device):
    """A workgroup of one thread wastes seven lanes of eight, and needs 64 times the workgroups."""
    kernel = planted(only=variant(SLOW, workgroups=(1, 64)))
    entry = measure_case(CASE, device, kernel=kernel, options=RaceOptions(3)).entry
    assert entry.tunables == {"workgroup": 64} and entry.default_tunables == {"workgroup": 1}


def test_the_wall_clock_decides_where_there_are_no_timestamps(device):
    kernel = planted(slow=SLOW, fast=FAST)
    entry = measure_case(CASE, device, kernel=kernel, options=RaceOptions(3, timestamps=False)).entry
    assert entry.clock == timing.WALL and entry.variant == "fast"


def test_clearly_slower_ones_leave_the_race(device):
    kernel = planted(fast=FAST, slow=SLOW, same="y[i] = b[i] + a[i];")
    with Trial(device, CASE, 0, kernel) as made:
        ready = [
            made.check(each).compiled for each in candidates(kernel, CASE.sizes, CASE.types, device.adapter)
        ]
        result = race(device, made.recorders(ready), options=RaceOptions(4))
    assert [len(each) for each in result.heats[:2]] == [4, 1] and result.rival != 1
    assert len(result.samples) == len(result.default_samples) == 4


def test_a_case_that_outlasts_the_deadline_is_given_up(device):
    before = device.allocated
    kernel = planted(slow=SLOW, fast=FAST)
    for margin in (-1.0, 0.02):  # before the first check, and somewhere on the way
        outcome = measure_case(
            CASE, device, kernel=kernel, options=RaceOptions(50, deadline=time.perf_counter() + margin)
        )
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
    entry = measure_case(CASE, device, kernel=planted(only=many), options=RaceOptions(3)).entry
    assert [c.tunables["load"] for c in checked].count(2) == 1 and len(checked) == 4
    assert entry.measured <= 3 and entry.tunables["load"] == 1 and not entry.failed


def test_the_race_gives_its_buffers_back(device):
    before = device.allocated
    measure_case(CASE, device, kernel=planted(slow=SLOW, wrong=WRONG), options=RaceOptions(3))
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
        result = race(device, recorders, options=RaceOptions(3))
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
        race(device, [], options=RaceOptions(2))
    with pytest.raises(WorkbenchError, match="at least 3"):
        tune("anything", rounds=1)


@pytest.mark.parametrize("budget", [-5, math.nan, math.inf, True])
def test_a_budget_that_never_ends_or_is_none_is_refused(budget):
    with pytest.raises(WorkbenchError, match=r"budget = .*; allowed: a finite number of seconds from 0 on"):
        tune("anything", budget=budget)


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
    first = tune_cases(planned, device, store, options=RaceOptions(3))
    no_clock()
    second = tune_cases(planned, device, store, options=RaceOptions(3))
    assert [each.status for each in first.outcomes] == [MEASURED]
    assert [each.status for each in second.outcomes] == [REMEMBERED]
    assert second.outcomes[0].entry == first.outcomes[0].entry
    with pytest.raises(AssertionError, match="something was timed"):
        tune_cases(planned, device, store, options=RaceOptions(3), force=True)


def test_other_wgsl_is_measured_anew(device, registered, no_clock, monkeypatch, tmp_path):
    store = Store(tmp_path, machine_facts(device))
    planned = [PlannedCase(CASE, {1: 3})]
    tune_cases(planned, device, store, options=RaceOptions(3))
    edited = planted(slow=SLOW, fast=FAST + " // the same, and yet another text")
    monkeypatch.setitem(wgsl_kernels.pair.REGISTRY, "add", edited)
    no_clock()
    with pytest.raises(AssertionError, match="something was timed"):
        tune_cases(planned, device, store, options=RaceOptions(3))


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
    assert seen == [(0, 1), (0, 1)] and not list(tmp_path.iterdir())


def test_progress_counts_what_was_measured(device, registered, tmp_path, monkeypatch):
    """A budget that ends after one of five cases ends at two of five where one is remembered from before."""
    cases = [replace(CASE, sizes={"tokens": 2, "width": 512 + 64 * i}) for i in range(5)]
    store = Store(tmp_path, machine_facts(device))
    tune_cases([PlannedCase(cases[4], {})], device, store, options=RaceOptions(3))
    began, measure, seen = [], tuning.measure_case, []

    def spending(case, device, options):
        began.append(case)
        return measure(case, device, replace(options, deadline=None if len(began) == 1 else 0.0))

    monkeypatch.setattr(tuning, "measure_case", spending)
    report = tune_cases(
        [PlannedCase(case, {}) for case in cases],
        device,
        store,
        budget=1000,
        options=RaceOptions(3),
        progress=lambda done, total, doing: seen.append((done, total)),
    )
    statuses = [each.status for each in report.outcomes]
    assert statuses == [MEASURED, NOT_REACHED, NOT_REACHED, NOT_REACHED, REMEMBERED]
    assert seen == [(0, 5), *[(1, 5)] * 4, (2, 5)]
    assert any("3 of 5 cases were not reached" in note for note in report.notes())


def test_a_folder_that_cannot_be_written_costs_a_warning(device, registered, tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file", machine_facts(device))
    with pytest.warns(UserWarning, match="cannot be written"):
        report = tune_cases([PlannedCase(CASE, {})], device, store, options=RaceOptions(3))
    assert report.outcomes[0].entry.variant == "fast"


def test_a_kernel_with_one_way_to_run_is_skipped(device):
    case = Case(
        "select_rows", {"tokens": 4, "results": 1, "width": 8}, {"x": "f32", "rows": "u32", "y": "f32"}
    )
    outcome = measure_case(case, device)
    assert outcome.status == SKIPPED and outcome.detail == ONE_WAY


def test_the_report_says_who_won_by_how_much(device, registered):
    report = tune_cases([PlannedCase(CASE, {1: 3})], device, None, options=RaceOptions(3))
    table = report.table()
    head, [row] = table.head, table.rows
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
