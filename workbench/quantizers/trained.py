"""Training of q, scales and zero-points of one decoder layer: what makes 2 bits usable.

Weight by weight methods answer for W x; here the output of the whole layer on calibration tokens is brought
back to what it should be. As in block-wise quantization-aware training (EfficientQAT, Chen et al. 2024) and
learned rounding (AutoRound, Cheng et al. 2023), gradients pass straight through the rounding:

    q = clamp(rint(u)),   s = f16(s0 * exp(a)),   W_q = s * (q - z)
    minimise  mean (layer(W_q, x) - target)^2   over u (a number a weight), a and z (one a block)

- u is in units of q and starts at w / s + z, moved next to the q of the initial quantization where that went
  elsewhere: training begins exactly there, be it GPTQ's. It is kept where q is in range, so that no weight
  is stuck beyond the last level.
- z moves only where zero-points have a fraction: an integer one would jump by a whole level.
- Adam, learning rate falling to 0 as a cosine; scales move a tenth as fast as weights, relative to a level.

Whether a step was progress shows only on the stored form, over all inputs: the loss of the initial
quantization and of a few moments of the training are measured so, and the best of them is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from workbench.dtypes import NUMPY
from workbench.formats.spec import WeightFormat
from workbench.quantizers.blocks import (
    LARGEST_SCALE,
    SMALLEST_SCALE,
    Quantized,
    checked_weights,
    in_blocks,
    stored_zero,
)

if TYPE_CHECKING:
    import torch

    Forward = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]

LEARNING_RATE = 0.01
# Learning rate of log scales and of fractional zero-points, relative to that of u.
SCALE_RATE = 0.1
LOOKS = 4
# u stays this far from where q would change, or leave its range.
MARGIN = 1e-3


class Trainable:
    """One matrix in training: `dequantized` in a graph, `quantized` as it would be stored."""

    def __init__(self, weights: np.ndarray, format: WeightFormat, initial: Quantized, device: str) -> None:
        import torch

        weights = checked_weights(weights, format)
        self.format, (self.rows, self.columns) = format, weights.shape
        self.kind = initial.q.dtype
        scales = initial.scales.astype(np.float32)
        if initial.zeros is None:
            zeros = np.full_like(scales, format.implied_zero)
        else:
            zeros = initial.zeros.astype(np.float32) / np.float32(2**format.zero_frac_bits)
        self.s0 = torch.tensor(scales, device=device)[:, :, None]
        q = torch.tensor(initial.q.astype(np.float32), device=device)
        q = q.reshape(self.rows, format.blocks(self.columns), -1)
        z = torch.tensor(zeros, device=device)[:, :, None]
        u = torch.tensor(in_blocks(weights, format), device=device) / self.s0 + z
        reach = 0.5 - MARGIN
        self.u = torch.minimum(torch.maximum(u, q - reach), q + reach).requires_grad_()
        self.a = torch.zeros_like(self.s0, requires_grad=True)
        self.z = z.clone().requires_grad_(format.zero_frac_bits > 0)

    def groups(self, learning_rate: float) -> list[dict]:
        """For the optimiser: what is trained, how fast."""
        slow = [each for each in (self.a, self.z) if each.requires_grad]
        return [
            {"params": [self.u], "lr": learning_rate},
            {"params": slow, "lr": SCALE_RATE * learning_rate},
        ]

    def _rounded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q, s and z as they would be stored."""
        import torch

        format, unit = self.format, 2**self.format.zero_frac_bits
        with torch.no_grad():
            q = self.u.round().clamp_(*format.q_range)
            kind = format.scale_dtype
            s = (self.s0 * self.a.exp()).clamp_(float(SMALLEST_SCALE[kind]), float(LARGEST_SCALE[kind]))
            if kind == "f16":
                s = s.half().float()
            z = (self.z * unit).round().clamp_(*format.zero_range) / unit if self.z.requires_grad else self.z
        return q, s, z

    def dequantized(self) -> torch.Tensor:
        """W_q [rows, columns] of the stored form, with the gradients of the unrounded one."""
        q, s, z = self._rounded()
        real = self.s0 * self.a.exp()
        s = s + (real - real.detach())
        q = q + (self.u - self.u.detach())
        z = z + (self.z - self.z.detach())
        return (s * (q - z)).reshape(self.rows, -1)[:, : self.columns]

    def keep_in_range(self) -> None:
        """To be called after every step."""
        import torch

        low, high = self.format.q_range
        with torch.no_grad():
            self.u.clamp_(low - 0.5 + MARGIN, high + 0.5 - MARGIN)

    def quantized(self) -> Quantized:
        """As it is stored; the padding holds rint(z)."""
        q, s, z = (each.cpu().numpy() for each in self._rounded())
        q, s, z = q.reshape(self.rows, -1), s[:, :, 0], z[:, :, 0]
        q[:, self.columns :] = np.clip(np.rint(z[:, -1:]), *self.format.q_range)
        return Quantized(
            q.astype(self.kind), s.astype(NUMPY[self.format.scale_dtype]), stored_zero(z, self.format)
        )


