"""Models with a LoRA adapter: beside their weights at run time, or merged into them.

Beside them a linear layer is three products, y = (x W^T) + scale * ((x A^T) B^T), and W stays as it is stored, so that
an adapter of floats, or one in INT4, runs on a base in any format. Several are stacked, and each sequence has one of
them or none (`wgsl_kernels.lora`). Merged, W + scale * B A is what a conversion reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor
from workbench.formats.text import parse_format
from workbench.models.architecture import Architecture
from workbench.models.families import architecture_of
from workbench.models.lora import Lora
from workbench.models.orders import order_of
from workbench.models.over import Over
from workbench.models.source import open_source
from workbench.models.specs import LowRank, weights_of
from workbench.quantizers import rtn


class Adapted(Over):
    """A source with the factors of adapters beside its matrices, those of all adapters stacked.

    loras: by the names that sequences choose them by. format: what A is stored as, and what B, which is kept in f32, is
    rounded to; by default f32. default: the name that those have that choose none, None for no adapter.
    """

    def __init__(
        self,
        source: Any,
        loras: Mapping[str, Lora],
        format: WeightFormat | None = None,
        default: str | None = None,
    ):
        super().__init__(source, *(f"with {_called(name, lora)}" for name, lora in loras.items()))
        self.loras, self.default = dict(loras), default
        self.format = format or WeightFormat("f32")
        ranks: dict[str, int] = {}
        for lora in loras.values():
            for weight, each in lora.factors.items():
                ranks[weight] = max(each.rank, ranks.get(weight, 0))
        self.low_rank = LowRank(tuple(loras), ranks, default)

    def architecture(self, model: Architecture) -> Architecture:
        """The model with the adapters in its plans."""
        return replace(model, lora=self.low_rank)

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        if (found := weights_of(name)) is None:
            return self.source.describe(name)
        weights, key = found
        count, rank = self.low_rank.count, self.low_rank.rank(weights)
        if key == "A":
            columns = self.source.describe(weights[0])[0][1]
            return (count * len(weights) * rank, columns), self.format.fitted(columns)
        rows = sum(self.source.describe(weight)[0][0] for weight in weights)
        return (count * rows * rank,), WeightFormat("f32")

    def tensor(self, name: str) -> WeightTensor:
        if (found := weights_of(name)) is None:
            return self.source.tensor(name)
        (shape, fmt), (weights, key) = self.describe(name), found
        if key == "B":
            return float_tensor(name, self._stacked_b(weights).reshape(shape), "f32")
        values = self._stacked_a(weights, shape[1]).reshape(shape)
        if fmt.is_quantized:
            return quantized_tensor(name, shape, fmt, *rtn.quantize(values, fmt))
        return float_tensor(name, values, fmt.dtype)

    def _stacked_a(self, weights: Sequence[str], columns: int) -> np.ndarray:
        """[adapter, matrix, rank, columns]"""
        rank = self.low_rank.rank(weights)
        values = np.zeros((self.low_rank.count, len(weights), rank, columns), np.float32)
        for at, lora in enumerate(self.loras.values()):
            for part, weight in enumerate(weights):
                if weight in lora.factors:
                    values[at, part, : lora.factors[weight].rank] = lora.down(weight)
        return values

    def _stacked_b(self, weights: Sequence[str]) -> np.ndarray:
        """[adapter, rows of all matrices, rank], each multiplied by the scale of its adapter."""
        rank, heights = self.low_rank.rank(weights), [self.source.describe(w)[0][0] for w in weights]
        values = np.zeros((self.low_rank.count, sum(heights), rank), np.float32)
        for at, lora in enumerate(self.loras.values()):
            for weight, height, end in zip(weights, heights, accumulate(heights), strict=True):
                if (each := lora.factors.get(weight)) is not None:
                    up = rounded_to(self.format, lora.up(weight))
                    values[at, end - height : end, : each.rank] = np.float32(each.scale) * up
        return values

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        if weights_of(name) is not None:
            yield 0, self.tensor(name)
        else:
            yield from self.source.parts(name)

    def record(self) -> dict[str, Any]:
        """What the provenance of a figure says of the adapters."""
        given = {"format": str(self.format)}
        if self.default is not None and len(self.loras) == 1:
            (lora,) = self.loras.values()
            return {"name": lora.path.name, **given, "files": lora.hashes()}
        each = {n: {"name": lora.path.name, "files": lora.hashes()} for n, lora in self.loras.items()}
        return {"adapters": each, **given}


def _called(name: str, lora: Lora) -> str:
    return str(lora) if name == lora.path.name else f"{name}, {lora}"


def rounded_to(fmt: WeightFormat, values: np.ndarray) -> np.ndarray:
    """f32 numbers [rows, columns] as a format keeps them, integers rounded to nearest."""
    own = fmt.fitted(values.shape[1])
    if not own.is_quantized:
        return float_tensor("", values, own.dtype).dequantize()
    return quantized_tensor("", values.shape, own, *rtn.quantize(values, own)).dequantize()


class Merged(Over):
    """A source of floats whose matrices are W + scale * B A, in f32; raises UnsupportedModelError for integers."""

    def __init__(self, source: Any, lora: Lora):
        super().__init__(source, f"with {lora}")
        self.lora, self._orders = lora, architecture_of(source.config).orders
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
        delta = self.lora.delta(name, first, part.shape[0])
        if name in self._orders:
            delta = delta[:, order_of(self.source, self._orders[name])]
        values = part.dequantize() + delta
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.lora.path}: {name} is not finite with its adapter")
        return float_tensor(name, values, "f32")


def adapted(
    source: Any, lora: str | Path | Mapping[str, str | Path] | None, format: str | None
) -> tuple[Any, Architecture]:
    """A source and its model, with adapters beside its weights where there are any.

    lora: a folder or hub id, which all sequences then have, or several by the names that sequences choose them by;
    format: of the factors, as text. Raises WorkbenchError for a format without an adapter and for names that cannot be,
    and what opening an adapter raises.
    """
    model = architecture_of(source.config)
    if lora is None and isinstance(source, Adapted):
        return source, source.architecture(model)
    if lora is None:
        if format is not None:
            raise WorkbenchError(f"lora_format {format!r} is of an adapter, and there is no lora")
        return source, model
    fmt = None if format is None else parse_format(format)
    if isinstance(lora, Mapping):
        if not lora:
            raise WorkbenchError("lora names no adapter; allowed: NAME -> folder or hub id, or None")
        both = Adapted(source, {_named(name): Lora.open(each, model) for name, each in lora.items()}, fmt)
    else:
        opened = Lora.open(lora, model)
        both = Adapted(source, {opened.path.name: opened}, fmt, opened.path.name)
    return both, both.architecture(model)


def _named(name: Any) -> str:
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable():
        raise WorkbenchError(
            f"an adapter is called {name!r}; allowed: a printable text without space around it"
        )
    return name


def merged(model: Any, lora: str | Path) -> Merged:
    """A checkpoint with an adapter in its weights. model: what `open_source` takes; lora: a folder or hub id. Raises
    what opening either raises."""
    source = open_source(model)
    return Merged(source, Lora.open(lora, architecture_of(source.config)))
