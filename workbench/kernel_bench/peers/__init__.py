"""Other people's kernels for the same linear layers, timed in the same rounds: PyTorch and onnxruntime's WebGPU.

A peer is told the layer (`Layer`: the same activations and weights) and offers candidates, each of which either opens,
gives the layer's numbers and is timed, or has a status that says why not. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch

from wgsl_kernels.judge import judge
from workbench.errors import WorkbenchError
from workbench.runtime.rounds import Candidate
from workbench.runtime.timing import Timing

from ..child import ChildTimeoutError
from ..comparison import (
    PASSED,
    RUNTIME_ERROR,
    TIMED_OUT,
    UNSUPPORTED,
    WRONG_NUMBERS,
    WRONG_SHAPE,
    VariantResult,
)
from .layer import Layer

#: Name -> module; each has `offers(layer, software) -> Iterator[Offer]`.
PEERS = {"torch": "torch_peer", "onnxruntime": "onnxruntime_peer"}
#: Peers round activations and scales as they like (bf16; INT8 activations give about 40 dB): below this a peer does
#: not compute this layer.
LEAST_SQNR = 25.0


class PeerUnsupportedError(Exception):
    """Why a peer cannot compute a layer here."""


class PeerCandidate(Candidate):
    """calls, clock: of one sample, as in `Timing`. bytes: that one call reads and writes at least. detail: how it was
    run, for the record."""

    calls: int
    clock: str
    bytes: float
    detail: str

    def result(self) -> torch.Tensor:
        """What it computes, [tokens, rows]."""
        raise NotImplementedError

    def close(self) -> None:
        """Give its memory back."""


@dataclass(frozen=True)
class Offer:
    """A candidate by name, opened when it is its turn; `open` raises what keeps it from working."""

    name: str
    open: Callable[[], PeerCandidate]


class Guarded:
    """A candidate whose errors while it is timed end its own figures, not the others'; `error` has the first."""

    def __init__(self, candidate: PeerCandidate):
        self._candidate, self.error = candidate, None
        self.span, self.warm = candidate.span, candidate.warm
        self.calls, self.clock = candidate.calls, candidate.clock

    def busy(self, seconds: float) -> None:
        self._guard(lambda: self._candidate.busy(seconds))

    def sample(self) -> float:
        found = self._guard(self._candidate.sample)
        return math.nan if found is None else found

    def _guard(self, call: Callable[[], float | None]) -> float | None:
        if self.error is None:
            try:
                return call()
            except Exception as error:
                self.error = error
        return None

    def finished(self, result: VariantResult, timing: Timing | None) -> VariantResult:
        """The result with its timing, or with the status that its error means."""
        if self.error is None:
            return replace(result, timing=timing)
        status = TIMED_OUT if isinstance(self.error, ChildTimeoutError) else RUNTIME_ERROR
        return _failed(result, status, told(self.error))


def check_names(names: Sequence[str]) -> None:
    """Raises WorkbenchError for an unknown peer."""
    if unknown := [name for name in names if name not in PEERS]:
        raise WorkbenchError(f"no peer is named {unknown[0]!r}; there are {', '.join(PEERS)}")


def open_peers(
    names: Sequence[str], layer: Layer | None, kernel: str, software: bool, stack: ExitStack
) -> list[tuple[VariantResult, Guarded | None]]:
    """Results and, for those that passed, what is to be timed; `stack` closes it.

    layer: None where the kernel is no linear layer. software: the adapter is one, so keep the work small.
    """
    found = []
    for name in names:
        if layer is None:
            reason = f"{kernel} is not a linear layer of one weight; {name} has no kernel for it here"
            found.append((VariantResult(name, UNSUPPORTED, detail=reason), None))
            continue
        for offer in _offers(name, layer, software):
            found.append(_open(offer, layer, stack))
    return found


def _offers(name: str, layer: Layer, software: bool) -> Iterator[Offer]:
    try:
        module = importlib.import_module(f"{__name__}.{PEERS[name]}")
        yield from module.offers(layer, software)
    except Exception as error:  # whatever a foreign package raises at import belongs in the record

        def fails(reason=error):
            raise PeerUnsupportedError(told(reason))

        yield Offer(name, fails)


def _open(offer: Offer, layer: Layer, stack: ExitStack) -> tuple[VariantResult, Guarded | None]:
    """Open one candidate and compare its numbers with the reference; whatever is raised becomes its status."""
    result = VariantResult(offer.name, UNSUPPORTED, flops=2.0 * layer.tokens * layer.rows * layer.columns)
    try:
        candidate = offer.open()
    except Exception as error:
        status = TIMED_OUT if isinstance(error, ChildTimeoutError) else UNSUPPORTED
        return _failed(result, status, told(error)), None
    stack.callback(candidate.close)
    result = replace(result, detail=candidate.detail, bytes=float(candidate.bytes))
    try:
        got = candidate.result().double().cpu()
    except Exception as error:
        return _failed(result, RUNTIME_ERROR, told(error)), None
    if got.shape != layer.expected.shape:
        wrong = f"y is {tuple(got.shape)} where the reference gives {tuple(layer.expected.shape)}"
        return _failed(result, WRONG_SHAPE, wrong), None
    # The bound of an element is eight times the RMS error that `LEAST_SQNR` allows.
    rms = float(layer.expected.square().mean().sqrt()) * 10 ** (-LEAST_SQNR / 20)
    errors = judge("y", got, layer.expected, torch.full((1,), 8 * rms, dtype=torch.float64))
    result = replace(result, errors=(errors,))
    if not errors.sqnr >= LEAST_SQNR:
        return _failed(result, WRONG_NUMBERS, f"SQNR {errors.sqnr:.1f} dB, less than {LEAST_SQNR:g}"), None
    return replace(result, status=PASSED), Guarded(candidate)


def _failed(result: VariantResult, status: str, reason: str) -> VariantResult:
    return replace(result, status=status, detail=f"{result.detail}; {reason}" if result.detail else reason)


def told(error: Exception) -> str:
    """An exception as the record shows it."""
    if isinstance(error, PeerUnsupportedError):
        return str(error)
    return f"{type(error).__name__}: {error}".strip()
