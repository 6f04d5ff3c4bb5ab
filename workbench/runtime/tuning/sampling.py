"""Comparing a large product with its reference in some of its rows: the reference of an LM head takes gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from wgsl_kernels import Kernel

from ..launch import Workload

#: Of a matrix with more weights, so many rows are compared with the reference: the first, the last, some between.
MOST_WEIGHTS, EDGE_ROWS, SAMPLED_ROWS = 4 << 20, 64, 512
#: Axes of inputs that count the matrix's rows.
ROW_LABELS = ("rows", "scale_rows", "out_rows")


@dataclass(frozen=True)
class Sample:
    """Rows of a matrix, sorted; whole groups of them where a kernel gives something of each `group` rows."""

    rows: torch.Tensor
    group: int = 1

    def arguments(self, kernel: Kernel, arguments: Mapping) -> dict:
        """A call with these rows alone."""
        count = _matrix(arguments).shape[0]
        return {
            name: self._select(kernel.reads[name].shape, value, count)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in arguments.items()
        }

    def _select(self, shape: tuple, tensor: torch.Tensor, count: int) -> torch.Tensor:
        for axis, name in enumerate(shape):
            if name in ROW_LABELS and tensor.shape[axis] == count:
                tensor = tensor.index_select(axis, self.rows)
        return tensor

    def output(self, kernel: Kernel, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What such a call gives, out of an output of the whole one; numbers of rows become those of the few."""
        port = kernel.writes[name]
        if port.shape[-1] != "groups":
            return tensor.index_select(-1, self.rows)
        groups = self.rows[:: self.group] // self.group
        found = tensor.index_select(-1, groups)
        if port.dtype == "u32":
            found = found - (groups - torch.arange(len(groups))) * self.group
        return found


def sample(kernel: Kernel, arguments: Mapping, seed: int = 0) -> Sample | None:
    """Rows of a large matrix to compare; None where all are compared.

    Each output of a linear layer depends on one row of the weights, or on those of one group, so rows can be judged
    apart.
    """
    if not all(port.shape[-1] in ("out_rows", "groups") for port in kernel.writes.values()):
        return None
    if not kernel.prepared_ports:
        return None
    sizes = Workload(kernel, arguments).sizes
    group, rows = sizes.get("group", 1), _matrix(arguments).shape[0]
    columns = sizes["columns"] if "columns" in sizes else sizes["padded"]
    units, edge, most = -(-rows // group), -(-EDGE_ROWS // group), -(-SAMPLED_ROWS // group)
    if rows * columns <= MOST_WEIGHTS or units <= 2 * edge + most:
        return None
    between = torch.randperm(units - 2 * edge, generator=torch.Generator().manual_seed(seed))[
        : max(0, most - 2 * edge)
    ]
    chosen = torch.cat([torch.arange(edge), between.sort().values + edge, torch.arange(units - edge, units)])
    found = (chosen.unsqueeze(-1) * group + torch.arange(group)).flatten()
    return Sample(found[found < rows], group)


def _matrix(arguments: Mapping) -> torch.Tensor:
    return arguments.get("quants", arguments.get("values"))
