"""Judging what a kernel wrote by its reference, which is computed in f64 from the same stored values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from .numerics import EPS16
from .pair import Kernel
from .weights import unpack

#: Half a step between f16 numbers near zero.
TINY16 = 2.0**-25
#: So many elements that are off are listed.
SHOWN = 5
#: Errors over their bounds are counted between these, four bins a decade.
RATIO_EDGES = tuple(10.0 ** (exponent / 4) for exponent in range(-16, 17))


def doubles(arguments: Mapping) -> dict:
    """The same arguments with floating-point tensors in f64, which holds their stored values exactly."""
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.dtype.is_floating_point else value
        for name, value in arguments.items()
    }


class Expectation:
    """What the reference gives for a call, in f64 before rounding of the outputs, and how far off a variant may be."""

    def __init__(self, kernel: Kernel, arguments: Mapping) -> None:
        self.values = kernel.run_reference(doubles(arguments))
        self._kernel, self._arguments = kernel, arguments
        self._bounds: dict[Callable, dict[str, torch.Tensor]] = {}

    def of(self, variant: str | None = None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Output -> (expected numbers, bound of the absolute error), both f64; without a name, of f32 arithmetic."""
        tolerance = (self._kernel.variants[variant].tolerance if variant else None) or self._kernel.tolerance
        if tolerance not in self._bounds:
            self._bounds[tolerance] = tolerance(self._arguments, self.values)
        bounds = self._bounds[tolerance]
        return {
            name: (comparable(self._kernel, name, value), bounds[name].double())
            for name, value in self.values.items()
        }


def expectation(
    kernel: Kernel, arguments: Mapping, variant: str | None = None
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """`Expectation.of` for one call of one variant."""
    return Expectation(kernel, arguments).of(variant)


def comparable(kernel: Kernel, output: str, tensor: torch.Tensor) -> torch.Tensor:
    """An output as f64 numbers; packed quants become one number each."""
    bits = kernel.writes[output].packed
    return (unpack(tensor, bits) if bits else tensor).double()


def widen(expected: torch.Tensor, bound: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The bound with the rounding of an output to `dtype` added."""
    if dtype != torch.float16:
        return bound
    return bound + EPS16 * (expected.abs() + bound) + TINY16


@dataclass(frozen=True)
class Mismatch:
    """One element whose error exceeds its bound."""

    at: tuple[int, ...]
    got: float
    expected: float
    bound: float

    def __str__(self) -> str:
        return f"{self.at}: got {self.got:.9g}, expected {self.expected:.9g}, bound {self.bound:.3g}"


@dataclass(frozen=True)
class Errors:
    """Error statistics of one output against the f64 reference.

    off: elements (of `elements`) whose error exceeds its bound, the first of them in `first`. worst: the largest
    ratio of an error to its bound, at most 1 where nothing is off. max_abs, rms: of the error, in the output's own
    unit. sqnr: 10 log10 of the energy of the expected numbers over that of the error, in dB; inf where there is no
    error. A NaN counts as an infinite error. ratios: elements by error over bound: those without an error, those below
    the first of `RATIO_EDGES`, between one and the next (the upper one included), and above the last.
    """

    output: str
    elements: int
    off: int
    max_abs: float
    rms: float
    sqnr: float
    worst: float
    first: tuple[Mismatch, ...]
    ratios: tuple[int, ...] = ()


def judge(output: str, got: torch.Tensor, expected: torch.Tensor, bound: torch.Tensor) -> Errors:
    """Statistics of `got` against `expected`, f64 tensors of one shape; `bound` may broadcast to it."""
    bound = bound.broadcast_to(expected.shape)
    error = (got - expected).abs().nan_to_num(nan=math.inf)
    off = ~(error <= bound)
    # No error is no error, also where none is allowed.
    ratio = torch.where(error == 0, torch.zeros_like(error), error / bound.clamp(min=1e-300))
    noise, signal = float(error.square().sum()), float(expected.square().sum())
    first = [
        Mismatch(at, float(got[at]), float(expected[at]), float(bound[at]))
        for at in map(tuple, off.nonzero()[:SHOWN].tolist())
    ]
    count = error.numel()
    return Errors(
        output=output,
        elements=count,
        off=int(off.sum()),
        max_abs=float(error.max()) if count else 0.0,
        rms=math.sqrt(noise / count) if count else 0.0,
        sqnr=_decibels(signal, noise),
        worst=float(ratio.max()) if count else 0.0,
        first=tuple(first),
        ratios=_counted(ratio),
    )


def _counted(ratio: torch.Tensor) -> tuple[int, ...]:
    edges = torch.tensor(RATIO_EDGES, dtype=ratio.dtype)
    bins = torch.bucketize(ratio.flatten(), edges, out_int32=True)
    below, *others = torch.bincount(bins, minlength=len(RATIO_EDGES) + 1).tolist()
    exact = int((ratio == 0).sum())
    return (exact, below - exact, *others)


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    if signal == 0 or math.isinf(noise):
        return -math.inf
    return 10 * math.log10(signal / noise)
