"""Numbers at the edge: zeros, negative zero, large and very negative ones, equal ones, halves."""

from __future__ import annotations

import pytest
import torch

import wgsl_kernels
from tests.wgsl_kernels.compare import comparable, expectation, mismatches, widen
from wgsl_kernels import KernelUsageError
from wgsl_kernels.logits.norm_argmax import largest_of
from workbench.runtime.launch import run_kernel

LOWEST = -3.4028234e38
BOTH = pytest.mark.parametrize("subgroups", [False, True], ids=["tree", "subgroups"])


@pytest.fixture
def check(device_with):
    """`check(name, arguments)` runs the variant preferred here against the reference and returns its outputs."""

    def run(name: str, arguments: dict, *, subgroups: bool = False, y_dtype: str = "f32") -> dict:
        kernel, device = wgsl_kernels.get(name), device_with(subgroups)
        if y_dtype == "f16" and not device.adapter.f16:
            pytest.skip(f"{device.name} has no shader-f16")
        results = run_kernel(kernel, arguments, device=device, y_dtype=y_dtype)
        for output, (expected, bound) in expectation(kernel, arguments).items():
            got = comparable(kernel, output, results[output])
            assert got.isfinite().all(), f"{name}.{output}: {got}"
            bound = widen(expected, bound.broadcast_to(expected.shape), results[output].dtype)
            problem = mismatches(got, expected, bound)
            assert problem is None, f"{name}.{output}: {problem}"
        return results

    return run


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("zeros", [{}, {"symmetric": True}, {"offset": True}], ids=str)
@pytest.mark.parametrize("variant", ["gemv_f16", "batch_f16"])
def test_f16_arithmetic_stays_in_range(device_with, bits, zeros, variant):
    """Pieces of 16,368 everywhere and with one 65,504 each, tiny ones, and the zero-points farthest from a format's."""
    kernel, device = wgsl_kernels.get(f"linear[int{bits}]"), device_with(True)
    if not device.adapter.f16:
        pytest.skip(f"{device.name} has no shader-f16")
    arguments = kernel.inputs(rows=40, columns=128, block=32, **zeros, tokens=5, x_dtype="f16")
    x = arguments["x"]
    x[0, ::37] = 65504.0
    x[1] = -65504.0 * (torch.arange(128) % 37 == 0)
    x[2] = x[2] * 2.0**-20
    x[3] = 0.0
    x[4] = 16368.0
    arguments["quants"][:4] = 0 if bits < 8 else -0x7F7F7F80  # the lowest quants of all
    if not zeros:
        arguments["zeros"][:20] = {8: -128, 4: 0, 2: 0}[bits]
        arguments["zeros"][20:] = {8: 127, 4: 15, 2: 3}[bits]
    y = run_kernel(kernel, arguments, variant=variant, device=device)["y"].double()
    expected, bound = expectation(kernel, arguments, variant)["y"]
    assert y.isfinite().all() and (y[3] == 0).all()
    assert mismatches(y[:4], expected[:4], bound[:4]) is None
    # Equal products round alike, and their errors add up.
    assert ((y[4] - expected[4]).abs() <= 4 * bound[4]).all()


@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_far_from_zero(check, tanh):
    x = row(0.0, -0.0, 1e4, -1e4, 1e12, -1e12, 1e38, -1e38, 1e-30, -1e-30, 5.0, -5.0, -13.0)
    y = check("gelu", {"x": x, "tanh": tanh})["y"]
    assert y[0, 2] == 1e4 and y[0, 6] == x[0, 6]
    assert y[0, 3].abs() < 1e-2


@pytest.mark.parametrize("name", ["silu_mul", "gelu_mul"])
def test_gated_units_far_from_zero(check, name):
    gate = row(0.0, -0.0, 1e4, -1e4, 88.0, -88.0, -89.0, -104.0, 1e30, -1e30, -3e38)
    y = check(name, {"gate": gate, "up": torch.full_like(gate, 2.0)})["y"]
    assert y[0, 2] == 2e4
    assert (y[0, [0, 1, 3, 7, 9, 10]].abs() < 1e-30).all()


def test_softcap_far_from_zero(check):
    """To the cap and no further, the same to both sides."""
    x = row(0.0, -0.0, 1e-30, 30.0, 1e4, 88.7, 1e30, 3e38)
    x = torch.cat([x, -x])
    y = check("softcap", {"x": x, "cap": 30.0})["y"]
    assert torch.equal(y[1], -y[0]) and (y[0, 4:].abs() == 30.0).sum() == 3 and (y[0, :3].abs() < 1e-4).all()
    check("softcap", {"x": x, "cap": 1e-3})


