"""Sums over a vocabulary of the size of real ones: log-likelihoods without bias, divergences to a millionth."""

from __future__ import annotations

import pytest
import torch

import wgsl_kernels
from wgsl_kernels import Adapter, Context
from workbench.runtime.launch import run_kernel

BOTH = pytest.mark.parametrize("subgroups", [True, False], ids=["subgroups", "tree"])
WIDTHS = pytest.mark.parametrize("width", [49_152, 128_256])
ROWS = 48


def logits(kind: str, width: int) -> torch.Tensor:
    """Rows as models give them: normal; by rank, as words are; one token that takes most, and a tail of all others."""
    generator = torch.Generator().manual_seed(width)
    x = torch.randn((ROWS, width), generator=generator)
    if kind == "normal":
        return 4 * x
    if kind == "ranked":
        return 2 * x - 1.2 * torch.arange(1, width + 1).log() + 12
    x = 0.5 * x
    x[:, 7] = x.logsumexp(-1) + torch.linspace(-2, 6, ROWS)
    return x


def targets(x: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.multinomial(x.softmax(-1), 1, generator=generator)[:, 0].to(torch.int32)


@BOTH
@WIDTHS
@pytest.mark.parametrize("kind", ["normal", "ranked", "one of all"])
def test_log_likelihoods_are_unbiased(device_with, kind, width, subgroups):
    """Plain sums in f32 are 4e-6 to 3e-5 off here, always to one side."""
    x = logits(kind, width)
    arguments = {"x": x, "targets": targets(x)}
    kernel = wgsl_kernels.get("target_log_likelihood")
    oracle = x.double().log_softmax(-1).gather(-1, arguments["targets"].long().unsqueeze(-1)).squeeze(-1)
    error = run_kernel(kernel, arguments, device=device_with(subgroups))["y"].double() - oracle
    assert abs(error.mean()) < 1e-7 and error.square().mean().sqrt() < 1e-6
    assert torch.allclose(kernel.run_reference(arguments)["y"], oracle, rtol=1e-12, atol=1e-12)


@WIDTHS
@pytest.mark.parametrize("apart", [1e-2, 0.5, 3.0])
def test_divergences_to_a_millionth(device_with, width, apart):
    """KL of 4e-5 to 4, with another constant in one of the rows, which no probability knows."""
    baseline = logits("ranked", width)
    x = baseline + 0.7 + apart * torch.randn(baseline.shape, generator=torch.Generator().manual_seed(1))
    arguments = {"x": x, "baseline": baseline, "targets": targets(baseline)}
    kernel = wgsl_kernels.get("divergence")
    expected = kernel.run_reference(arguments)
    found = run_kernel(kernel, arguments, device=device_with(True))
    assert torch.allclose(found["kl"].double(), expected["kl"], rtol=1e-6, atol=0)
    error = found["change"].double() - expected["change"]
    assert abs(error.mean()) < 1e-7 and error.square().mean().sqrt() < 5e-7


@BOTH
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_shows(device_with, value, subgroups):
    """One logit among many must not vanish in a sum; -inf excludes a token."""
    device = device_with(subgroups)
    x = torch.randn((3, 300), generator=torch.Generator().manual_seed(2))
    clean, target = x.clone(), torch.zeros(3, dtype=torch.int32)
    x[1, 299], x[2, 5] = value, float("-inf")
    y = run_kernel("target_log_likelihood", {"x": x, "targets": target}, device=device)["y"]
    assert y.isnan().tolist() == [False, True, False]
    found = run_kernel("divergence", {"x": x, "baseline": clean, "targets": target}, device=device)
    assert found["kl"].isnan().tolist() == [False, True, False] and found["kl"][2].isinf()
    assert found["change"].isnan().tolist() == [False, True, False]
    ids = torch.zeros((3, 1), dtype=torch.int32)
    found = run_kernel("log_probabilities", {"x": x, "ids": ids, "counted": 1}, device=device)
    assert found["y"].isnan().flatten().tolist() == found["beyond"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("divergence", {"tokens": 1, "width": 262_144}),
        ("top_k", {"tokens": 1, "width": 128_256, "k": 256}),
        ("attention", {"tokens": 1, "width": 128, "kv_heads": 1, "head_dim": 128, "capacity": 8192}),
    ],
)
def test_loops_that_a_software_adapter_cuts_off_are_not_begun(name, sizes):
    """Mesa's ends all loops of an invocation after 65,535 turns. More threads turn less often each."""
    kernel = wgsl_kernels.get(name)
    variant = next(iter(kernel.variants))
    cpu = Adapter(subgroups=True, subgroup_size=8, is_cpu=True)
    chosen = kernel.specialise(variant, sizes, {}, cpu)
    assert chosen["workgroup"] > 8 and kernel.variants[variant].refuse(chosen) is None
    eight = kernel.specialise(variant, sizes, {}, cpu, {"workgroup": 8})
    assert "cuts off" in kernel.variants[variant].refuse(eight)
    gpu = Context(eight.sizes, {}, Adapter(subgroups=True, subgroup_size=32))
    assert kernel.variants[variant].refuse(gpu) is None
    small = {name: min(n, 128) for name, n in sizes.items()}
    assert kernel.specialise(variant, small, {}, cpu)["workgroup"] == 8


def test_a_wide_row_is_whole_on_this_adapter(device_with):
    kernel = wgsl_kernels.get("divergence")
    arguments = kernel.inputs(seed=1, tokens=2, width=262_144)
    found = run_kernel(kernel, arguments, device=device_with(True))
    assert torch.allclose(found["kl"].double(), kernel.run_reference(arguments)["kl"], rtol=1e-6, atol=0)
    kernel = wgsl_kernels.get("attention")
    arguments = kernel.inputs(
        tokens=1, heads=1, kv_heads=1, head_dim=128, capacity=8192, position=8191, sequences=1, sequence=0
    )
    y = run_kernel(kernel, arguments, device=device_with(True))["y"]
    assert torch.allclose(y, kernel.run_reference(arguments)["y"], rtol=1e-4, atol=1e-5)
