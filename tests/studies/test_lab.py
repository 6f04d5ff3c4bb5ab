"""Versions of a kernel's WGSL: judged, timed beside the variants, kept; and what sizes a study takes."""

from __future__ import annotations

import dataclasses
import json

import pytest

import wgsl_kernels
import workbench
from tests.kernel_bench.test_kernels import BUSY, halved, pair_of
from wgsl_kernels import KernelUsageError
from wgsl_kernels.judge import RATIO_EDGES
from workbench.kernel_bench.comparison import Comparison
from workbench.kernel_bench.sizes import families, family_of, own_sizes, worthwhile
from workbench.runtime.messages import Place, places
from workbench.studies.lab import Lab

SMALL = {"tokens": 1, "rows": 40, "columns": 96, "block": 32}


@pytest.fixture
def lab(adapter) -> Lab:
    return Lab("linear[int4]", variants=["gemv", "batch"], rounds=3, **SMALL)


def test_versions_are_judged_timed_and_kept(lab):
    text = lab.text("gemv")
    assert lab.comparison is None and "nothing has run" in str(lab)
    assert repr(lab) == "<Lab of linear[int4]: gemv, batch, tile, broadcast, gemv_f16, batch_f16>"
    lab.run()
    assert [r.variant for r in lab.comparison.results] == ["gemv", "batch"]
    wrong = lab.edit(halved(text), "gemv")
    assert (wrong.name, wrong.status, wrong.result.errors[0].off) == ("v1", "wrong numbers", 40)
    assert lab.chosen == ["gemv", "batch"] and lab.speedup("v1") is None
    passed = lab.edit(text, "gemv", tunables={"rows_per_team": 4}, name="four rows")
    assert passed.status == "passed" and lab["four rows"].result.tunables["rows_per_team"] == 4
    # All in the same rounds: as many samples of each, and ratios sample by sample.
    assert [len(r.timing.samples) for r in lab.comparison.results] == [3, 3, 3]
    middle, low, high = lab.speedup("four rows")
    before, after = lab.comparison["gemv"].timing.samples, lab.comparison["four rows"].timing.samples
    ratios = sorted(a / b for a, b in zip(before, after, strict=True))
    assert [low, middle, high] == pytest.approx(ratios)
    child = lab.edit(text + "// the same\n", "four rows")
    assert (child.base, dict(child.tunables), child.status) == ("gemv", {"rows_per_team": 4}, "passed")
    last = text.count("\n") - 2
    assert child.diff() == f"--- gemv\n+++ v2\n@@ -{last},3 +{last},4 @@\n     }}\n   }}\n }}\n+// the same"
    assert child.diff(lab["four rows"]).startswith("--- four rows\n+++ v2")
    data = lab.data().set_index("name")
    assert list(data.index) == ["gemv", "batch", "four rows", "v2", "v1"]
    assert data.status["v1"] == "wrong numbers" and data.median_s.isna().tolist() == [False] * 4 + [True]
    assert data.times_as_fast["four rows"] == lab.speedup("four rows")[0]
    assert any(note.startswith("four rows is") for note in lab.notes())
    lab.forget("four rows")
    assert [v.name for v in lab.versions] == ["v1", "v2"] and "four rows" not in lab.chosen
    # A version is a variant of an ordinary pair, so everything else takes it.
    inputs = lab.kernel.inputs(**SMALL)
    mine = workbench.run_kernel(lab.pair, inputs, variant="v2")["y"]
    assert mine.equal(workbench.run_kernel("linear[int4]", inputs, variant="gemv")["y"])


def test_compile_errors_are_told_in_lines_of_the_edited_file(lab):
    text = lab.text("gemv")
    line = 1 + text[: text.index("let token = id.y;")].count("\n")
    found = lab.edit(text.replace("let token = id.y;", "let token = id.q;"))
    assert found.status == "compile error"
    (place,) = found.result.places
    assert (place.line, place.column, place.in_header) == (line, 18, False) and "`q`" in place.message
    assert text.splitlines()[line - 1][place.column - 4 :].startswith("id.y")
    assert f"line {line}, column 18: invalid field accessor `q`" in str(lab)
    assert found.result.wgsl.splitlines()[found.result.body_line] == text.splitlines()[0]
    missing = lab.edit(text.replace("fn main", "fn start"))
    assert (missing.status, missing.result.places) == ("compile error", ())
    assert "entry point 'main'" in missing.result.detail
    # A name that the library files in front of it use as well.
    (clash,) = lab.edit("const ROWS: u32 = 1u;\n" + text).result.places
    assert clash.in_header != (clash.line == 1) and "ROWS" in clash.message
    again = Comparison.from_json(json.loads(json.dumps(lab._compare(["v1"], 0).to_json())))
    assert again["v1"].places == (place,) and again["v1"].body_line == found.result.body_line


