"""Pairs of one's own: from a notebook's cell, from an installed package, and what their names may replace."""

from __future__ import annotations

import json
import sys

import pytest

import wgsl_kernels
import workbench
from wgsl_kernels import KernelUsageError, Port, Variant, kernel
from workbench.cli import main

SCALE = """
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> y: array<y_type>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < N) { y[id.x] = y_type(FACTOR * f32(x[id.x])); }
}
"""
CELL = '''
from wgsl_kernels import Port, kernel

@kernel(
    wgsl=WGSL,
    grid=lambda c: (-(-c["n"] // 64), 1, 1),
    reads={"x": Port(("n",))},
    writes={"y": Port(("n",))},
    params={"factor": float},
)
def my_scale(x, factor=2.0):
    """y = factor x"""
    return factor * x
'''


@pytest.fixture
def cell():
    """`cell(wgsl, module)` runs a cell of a notebook that defines `my_scale`; it is forgotten afterwards."""

    def run(wgsl: str = SCALE, module: str = "__main__", text: str = CELL) -> None:
        exec(text, {"__name__": module, "WGSL": wgsl})

    yield run
    if "my_scale" in wgsl_kernels.names():
        wgsl_kernels.forget("my_scale")


def test_a_cell_makes_a_pair_and_replaces_it_when_it_runs_again(adapter, cell):
    cell()
    found = workbench.compare("my_scale", n=1000, factor=3.0, rounds=1)
    assert found["wgsl"].status == "passed" and found["wgsl"].bytes == 8000
    assert workbench.compare("my_scale", rounds=0)["wgsl"].status == "passed"  # the parameter has a default
    cell(SCALE.replace("FACTOR *", "FACTOR +"))
    assert workbench.compare("my_scale", n=1000, rounds=1)["wgsl"].status == "wrong numbers"
    cell(SCALE.replace("FACTOR", "FACTORS"))
    broken = workbench.compare("my_scale", rounds=1)["wgsl"]
    assert broken.status == "compile error" and "FACTORS" in broken.detail
    written = workbench.run_kernel
    cell()
    kernel = wgsl_kernels.get("my_scale")
    assert written(kernel, kernel.inputs(n=4, factor=0.0))["y"].tolist() == [0.0] * 4


def test_whose_names_are_whose(cell):
    with pytest.raises(KernelUsageError, match="'add' is a kernel of wgsl_kernels; give yours another name"):
        cell(text=CELL.replace("my_scale", "add"))
    cell()
    with pytest.raises(KernelUsageError, match="'my_scale' is a kernel of __main__, which other_package"):
        cell(module="other_package.kernels")
    with pytest.raises(KernelUsageError, match="'add' is not a kernel of one's own"):
        wgsl_kernels.forget("add")
    wgsl_kernels.forget("my_scale")
    cell(module="other_package.kernels")


def test_a_copy_of_a_pair_of_the_library_is_ones_own(adapter):
    import dataclasses

    theirs = wgsl_kernels.get("add")
    mine = wgsl_kernels.register(dataclasses.replace(theirs, op="my_add"))
    try:
        assert wgsl_kernels.get("my_add") is mine
        wgsl_kernels.register(dataclasses.replace(mine, variants=dict(mine.variants)))
        assert workbench.compare("my_add", rounds=0).results[0].status == "passed"
    finally:
        wgsl_kernels.forget("my_add")


def test_what_a_definition_lacks_is_told():
    ports = {"reads": {"x": Port(("n",))}, "writes": {"y": Port(("n",))}}
    with pytest.raises(KernelUsageError, match="takes variants, or wgsl and grid"):
        kernel(wgsl=SCALE, **ports)
    with pytest.raises(KernelUsageError, match="takes variants, or wgsl and grid"):
        kernel(wgsl=SCALE, variants={"one": Variant("", lambda c: (1, 1, 1))}, **ports)


def test_default_inputs(cell):
    cell(text=CELL.replace("factor=2.0", "factor"))
    pair = wgsl_kernels.get("my_scale")
    with pytest.raises(KernelUsageError, match="'factor' has no default and was not given"):
        pair.inputs(n=4)
    with pytest.raises(
        KernelUsageError, match="inputs take no 'm'; they take seed, x_dtype, y_dtype, n, factor"
    ):
        pair.inputs(m=4)
    found = pair.inputs(seed=1, n=4, factor=1.0, x_dtype="f16")
    assert found["x"].shape == (4,) and str(found["x"].dtype) == "torch.float16"
    assert (
        pair.inputs(seed=1, n=4, factor=1.0)["x"].tolist()
        != pair.inputs(seed=2, n=4, factor=1.0)["x"].tolist()
    )


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(source)` installs a package whose entry point offers its module `theirs_of_a_package`."""
    wgsl_kernels.load_packages.cache_clear()

    def install(source: str) -> None:
        (tmp_path / "theirs_of_a_package.py").write_text(source, encoding="utf-8")
        facts = tmp_path / "theirs-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text("[workbench.kernels]\ntheirs = theirs_of_a_package\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    sys.modules.pop("theirs_of_a_package", None)
    wgsl_kernels.load_packages.cache_clear()


def test_a_package_offers_pairs_by_entry_point(adapter, package, cell, capsys, monkeypatch):
    for name, value in {"CPU_WORDS": 1 << 15, "CPU_THREADS": 256, "CPU_STEPS": 4}.items():
        monkeypatch.setattr(f"workbench.kernel_bench.ceilings.{name}", value)
        monkeypatch.setattr(f"workbench.kernel_bench.ceilings.{name.replace('CPU', 'GPU')}", value)
    package(f'WGSL = """{SCALE}"""\n{CELL}')
    options = "--kernel my_scale --size n=4096 --repetitions 1 --json"
    assert main(["bench", "kernels", *options.split()]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["rows"] if row["kernel"] == "my_scale"]
    assert rows[0]["status"] == "passed" and rows[0]["sizes"]["n"] == 4096
    assert "time" in {row["metric"] for row in rows}
    with pytest.raises(KernelUsageError, match="is a kernel of theirs_of_a_package"):
        cell()


def test_a_package_that_fails_is_told_and_hinders_nobody(package):
    package("import nothing_of_this_name")
    with pytest.warns(UserWarning, match="kernels of theirs could not be loaded: .*nothing_of_this_name"):
        assert "add" in wgsl_kernels.names()
    with pytest.raises(KernelUsageError, match="theirs failed: theirs_of_a_package: ModuleNotFoundError"):
        wgsl_kernels.get("theirs")