@pytest.mark.parametrize("name, params", [("softcap", {"cap": 30.0}), ("gelu", {"tanh": True})])
def test_what_is_no_number_stays_none(device_with, name, params):
    x = row(float("nan"), 1.0)
    y = run_kernel(wgsl_kernels.get(name), {"x": x, **params}, device=device_with(False))["y"]
    assert y.isnan().tolist() == [[True, False]]


@BOTH
def test_attention_with_capped_scores_far_beyond_the_cap(check, subgroups):
    kernel = wgsl_kernels.get("attention")
    arguments = kernel.inputs(seed=3, tokens=9, heads=2, kv_heads=1, head_dim=8, position=70, capacity=100)
    arguments["q"] = torch.full_like(arguments["q"], 1e15)
    arguments["softcap"] = 50.0
    y = check("attention", arguments, subgroups=subgroups)["y"]
    assert torch.allclose(y, kernel.run_reference(arguments)["y"], atol=1e-4)


def test_f16_outputs_keep_large_and_small_numbers(check):
    x = row(1e4, -1e4, 6e4, 1e-5, -1e-7, 0.0, 2049.0, 2051.0)
    check("add", {"a": x, "b": torch.zeros_like(x)}, y_dtype="f16")
    for name in ("silu_mul", "gelu_mul"):
        check(name, {"gate": x, "up": torch.ones_like(x)}, y_dtype="f16")


@BOTH
def test_rms_norm_of_zeros_and_of_large_numbers(check, subgroups):
    weight = torch.ones(96)
    y = check("rms_norm", {"x": torch.zeros(2, 96), "weight": weight, "eps": 1e-5}, subgroups=subgroups)["y"]
    assert (y == 0).all()
    large = torch.full((1, 96), 1e4)
    large[0, 1::2] = -1e4
    y = check("rms_norm", {"x": large, "weight": weight, "eps": 1e-5}, subgroups=subgroups)["y"]
    assert torch.allclose(y.abs(), torch.ones(1, 96), atol=1e-6)


@BOTH
@pytest.mark.parametrize("name", ["head_norm", "head_norm_rope"])
def test_a_head_of_zeros_and_one_of_large_numbers(check, name, subgroups):
    """Each head has its own norm, however large its neighbour is."""
    arguments = wgsl_kernels.get(name).inputs(tokens=1, heads=3, head_dim=40)
    arguments["x"][0, :40], arguments["x"][0, 40:80] = 0.0, 1e15
    y = check(name, arguments, subgroups=subgroups)["y"][0].view(3, 40)
    assert (y[0] == 0).all() and 0.5 < y[1].square().mean().sqrt() < 1.5


def test_heads_of_unknown_size_are_refused(check):
    arguments = wgsl_kernels.get("head_norm").inputs(weight=False)
    del arguments["head_dim"]
    with pytest.raises(KernelUsageError, match="without a weight needs the parameter head_dim"):
        check("head_norm", arguments)
    arguments = wgsl_kernels.get("head_norm_rope").inputs(head_dim=24, passed=8)
    with pytest.raises(KernelUsageError, match="heads of 24 where 16 dimensions are rotated and 4 passed"):
        check("head_norm_rope", {**arguments, "passed": 4})


def argmaxes(device, x: torch.Tensor) -> list[list[int]]:
    """Of each row, at once and by groups of 64."""
    parts = run_kernel(wgsl_kernels.get("argmax_parts"), {"x": x, "group": 64}, device=device)
    best = run_kernel(wgsl_kernels.get("argmax_reduce"), parts, device=device)["best"]
    return [run_kernel(wgsl_kernels.get("argmax"), {"x": x}, device=device)["index"].tolist(), best.tolist()]


@BOTH
@pytest.mark.parametrize("width", [1, 7, 300])
@pytest.mark.parametrize("value", [0.0, -0.0, 1e4, -1e4, -3e38, 3e38, LOWEST, float("-inf"), float("nan")])
def test_argmax_of_equal_numbers_is_the_first(device_with, subgroups, width, value):
    assert argmaxes(device_with(subgroups), torch.full((2, width), value)) == [[0, 0]] * 2


