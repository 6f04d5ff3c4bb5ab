"""What `import workbench` and `import wgsl_kernels` offer: every name documented with an example, every example run."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import wgsl_kernels
import workbench
from eval.texts import Text
from tests.support.steps import sizes_of_steps
from workbench.assets import mixture_model_path
from workbench.errors import CheckpointError, ProtocolError, SweepError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.model_bench.measure import Settings
from workbench.runtime.tuning.report import Report

NAMES = [name for name in workbench.__all__ if name != "__version__"]
#: Their examples read a sweep's folder, which one of the tests of sweeps makes.
OF_SWEEPS = {"sweep", "table", "tables"}
TINY = {"text": "evaluation", "protocol": "disjoint-64", "max_windows": 2, "progress": False}


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with sizes_of_steps(64, 1):
        yield


@pytest.fixture(scope="module")
def checkpoint(shared) -> Path:
    return shared / "models" / "stories260K-hf"


def example(name: str, module=workbench) -> str:
    """The indented lines of a docstring."""
    lines = (inspect.getdoc(getattr(module, name)) or "").splitlines()
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ")))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_docstring_with_an_example_and_errors(name):
    assert f"workbench.{name}(" in example(name)
    assert re.search(r"Raises|SweepError|errors: as in", inspect.getdoc(getattr(workbench, name)) or "")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_SWEEPS])
def test_every_example_runs(name, checkpoint, adapter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    code = example(name).replace('"DIR"', repr(str(checkpoint))).replace('"OUT"', repr(str(tmp_path / "out")))
    code = code.replace('"MIXTURE"', repr(str(mixture_model_path())))
    code = code.replace('quantizer="gptq"', 'quantizer="gptq", calibration=CALIBRATION')
    known = {"workbench": workbench, "wgsl_kernels": wgsl_kernels, "Text": Text, "Settings": Settings}
    exec(code, known | {"CALIBRATION": small_calibration()})


WGSL = """
@group(0) @binding(0) var<storage, read> x: array<x_type>;
@group(0) @binding(1) var<storage, read_write> y: array<y_type>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < N) { y[id.x] = y_type(2 * f32(x[id.x])); }
}
"""


def test_examples_of_kernels_run(adapter):
    """In one namespace; a pair that one of them registers is what another forgets, and `kernel`'s computes."""
    known = {
        "wgsl_kernels": wgsl_kernels,
        "dataclasses": dataclasses,
        "Port": wgsl_kernels.Port,
        "WGSL": WGSL,
    }
    later = ("register", "forget")
    for name in [*(each for each in wgsl_kernels.__all__ if each not in later), *later]:
        code = example(name, wgsl_kernels)
        assert "wgsl_kernels." in code, name
        if name == "KernelUsageError":
            with pytest.raises(wgsl_kernels.KernelUsageError, match=r"no kernel is named .*there are "):
                exec(code, known)
        elif name in ("Cost", "Context", "names"):
            assert eval(code.strip(), known) is True, name
        else:
            exec(code, known)
    assert "mine" not in wgsl_kernels.names()
    try:
        (result,) = workbench.compare("doubled", n=8, rounds=0).results
        assert result.status == "passed"
    finally:
        wgsl_kernels.forget("doubled")


def small_calibration():
    from workbench.convert.calibration import CalibrationOptions

    return CalibrationOptions(windows=2, length=64)


