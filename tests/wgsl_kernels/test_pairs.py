"""Every variant of every kernel against its PyTorch reference in f64, within the pair's tolerance."""

from __future__ import annotations

import pytest
import torch

import wgsl_kernels
from tests.wgsl_kernels.cases import all_cases
from tests.wgsl_kernels.compare import comparable, expectation, mismatches, widen
from tests.wgsl_kernels.dealing import Case, covering

CASES = all_cases()


def run_case(case: Case, device) -> None:
    """Run a case on a device; fails with everything needed to see what is wrong and to repeat it."""
    kernel = case.pair()
    if case.uses_f16 and not device.adapter.f16:
        pytest.skip(f"{device.name} has no shader-f16")
    reason = kernel.variants[case.variant].refuse(case.context(device.adapter))
    if reason:
        pytest.skip(f"{device.name}: {reason}")
    workload = case.workload()
    arguments = workload.arguments
    wanted = expectation(kernel, arguments, case.variant)
    results = workload.run(device, case.variant, case.tunables)
    for output, (expected, bound) in wanted.items():
        got = comparable(kernel, output, results[output])
        mask = case.written(arguments, got)
        bound = widen(expected, bound.broadcast_to(expected.shape), results[output].dtype)
        problem = mismatches(got[mask], expected[mask], bound[mask])
        if problem:
            problem = mismatches(
                got.masked_fill(~mask, 0), expected.masked_fill(~mask, 0), bound.masked_fill(~mask, 0)
            )
            pytest.fail(f"{case.describe()}\n  {output}: {problem}", pytrace=False)
        touched = int((~got[~mask].isnan()).sum())
        assert touched == 0, f"{case.describe()}\n  {output}: {touched} elements of other parts were written"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_variant_gives_the_numbers_of_the_reference(case, device_with):
    # with what an adapter adds, some products bind more buffers than browsers promise
    run_case(case, device_with(case.subgroups, native=bool(case.options.get("adapters"))))


def test_every_variant_has_a_case_and_every_tunable_one_in_some_form():
    """Forms of an op share their WGSL but for what they load."""
    for name in wgsl_kernels.names():
        kernel = wgsl_kernels.get(name)
        for variant, details in kernel.variants.items():
            assert [c for c in CASES if (c.kernel, c.variant) == (name, variant)], (
                f"{name}/{variant} has no case"
            )
            alike = [c for c in CASES if (c.pair().op, c.variant) == (kernel.op, variant)]
            for tunable, values in details.tunables.items():
                missing = set(values) - {c.tunables.get(tunable) for c in alike}
                assert not missing, f"{name}/{variant}: {tunable} is never {missing}"


def test_dealing_covers_every_value():
    options = {"a": (1, 2, 3), "b": tuple(range(7)), "c": (True, False)}
    dealt = covering("seed", 8, options)
    assert len(dealt) == 8
    for name, values in options.items():
        assert {choice[name] for choice in dealt} == set(values)
    assert dealt == covering("seed", 8, options)
    with pytest.raises(ValueError, match="b has 7 values"):
        covering("seed", 6, options)


def test_a_mismatch_says_what_and_where():
    expected = torch.arange(12.0, dtype=torch.float64).view(3, 4)
    got = expected.clone()
    assert mismatches(got, expected, torch.zeros(3, 4)) is None
    got[1, 2] += 0.5
    got[2, 0] = float("nan")
    message = mismatches(got, expected, torch.full((3, 4), 0.25))
    assert message.startswith("2 of 12 are off, max error over bound inf")
    assert "(1, 2): got 6.5, expected 6, bound 0.25" in message
    assert "(2, 0): got nan" in message
    assert "shape" in mismatches(got[:2], expected, torch.zeros(3, 4))
