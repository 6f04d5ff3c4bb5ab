"""Rows of logits where they were computed, and kernels over them of which only small results come to the host.

An executor hands them out for the names in `hold` of a step (`executor.run`), until its next step; whoever works with
them keeps other steps away meanwhile (`executor.holding`). These are rows in memory; `device_rows` has those on a
device.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

import wgsl_kernels


class HostRows:
    """Rows [n, width] in memory, an array or a tensor; kernels run as their references, sums in f64."""

    def __init__(self, x: np.ndarray | torch.Tensor):
        self.tensor = torch.as_tensor(x)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.tensor.shape
        return rows, columns

    def apply(self, kernel: str, *, stay: Iterable[str] = (), **arguments) -> dict:
        """The outputs of a pair, by name, with these rows as `x`: arrays, and rows for the names in `stay`.

        arguments: other rows of this kind, arrays with a row for each of these, and parameters.
        """
        pair = wgsl_kernels.get(kernel)
        given = {name: self._tensor(value) for name, value in arguments.items()}
        with torch.inference_mode():
            found = pair.run_reference({"x": self.tensor, **given})
        return {name: HostRows(y) if name in stay else y.numpy() for name, y in found.items()}

    def split(self, parts: int) -> HostRows:
        """Each row as so many rows of equal width."""
        return HostRows(self.tensor.reshape(len(self.tensor) * parts, -1))

    def release(self) -> None:
        """Nothing is to be given back."""

    @staticmethod
    def _tensor(value):
        if isinstance(value, HostRows):
            return value.tensor
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value.astype(np.int32) if value.dtype.kind in "iu" else value)
        return value
