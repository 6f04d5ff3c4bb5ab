"""A Hugging Face checkpoint whose matrices are quantized: `quantization_config` in config.json says by whom and how.

Reads as any other source does. Matrices whose layout is `w = s (q - z)` keep their integers, scales and zero-points bit
for bit, in the format that holds them; the others are given as f32, and `notes` says which and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from workbench.errors import CheckpointError
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.checkpoint import PART_BYTES, Checkpoint, is_there, read_json
from workbench.models.contents import some
from workbench.models.families import architecture_of
from workbench.models.finite import require_finite
from workbench.models.foreign import awq, bitsandbytes, compressed_tensors, gptq
from workbench.models.foreign.integers import fitting, to_tensor
from workbench.models.foreign.packed import Headers, Packed, wrong_value

Find = Callable[[Headers, Mapping[str, Any]], Iterator[tuple[str, Packed]]]
KEY = "quantization_config"
#: AutoGPTQ's own file, which stands beside config.json, or in place of its key.
BESIDE = "quantize_config.json"
#: Dtype in a header that no file has: of what is put together from several tensors.
PACKED = "packed"
#: `packing_format` of AutoRound -> the layout that it is, and its version.
AUTO_ROUND: dict[str, tuple[Find, dict[str, str]]] = {
    "auto_round": (gptq.find, {"checkpoint_format": "gptq_v2"}),
    "auto_round:gptqmodel": (gptq.find, {"checkpoint_format": "gptq_v2"}),
    "auto_round:auto_gptq": (gptq.find, {"checkpoint_format": "gptq"}),
    "auto_round:gptq": (gptq.find, {"checkpoint_format": "gptq"}),
    "auto_round:auto_awq": (awq.find, {"version": "gemm"}),
    "auto_round:awq": (awq.find, {"version": "gemm"}),
    "auto_round:llm_compressor": (compressed_tensors.find, {}),
}
METHODS = ("gptq", "awq", "auto-round", "compressed-tensors", "bitsandbytes")


def quantization_of(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint says of its quantization; None where its weights are floats. Raises CheckpointError."""
    found = config.get(KEY)
    if found is None and is_there(path / BESIDE):
        return {"quant_method": "gptq", **read_json(path / BESIDE)}
    if found is not None and not isinstance(found, dict):
        raise wrong_value(str(path / "config.json"), KEY, found, "an object")
    return found


def _layout(where: str, config: Mapping[str, Any]) -> tuple[Find, Mapping[str, Any]]:
    """Who finds the matrices of a quantization_config, and what it is to be told. Raises UnsupportedModelError."""
    method = config.get("quant_method")
    if method is None and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        method = "bitsandbytes"
    if method in ("auto-round", "intel/auto-round"):
        packing = config.get("packing_format") or "auto_round:auto_gptq"
        if not isinstance(packing, str) or packing not in AUTO_ROUND:
            raise wrong_value(where, "packing_format", packing, ", ".join(AUTO_ROUND))
        find, more = AUTO_ROUND[packing]
        return find, {**config, **more}
    finders: dict[Any, Find] = {
        "gptq": gptq.find,
        "awq": awq.find,
        "compressed-tensors": compressed_tensors.find,
        "bitsandbytes": bitsandbytes.find,
    }
    if not isinstance(method, str) or method not in finders:
        raise wrong_value(where, "quant_method", method, ", ".join(METHODS))
    return finders[method], config


@dataclass(frozen=True)
class Found:
    """A packed matrix, and what becomes of it. why: of one in f32, what keeps it from being integers."""

    packed: Packed
    format: WeightFormat
    why: str