def test_the_examples_of_sweeps(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("Once upon a time there was a little girl. " * 20)
    Path("blocks.toml").write_text(
        f'[sweep]\noutput = "runs/blocks"\nmax_windows = 1\n[texts.prose]\nfile = "text.txt"\n'
        f'[grid]\nmodel = "{checkpoint}"\nformat = "int4"\nprotocol = "disjoint-32"\n'
    )
    known = {"workbench": workbench}
    exec(example("sweep"), known)
    assert len(known["done"].table().rows) == len(known["done"].data()) == 2
    assert known["done"].plot().png()
    exec(example("table"), known)
    exec(example("tables").replace(', "runs/more"', ""), known)


def test_a_temporary_model_goes_with_its_object(checkpoint):
    made = workbench.quantize(checkpoint, "int4/64", progress=False, execution={"backend": "torch"})
    folder = made.source.path
    assert folder.is_dir() and "int4-64" in repr(made) and "torch" in repr(made)
    del made
    gc.collect()
    assert not folder.exists()


def test_a_failed_conversion_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(WorkbenchError, match="no-such"):
        workbench.quantize(checkpoint, "int4", overrides={"no-such*": "int8"}, progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WorkbenchError, match="options hold 'blocks'; allowed: format, quantizer"):
        workbench.quantize(checkpoint, "int4", options={"blocks": 3})


def test_models_alone_beside_each_other_and_against_another(checkpoint):
    made = workbench.quantize(
        checkpoint, WeightFormat("int4"), progress=False, execution={"backend": "torch"}
    )
    alone = workbench.perplexity(made, **TINY)
    assert alone.baseline is None and alone.data()["change"].isna().all()
    assert "perplexity" in alone._repr_html_() and "510" not in repr(alone)
    pair = workbench.perplexity({"int4": made}, baseline=checkpoint, backend="torch", **TINY)
    assert [each.name for each in pair.versions] == ["baseline", "int4"]
    assert pair["int4"].ppl == alone[made.source.path.name].ppl
    assert pair["int4"].baseline.kl_mean > 0 and pair.baseline.name == "baseline"
    with pytest.raises(SweepError, match="baseline 'f16' is none of the models; allowed: int4"):
        workbench.perplexity({"int4": made}, baseline="f16", **TINY)
    with pytest.raises(SweepError, match="'int2' is none of the models; allowed: baseline, int4"):
        pair["int2"]


def test_a_text_that_is_none_says_what_is_allowed(checkpoint):
    with pytest.raises(
        ProtocolError, match=r"'wikitext' is neither a file nor a known text; allowed: .*wikitext2"
    ):
        workbench.perplexity(checkpoint, "wikitext", progress=False)


def test_an_allocation_takes_one_target_and_shows_itself(checkpoint):
    for given, said in (({}, "nothing"), ({"bits": 4, "budget": 10_000}, "budget and bits")):
        with pytest.raises(
            WorkbenchError, match=f"give one of budget, bits, max_kl, fit_memory; given: {said}"
        ):
            workbench.allocate(checkpoint, **given)
    found = workbench.allocate(
        checkpoint, "evaluation", bits=6, protocol="disjoint-64", max_windows=2, progress=False
    )
    assert found.bits_per_weight <= 6 and len(found.joint) == 1
    assert list(found.data()["group"]) == [row[0] for row in found.table().rows]
    assert found.target in repr(found) and "\n" not in repr(found) and "<table" in found._repr_html_()


def test_a_baseline_by_name_that_is_no_name_of_the_models_is_a_model(checkpoint, tmp_path, monkeypatch):
    """It is looked for as one: here it was never fetched."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="smollm2-135m"):
        workbench.perplexity({"f16": checkpoint}, baseline="smollm2-135m", **TINY)


def test_every_result_is_one_line_and_shows_itself(checkpoint):
    """Of names that give a result: what `repr` says fits a line, and a notebook gets HTML."""
    model = workbench.load(checkpoint, backend="torch")
    scored = workbench.perplexity(model, **TINY)
    results = {
        "model stories260K": model,
        "perplexity, disjoint-64": scored,
        "table of 1 results, disjoint-64": scored.table(),
        "table of 0 rows": Report((), "a device", None, 1.0).table(),
        "tuning on a device: 0 of 0 cases": Report((), "a device", None, 1.0),
    }
    for begins, found in results.items():
        assert repr(found).startswith(f"<{begins}") and "\n" not in repr(found) and len(repr(found)) < 250
        assert "<table" in found._repr_html_()
    shown = model._repr_html_()
    assert "stories260K" in shown and "torch" in shown and "because" in shown
