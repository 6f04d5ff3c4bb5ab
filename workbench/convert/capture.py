"""What calibration records of the inputs of linear layers: second moments, mean magnitudes, some rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from workbench.convert.decoder import Decoder, Weights

#: Tokens that run through a layer at a time.
BATCH_TOKENS = 4096
#: Rows of inputs that are kept of each group, for methods that measure a layer's output.
SAMPLES = 512


@dataclass(frozen=True, eq=False)
class Moments:
    """Of the inputs x [K] of a group of linear layers over all calibration tokens.

    hessian     E[x x^T], f32 [K, K] (half the Hessian of the layer's mean squared output error)
    mean_abs    E|x|, f32 [K]
    samples     rows of x, f32 [<= SAMPLES, K]
    """

    hessian: torch.Tensor
    mean_abs: torch.Tensor
    samples: torch.Tensor

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

    def moments(self) -> Moments:
        self._squares /= self._seen
        return Moments(self._squares, (self._magnitudes / self._seen).float(), torch.cat(self._samples))


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
    found: dict[str, _Sums] = {}
    chosen = sample_indices(hidden.shape[0] * hidden.shape[1], seed)

    def tap(read: str, x: torch.Tensor) -> None:
        if read not in found:
            found[read] = _Sums(x.shape[-1], chosen, device)
        found[read].add(x)

    with torch.no_grad():
        for part in batches(hidden):
            decoder.layer(index, weights, hidden[part].to(device), tap)
    return {read: sums.moments() for read, sums in found.items()}


def capture_rows(
    rows: Callable[[slice], torch.Tensor], hidden: torch.Tensor, columns: int, device, seed: int
) -> Moments:
    """The moments of one linear layer: `rows(part)` gives x [n, T, columns] of some windows of `hidden`."""
    found = _Sums(columns, sample_indices(hidden.shape[0] * hidden.shape[1], seed), device)
    with torch.no_grad():
        for part in batches(hidden):
            found.add(rows(part))
    return found.moments()
