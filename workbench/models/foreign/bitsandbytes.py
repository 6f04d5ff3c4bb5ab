"""The layouts of bitsandbytes, as transformers saves them.

4 bits (nf4, fp4): values of a code of 16 numbers, two a byte, the first in the high nibble, in blocks of the whole
matrix read row by row:

    X.weight                 uint8 [N K / 2, 1]
    X.weight.quant_map       f32 [16]              X.weight.absmax  f32, or uint8 where these are quantized too:
    X.weight.nested_quant_map, .nested_absmax      their own code of 256 numbers and blocks, and in the state an offset
    X.weight.quant_state.bitsandbytes__nf4         JSON in bytes: shape, blocksize, nested_blocksize, nested_offset

A code is no even grid, so these are dequantized. 8 bits: X.weight int8 [N, K] and X.SCB f32 [N], w = q SCB / 127, with
the scale SCB / 127 rounded to f32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import CheckpointError
from workbench.formats.tensor import WeightTensor, float_tensor
from workbench.models.foreign.integers import Grid
from workbench.models.foreign.packed import MOST, Headers, Packed, Read, wrong_value

CODES = ("nf4", "fp4")
_STATE = ".weight.quant_state.bitsandbytes__"


@dataclass(frozen=True)
class CodedMatrix(Packed):
    """block: weights under one absmax. nested: (block of absmax, offset) where those are quantized too."""

    block: int
    nested: tuple[int, float] | None

    def grid(self, read: Read) -> None:
        return None

    def quants(self, read: Read) -> np.ndarray:
        raise NotImplementedError("a code has no integers")

    @property
    def why_floats(self) -> str:
        return f"{self.kind.split(', ')[1]} is a code of 16 numbers, no even grid"

    def floats(self, name: str, read: Read) -> WeightTensor:
        absmax = read(self.parts["absmax"])
        if self.nested is not None:
            block, offset = self.nested
            own = read(self.parts["nested_absmax"])[np.arange(absmax.size) // block]
            absmax = read(self.parts["nested_quant_map"])[absmax] * own + np.float32(offset)
        packed = read(self.parts["weight"]).reshape(-1)
        code = read(self.parts["quant_map"])
        values = np.empty(2 * packed.size, np.float32)
        values[0::2], values[1::2] = code[packed >> 4], code[packed & 15]
        for start in range(0, values.size, self.block << 12):
            part = values[start : start + (self.block << 12)]
            blocks = np.arange(start, start + part.size) // self.block
            part *= absmax[blocks]
        return float_tensor(name, values.reshape(self.shape), "f32")


@dataclass(frozen=True)
class Int8Matrix(Packed):
    """Signed integers with a scale a row."""

    def grid(self, read: Read) -> Grid:
        scales = (read(self.parts["SCB"]) * np.float32(1 / 127)).reshape(-1, 1)
        return Grid(8, self.shape[1], self.shape[1], scales, 128)

    def quants(self, read: Read) -> np.ndarray:
        return (read(self.parts["weight"]).astype(np.int16) + 128).astype(np.uint8)


def find(headers: Headers, config: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
    """Matrices of a checkpoint by name. config: its quantization_config."""
    if (kind := config.get("bnb_4bit_quant_type", "nf4")) not in CODES:
        raise wrong_value(headers.where, "bnb_4bit_quant_type", kind, " or ".join(CODES))
    for code in CODES:
        for name in headers.ending(_STATE + code):
            yield f"{name}.weight", _coded(headers, name, code)
    for name in headers.ending(".SCB"):
        parts = {"weight": f"{name}.weight", "SCB": f"{name}.SCB"}
        shape = headers.matrix(parts["weight"], ("I8",))
        headers.found(parts["SCB"], ("F32",), (shape[0],))
        if f"{name}.weight_format" in headers.all:
            parts["weight_format"] = own = f"{name}.weight_format"
            headers.found(own, ("U8",), (), (1,))
            if headers.read(own).any():
                raise CheckpointError(
                    f"{headers.where}: tensor {own!r} is not 0: rows in the order of a device"
                )
        yield f"{name}.weight", Int8Matrix(shape, parts, "bitsandbytes, int8")


def _coded(headers: Headers, name: str, code: str) -> CodedMatrix:
    state_name = _STATE + code
    where, own = headers.where, f"{name}{state_name}"
    state = _state(headers, own)
    rows, columns = state["shape"]
    block, count = state["blocksize"], rows * columns
    parts = {"weight": f"{name}.weight", "state": own}
    parts |= {part: f"{name}.weight.{part}" for part in ("absmax", "quant_map")}
    headers.found(parts["weight"], ("U8",), (-(-count // 2), 1), (1, -(-count // 2)))
    headers.found(parts["quant_map"], ("F32",), (16,))
    blocks, nested = -(-count // block), None
    if "nested_blocksize" in state:
        nested = state["nested_blocksize"], state["nested_offset"]
        parts |= {part: f"{name}.weight.{part}" for part in ("nested_absmax", "nested_quant_map")}
        headers.found(parts["nested_quant_map"], ("F32",), (256,))
        headers.found(parts["nested_absmax"], ("F32",), (-(-blocks // nested[0]),))
    headers.found(parts["absmax"], ("F32",) if nested is None else ("U8",), (blocks,))
    if count % 2:
        raise CheckpointError(f"{where}: {own}: a shape of {rows} x {columns} does not fill whole bytes")
    return CodedMatrix((rows, columns), parts, f"bitsandbytes, {code}", block, nested)


def _state(headers: Headers, name: str) -> dict[str, Any]:
    """The JSON of a state, checked. Raises CheckpointError."""
    try:
        state = json.loads(headers.small(name, ("U8",)).tobytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{headers.where}: tensor {name!r} is not readable as JSON: {error}") from error

    def whole(value: object, most: int) -> bool:
        return type(value) is int and 0 < value < most

    shape = state.get("shape") if isinstance(state, dict) else None
    good = isinstance(shape, list) and len(shape) == 2 and all(whole(size, MOST) for size in shape)
    good = good and whole(state.get("blocksize"), MOST)
    if good and "nested_blocksize" in state:
        good = whole(state["nested_blocksize"], MOST) and type(state.get("nested_offset")) in (int, float)
    if not good:
        raise CheckpointError(
            f"{headers.where}: tensor {name!r} describes no matrix: shape of two sizes, blocksize, and with "
            "nested_blocksize a nested_offset are needed"
        )
    return state