def train(  # many parameters: what is trained, and the options of the optimiser
    weights: Mapping[str, np.ndarray],
    formats: Mapping[str, WeightFormat],
    forward: Forward,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    initial: Mapping[str, Quantized],
    steps: int = 200,
    batch: int = 8,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> dict[str, Quantized]:
    """Trains the quantization of the matrices of one layer, from `initial` on, to bring forward(W_q, inputs)
    to the targets.

    weights, formats, initial   by name: float matrices [N, K], and how each is quantized at first
    forward         (W_q by name [N, K], x [n, T, hidden]) -> [n, T, hidden]; differentiable
    inputs, targets [n, T, hidden]: what the layer will get, and what it should make of it
    steps, batch    updates, and sequences each; every sequence has its turn before one comes again
    learning_rate   of the first step, in levels of q
    progress        called as progress(step, steps, loss of its batch) after every step

    Deterministic from the seed, as far as `forward` is. The mean squared error over all inputs is never
    larger than that of `initial`. Raises `ValueError` for names or shapes that do not fit and for a loss that
    is not finite.
    """
    import torch

    _check_names(weights, formats, initial)
    if inputs.shape[:2] != targets.shape[:2] or inputs.ndim != 3 or len(inputs) == 0:
        raise ValueError(
            f"inputs {list(inputs.shape)} and targets {list(targets.shape)} must be [n, T, hidden], n > 0"
        )
    if steps < 1 or batch < 1:
        raise ValueError(f"steps = {steps} and batch = {batch} must be at least 1")
    trained = {name: Trainable(weights[name], formats[name], initial[name], device) for name in weights}
    optimiser = torch.optim.Adam(
        [group for each in trained.values() for group in each.groups(learning_rate)], betas=(0.9, 0.95)
    )
    first = [group["lr"] for group in optimiser.param_groups]
    size = float(targets.square().mean(dtype=torch.float64)) or 1.0

    def loss_of(part: torch.Tensor | slice) -> torch.Tensor:
        x, target = inputs[part].to(device), targets[part].to(device)
        made = forward({name: each.dequantized() for name, each in trained.items()}, x)
        return (made - target).square().mean() / size

    def full_loss() -> float:
        with torch.no_grad():
            parts = (slice(start, start + batch) for start in range(0, len(inputs), batch))
            total = sum(float(loss_of(part)) * len(inputs[part]) for part in parts)
        return total / len(inputs)

    best, least = dict(initial), full_loss()
    if not math.isfinite(least):
        raise ValueError(
            f"the loss of the initial quantization is {least}: inputs and targets must be finite"
        )
    order = _turns(len(inputs), batch, seed)
    looks = {-(-steps * (look + 1) // LOOKS) for look in range(LOOKS)}
    for step in range(steps):
        for group, rate in zip(optimiser.param_groups, first, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        loss = loss_of(next(order))
        loss.backward()
        optimiser.step()
        for each in trained.values():
            each.keep_in_range()
        if progress is not None:
            progress(step + 1, steps, float(loss.detach()))
        if step + 1 in looks and (now := full_loss()) < least:
            best, least = {name: each.quantized() for name, each in trained.items()}, now
    return best


def _check_names(weights: Mapping, formats: Mapping, initial: Mapping) -> None:
    if not weights or set(weights) != set(formats) or set(weights) != set(initial):
        raise ValueError(
            f"weights are given for {sorted(weights)}, formats for {sorted(formats)} and initial "
            f"quantizations for {sorted(initial)}: they must be the same names, at least one"
        )


def _turns(count: int, batch: int, seed: int):
    """Indices of batch after batch, without end: shuffled anew each time that all had their turn."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < min(batch, count):
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:batch]
        waiting = waiting[batch:]