def test_a_message_without_places_has_none():
    assert places("something else went wrong", 10) == ()
    message = "Shader '' parsing error: expected x\n   ┌─ wgsl:12:5\n   │\n12 │ a\n   │ ^ here\n"
    assert places(message, 10) == (Place(2, 5, "expected x; here"),)
    both = message.replace("│ ^ here", "│ ---  ^^^ here")
    assert places(both, 10) == (Place(2, 5, "expected x; here"),)
    assert str(places(message, 12)[0]) == "line 12, column 5 of the header: expected x; here"


def test_f16(adapter):
    lab = Lab("add", dtype="f16", rounds=1, tokens=2, width=64)
    if not lab.device.adapter.f16:
        pytest.skip("no f16 here")
    lab.edit(lab.text("elements"))
    assert [r.status for r in lab.results] == ["passed"] * 2
    assert all("alias y_type = f16;" in r.wgsl for r in lab.results)


def test_what_never_ends_costs_its_budget(adapter):
    lab = Lab(pair_of("@compute @workgroup_size(1) fn main() {}", grid=(65535, 1, 1)), budget=1.0, rounds=1)
    stuck = lab.edit(BUSY)
    assert stuck.status == "timed out" and "within 1 s" in stuck.result.detail
    assert Lab("add", rounds=1).run().fastest is not None


def test_what_there_is_not_is_named(lab):
    for wrong, says in (
        (lambda: lab.choose(["fast"]), "no variant or version 'fast'; it has gemv, batch, tile, broadcast"),
        (lambda: lab.edit("", "fast"), "no variant or version 'fast'"),
        (lambda: lab.edit("", "gemv", tunables={"workgroup": 7}), "gemv: workgroup=7 where"),
        (lambda: lab.edit("", "gemv", name="tile"), "there is a 'tile' already"),
        (lambda: lab.edit("", "gemv", name="<b>"), "'<b>' is not a name"),
        (lambda: lab.resize(rows=0), "rows = 0 is not a whole number above 0"),
        (lambda: lab.resize(rows=2.5), "rows = 2.5 is not a whole number"),
        (lambda: lab.resize(block=33), "block = 33 is not a multiple of 32"),
    ):
        with pytest.raises(KernelUsageError, match=says):
            wrong()
    with pytest.raises(KernelUsageError, match="'depth'"):
        Lab("linear[int4]", depth=3).run()
    with pytest.raises(KeyError, match="no version is named 'v9'; there are none"):
        _ = lab["v9"]
    with pytest.raises(ValueError, match="nothing has run"):
        lab.plot()
    assert lab.versions == ()


def test_other_sizes_drop_what_was_measured(lab):
    lab.run(["gemv"])
    lab.edit(lab.text("gemv"))
    lab.resize(rows=44)
    assert lab.comparison is None and lab["v1"].status == "not run" and lab.results == ()
    lab.run()
    assert lab["v1"].status == "passed" and lab.comparison.sizes["rows"] == 44
    lab.resize(seed=5)
    assert lab.comparison is None and lab.run(["gemv"]).seed == 5


def test_sizes_that_the_kernel_does_not_take_change_nothing(lab):
    lab.run(["gemv"])
    before = lab.comparison, lab.sizes, lab.seed, lab.dtype
    with pytest.raises(KernelUsageError, match="'depth'"):
        lab.resize(depth=3, rows=44, seed=5, dtype="f16")
    assert (lab.comparison, lab.sizes, lab.seed, lab.dtype) == before and len(lab.results) == 1


def test_versions_of_a_version_share_its_tunables_but_those_that_are_given(lab):
    text = lab.text("gemv")
    lab.edit(text, "gemv", tunables={"workgroup": 8, "rows_per_team": 4}, time=False)
    for given, expected in (
        ({}, {"workgroup": 8, "rows_per_team": 4}),
        ({"rows_per_team": 2}, {"workgroup": 8, "rows_per_team": 2}),
    ):
        child = lab.edit(text, "v1", tunables=given, time=False)
        assert child.tunables == expected and expected.items() <= child.result.tunables.items()


def test_nothing_chosen_leaves_the_last_comparison(lab):
    before = lab.run(["gemv"])
    with pytest.raises(
        KernelUsageError, match=r"nothing is chosen to compare; linear\[int4\] has gemv, batch"
    ):
        lab.run([])
    assert lab.comparison is before and lab.chosen == ["gemv"]