@BOTH
def test_argmax_of_a_tie_is_the_first(device_with, subgroups):
    x = torch.full((4, 300), -1e4)
    x[0, [299, 170, 171]] = 2.0
    x[1, [5, 133]] = torch.tensor([-0.0, 0.0])
    x[2, [128, 0]] = 1e4
    x[3] = -3e38
    x[3, 299] = -2.9e38
    assert argmaxes(device_with(subgroups), x) == [[170, 5, 0, 299]] * 2


@BOTH
@pytest.mark.parametrize("group", [16, 32])
@pytest.mark.parametrize("best", [(5, 133), (16, 17, 31), (31, 32), (47, 299), (0,), (299,)])
def test_argmax_in_the_product_takes_the_first_of_equals(device_with, subgroups, group, best):
    """Rows alike give the same logits, in one group, in its turns, or in several."""
    weight = torch.linspace(-1, 0.5, 300).repeat(64, 1).T.contiguous()
    weight[list(best)] = 0.75
    kernel, device = wgsl_kernels.get("norm_argmax[f32]"), device_with(subgroups)
    arguments = {
        "x": torch.ones(2, 64),
        "values": weight,
        "norm": torch.ones(64),
        "eps": 1e-5,
        "group": group,
    }
    parts = run_kernel(kernel, arguments, device=device)
    found = run_kernel(wgsl_kernels.get("argmax_reduce"), parts, device=device)["best"]
    assert found.tolist() == [best[0]] * 2
    assert parts["index"].shape == (2, -(-300 // group))
    assert ((parts["index"] // group) == torch.arange(-(-300 // group))).all()


@BOTH
@pytest.mark.parametrize("name", ["norm_argmax[int4]", "norm_linear_max[int4]"])
def test_groups_of_a_range_of_rows_go_to_their_places(device_with, subgroups, name):
    kernel, device = wgsl_kernels.get(name), device_with(subgroups)
    whole = kernel.inputs(seed=2, tokens=2, rows=200, columns=64, block=32, group=32)
    wanted, parts = run_kernel(kernel, whole, device=device), []
    for first, stop in ((0, 96), (96, 200)):
        rows = {port: whole[port][first:stop].contiguous() for port in ("quants", "scales", "zeros")}
        arguments = {**whole, **rows, "row_offset": first, **({"out_rows": 200} if "linear" in name else {})}
        parts.append(run_kernel(kernel, arguments, device=device))
        expected = expectation(kernel, arguments)
        for output in ("largest", "index"):
            error = (parts[-1][output].double() - expected[output][0])[:, first // 32 :].abs()
            assert (error <= expected[output][1][:, first // 32 :]).all()
    for output in ("largest", "index"):
        assert torch.equal(parts[0][output], wanted[output][:, :3])
        assert torch.equal(parts[1][output][:, 3:], wanted[output][:, 3:])
    if "linear" in name:
        assert torch.equal(torch.cat([parts[0]["y"][:, :96], parts[1]["y"][:, 96:]], 1), wanted["y"])


@BOTH
@pytest.mark.parametrize("value", [0.0, -0.0, 1e4, -1e4, -3e38, LOWEST, float("-inf")])
def test_argmax_of_equal_groups_is_of_the_first(device_with, subgroups, value):
    parts = {
        "largest": torch.full((2, 70), value),
        "index": torch.arange(7, 147, dtype=torch.int32).view(2, 70),
    }
    found = run_kernel(wgsl_kernels.get("argmax_reduce"), parts, device=device_with(subgroups))["best"]
    assert found.tolist() == [7, 77]


@BOTH
@pytest.mark.parametrize("name", ["top_k", "top_k_reduce"])
def test_the_largest_of_many_ties_come_in_order(device_with, subgroups, name):
    """Of equals the first come first, whether they lie in one group, in neighbours or far apart."""
    rows = torch.randint(0, 4, (3, 1000), generator=torch.Generator().manual_seed(1)).float()
    rows[1] = 0.0
    rows[2] = -3e38
    rows[2, [999, 31, 32, 500]] = torch.tensor([1.0, 1.0, 2.0, -2e38])
    arguments = {"x": rows, "k": 64}
    if name == "top_k_reduce":
        largest, index = largest_of(rows, 32)
        arguments |= {"largest": largest, "index": index, "group": 32}
    found = run_kernel(wgsl_kernels.get(name), arguments, device=device_with(subgroups))
    expected = [sorted(range(1000), key=lambda i, row=row: (-row[i], i))[:64] for row in rows.tolist()]
    assert found["indices"].tolist() == expected
    assert torch.equal(found["values"], rows.gather(1, torch.tensor(expected)))


@BOTH
@pytest.mark.parametrize("low", [-3e38, LOWEST])
def test_masked_logits(device_with, subgroups, low):
    """What a mask wrote has probability 0; a row of nothing else is uniform, as for torch."""
    x = torch.full((3, 130), low)
    x[0, [0, 129]] = torch.tensor([1.0, 2.0])
    x[1, 64] = -1e4
    device = device_with(subgroups)
    y = run_kernel(wgsl_kernels.get("softmax"), {"x": x}, device=device)["y"]
    assert torch.allclose(y, x.softmax(-1), atol=1e-6, rtol=1e-5)
    targets = torch.tensor([129, 64, 3], dtype=torch.int32)
    kernel = wgsl_kernels.get("target_log_likelihood")
    y = run_kernel(kernel, {"x": x, "targets": targets}, device=device)["y"]
    expected = x.double().log_softmax(-1).gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(y.double(), expected, atol=1e-5)


@BOTH
def test_softmax_of_large_logits(check, subgroups):
    x = torch.tensor([[1e4, -1e4, 1e4, 0.0], [-1e4, -1e4, -1e4, -1e4], [88.0, 89.0, 90.0, -90.0]])
    y = check("softmax", {"x": x}, subgroups=subgroups)["y"]
    assert torch.equal(y[0], torch.tensor([0.5, 0.0, 0.5, 0.0]))
    assert torch.equal(y[1], torch.full((4,), 0.25))


def lanes(words: torch.Tensor) -> list[list[int]]:
    return comparable(wgsl_kernels.get("quantize_activations[a8]"), "quants", words).int().tolist()


def test_quantized_zeros_are_zero(check):
    x = torch.zeros(2, 64)
    x[0, :32] = -0.0
    x[1, 40] = 1e-20  # a block whose largest number is tiny
    out = check("quantize_activations[a8]", {"x": x, "block": 32, "static_scale": 0.0})
    assert out["scales"][0].tolist() == [0.0, 0.0]
    assert lanes(out["quants"])[0] == [0] * 64
    assert lanes(out["quants"])[1][40] == 127


def test_quantized_large_numbers_reach_127(check):
    x = torch.linspace(-1e4, 1e4, 128).view(1, 128)
    out = check("quantize_activations[a8]", {"x": x, "block": 128, "static_scale": 0.0})
    assert lanes(out["quants"])[0][0] == -127 and lanes(out["quants"])[0][-1] == 127
    x = torch.tensor([[3e37, -3e37, 1e37, 0.0]])  # WGSL promises nothing of divisors beyond 2^126, 8.5e37
    out = check("quantize_activations[a8]", {"x": x, "block": 4, "static_scale": 0.0})
    assert lanes(out["quants"]) == [[127, -127, 42, 0]]


def test_a_static_scale_clamps_and_rounds_halves_to_even(check):
    x = row(0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, -127.5, 1e4, -1e4, 0.0)
    out = check("quantize_activations[a8]", {"x": x, "block": 4, "static_scale": 1.0})
    assert lanes(out["quants"]) == [[0, 2, 2, 0, -2, -2, 126, 127, -127, 127, -127, 0]]


@BOTH
def test_attention_with_large_scores_and_equal_keys(check, subgroups):
    kernel = wgsl_kernels.get("attention")
    arguments = kernel.inputs(seed=3, tokens=3, heads=2, kv_heads=1, head_dim=8, position=70, capacity=100)
    arguments["kv"][:, 0] = 1.0  # equal keys: a plain mean of the values
    y = check("attention", arguments, subgroups=subgroups)["y"]
    mean = arguments["kv"][1, 1, 0, :71].mean(0)
    assert torch.allclose(y[0], mean.repeat(2), atol=1e-5)
    arguments["q"] = torch.full_like(arguments["q"], 100.0)
    arguments["kv"][:, 0] = -100.0
    arguments["kv"][1, 0, 0, 7] = 100.0  # one key takes everything
    y = check("attention", arguments, subgroups=subgroups)["y"]
    assert torch.allclose(y[2], arguments["kv"][1, 1, 0, 7].repeat(2), atol=1e-5)


def test_linear_with_extreme_quants(check):
    """Every q and z at its limits, where unpacking and signs would show."""
    for fmt, word, low, high in (("int8", 0x7F80017F, -128, 127), ("int4", 0x0F1E2D3C, 0, 15)):
        words = torch.tensor([[word] * (8 if fmt == "int8" else 4)] * 2, dtype=torch.int32)
        arguments = {
            "x": torch.linspace(-1, 1, 32).view(1, 32),
            "quants": words,
            "scales": torch.tensor([[0.5], [65504.0]], dtype=torch.float16),
            "zeros": torch.tensor([[low], [high]], dtype=torch.int8),
            "block": 32,
            "scale_stride": 1,
            "zero_unit": 1.0,
        }
        check(f"linear[{fmt}]", arguments)


@pytest.mark.parametrize("valid", [0, 1, 3, 99])
def test_kv_append_stops_at_the_end_of_the_cache_and_at_the_valid_tokens(device_with, valid):
    """A write past the capacity would land in the next head."""
    kernel = wgsl_kernels.get("kv_append")
    arguments = kernel.inputs(tokens=5, kv_heads=2, capacity=16, position=13, valid=valid)
    arguments["kv"] = torch.full_like(arguments["kv"], 7.0)
    kv = run_kernel(kernel, arguments, device=device_with(False))["kv"]
    count = min(valid, 3)
    assert torch.equal(kv, kernel.run_reference(arguments)["kv"])
    assert int((kv != 7.0).any(-1).sum()) == 2 * 2 * count


@pytest.mark.parametrize("name", ["kv_append[kv8]", "kv_append_rows[kv8]"])
@pytest.mark.parametrize("valid", [0, 1, 3, 99])
def test_kv8_append_stops_at_the_end_of_the_cache_and_at_the_valid_tokens(check, name, valid):
    arguments = wgsl_kernels.get(name).inputs(
        tokens=5, kv_heads=2, head_dim=24, capacity=16, position=13, valid=valid
    )
    before = arguments["kv_scales"] = torch.full_like(arguments["kv_scales"], 7.0)
    after = check(name, arguments)
    assert int((after["kv_scales"] != before).sum()) == 2 * 2 * min(valid, 3)
    assert int((after["kv"] != arguments["kv"]).any(-1).sum()) == 2 * 2 * min(valid, 3)


@BOTH
def test_kv8_append_of_zeros_large_numbers_and_halves(check, subgroups):
    """Heads of 8, one a row: all zeros, the range of f16 and beyond, numbers halfway between two quants."""
    k = torch.zeros(4, 8)
    k[1] = row(65504.0, -65504.0, 1.0, 0.0, 32752.0, -0.0, 600.0, -600.0)
    k[2] = row(127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5)
    k[3] = row(1e30, -1e30, 5e29, 1e20, 0.0, 1e28, -1e28, 0.0)
    arguments = wgsl_kernels.get("kv_append[kv8]").inputs(
        tokens=4, kv_heads=1, head_dim=8, capacity=9, position=4
    )
    arguments |= {"k": k, "v": -k}
    after = check("kv_append[kv8]", arguments, subgroups=subgroups)
    quants = after["kv"][1].contiguous().view(torch.int8)[:, 0, 4:8]
    assert quants[0, 0].tolist() == [0] * 16 and after["kv_scales"][1, 0, 0, 4] == 0
    assert quants[0, 1].tolist() == [127, -127, 0, 0, 64, 0, 1, -1] + [0] * 8
    assert quants[0, 2].tolist() == [127, 0, 2, 2, 0, -2, -2, 126] + [0] * 8
    assert quants[0, 3].tolist() == [127, -127, 64, 0, 0, 1, -1, 0] + [0] * 8
    assert torch.equal(quants[1], -quants[0])


@BOTH
@pytest.mark.parametrize("tokens", [1, 9])
def test_attention_kv8_does_not_see_what_lies_behind(check, subgroups, tokens):
    """What another sequence left after the last position, be it without a number, changes nothing."""
    kernel = wgsl_kernels.get("attention[kv8]")
    arguments = kernel.inputs(
        seed=4, tokens=tokens, heads=2, kv_heads=1, head_dim=24, position=40, capacity=100
    )
    expected = check("attention[kv8]", arguments, subgroups=subgroups)["y"]
    arguments["kv_scales"][:, :, :, 40 + tokens :] = float("inf")
    arguments["kv"][:, :, :, 40 + tokens :] = 0x7F7F7F7F
    assert torch.equal(check("attention[kv8]", arguments, subgroups=subgroups)["y"], expected)
