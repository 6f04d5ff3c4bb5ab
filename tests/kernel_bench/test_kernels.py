"""Comparing a kernel's variants: statuses, statistics, what is shown and stored, and the command."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import wgsl_kernels
import workbench
from wgsl_kernels import Cost, Port, Variant
from wgsl_kernels.judge import judge
from workbench.kernel_bench.arithmetic import arithmetic
from workbench.kernel_bench.comparison import Comparison, VariantResult
from workbench.runtime.device import adapter_missing, open_device
from workbench.runtime.timing import TIMESTAMPS, WALL, Timing

SMALL = {"tokens": 2, "rows": 20, "columns": 96, "block": 32}


def edited(edit, variant="gemv", name="linear[int4]"):
    """A kernel with one variant's WGSL edited, the way a user's cell would."""
    kernel = wgsl_kernels.get(name)
    changed = dataclasses.replace(kernel.variants[variant], text=edit(kernel.variants[variant].body()))
    return dataclasses.replace(kernel, variants={**kernel.variants, variant: changed})


def halved(text: str) -> str:
    """The GEMV with its result halved."""
    assert text.count("y_type(") == 1
    return text.replace("y_type(", "y_type(0.5 * ")


def test_what_passes_has_errors_and_a_time(adapter):
    found = workbench.compare("linear[int4]", seed=3, variants=["gemv", "tile"], rounds=2, **SMALL)
    assert [(r.variant, r.status) for r in found.results] == [("gemv", "passed"), ("tile", "passed")]
    gemv = found["gemv"]
    assert gemv.chosen and not found["tile"].chosen
    (errors,) = gemv.errors
    assert (errors.output, errors.elements, errors.off, errors.first) == ("y", 40, 0, ())
    assert 0 < errors.rms <= errors.max_abs < 1e-5 and errors.worst <= 1 and errors.sqnr > 100
    assert len(gemv.timing.samples) == 2 and min(gemv.timing.samples) > 0
    sizes = {"tokens": 2, "rows": 20, "columns": 96, "block": 32}
    assert gemv.bytes == wgsl_kernels.get("linear[int4]").cost(sizes).bytes and gemv.flops == 2 * 2 * 20 * 96
    assert gemv.gb_per_s == pytest.approx(gemv.bytes / gemv.timing.median / 1e9)
    assert "const ROWS: u32 = 20u;" in gemv.wgsl and "F.linear" in found.reference_source
    assert found.fastest in found.results and found.provenance["adapter"]["device"]
    expected = "CPU" if open_device().adapter.is_cpu else "GPU"
    assert found.label == expected and f"us a call ({expected})" in str(found)


def test_the_clock_can_be_the_wall(adapter):
    for timestamps, clock in ((None, TIMESTAMPS), (False, WALL)):
        found = workbench.compare("add", rounds=1, timestamps=timestamps)
        timing = found.results[0].timing
        if "timestamp-query" in open_device().features or timestamps is False:
            assert timing.clock == clock
        assert f"clock: {timing.clock}" in str(found) and 0 < timing.median < 1


def test_copies_of_the_weights_take_turns(adapter):
    found = workbench.compare("linear[int4]", variants=["gemv"], rounds=1, copies=3, **SMALL)
    # Of 20 rows: 48 bytes of quants and 3 blocks with 3 bytes each.
    assert (found.copies, found.rotated_bytes) == (3, 3 * 20 * (48 + 9))
    assert found["gemv"].timing.dispatches % 3 == 0 and "3 copies of the weights in turns" in str(found)
    on_gpu, on_cpu = (dataclasses.replace(found, label=label) for label in ("GPU", "CPU"))
    assert "a cache may hold them" in str(on_gpu) and "a cache may hold them" not in str(on_cpu)


def test_wrong_numbers_have_statistics_but_no_time(adapter):
    found = workbench.compare(edited(halved), variants=["gemv"], rounds=1, **SMALL)
    (result,) = found.results
    assert (result.status, result.timing, result.gb_per_s) == ("wrong numbers", None, None)
    (errors,) = result.errors
    # Half the energy's root is missing: 10 log10(1 / 0.25) dB.
    assert errors.sqnr == pytest.approx(6.02, abs=0.01) and errors.off == 40 and errors.worst > 1
    assert len(errors.first) == 5 and errors.first[0].at == (0, 0)
    assert errors.first[0].got == pytest.approx(errors.first[0].expected / 2, rel=1e-5)
    assert "40 of 40 are off" in str(found) and found.fastest is None


def test_broken_wgsl_is_a_compile_error_without_a_time(adapter):
    found = workbench.compare(edited(lambda text: text + "\nfn broken( {"), rounds=1, **SMALL)
    assert found["gemv"].status == "compile error" and found["gemv"].timing is None
    assert "linear[int4]/gemv" in found["gemv"].detail and found["gemv"].errors == ()
    assert found["tile"].status == "passed" and found["tile"].timing is not None


def test_what_a_device_lacks_is_unsupported(adapter):
    device = open_device(subgroups=False)
    found = workbench.compare("linear[f32]", device=device, rounds=0, tokens=8)
    assert found["broadcast"].status == "unsupported" and "subgroup" in found["broadcast"].detail
    assert found["gemv"].status == "passed" and found["gemv"].timing is None
    without_f16 = open_device(f16=False)
    found = workbench.compare("add", device=without_f16, rounds=0, x_dtype="f16", y_dtype="f16")
    assert found.results[0].status == "unsupported" and "shader-f16" in found.results[0].detail


def pair_of(text: str, grid=(1, 1, 1), shape=("n",)) -> wgsl_kernels.Kernel:
    """y = 2 x of 64 numbers, as a user might write it."""
    return wgsl_kernels.Kernel(
        op="double",
        reference=lambda x: 2 * x,
        reads={"x": Port(("n",), "f32")},
        writes={"y": Port(shape, "f32")},
        variants={"one": Variant("", grid=lambda c: grid, text=text)},
        make_inputs=lambda seed=0, n=64: {"x": torch.arange(n, dtype=torch.float32)},
        tolerance=lambda arguments, expected: {"y": torch.zeros(1)},
        cost=lambda sizes: Cost(4 * sizes["n"], 4 * sizes["n"], sizes["n"]),
    )


DOUBLE = """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] = 2.0 * x[id.x]; }
"""


def test_a_pair_of_ones_own(adapter):
    kernel = pair_of(DOUBLE)
    found = workbench.compare(kernel, rounds=1)
    assert found["one"].status == "passed" and found["one"].worst("sqnr") == math.inf
    assert "2 * x" in found.reference_source
    written = workbench.run_kernel(kernel, kernel.inputs())["y"]
    assert written.tolist() == [2.0 * i for i in range(64)]
    assert (
        workbench.compare(pair_of(DOUBLE), n=80, rounds=1)["one"].status == "wrong numbers"
    )  # 16 are not written


def test_wrong_shape_and_runtime_error(adapter):
    found = workbench.compare(pair_of(DOUBLE, shape=(8, 8)), rounds=1)
    assert found["one"].status == "wrong shape" and found["one"].timing is None
    assert "(8, 8) where the reference gives (64,)" in found["one"].detail
    found = workbench.compare(pair_of(DOUBLE, grid=(70000, 1, 1)), rounds=1)
    assert found["one"].status == "runtime error" and found["one"].timing is None


def test_names_that_are_not_there():
    with pytest.raises(wgsl_kernels.KernelUsageError, match="no kernel is named 'nope'"):
        workbench.compare("nope")
    if adapter_missing():
        return
    with pytest.raises(
        wgsl_kernels.KernelUsageError,
        match="no variant 'fast'; it has gemv, batch, tile, broadcast, gemv_f16",
    ):
        workbench.compare("linear[int4]", variants=["fast"])
    with pytest.raises(wgsl_kernels.KernelUsageError, match="add: inputs take no 'depth'; they take seed"):
        workbench.compare("add", depth=3)
    with pytest.raises(wgsl_kernels.KernelUsageError, match=r"rms_norm: .*'depth'"):
        workbench.compare("rms_norm", depth=3)


def test_only_what_passed_may_have_a_time():
    timing = Timing((1e-6,), 1, WALL, 0.0)
    with pytest.raises(ValueError, match="has no time"):
        VariantResult("gemv", "wrong numbers", timing=timing)
    with pytest.raises(ValueError, match="status is one of passed, "):
        VariantResult("gemv", "fine")


def test_json_gives_the_same_comparison_back(adapter):
    def spoiled(text: str) -> str:
        return "var<private> nothing: u32 = 0x7fc00000u;\n" + halved(text).replace(
            "0.5", "bitcast<f32>(nothing)"
        )

    nan = edited(spoiled)
    for kernel in ("linear[int4]", edited(halved), nan):
        found = workbench.compare(kernel, variants=["gemv"], rounds=1, read_ceiling=1e9, **SMALL)
        text = json.dumps(found.to_json(), allow_nan=False)
        again = Comparison.from_json(json.loads(text))
        assert again.to_json() == found.to_json() and str(again) == str(found)
    assert found["gemv"].status == "wrong numbers" and found["gemv"].worst("max_abs") == math.inf


def test_html_is_escaped(adapter):
    script = "// <script>alert('&')</script>\n"
    found = workbench.compare(edited(lambda text: script + text), variants=["gemv"], rounds=0, **SMALL)
    found = dataclasses.replace(found, device="<b>&", reference_source="a < b")
    shown = found._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in shown
    assert "&lt;b&gt;&amp;" in shown and "a &lt; b" in shown and "<details>" in shown


def test_statistics_of_known_errors():
    expected = torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    got = expected + torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64)
    found = judge("y", got, expected, torch.full((1,), 0.25, dtype=torch.float64))
    assert (found.off, found.max_abs, found.worst) == (1, 0.5, 2.0)
    assert found.rms == pytest.approx(0.5 / math.sqrt(3)) and found.sqnr == pytest.approx(20)
    assert str(found.first[0]) == "(1,): got 4.5, expected 4, bound 0.25"
    # Where nothing may be off, nothing that is right is.
    assert judge("y", expected, expected, torch.zeros(3)).worst == 0
    lost = judge("y", got * math.nan, expected, torch.ones(3))
    assert (lost.off, lost.max_abs, lost.sqnr) == (3, math.inf, -math.inf)


BUSY = """
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  for (var i = 0u; i < 60000u; i++) { y[id.x % 64u] = y[id.x % 64u] * 0.5 + x[id.x % 64u]; }
}
"""


def test_what_does_not_end_is_timed_out_and_stopped(adapter):
    """Drivers bound loops (llvmpipe at 65,535 turns), so it is the grid that makes this one last for an hour."""
    found = workbench.compare(pair_of(BUSY, grid=(65535, 1, 1)), rounds=1, budget=1.0)["one"]
    assert (found.status, found.timing) == ("timed out", None)
    assert found.detail == "one call did not end within 1 s"
    assert workbench.compare(pair_of(DOUBLE), rounds=1)["one"].status == "passed"


def test_what_ends_too_late_is_timed_out(adapter):
    found = workbench.compare("add", rounds=1, budget=1e-9)["elements"]
    assert (found.status, found.timing) == ("timed out", None) and "more than 1e-09 s" in found.detail
    assert found.errors[0].off == 0


def test_arithmetic_is_read_from_the_module():
    assert arithmetic("") is None
    assert arithmetic("// dot4I8Packed\nlet a = fma(b, c, d);") == "f32 FMA"
    assert arithmetic("let a = dot4I8Packed(b, c);") == "DP4A"
    assert arithmetic("enable f16;\nalias x_type = f16;\nlet a = f32(x[0]);") == "f32 FMA"
    assert arithmetic("enable f16;\nlet a = vec4<f16>(b) * c;") == "f16 FMA"
