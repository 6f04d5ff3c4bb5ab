"""What calibration records of the inputs of linear layers: second moments, mean magnitudes, some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from workbench.convert.decoder import Decoder, Routed, Weights
from workbench.known import known

#: Tokens that run through a layer at a time.
BATCH_TOKENS = 4096
#: Rows of inputs that are kept of each group, for methods that measure a layer's output.
SAMPLES = 512
#: Tokens that have to go to an expert for moments of its own.
LEAST_TOKENS = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the inputs x [K] of a group of linear layers over all calibration tokens.

    hessian     E[x x^T], f32 [K, K] (half the Hessian of the layer's mean squared output error)
    mean_abs    E|x|, f32 [K]
    samples     rows of x, f32 [<= SAMPLES, K]
    tokens      how many there were
    experts     where experts read these inputs, those of the tokens that went to each, times their scores; of one that
                fewer than `LEAST_TOKENS` went to, those of all
    """

    hessian: torch.Tensor
    mean_abs: torch.Tensor
    samples: torch.Tensor
    tokens: int = 0
    experts: tuple[ExpertMoments, ...] = ()

    def divided(self, scales: torch.Tensor) -> Moments:
        """Those of x / scales; scales [K] > 0."""
        return Moments(
            self.hessian / scales[:, None] / scales[None], self.mean_abs / scales, self.samples / scales
        )

    def with_lookup(self) -> Moments:
        """Of a matrix whose rows are also looked up: there an error meets no input but counts as it is, like
        inputs of moment I. Both uses count alike: I is scaled to the trace of the Hessian.
        """
        size = self.hessian.diagonal().mean()
        one = torch.eye(len(self.hessian), device=self.hessian.device)
        return Moments(
            self.hessian + size * one,
            self.mean_abs + size.sqrt(),
            torch.cat([self.samples, (size * len(self.samples)).sqrt() * one]),
        )


class ExpertMoments(NamedTuple):
    """of: the moments that an expert is quantized with; tokens: that went to it; own: whether these are theirs."""

    of: Moments
    tokens: int
    own: bool


class _Sums:
    """Adds up moments."""

    def __init__(self, columns: int, chosen: torch.Tensor, device: str | torch.device):
        """chosen: ascending indices of the tokens that are kept as samples."""
        self._squares = torch.zeros(columns, columns, device=device)
        self._magnitudes = torch.zeros(columns, dtype=torch.float64, device=device)
        self._samples: list[torch.Tensor] = []
        self._chosen, self._seen = chosen, 0

    def add(self, x: torch.Tensor) -> None:
        """The next tokens, x [..., K]."""
        x = x.reshape(-1, x.shape[-1])
        self._squares.addmm_(x.T, x)
        self._magnitudes += x.abs().sum(0, dtype=torch.float64)
        here = self._chosen[(self._chosen >= self._seen) & (self._chosen < self._seen + len(x))] - self._seen
        self._samples.append(x[here.to(x.device)])
        self._seen += len(x)

    @property
    def tokens(self) -> int:
        return self._seen

    def moments(self) -> Moments:
        """Of all tokens so far, once; at least one."""
        self._squares /= self._seen
        mean_abs = (self._magnitudes / self._seen).float()
        return Moments(self._squares, mean_abs, torch.cat(self._samples), self._seen)


class _Reads:
    """Adds up the moments of one activation: of all tokens, and of those that went to each expert that reads it."""

    def __init__(self, tokens: int, seed: int, device: str | torch.device) -> None:
        self._tokens, self._seed, self._device = tokens, seed, device
        self._all: _Sums | None = None
        self._experts: list[_Sums] = []
        self._linear = False  # whether linear layers read it, such as the router does in front of experts

    def add(self, x: torch.Tensor, routed: Routed | None) -> None:
        """The next tokens, as a `Tap` is given them."""
        if routed is None:
            self._linear = True
            self._to_all(x, 1)
            return
        chosen, ids = routed.chosen.shape[-1], routed.chosen.reshape(-1)
        inputs = 1 if self._linear else chosen  # of a token
        columns = x.shape[-1] // inputs
        rows = x.reshape(-1, inputs, columns).expand(-1, chosen, columns).reshape(-1, columns)
        if not self._linear:
            self._to_all(rows, chosen)
        if routed.scores is not None:
            rows = rows * routed.scores.reshape(-1, 1)
        if not self._experts:
            first = torch.arange(SAMPLES)
            self._experts = [_Sums(columns, first, self._device) for _ in range(routed.experts)]
        for expert, sums in enumerate(self._experts):
            if (here := ids == expert).any():
                sums.add(rows[here])

    def _to_all(self, x: torch.Tensor, rows: int) -> None:
        """rows: of each token."""
        if self._all is None:
            chosen = sample_indices(rows * self._tokens, self._seed)
            self._all = _Sums(x.shape[-1], chosen, self._device)
        self._all.add(x)

    def moments(self) -> Moments:
        together = known(self._all).moments()
        own = [sums.tokens >= LEAST_TOKENS for sums in self._experts]
        return replace(
            together,
            experts=tuple(
                ExpertMoments(sums.moments() if enough else together, sums.tokens, enough)
                for sums, enough in zip(self._experts, own, strict=True)
            ),
        )


def batches(hidden: torch.Tensor) -> Iterator[slice]:
    """Windows of hidden [n, T, ...] that are run together: about `BATCH_TOKENS` tokens, at least one window."""
    step = max(1, BATCH_TOKENS // hidden.shape[1])
    for start in range(0, len(hidden), step):
        yield slice(start, min(len(hidden), start + step))


def run_layer(
    decoder: Decoder,
    index: int,
    weights: Weights,
    hidden: torch.Tensor,
    device: str | torch.device,
    into=None,
) -> torch.Tensor:
    """hidden [n, T, hidden_size] on the CPU through a layer, batch by batch; `into` may be `hidden` itself."""
    into = torch.empty_like(hidden) if into is None else into
    with torch.no_grad():
        for part in batches(hidden):
            into[part] = decoder.layer(index, weights, hidden[part].to(device)).cpu()
    return into


def sample_indices(tokens: int, seed: int) -> torch.Tensor:
    """Which of so many tokens are kept as samples, ascending."""
    drawn = np.random.default_rng(seed).permutation(tokens)[:SAMPLES]
    return torch.from_numpy(np.sort(drawn))


def capture(
    decoder: Decoder,
    index: int,
    weights: Weights,
    hidden: torch.Tensor,
    device: str | torch.device,
    seed: int,
) -> dict[str, Moments]:
    """The moments of everything that linear layers of a decoder layer read, by its name in the plan; the layer is given
    `hidden` [n, T, hidden_size]."""
    found: dict[str, _Reads] = {}
    tokens = hidden.shape[0] * hidden.shape[1]

    def tap(read: str, x: torch.Tensor, routed: Routed | None) -> None:
        found.setdefault(read, _Reads(tokens, seed, device)).add(x, routed)

    with torch.no_grad():
        for part in batches(hidden):
            decoder.layer(index, weights, hidden[part].to(device), tap)
    return {read: reads.moments() for read, reads in found.items()}


def capture_rows(
    rows: Callable[[slice], torch.Tensor], hidden: torch.Tensor, columns: int, device, seed: int
) -> Moments:
    """The moments of one linear layer: `rows(part)` gives x [n, T, columns] of some windows of `hidden`."""
    found = _Sums(columns, sample_indices(hidden.shape[0] * hidden.shape[1], seed), device)
    with torch.no_grad():
        for part in batches(hidden):
            found.add(rows(part))
    return found.moments()
