"""Every other command that resumes, or writes what later runs rest on, killed at each of its commit points."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.store import kind_of
from eval.top_logits import KIND, StoredBaseline
from tests.support.faults import RENAMES, Faults, command, run_child
from tests.sweeps.conftest import figures, materials  # noqa: F401 (a fixture)
from tests.sweeps.inline import Inline


def ran(*argv: object) -> None:
    assert run_child(command, *map(str, argv)) == 0


def sweep_here(spec: str, output: str) -> None:
    import torch

    from workbench.sweeps.sweep import Sweep

    torch.set_num_threads(1)
    sweep = Sweep.read(spec, output=output).run(executor=Inline())
    sys.exit(sweep.count("failed"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_sweep(tmp_path, materials):  # noqa: F811
    spec = materials.spec(tmp_path, sweep="max_windows = 2", format='"int4"', block_size="32", rest="")
    assert run_child(sweep_here, str(spec), str(tmp_path / "whole")) == 0
    points = Faults(tmp_path, RENAMES).stopped_everywhere([spec, tmp_path / "out"], run=sweep_here)
    found = Counter(point.split()[1].split("/")[0] for point in points)
    assert found == {
        "sweeps": 2,
        "tokens": 1,
        "baselines": 2,
        "cells": 2,
        "models": 3,
    }  # one of them an exchange
    assert figures(tmp_path / "out") == figures(tmp_path / "whole")
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    for name in files(tmp_path / "whole"):
        if name.endswith((".wgpu", ".logits")):
            assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def without_times(value: Any) -> Any:
    """JSON values without how long something took and when it was."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in ("seconds", "created")}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_allocate(tmp_path, materials):  # noqa: F811
    def argv(folder: Path) -> list:
        folder.mkdir(exist_ok=True)
        text = [
            "--text",
            materials.text,
            "--protocol",
            "disjoint-32",
            "--max-windows",
            2,
            "--check-windows",
            1,
        ]
        output = ["--output", folder / "a.json", "--threads", 1, "--quiet"]
        return ["allocate", "--model", materials.model, "--bits", 12, *text, *output]

    ran(*argv(tmp_path / "whole"))
    points = Faults(tmp_path, RENAMES, repeats=2).stopped_everywhere(argv(tmp_path / "out"))
    assert points.count("replace out/a.sensitivity.json") == 2 and "replace out/a.json" in points
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    for name in ("a.json", "a.sensitivity.json"):
        one, other = (json.loads((tmp_path / f / name).read_text()) for f in ("out", "whole"))
        assert without_times(one) == without_times(other)


def test_perplexity(tmp_path, materials):  # noqa: F811
    argv = ["perplexity", "--model", materials.model, "--text", materials.text, "--protocol", "disjoint-32"]
    argv += ["--backend", "torch", "--max-windows", 2, "--quiet", "--save-baseline"]
    (tmp_path / "old").write_bytes(b"an older file")
    ran(*argv, tmp_path / "whole")

    def old() -> None:
        assert (tmp_path / "old").read_bytes() == b"an older file"

    (tmp_path / "faults").mkdir()
    Faults(tmp_path / "faults", RENAMES).stopped_everywhere([*argv, tmp_path / "old"], between=old)
    one, other = (StoredBaseline.load(tmp_path / name) for name in ("old", "whole"))
    assert kind_of(tmp_path / "old") == KIND
    assert all(map(np.array_equal, vars(one.top).values(), vars(other.top).values()))
    assert without_times(one.result.record()) == without_times(other.result.record())


def test_table(tmp_path):
    from tests.sweeps.synthetic import Synthetic

    synthetic = Synthetic(tmp_path / "runs", 6)
    for index in range(6):
        synthetic.finish(index)
    table = ["table", tmp_path / "runs", "--plot"]
    ran(*table, tmp_path / "whole.png")
    points = Faults(tmp_path, RENAMES).stopped_everywhere([*table, tmp_path / "out.png"])
    assert [point.split("/")[-1] for point in points] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def tune_here(store: str, *argv: str) -> None:
    os.environ["WORKBENCH_TUNING"] = store
    command(*argv)


def test_tune(tmp_path, materials):  # noqa: F811
    from workbench.runtime.device import adapter_missing

    if missing := adapter_missing():
        pytest.skip(missing)
    argv = [
        "tune",
        materials.model,
        "--tokens",
        1,
        "--kernel",
        "argmax",
        "argmax_reduce",
        "--rounds",
        3,
        "--quiet",
    ]
    points = Faults(tmp_path, RENAMES, repeats=2).stopped_everywhere(
        [tmp_path / "store", *argv], run=tune_here
    )
    assert len(points) == 2 and all(point.startswith("replace store/") for point in points)
    [stored] = (tmp_path / "store").glob("*.json")
    entries = json.loads(stored.read_text())["entries"]
    assert {json.loads(entry["case"])[0] for entry in entries} == {"argmax_reduce", "argmax"}
    assert not list((tmp_path / "store").glob(".*.part"))
