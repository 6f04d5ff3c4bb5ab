"""The weighted squared error of scales and zero-points, measured for many blocks at once.

    error(s, z) = sum h * (s * (q - z) - w)^2,   q = clamp(rint(w / s) + z), or clamp(rint(w / s + z))

Parameters and results are numpy arrays with an entry a block. The weights lie where the work is done: in
numpy arrays on the CPU, which is as fast there as torch, or in tensors of a CUDA device. numpy and torch
share the names of all operations used here, so that the formulas stand here once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.formats.spec import WeightFormat

# Blocks up to this length are laid out block-last, so that inner loops run over many blocks at once.
_SHORT = 1024


@dataclass(frozen=True)
class Sums:
    """Weighted sums of each block's weights w and its c = q - z, float64 [blocks]."""

    wc: np.ndarray
    cc: np.ndarray
    c: np.ndarray
    w: np.ndarray
    one: np.ndarray


def centred(xp: Any, level: Any, z: Any, format: WeightFormat, rounded: Any | None = None) -> Any:
    """c = q - z for the q nearest to level = w / s; arrays or tensors (xp names which) that broadcast.

    rounded: rint(level), if the caller has it already; used where zero-points are integers.
    """
    low, high = format.q_range
    if format.zero_frac_bits:
        c = level + z
        xp.round(c, out=c)
        xp.clip(c, low, high, out=c)
        c -= z
        return c
    # maximum and minimum take a third of the time of clip with array bounds (numpy 2.4).
    c = xp.maximum(xp.round(level) if rounded is None else rounded, low - z)
    return xp.minimum(c, high - z, out=c)


class Blocks:
    """Weights of some blocks with their importance.

    w is [blocks, block] or, for short blocks, its transpose; h likewise, or None where every weight counts 1.
    Both are numpy arrays, or both tensors.
    """

    def __init__(self, w: Any, h: Any | None, format: WeightFormat, last: bool) -> None:
        self.w, self.h, self.format, self.last = w, h, format, last
        if isinstance(w, np.ndarray):
            self.xp: Any = np
        else:
            import torch

            self.xp = torch

    @classmethod
    def make(cls, w: np.ndarray, h: np.ndarray | None, format: WeightFormat, device: str) -> Blocks:
        """Of float32 [blocks, block], and an importance that can be broadcast to it.

        device: "cpu" for numpy, or any that torch names.
        """
        last = w.shape[1] <= _SHORT
        h = None if h is None else np.broadcast_to(h, w.shape)

        def turned(x: np.ndarray) -> Any:
            if device == "cpu":
                return np.ascontiguousarray(x.T) if last else np.asarray(x)
            import torch

            there = torch.tensor(x, device=device)
            return there.T.contiguous() if last else there

        return cls(turned(w), None if h is None else turned(h), format, last)

    def take(self, kept: np.ndarray) -> Blocks:
        """The blocks of a mask [blocks]."""
        if kept.all():
            return self
        chosen, axis = np.flatnonzero(kept), 1 if self.last else 0
        if self.xp is np:
            # x[:, chosen] would leave the blocks first in memory.
            w, h = (None if x is None else np.take(x, chosen, axis) for x in (self.w, self.h))
        else:
            chosen = self.xp.from_numpy(chosen).to(self.w.device)
            w, h = (None if x is None else x.index_select(axis, chosen) for x in (self.w, self.h))
        return Blocks(w, h, self.format, self.last)

    def _spread(self, each: np.ndarray) -> Any:
        """One float32 a block, shaped to meet the weights."""
        if self.xp is not np:
            each = self.xp.from_numpy(each).to(self.w.device)
        return each[None, :] if self.last else each[:, None]

    def _sum(self, left: Any, right: Any | None = None) -> np.ndarray:
        """Sum over each block of left * right, float64 after the sum."""
        if self.xp is not np:
            product = left if right is None else left * right
            return product.sum(0 if self.last else 1).double().cpu().numpy()
        if right is None:
            return left.sum(axis=0 if self.last else 1, dtype=np.float64)
        return np.einsum("kg,kg->g" if self.last else "gk,gk->g", left, right).astype(np.float64)

    def _squares(self, d: Any) -> np.ndarray:
        """Sum of h * d^2; d is lost."""
        if self.h is None:
            return self._sum(d, d)
        d *= d
        return self._sum(d, self.h)

    def _levels(self, s: np.ndarray) -> tuple[Any, Any]:
        """w / s, and the same rounded where zero-points are integers."""
        level = self.w / self._spread(s)
        return level, None if self.format.zero_frac_bits else self.xp.round(level)

    def error(self, s: np.ndarray, zeros: list[np.ndarray]) -> list[np.ndarray]:
        """The error of each block for scales s [blocks] and each of some zero-points [blocks], float64."""
        level, rounded = self._levels(s)
        squared = s.astype(np.float64) ** 2
        errors = []
        for z in zeros:
            d = centred(self.xp, level, self._spread(z), self.format, rounded)
            d -= level
            errors.append(squared * self._squares(d))
        return errors

    def clipped(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """sum h * d^2 of the distance d of each weight from [lower, upper] (each [blocks]), float64."""
        xp = self.xp
        d = xp.maximum(self.w, self._spread(lower))
        d = xp.minimum(d, self._spread(upper), out=d)
        d -= self.w
        return self._squares(d)

    def sums(self, s: np.ndarray, z: np.ndarray) -> Sums:
        """What least squares needs, for the q of (s, z)."""
        level, rounded = self._levels(s)
        c = centred(self.xp, level, self._spread(z), self.format, rounded)
        hc = c if self.h is None else c * self.h
        hw = self.w if self.h is None else self.w * self.h
        one = np.full(len(s), float(self.w.shape[0 if self.last else 1]))
        return Sums(
            wc=self._sum(self.w, hc),
            cc=self._sum(c, hc),
            c=self._sum(hc),
            w=self._sum(hw),
            one=one if self.h is None else self._sum(self.h),
        )


class OneBlock:
    """A whole matrix as one block, measured part by part: the same methods as `Blocks`, for one block.

    parts: makes `Blocks` of one block each, anew for every measurement, so that memory stays small.
    """

    def __init__(self, parts: Callable[[], Iterable[Blocks]], format: WeightFormat) -> None:
        self._parts, self.format = parts, format

    def take(self, kept: np.ndarray) -> OneBlock:
        return self

    def error(self, s: np.ndarray, zeros: list[np.ndarray]) -> list[np.ndarray]:
        return list(np.sum([part.error(s, zeros) for part in self._parts()], axis=0))

    def clipped(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        return np.sum([part.clipped(lower, upper) for part in self._parts()], axis=0)

    def sums(self, s: np.ndarray, z: np.ndarray) -> Sums:
        parts = [vars(part.sums(s, z)) for part in self._parts()]
        return Sums(**{name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]})
