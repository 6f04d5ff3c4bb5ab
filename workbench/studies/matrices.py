"""The weight matrices of a model, or of a dict, by name: where each stands and its float weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.known import known
from workbench.models.source import open_source

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.(.+?)(?:\.weight)?$")


@dataclass(frozen=True)
class Place:
    """A matrix: its layer, None outside the layers, and its kind, which is the same in every layer."""

    name: str
    layer: int | None
    kind: str
    shape: tuple[int, int]


class Matrices:
    """Float matrices [rows, columns] of a checkpoint (path, hub id, or opened) or of a mapping name -> array.

    `source` is the opened checkpoint, None for a mapping.
    Raises `WorkbenchError` where there is none: weights that are already quantized have lost what is asked about.
    """

    def __init__(self, source: Any):
        if hasattr(source, "source"):  # a loaded Model
            source = source.source
        self._arrays = source if isinstance(source, Mapping) else None
        self.source = None
        if self._arrays is None:
            self.source = open_source(source)
        self.places = {place.name: place for place in self._find()}
        self._last: tuple[str, np.ndarray] | None = None
        if not self.places:
            where = self.source.path if self.source is not None else "this mapping"
            raise WorkbenchError(
                f"{where} has no float matrices; give the checkpoint that was quantized, or a dict of arrays"
            )

    def _find(self) -> list[Place]:
        if self._arrays is not None:
            shapes = {name: np.shape(array) for name, array in self._arrays.items()}
        else:
            source = known(self.source)
            described = {name: source.describe(name) for name in source.names()}
            shapes = {name: shape for name, (shape, format) in described.items() if not format.is_quantized}
        return [_place(name, shape) for name, shape in shapes.items() if len(shape) == 2 and 0 not in shape]

    def _checked(self, name: str) -> str:
        if name not in self.places:
            raise WorkbenchError(f"no matrix {name!r}; there are {', '.join(list(self.places)[:4])}, ...")
        return name

    def weights(self, name: str) -> np.ndarray:
        """The whole matrix, float32; the last one asked for is kept."""
        self._checked(name)
        if self._last is None or self._last[0] != name:
            if self._arrays is not None:
                found = np.asarray(self._arrays[name], np.float32)
            else:
                found = known(self.source).tensor(name).dequantize()
            self._last = name, found
        return self._last[1]

    def glimpse(self, name: str, count: int) -> np.ndarray:
        """About `count` weights as whole rows, evenly spaced over the first part of the file that holds the matrix
        (64 MiB of it at most), float32."""
        if self._arrays is not None:
            part = np.asarray(self._arrays[self._checked(name)])
        else:
            tensor = next(known(self.source).parts(self._checked(name)))[1]
            part = tensor.planes["values"]
        rows = max(1, min(len(part), count // part.shape[1]))
        picked = part[((np.arange(rows) + 0.5) * len(part) / rows).astype(np.int64)]
        if self._arrays is None and tensor.format.dtype == "bf16":
            from workbench.formats.bf16 import from_bf16

            return from_bf16(picked)
        return picked.astype(np.float32)


def _place(name: str, shape: tuple) -> Place:
    found = _LAYER.search(name)
    size = (int(shape[0]), int(shape[1]))
    if found is None:
        return Place(name, None, name.removesuffix(".weight").rsplit(".", 1)[-1], size)
    kind = found[2].rsplit(".", 1)[-1]
    return Place(name, int(found[1]), kind, size)
