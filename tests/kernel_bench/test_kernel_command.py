"""`workbench bench kernels` and `workbench bench compare`: what may be asked for, records, ceilings, roofline."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

import wgsl_kernels
import workbench
from wgsl_kernels.ceilings.ceilings import COMPUTE, COPY, READ_SWEEP
from workbench.cli import build_parser, main
from workbench.errors import WorkbenchError
from workbench.kernel_bench.differences import compare_records, read
from workbench.kernel_bench.kernels import table
from workbench.kernel_bench.request import Request, parse_format, parse_shape, parse_size
from workbench.kernel_bench.roofline import roofline
from workbench.kernel_bench.rows import record
from workbench.runtime.device import open_device


@pytest.fixture
def small_ceilings(monkeypatch):
    for name in ("CPU_WORDS", "GPU_WORDS"):
        monkeypatch.setattr(f"workbench.kernel_bench.ceilings.{name}", 1 << 15)
    for kind in ("CPU", "GPU"):
        monkeypatch.setattr(f"workbench.kernel_bench.ceilings.{kind}_THREADS", 256)
        monkeypatch.setattr(f"workbench.kernel_bench.ceilings.{kind}_STEPS", 4)


@pytest.mark.parametrize("kernel", [READ_SWEEP, COPY, *COMPUTE.values()], ids=lambda each: each.name)
def test_the_ceilings_do_their_work(adapter, kernel):
    size = {"elements": 1 << 17} if kernel in (READ_SWEEP, COPY) else {"threads": 512, "steps": 20}
    for result in workbench.compare(kernel, rounds=1, **size).results:
        assert result.status in ("passed", "unsupported"), result.detail
        assert result.status == "unsupported" or result.worst("max_abs") == 0
    with pytest.raises(ValueError, match=r"is not a multiple of|is a multiple of 256"):
        kernel.inputs(**dict.fromkeys(list(size)[:1], 100))


def test_a_sweep_that_leaves_something_out_is_wrong(adapter):
    name, variant = next(iter(READ_SWEEP.variants.items()))
    text = variant.body().replace("(c + d)", "c")
    assert text != variant.body()
    broken = dataclasses.replace(READ_SWEEP, variants={name: dataclasses.replace(variant, text=text)})
    assert workbench.compare(broken, rounds=1)[name].status == "wrong numbers"


def test_the_command(adapter, tmp_path, capsys, small_ceilings):
    path = tmp_path / "kernels.json"
    options = (
        "--kernel linear[int4] linear[int4,a8] add --shape 32x64 --variants gemv elements --repetitions 2"
    )
    assert main(["bench", "kernels", *options.split(), "--compare", "torch", "--json", str(path)]) == 0
    said = capsys.readouterr()
    assert "32x64, block 128" in said.out and "share of reads" in said.out and "share of compute" in said.out
    # Kernels that read the same weights stand against the same peers, which are timed and recorded once.
    assert said.out.count("times as fast as torch bf16") == 2 and "f32 FMA" in said.err
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["requested"]["shapes"] == [[32, 64]] and stored["requested"]["peers"] == ["torch"]
    rows = stored["rows"]
    ours = {row["kernel"] for row in rows}
    assert {"read_sweep", "copy", "fma_f32", "dp4a", "linear[int4]", "linear[int4, a8]", "add"} <= ours
    needed = {"kernel", "variant", "peer", "status", "metric", "value", "label", "seed", "wgsl_sha256"}
    needed |= {"reference_sha256", "sizes", "tunables", "device"}
    provenance = {"adapter", "versions", "kernels_sha256"}
    assert all(needed <= set(row) and provenance <= set(row["provenance"]) for row in rows)
    shapes = {(row["sizes"]["rows"], row["sizes"]["columns"]) for row in rows if "linear" in row["kernel"]}
    assert shapes == {(32, 64)}
    times = [row for row in rows if row["metric"] == "time"]
    assert all(row["clock"] and "gpu_mhz" in row and len(row["samples"]) == 2 for row in times)
    assert {row["kernel"] for row in times if row["peer"]} == {"linear[int4]"}
    for metric in ("read share", "compute share"):
        assert min(row["value"] for row in rows if row["metric"] == metric) > 0
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_json_takes_the_place_of_text(adapter, capsys, small_ceilings):
    options = "--kernel linear[int4] linear[f16] --format int4/32 int4/64 --shape 8x64 --variants gemv"
    assert main(["bench", "kernels", *options.split(), "--repetitions", "1", "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)
    linear = [row for row in stored["rows"] if row["kernel"].startswith("linear")]
    assert {(row["kernel"], row["sizes"]["block"]) for row in linear} == {
        ("linear[int4]", 32),
        ("linear[int4]", 64),
    }


def test_f16_activations_are_asked_for_and_told(adapter, tmp_path, small_ceilings, capsys):
    if not open_device().adapter.f16:
        pytest.skip("no shader-f16")
    options = "--kernel linear[int4] linear[int4,a8] --dtype f16 --shape 8x64 --variants gemv gemv_f16"
    path = tmp_path / "f16.json"
    assert main(["bench", "kernels", *options.split(), "--repetitions", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    status = {
        (row["kernel"], row["variant"], row["types"]["x"]): row["value"]
        for row in rows
        if row["metric"] == "status" and row["kernel"].startswith("linear")
    }
    assert status == {
        ("linear[int4]", "gemv", "f16"): "passed",
        ("linear[int4]", "gemv_f16", "f16"): "passed",
        ("linear[int4, a8]", "gemv", "u32"): "passed",
    }
    assert "8x64, block 128, x f16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("kernels --shape 32*64", "--shape: '32*64' is not a shape"),
        ("kernels --kernel nope", "no kernel is named 'nope'"),
        ("kernels --kernel add --variants gemv", "no variant is named 'gemv'; there are elements"),
        ("kernels --format int5", "--format: 'int5' is not a format of weights; allowed: f32, f16"),
        ("kernels --format int4/33", "--format: 'int4/33': a block is a multiple of 32"),
        ("kernels --format f16/32", "--format: 'f16/32': f16 has no blocks"),
        ("kernels --kernel add --format int4", "none of add reads weights in int4"),
        ("kernels --size heads", "--size: 'heads' is not a name and a whole number"),
        ("kernels --compare tensorrt", "no peer is named 'tensorrt'; there are torch, onnxruntime"),
        ("compare a.json b.json", "a.json: No such file"),
    ],
)
def test_wrong_options_are_one_line(adapter, capsys, options, expected):
    assert main(["bench", *options.split()]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("encoding --kernel add", "unrecognized arguments: --kernel add"),
        ("kernels a.json", "unrecognized arguments: a.json"),
        ("suite --shape 8x8", "unrecognized arguments: --shape 8x8"),
        ("compare a.json", "the following arguments are required: RECORD"),
        ("kernel", "invalid choice: 'kernel'"),
    ],
)
def test_each_benchmark_has_its_own_options(capsys, options, expected):
    with pytest.raises(SystemExit):
        main(["bench", *options.split()])
    assert expected in capsys.readouterr().err


def test_without_a_name_the_suite_runs_with_its_defaults():
    bare, named = build_parser().parse_args(["bench"]), build_parser().parse_args(["bench", "suite"])
    assert vars(bare) == vars(named) and bare.part.__name__ == "run_suite" and bare.repetitions == 15
    assert build_parser().parse_args(["bench", "kernels"]).repetitions == 7


def test_shapes_formats_and_sizes():
    assert parse_shape("4096x14336") == (4096, 14336)
    for wrong in ("4096", "0x4", "4x", "-4x4", "4x4x4"):
        with pytest.raises(ValueError, match="is not a shape"):
            parse_shape(wrong)
    assert (parse_format("int4/128"), parse_format("F16")) == (("int4", 128), ("f16", None))
    assert parse_size("heads=32") == ("heads", 32)


def test_a_format_chooses_kernels_and_blocks():
    request = Request(formats=[("int4", 32), ("int2", None)], sizes={"seed": 3})
    found = [(pair.name, sizes["block"]) for pair, sizes in request.calls([(64, 64)])]
    assert found == [
        ("linear[int4]", 32),
        ("linear[int2]", 256),
        ("linear[int4, a8]", 32),
        ("linear[int2, a8]", 256),
    ]
    assert all(sizes["seed"] == 3 for _, sizes in request.calls([(64, 64)]))
    assert [pair.name for pair, _ in Request(formats=[("bf16", None)]).calls([(8, 8)])] == ["linear[bf16]"]
    with pytest.raises(WorkbenchError, match="none of add"):
        list(Request(kernels=["add"], formats=[("f16", None)]).calls([(8, 8)]))


@pytest.fixture(scope="module")
def measured():
    """A comparison with times and ceilings."""
    from workbench.runtime.device import adapter_missing

    if missing := adapter_missing():
        pytest.skip(missing)
    sizes = {"rows": 20, "columns": 96, "block": 32}
    rates = {"f32 FMA": 1e10, "DP4A": 3e10}
    return workbench.compare(
        "linear[int4]", variants=["gemv"], rounds=5, read_ceiling=1e9, compute_ceilings=rates, **sizes
    )


def test_the_roofline_has_a_point_for_each(measured):
    picture = roofline([measured])
    labels = [line.get_label() for line in picture.axes[0].lines]
    assert "linear[int4] 20x96, block 32" in labels and picture.png().startswith(b"\x89PNG")
    assert measured.compute_share(measured["gemv"]) == pytest.approx(measured["gemv"].gflop_per_s / 10)
    with pytest.raises(ValueError, match="no comparison has a time"):
        roofline([])
    assert str(table([])).startswith("nothing was compared: no kernel")


def changed(stored: dict, metric: str, times: float) -> dict:
    """A record with the samples of a metric multiplied."""
    stored = copy.deepcopy(stored)
    for row in stored["rows"]:
        if row["metric"] == metric:
            for name in ("value", "low", "high"):
                row[name] *= times
            row["samples"] = [sample * times for sample in row["samples"]]
    return stored


def test_differences_beyond_the_noise(measured):
    before = json.loads(json.dumps(record([measured], [], {"seed": 0})))
    low, high = measured["gemv"].timing.spread
    same = compare_records(before, before)
    assert (same.configuration, same.changes) == ((), ()) and "the same" in str(same)
    # Ranges that overlap are noise; those that do not, are none.
    assert compare_records(before, changed(before, "time", 1 + 0.5 * (high / low - 1))).changes == ()
    after = changed(before, "time", 1.1 * high / low)
    found = compare_records(before, after)
    (change,) = found.changes
    assert (change.metric, change.variant) == ("time", "gemv")
    assert change.ratio == pytest.approx(1.1 * high / low) and change.chance == pytest.approx(2 / 252)
    assert found.unchanged == same.unchanged - 1 and "linear[int4]" in str(found) and "0.8%" in str(found)
    page = found._repr_html_()
    assert "changes beyond the noise (1; " in page and "linear[int4]" in page and "counts as changed" in page
    assert len(repr(found)) < 120 and "the same</td>" in same._repr_html_()
    # So few samples need a gap that is wider than their ranges.
    few = copy.deepcopy(before)
    for row in few["rows"]:
        if row["metric"] == "time":
            row["samples"], row["low"], row["high"], row["value"] = [1.0, 1.2], 1.0, 1.2, 1.1
    assert compare_records(few, changed(few, "time", 1.3)).changes == ()
    assert len(compare_records(few, changed(few, "time", 1.5)).changes) == 1
    json.dumps(found.to_json(), allow_nan=False)


def test_differences_of_the_configuration_come_first(measured):
    before = json.loads(json.dumps(record([measured], [], {"seed": 0})))
    after = copy.deepcopy(before)
    after["created"] = "later"
    after["host"]["cpus"] = 999
    for row in after["rows"]:
        row["provenance"]["versions"]["wgpu"] = "9.9"
        row["wgsl_sha256"] = "0" * 64
        if row["metric"] == "status":
            row["value"] = row["status"] = "wrong numbers"
        if row["metric"] == "error.max_abs":
            row["value"] *= 2
    after["rows"] = [row for row in after["rows"] if row["metric"] not in ("bandwidth", "time")]
    found = compare_records(before, after)
    what = [each.what for each in found.configuration]
    assert what == [
        "host.cpus",
        "provenance.versions.wgpu",
        "linear[int4] 20x96, block 32, gemv: wgsl_sha256",
    ]
    metrics = [(each.metric, each.after) for each in found.changes]
    assert metrics[0] == ("status", "wrong numbers") and metrics[1][0] == "error.max_abs of y"
    assert any(name.endswith("time") for name in found.only_before) and found.only_after == ()
    text = str(found)
    assert text.index("host.cpus") < text.index("wrong numbers") < text.index("Only in the first")


def test_the_compare_command(measured, tmp_path, capsys):
    paths = [tmp_path / name for name in ("a.json", "b.json")]
    stored = json.loads(json.dumps(record([measured], [], {})))
    paths[0].write_text(json.dumps(stored))
    paths[1].write_text(json.dumps(changed(stored, "time", 100)))
    assert main(["bench", "compare", *map(str, paths)]) == 0
    assert "Changes beyond the noise (1;" in capsys.readouterr().out
    assert main(["bench", "compare", *map(str, paths), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changes"][0]["ratio"] == pytest.approx(100)
    paths[1].write_text('{"kind": "workbench-results", "version": 1}')
    with pytest.raises(
        WorkbenchError, match=r"has kind 'workbench-results'.*where 'workbench-kernels', version 2"
    ):
        read(paths[1])
    paths[1].write_text("{")
    with pytest.raises(WorkbenchError, match="is not JSON"):
        read(paths[1])


def test_every_linear_kernel_has_a_format():
    from workbench.kernel_bench.request import format_of

    assert all(map(format_of, wgsl_kernels.library().of("linear")))
    assert format_of(wgsl_kernels.get("rms_norm")) is None