class QuantizedCheckpoint(Checkpoint):
    """Made by `open`, as a Checkpoint. origin: for the provenance of what is made of it."""

    _optional = (*Checkpoint._optional, BESIDE)

    def _select(self, notes: list[str]) -> None:
        config = quantization_of(self.path, read_json(self.path / "config.json"))
        assert config is not None, "open_checkpoint looked"
        self.config = {name: value for name, value in self.config.items() if name != KEY}
        self.origin = {KEY: config}
        where = str(self.path)
        find, told = _layout(where, config)
        self._parts: dict[str, Found] = {}
        zeros = self._assemble(dict(find(Headers(dict(self._headers), where, self._part), told)))
        if not self._parts:
            raise CheckpointError(
                f"{where}: {KEY} says {config.get('quant_method')!r}, but no tensor is packed so"
            )
        if find is compressed_tensors.find:
            notes += compressed_tensors.notes(config)
        super()._select([*self._said(), *notes])
        self.unread |= dict.fromkeys(zeros, "zeros beside packed weights, where the model has no bias")

    @classmethod
    def _config(cls, path: Path) -> dict[str, Any]:
        return {name: value for name, value in super()._config(path).items() if name != KEY}

    def _assemble(self, matrices: Mapping[str, Packed]) -> list[str]:
        """Put matrices in the places of their tensors. Returns names of biases that are nothing but zeros."""
        model = architecture_of(self.config)
        known, zeros = {*model.tensors(), *model.stacked()}, []
        for name, packed in matrices.items():
            grid = packed.grid(self._part)
            if grid is not None and not grid.finite:
                raise CheckpointError(f"{self.path}: scales of {name!r} are not finite")
            fmt, why = (None, packed.why_floats) if grid is None else fitting(grid)
            self._parts[name] = Found(packed, fmt or WeightFormat("f32"), why)
            for part in packed.parts.values():
                self._headers.pop(part, None)
            self._headers[name] = packed.shape, PACKED
            self._files.setdefault(name, self._files[next(iter(packed.parts.values()))])
            bias = f"{name.removesuffix('.weight')}.bias"
            if bias in self._headers and bias not in known and not self._part(bias).any():
                del self._headers[bias]
                zeros.append(bias)
        return zeros

    def _said(self) -> list[str]:
        """What became of the packed matrices, a sentence each kind."""
        kept = Counter(f"{f.packed.kind}, as {f.format}" for f in self._parts.values() if not f.why)
        said = [f"{count} matrices keep their integers ({kind})" for kind, count in kept.items()]
        lost: dict[str, list[str]] = {}
        for name, found in self._parts.items():
            if found.why:
                lost.setdefault(f"{found.packed.kind}: {found.why}", []).append(name)
        return said + [f"dequantized to f32: {some(names)} ({why})" for why, names in lost.items()]

    def _part(self, name: str) -> np.ndarray:
        """A tensor of the file: integers as they are, floats as f32."""
        try:
            values = self._values(self._files[name], "pt", name, None)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.path / self._files[name]}: tensor {name!r} cannot be read: {error}"
            ) from error
        return (values.float() if values.dtype.is_floating_point else values).numpy()

    def _whole(self, name: str) -> tuple[Found | None, int]:
        """The packed matrix that holds a tensor, and the tensor's first row in it; (None, 0) for one of floats."""
        stack, first = self._rows.get(name, (name, 0))
        return self._parts.get(stack), first

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        found, _ = self._whole(name)
        if found is None or name not in self._headers:
            return super().describe(name)
        return self._headers[name][0], found.format

    def stored_as(self, name: str) -> str:
        found, _ = self._whole(name)
        return super().stored_as(name) if found is None else found.packed.kind

    def tensor(self, name: str) -> WeightTensor:
        found, first = self._whole(name)
        if found is None or name not in self._headers:
            return super().tensor(name)
        stack = self._rows.get(name, (name, 0))[0]
        try:
            if found.why:
                whole = found.packed.floats(stack, self._part)
                require_finite(self.path, stack, 0, whole.planes["values"])
            else:
                grid = found.packed.grid(self._part)
                assert grid is not None, "only grids have a format"
                whole = to_tensor(name, grid, found.packed.quants(self._part), found.format)
        except FormatError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        rows = self._headers[name][0][0]
        part = whole if rows == whole.shape[0] else whole.rows(first, first + rows)
        return WeightTensor(name, part.shape, part.format, part.planes)

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        if self._whole(name)[0] is None:
            yield from super().parts(name)
            return
        whole = self.tensor(name)
        step = max(1, PART_BYTES // (4 * whole.shape[1]))
        for start in range(0, whole.shape[0], step):
            yield start, whole.rows(start, min(start + step, whole.shape[0]))


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of floats or of quantized matrices. Raises CheckpointError, UnsupportedModelError."""
    quantized = quantization_of(path, read_json(path / "config.json")) is not None
    return (QuantizedCheckpoint if quantized else Checkpoint).open(path)
