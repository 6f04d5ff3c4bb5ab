"""`import workbench` stays light, and imports between rooms run downwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

HEAVY = ["torch", "transformers", "tokenizers", "datasets", "wgpu", "matplotlib", "jupyterlab", "anywidget"]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"


def python(code: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def test_import_workbench_loads_nothing_heavy():
    done = python("import json, sys, workbench; print(json.dumps(list(sys.modules)))", REPOSITORY)
    assert done.returncode == 0, done.stderr
    modules = json.loads(done.stdout)
    assert "workbench" in modules
    assert [name for name in HEAVY if name in modules] == []


def test_rooms_keep_the_import_contracts():
    done = python(LINT, REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def empty_rooms(tmp_path) -> Path:
    """A tree with this repository's contracts and every package that they name, without any code."""
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    rooms = [
        "errors",
        "files",
        "utf8",
        "formats",
        "plan",
        "quantizers",
        "models",
        "runtime",
        "browser",
        "convert",
        "kernel_bench",
        "model_bench",
        "studies",
        "show",
        "sweeps",
        "precision",
        "commands",
        "serve",
        "models/families",
    ]
    for package in [
        "wgsl_kernels",
        "eval",
        "workbench",
        *(f"workbench/{room}" for room in [*rooms, "widgets"]),
    ]:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("module", "code", "kept"),
    [
        ("workbench/convert/awq.py", "import eval, workbench.quantizers, workbench.runtime, wgpu", True),
        ("workbench/runtime/device.py", "import wgpu, torch, wgsl_kernels, workbench.formats", True),
        ("wgsl_kernels/gemv.py", "import torch, numpy, workbench.errors", True),
        ("wgsl_kernels/gemv.py", "import wgpu", False),
        ("wgsl_kernels/gemv.py", "import workbench.plan", False),
        ("workbench/formats/spec.py", "def load():\n    import torch", False),
        ("workbench/formats/spec.py", "from workbench.models import checkpoint", False),
        ("workbench/plan/printing.py", "import wgpu", False),
        ("workbench/quantizers/rtn.py", "import wgsl_kernels", False),
        ("workbench/runtime/device.py", "def lazily():\n    import eval", False),
        ("workbench/model_bench/speed.py", "import workbench.convert", False),
        ("workbench/model_bench/speed.py", "import workbench.kernel_bench", False),
        ("workbench/studies/lab.py", "import workbench.kernel_bench, workbench.model_bench, eval", True),
        ("workbench/sweeps/jobs.py", "import workbench.convert, workbench.model_bench, eval", True),
        ("workbench/show/table.py", "import workbench.files", True),
        ("workbench/show/table.py", "import workbench.formats", False),
        ("workbench/convert/search.py", "import workbench.sweeps", False),
        ("workbench/files/writing.py", "import workbench.errors", True),
        ("workbench/files/writing.py", "import workbench.formats", False),
        ("workbench/errors/base.py", "import workbench.formats", False),
        ("workbench/runtime/tune.py", "import workbench.models.families", True),
        ("workbench/runtime/tune.py", "from workbench.models.families import mamba", False),
        ("workbench/convert/fold.py", "import workbench.models.families.mamba", False),
    ],
)
def test_contracts_catch_what_they_should(empty_rooms, module, code, kept):
    (empty_rooms / module).write_text(code)
    for other in ("checkpoint.py", "families/mamba.py"):
        (empty_rooms / "workbench" / "models" / other).touch()
    done = python(LINT, empty_rooms)
    assert (done.returncode == 0) is kept, done.stdout + done.stderr
    assert "BROKEN" in done.stdout or kept, done.stdout + done.stderr
