"""Models with a LoRA adapter: beside their weights at run time, or merged into them.

Beside them a linear layer is three products, y = (x W^T) + scale * ((x A^T) B^T), and W stays as it is stored, so that
an adapter of floats, or one in INT4, runs on a base in any format. Merged, W + scale * B A is what a conversion reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor
from workbench.formats.text import parse_format
from workbench.models.architecture import Architecture
from workbench.models.blocks import lora_names
from workbench.models.families import architecture_of
from workbench.models.lora import Lora
from workbench.models.source import open_source
from workbench.quantizers import rtn


class _Over:
    """Reads like a source but for what subclasses say."""

    def __init__(self, source: Any, lora: Lora):
        self.source, self.lora = source, lora
        self.path: Path = source.path

    @property
    def config(self) -> dict[str, Any]:
        return self.source.config

    @property
    def tokenizer_path(self) -> Path:
        return self.source.tokenizer_path

    def __getattr__(self, name: str) -> Any:
        if name in ("source", "lora"):  # asked for before they are there: of a copy
            raise AttributeError(name)
        return getattr(self.source, name)

    @property
    def notes(self) -> tuple[str, ...]:
        return (*getattr(self.source, "notes", ()), f"with {self.lora}")


class Adapted(_Over):
    """A source with the factors of an adapter beside its matrices, in `format`, by default f32."""

    def __init__(self, source: Any, lora: Lora, format: WeightFormat | None = None):
        super().__init__(source, lora)
        self.format = format or WeightFormat("f32")
        self._factors = {
            name: (weight, at) for weight in lora.factors for at, name in enumerate(lora_names(weight))
        }

    def architecture(self, model: Architecture) -> Architecture:
        """The model with the adapter in its plans."""
        return replace(model, lora={weight: each.scale for weight, each in self.lora.factors.items()})

    def names(self) -> list[str]:
        return [*self.source.names(), *self._factors]

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        if name not in self._factors:
            return self.source.describe(name)
        weight, at = self._factors[name]
        (_, columns), each = self.source.describe(weight)[0], self.lora.factors[weight]
        shape = (each.rows, each.rank) if at else (each.rank, columns)
        return shape, self.format.fitted(shape[1])

    def tensor(self, name: str) -> WeightTensor:
        if name not in self._factors:
            return self.source.tensor(name)
        weight, at = self._factors[name]
        values, (shape, fmt) = (self.lora.up if at else self.lora.down)(weight), self.describe(name)
        if fmt.is_quantized:
            return quantized_tensor(name, shape, fmt, *rtn.quantize(values, fmt))
        return float_tensor(name, values, fmt.dtype)

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        if name in self._factors:
            yield 0, self.tensor(name)
        else:
            yield from self.source.parts(name)

    def record(self) -> dict[str, Any]:
        """What the provenance of a figure says of the adapter."""
        return {"name": self.lora.path.name, "format": str(self.format), "files": self.lora.hashes()}


class Merged(_Over):
    """A source of floats whose matrices are W + scale * B A, in f32; raises UnsupportedModelError for integers."""

    def __init__(self, source: Any, lora: Lora):
        super().__init__(source, lora)
        for weight in lora.factors:
            if (fmt := source.describe(weight)[1]).is_quantized:
                raise UnsupportedModelError(
                    f"{source.path}: {weight} is {fmt}, and an adapter is merged into floats alone; run it beside the "
                    "model (--lora of generate and perplexity), or convert the unquantized checkpoint"
                )

    @property
    def origin(self) -> dict[str, Any]:
        merged = {"name": self.lora.path.name, "files": self.lora.hashes()}
        return {**getattr(self.source, "origin", {}), "lora": merged}

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        shape, fmt = self.source.describe(name)
        return shape, WeightFormat("f32") if name in self.lora.factors else fmt

    def tensor(self, name: str) -> WeightTensor:
        found = self.source.tensor(name)
        return self._merged(name, 0, found) if name in self.lora.factors else found

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        for first, part in self.source.parts(name):
            yield first, self._merged(name, first, part) if name in self.lora.factors else part

    def _merged(self, name: str, first: int, part: WeightTensor) -> WeightTensor:
        values = part.dequantize() + self.lora.delta(name, first, part.shape[0])
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.lora.path}: {name} is not finite with its adapter")
        return float_tensor(name, values, "f32")


def adapted(source: Any, lora: str | Path | None, format: str | None) -> tuple[Any, Architecture]:
    """A source and its model, with an adapter beside its weights where there is one.

    lora: a folder or hub id; format: of the factors, as text. Raises WorkbenchError for a format without an adapter,
    and what opening an adapter raises.
    """
    model = architecture_of(source.config)
    if lora is None:
        if format is not None:
            raise WorkbenchError(f"lora_format {format!r} is of an adapter, and there is no lora")
        return source, model
    both = Adapted(source, Lora.open(lora, model), None if format is None else parse_format(format))
    return both, both.architecture(model)


def merged(model: Any, lora: str | Path) -> Merged:
    """A checkpoint with an adapter in its weights. model: what `open_source` takes; lora: a folder or hub id. Raises
    what opening either raises."""
    source = open_source(model)
    return Merged(source, Lora.open(lora, architecture_of(source.config)))
