"""A quantized matrix of a checkpoint in somebody's layout: which tensors it is made of, and how they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.tensor import WeightTensor
from workbench.models.contents import Header
from workbench.models.foreign import integers
from workbench.models.foreign.integers import Grid
from workbench.models.keys import shown

#: Reads a tensor of the file by its name: integers as they are, floats as f32.
Read = Callable[[str], np.ndarray]
FLOATS = ("F16", "BF16", "F32")
#: More columns or rows than any matrix has; sizes beyond are lies that would be allocated.
MOST = 1 << 24


@dataclass(frozen=True)
class Packed(ABC):
    """shape: [rows, columns] of the weights. parts: names of its tensors, by what they are. kind: for people."""

    shape: tuple[int, int]
    parts: Mapping[str, str]
    kind: str

    @abstractmethod
    def grid(self, read: Read) -> Grid | None:
        """Scales and zero-points; None where the weights are no `s (q - z)`. Raises CheckpointError."""

    @abstractmethod
    def quants(self, read: Read) -> np.ndarray:
        """q of `grid`, uint8 [rows, columns]."""

    def floats(self, name: str, read: Read) -> WeightTensor:
        """The weights in f32, as the layout's own reader gives them."""
        grid = self.grid(read)
        assert grid is not None, "a layout without a grid has floats of its own"
        return integers.floats(name, grid, self.quants(read))

    @property
    def why_floats(self) -> str:
        """Of a layout without a grid: why."""
        return "its values lie on no even grid"


@dataclass(frozen=True)
class Headers:
    """Headers of a file's tensors, for layouts that look for theirs. where: the folder, for messages; read: for what
    little of the contents decides sizes."""

    all: Mapping[str, Header]
    where: str
    read: Read

    def ending(self, ending: str) -> Iterable[str]:
        """What stands before `ending` in the names of tensors that have it."""
        return [name.removesuffix(ending) for name in self.all if name.endswith(ending)]

    def found(self, name: str, dtypes: Iterable[str], *shapes: tuple[int, ...] | None) -> tuple[int, ...]:
        """Shape of a tensor of one of the dtypes and shapes (None: any). Raises CheckpointError."""
        if name not in self.all:
            raise CheckpointError(f"{self.where}: tensor {name!r} is missing")
        shape, dtype = self.all[name]
        if dtype not in dtypes:
            raise CheckpointError(
                f"{self.where}: tensor {name!r} has dtype {dtype}; allowed: {', '.join(dtypes)}"
            )
        if None not in shapes and tuple(shape) not in shapes:
            allowed = " or ".join(str(list(each)) for each in shapes if each is not None)
            raise CheckpointError(
                f"{self.where}: tensor {name!r} has shape {list(shape)}; allowed: {allowed}"
            )
        return tuple(shape)

    def small(self, name: str, dtypes: Iterable[str]) -> np.ndarray:
        """The contents of a tensor of one dimension and at most 64 KiB. Raises CheckpointError."""
        shape = self.found(name, dtypes, None)
        if len(shape) != 1 or not 0 < shape[0] < 1 << 13:
            raise CheckpointError(
                f"{self.where}: tensor {name!r} has shape {list(shape)}; allowed: a few numbers"
            )
        return self.read(name)

    def sizes(self, name: str) -> tuple[int, ...]:
        """Sizes that a tensor of integers holds. Raises CheckpointError for what is none."""
        sizes = tuple(int(size) for size in self.small(name, ("I64", "I32")))
        if not all(0 < size < MOST for size in sizes):
            raise CheckpointError(
                f"{self.where}: tensor {name!r} holds {list(sizes[:4])}; allowed: sizes from 1"
            )
        return sizes

    def matrix(self, name: str, dtypes: Iterable[str]) -> tuple[int, int]:
        """Shape of a tensor of two dimensions, neither empty. Raises CheckpointError."""
        shape = self.found(name, dtypes, None)
        if len(shape) != 2 or not all(0 < size < MOST for size in shape):
            raise CheckpointError(
                f"{self.where}: tensor {name!r} has shape {list(shape)}; allowed: two sizes from 1 to {MOST - 1}"
            )
        return shape[0], shape[1]


def wrong_value(where: str, key: str, value: object, allowed: str) -> UnsupportedModelError:
    """The error for a value of quantization_config that is not understood."""
    return UnsupportedModelError(f"{where}: quantization_config: {key} is {shown(value)}; allowed: {allowed}")
