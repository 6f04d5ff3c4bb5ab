"""What a kernel wrote against its reference, as a message for a failing test."""

from __future__ import annotations

import torch

from wgsl_kernels.judge import comparable, doubles, expectation, judge, widen

__all__ = ["comparable", "doubles", "expectation", "mismatches", "widen"]


def mismatches(got: torch.Tensor, expected: torch.Tensor, bound: torch.Tensor) -> str | None:
    """None if |got - expected| <= bound everywhere; else how many are off, the first, the worst ratio."""
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)} where {tuple(expected.shape)} is expected"
    found = judge("", got, expected, bound)
    if not found.off:
        return None
    return "\n".join(
        [
            f"{found.off} of {found.elements} are off, max error over bound {found.worst:.3g}; first:",
            *(f"    {each}" for each in found.first),
        ]
    )