def test_what_is_forgotten_during_a_run_stays_away(lab, monkeypatch):
    lab.edit(lab.text("gemv"), time=False)
    run = lab._compare

    def forgetting(names, rounds):
        found = run(names, rounds)
        lab.forget("v1")
        return found

    monkeypatch.setattr(lab, "_compare", forgetting)
    assert [each.variant for each in lab.run(["gemv", "v1"]).results] == ["gemv"]
    assert lab.versions == () and lab.chosen == ["gemv"]


def test_a_kernel_that_declares_no_operations_has_no_rate_of_them(adapter):
    lab = Lab("kv_append", rounds=1, tokens=2)
    (result, *_) = lab.run().results
    found = dataclasses.replace(lab.comparison, compute_ceilings={"f32 FMA": 1e9})
    assert result.timing and result.gb_per_s > 0
    assert result.gflop_per_s is None and found.compute_share(result) is None
    cells = dict(zip(found.head(), found.cells(result), strict=True))
    assert cells["GFLOP/s"] == cells["share of compute"] == "–" != cells["GB/s"]
    assert lab.data().flop_per_s.isna().all()


def test_figures(lab, monkeypatch, tmp_path):
    for name, value in {"WORDS": 1 << 15, "THREADS": 256, "STEPS": 4}.items():
        for kind in ("CPU", "GPU"):
            monkeypatch.setattr(f"workbench.kernel_bench.ceilings.{kind}_{name}", value)
    monkeypatch.setattr("workbench.kernel_bench.ceilings._known", {})
    lab.run()
    with pytest.raises(ValueError, match="measured ceilings"):
        lab.comparison.plot("roofline")
    with pytest.raises(ValueError, match="one of timing, roofline, errors, not 'x'"):
        lab.comparison.plot("x")
    for kind in ("timing", "roofline", "errors"):
        picture = lab.plot(kind)
        for ending, magic in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
            picture.save(tmp_path / f"a.{ending}")
            assert (tmp_path / f"a.{ending}").read_bytes().startswith(magic)
        assert "linear[int4], 40x96, block 32" in picture.figure.get_suptitle()
    axes = lab.plot("timing").axes[0]
    rows = {line.get_marker(): line for line in axes.lines}
    assert (
        len(rows["o"].get_xdata()) == 3 and next(t.get_text() for t in axes.get_yticklabels()) in lab.chosen
    )
    labels = [text.get_text() for text in lab.plot("roofline").axes[0].get_legend().get_texts()]
    assert {label.split(":")[0] for label in labels} == {"gemv", "batch"}
    assert lab.ceilings is Lab("add").measure_ceilings()  # once a process


def test_errors_are_counted_relative_to_their_bounds(lab):
    lab.run()
    (errors,) = lab.comparison["gemv"].errors
    assert sum(errors.ratios) == errors.elements == 40 and len(errors.ratios) == len(RATIO_EDGES) + 2
    beyond = RATIO_EDGES.index(1.0) + 2
    assert sum(errors.ratios[beyond:]) == 0 == errors.off
    (errors,) = lab.edit(halved(lab.text("gemv"))).result.errors
    assert sum(errors.ratios[beyond:]) == errors.off == 40


def test_every_kernel_has_sizes_that_it_takes():
    names = wgsl_kernels.names()
    for name in names:
        kernel = wgsl_kernels.get(name)
        own = own_sizes(kernel)
        assert own and None not in own.values()
        kernel.inputs(**own)  # raises for one that it does not take
        assert set(worthwhile(kernel, is_cpu=True)) == set(own)
    sizes = {"tokens", "rows", "columns", "block", "factor", "adapters"}
    assert own_sizes(wgsl_kernels.get("linear[int8, a8]")).keys() == sizes
    assert {"heads", "capacity", "splits"} <= own_sizes(wgsl_kernels.get("attention_split")).keys()
    assert worthwhile(wgsl_kernels.get("linear[int2]"), False) == {
        **{"tokens": 1, "rows": 4096, "columns": 4096, "block": 256, "factor": 1.0, "adapters": 0}
    }
    assert worthwhile(wgsl_kernels.get("rms_norm"), True, {"hidden": 7})["hidden"] == 7
    assert family_of(wgsl_kernels.get("norm_qkv[bf16]")) == "norm_qkv"
    found = families(wgsl_kernels.library())
    assert found["linear[a8]"] == {fmt: f"linear[{fmt}, a8]" for fmt in ("int8", "int4", "int2")}
    assert found["rope"] == {"": "rope"}
    assert own_sizes(pair_of("")) == {"n": 64}
