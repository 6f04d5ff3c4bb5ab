"""What was measured is used by `load` and shown by `info`; without it nothing is ever timed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import wgsl_kernels
import workbench
from workbench import cli
from workbench.runtime import timing
from workbench.runtime.info import describe
from workbench.runtime.tuning import candidates as search
from workbench.runtime.tuning.candidates import candidates, digest
from workbench.runtime.tuning.cases import case_of
from workbench.runtime.tuning.store import Store, open_store
from workbench.runtime.tuning.tune import tune
from workbench.runtime.tuning.tuned import Tuned

from .models import SHAPES, random_ids, write_random
from .test_tuning_store import ENTRY

SHAPE = SHAPES[5]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("tuned") / "model", SHAPE)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_TUNING", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_clock(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("something was timed")

    monkeypatch.setattr(timing.Stopwatch, "__init__", refuse)


def remember(store: Store, device, model, *, reverse: bool = False) -> int:
    """An entry for each linear layer of a decode step, as if the last of the candidates had won; how many."""
    ready = model.executor._ready["last", 1, model.max_tokens, 1, ()]
    entries = {}
    for step in ready.plan.steps:
        if step.kernel.op != "linear":
            continue
        kernel = step.kernel
        case = case_of(kernel, step.sizes, step.types)
        found = candidates(kernel, case.sizes, case.types, device.adapter)
        assert (step.variant, step.tunables) == (found[0].variant, {})
        gemv = next(c for c in found[1:] if c.variant == "gemv")
        entries[case.name] = replace(
            ENTRY,
            case=case.name,
            wgsl=digest(found),
            variant=gemv.variant,
            tunables=dict(gemv.tunables),
            default_variant=found[0].variant,
            default_tunables=dict(found[0].tunables),
        )
    store.add(list(entries.values()))
    return len(entries)


def kernels_choice(model) -> tuple[str, str]:
    return next((chosen, why) for what, chosen, why in model.choices if what == "kernels")


def test_without_a_file_nothing_is_timed_and_nothing_written(checkpoint, cache, no_clock):
    model = workbench.load(checkpoint, backend="wgpu", max_tokens=32)
    model.forward(random_ids(SHAPE.vocab, 9))
    session = model.session()
    session.feed([1, 2, 3])
    session.greedy(3)
    assert kernels_choice(model)[0] == "defaults"
    assert all(not step.tunables for ready in model.executor._ready.values() for step in ready.plan.steps)
    assert model.describe_provenance()["tuned"] == []
    assert not list(cache.iterdir())


def test_what_was_measured_is_used_and_the_numbers_stay(checkpoint, cache, no_clock):
    ids = random_ids(SHAPE.vocab, 1)
    before = workbench.load(checkpoint, backend="wgpu", max_tokens=32)
    session = before.session()
    expected = session.feed(ids)
    device = before.executor.device
    count = remember(open_store(device), device, before)

    after = workbench.load(checkpoint, backend="wgpu", max_tokens=32)
    found = after.session().feed(ids)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    steps = after.executor._ready["last", 1, 32, 1, ()].plan.steps
    linear = [step for step in steps if step.kernel.op == "linear"]
    assert linear and all(step.variant == "gemv" and step.tunables for step in linear)
    assert all("100.0% faster than the default" in step.reason for step in linear)
    program = after.executor._ready["last", 1, 32, 1, ()].program
    for step, each in zip(steps, program.dispatches, strict=True):
        code = program.modules[program.pipelines[each.pipeline].module]
        assert all(f"const {name.upper()}: u32 = {value}u;" in code for name, value in step.tunables.items())
    assert kernels_choice(after)[0] == f"{count} measured choices"
    used = after.describe_provenance()["tuned"]
    assert {each["kernel"] for each in used} == {"linear[f32]"} and json.dumps(used)

    info = describe(checkpoint, backend="wgpu", max_tokens=32)
    tuned = {what: why for what, why in info.variants.items() if why.startswith("tuned: ")}
    assert len(tuned) == count and all("gemv (workgroup" in name for _, _, name in tuned)
    assert "default: " in str(info) and "7 rounds" in str(info)


def test_greedy_decoding_and_top_k_run_what_was_measured(checkpoint, cache, monkeypatch):
    """Measured for real: the LM head with what each keeps of the logits, and what looks through that."""
    monkeypatch.setattr(search, "MOST_COMBINATIONS", 1)  # what differs in one tunable, and no more
    heads = {
        "greedy": ("norm_argmax[f32]", "argmax_reduce"),
        "told": ("norm_linear_max[f32]", "top_k_reduce"),
    }
    names = [name for each in heads.values() for name in each]
    report = tune(checkpoint, kernels=names, tokens=[1], max_tokens=32, rounds=3)
    measured = {each.planned.case.kernel for each in report.outcomes if each.entry}
    assert measured == set(names), report.notes()
    model = workbench.load(checkpoint, backend="wgpu", max_tokens=32)
    session = model.session()
    session.feed([1, 2, 3])
    session.greedy(3)
    next(session.stream(4, 1, told=True))
    for head, kernels in heads.items():
        steps = model.executor._ready[head, 1, 32, 1, ()].plan.steps
        reasons = {step.kernel.name: step.reason for step in steps}
        assert all("measured" in reasons[name] or "tuned" in reasons[name] for name in kernels), reasons
    told = {
        kernel
        for (kernel, _, _), why in describe(checkpoint, backend="wgpu", max_tokens=32).variants.items()
        if not why.startswith("default: ")
    }
    assert told == set(heads["greedy"])  # of a step of decoding


def test_info_says_default_and_why_without_a_file(checkpoint, cache):
    info = describe(checkpoint, backend="wgpu", max_tokens=32)
    assert {kernel for kernel, _, _ in info.variants} >= {"linear[f32]", "attention"}
    assert all(why.startswith("default: ") for why in info.variants.values())


def test_choices_for_other_wgsl_or_of_a_strange_hand_are_left_alone(checkpoint, cache, open_promised):
    device = open_promised()
    kernel = wgsl_kernels.get("rms_norm")
    sizes, types = {"tokens": 1, "hidden": 64, "eps": 1e-5}, {"x": "f32", "weight": "f32", "y": "f32"}
    case = case_of(kernel, sizes, types)
    entry = replace(
        ENTRY,
        case=case.name,
        wgsl=digest(candidates(kernel, case.sizes, case.types, device.adapter)),
        variant="row",
        tunables={"workgroup": 64},
    )

    def pick(entry, pair=kernel):
        return Tuned({entry.key: entry}).pick(pair, sizes, types, device.adapter)

    assert pick(entry).tunables == {"workgroup": 64}
    assert pick(replace(entry, wgsl="f" * 64)) is None
    assert pick(replace(entry, variant="none such")) is None
    assert pick(replace(entry, tunables={"workgroup": 63})) is None
    assert pick(replace(entry, tunables={"other": 1})) is None
    changed = replace(kernel.variants["row"], text=kernel.variants["row"].body() + "\n// changed")
    assert pick(entry, replace(kernel, variants={"row": changed})) is None


def test_a_damaged_file_costs_a_warning_and_no_load(checkpoint, cache, open_promised):
    from workbench.runtime.device import open_device

    path = open_store(open_device()).path
    path.write_bytes(b"{ not json")
    with pytest.warns(UserWarning, match="set aside"):
        model = workbench.load(checkpoint, backend="wgpu", max_tokens=32)
    assert kernels_choice(model)[0] == "defaults"


def test_off_means_off(checkpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_TUNING", "off")
    assert kernels_choice(workbench.load(checkpoint, backend="wgpu", max_tokens=32))[0] == "defaults"


# ---- the command ------------------------------------------------------------------------------------------------

TINY = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}


def test_the_command_measures_remembers_and_remembers(tmp_path, cache, capsys, open_promised):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    open_promised()
    tune = ["tune", str(path), "--format", "f32", "--tokens", "1", "--rounds", "3"]
    assert cli.main([*tune, "--quiet", "--kernel", "attention"]) == 0
    first = capsys.readouterr()
    table = first.out.split("\n\n")[0].splitlines()
    assert len(table) == 2 and table[1].startswith("attention") and table[1].endswith("measured")
    assert "1 token(s) a step" in first.out and f"remembered in {cache}" in first.out and not first.err
    assert cli.main([*tune, "--budget", "0"]) == 0
    second = capsys.readouterr()
    table = second.out.split("\n\n")[0].splitlines()
    assert len(table) == 2 and table[1].endswith("remembered")
    assert "not reached within the budget" in second.out and second.err  # the progress bar


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tokens", "1"], "give a format"),
        (["--format", "int5"], "int5"),
        (["--format", "int4", "--tokens", "7"], "no step has 7 tokens"),
        (
            ["--format", "int4", "--kernel", "linear[f16]"],
            "runs no kernel 'linear[f16]'; it runs advance, argmax",
        ),
        (["--format", "int4", "--rounds", "1"], "rounds are at least 3"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(tmp_path, capsys, open_promised, arguments, message):
    open_promised()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    assert cli.main(["tune", str(path), "--quiet", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_loading_imports_no_tuner():
    """What times and checks candidates stays out of the way of the first token."""
    script = (
        "import sys, workbench.runtime.model, workbench.runtime.wgpu_executor; print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "workbench.runtime.tuning.race" not in done.stdout
