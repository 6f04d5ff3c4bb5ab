"""The layouts of compressed-tensors (llm-compressor, vLLM) whose weights are integers.

pack-quantized, 1 to 8 bits, q + 2**(b - 1) along a row:

    X.weight_packed  int32 [N, K b / 32]     X.weight_zero_point  int32 [N b / 32, G], along the rows; signed as q
    X.weight_scale   [N, G] or [1]           X.weight_shape       int64 [2], N and K
    X.weight_g_idx   int32 [K]               where columns are grouped in an order of their own

int-quantized (naive-quantized): X.weight int8 [N, K], X.weight_scale, X.weight_zero_point int8 like the scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import CheckpointError
from workbench.models.foreign.gptq import group_of
from workbench.models.foreign.integers import Grid, groups_in_order
from workbench.models.foreign.packed import FLOATS, Headers, Packed, Read, wrong_value
from workbench.models.foreign.words import pack_words, unpack_words

FORMATS = ("pack-quantized", "int-quantized", "naive-quantized", "mixed-precision", "dense")
#: Keys that ask for a computation that is not the weights' own, and the only values that leave it alone.
WITHOUT = {"transform_config": (None, {}), "sparsity_config": (None, {}), "kv_cache_scheme": (None,)}
STRATEGIES = ("group", "channel", "tensor", None)


@dataclass(frozen=True)
class CompressedMatrix(Packed):
    """bits: of q; group: columns a scale. packed: whether q lies in words, or one a byte."""

    bits: int
    group: int
    packed: bool

    def grid(self, read: Read) -> Grid:
        rows, columns = self.shape
        scales = read(self.parts["weight_scale"])
        scales = np.broadcast_to(scales.reshape(-1, 1) if scales.size == 1 else scales.reshape(rows, -1), (
            rows, -(-columns // self.group)))  # fmt: skip
        zeros: np.ndarray | int = 2 ** (self.bits - 1)
        if "weight_zero_point" in self.parts:
            stored = read(self.parts["weight_zero_point"])
            if self.packed:
                zeros = unpack_words(np.ascontiguousarray(stored.T), self.bits, rows).T.astype(np.int16)
            else:
                zeros = np.broadcast_to(stored.reshape(-1, scales.shape[1] if stored.size > 1 else 1),
                                        scales.shape).astype(np.int16) + zeros  # fmt: skip
        group, order = self.group, None
        if "weight_g_idx" in self.parts:
            name = self.parts["weight_g_idx"]
            if (g_idx := read(name)).max() >= 0:  # all -1: nothing is reordered
                group, order = groups_in_order(name, g_idx, scales.shape[1])
        return Grid(self.bits, columns, group, np.ascontiguousarray(scales), zeros, order)

    def quants(self, read: Read) -> np.ndarray:
        if self.packed:
            return unpack_words(read(self.parts["weight_packed"]), self.bits, self.shape[1])
        return (read(self.parts["weight"]).astype(np.int16) + 2 ** (self.bits - 1)).astype(np.uint8)


def find(headers: Headers, config: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
    """Matrices of a checkpoint by name. config: its quantization_config."""
    schemes = _schemes(config, headers.where)
    for name in headers.ending(".weight_packed"):
        yield f"{name}.weight", _packed(headers, name, schemes)
    for name in headers.ending(".weight_scale"):
        if f"{name}.weight" in headers.all:
            yield f"{name}.weight", _plain(headers, name)


def notes(config: Mapping[str, Any]) -> list[str]:
    """What of a quantization_config is not done here."""
    groups = (config.get("config_groups") or {}).values()
    if any(isinstance(group, Mapping) and group.get("input_activations") for group in groups):
        return [
            "weights alone are taken: its quantization of activations (input_activations) is not done here; "
            "--dtype int8 rounds them in blocks of 32"
        ]
    return []


def _schemes(config: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    """The `weights` of all groups. Raises UnsupportedModelError for what is no integer, or changes the numbers."""
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping):
        raise wrong_value(where, "config_groups", groups, "an object")
    for key, allowed in WITHOUT.items():
        value = config.get(key)
        if value not in allowed and not (isinstance(value, Mapping) and value.get("format") == "dense"):
            raise wrong_value(where, key, value, "null")
    found = []
    for name, group in groups.items():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        form = (group.get("format") if isinstance(group, Mapping) else None) or config.get("format")
        if form not in FORMATS:
            raise wrong_value(where, f"format of {name}", form, ", ".join(FORMATS))
        if not isinstance(weights, Mapping):
            continue  # a group that quantizes activations alone
        for key, allowed in (("type", ("int",)), ("strategy", STRATEGIES), ("num_bits", tuple(range(1, 9)))):
            if (value := weights.get(key)) not in allowed:
                raise wrong_value(where, f"{key} of {name}", value, ", ".join(map(str, allowed)))
        found.append(weights)
    return found


def _packed(headers: Headers, name: str, schemes: list[Mapping[str, Any]]) -> CompressedMatrix:
    parts = {part: f"{name}.{part}" for part in ("weight_packed", "weight_scale")}
    rows, words = headers.matrix(parts["weight_packed"], ("I32",))
    for optional, dtypes in (("weight_zero_point", ("I32",)), ("weight_g_idx", ("I32", "I64"))):
        if f"{name}.{optional}" in headers.all:
            parts[optional] = f"{name}.{optional}"
            headers.found(parts[optional], dtypes, None)
    shape = headers.sizes(f"{name}.weight_shape")
    columns = shape[-1]
    fits = {each["num_bits"] for each in schemes if -(-columns * each["num_bits"] // 32) == words}
    if len(shape) != 2 or shape[0] != rows or not fits:
        raise CheckpointError(
            f"{headers.where}: {name}.weight_shape is {list(shape)}, but weight_packed has {rows} rows of {words} "
            f"words, with {' or '.join(str(each['num_bits']) for each in schemes) or 'no'} bits a weight"
        )
    parts["weight_shape"] = f"{name}.weight_shape"
    bits = min(fits)
    groups = _groups(headers, parts["weight_scale"], rows)
    asked = next((each.get("group_size") for each in schemes if each["num_bits"] == bits), None)
    if "weight_zero_point" in parts:
        headers.found(parts["weight_zero_point"], ("I32",), (-(-rows * bits // 32), groups))
    if "weight_g_idx" in parts:
        headers.found(parts["weight_g_idx"], ("I32", "I64"), (columns,))
    group = group_of(headers, name, columns, groups, asked)
    kind = f"compressed-tensors, {bits} bits packed"
    return CompressedMatrix((rows, columns), parts, kind, bits, group, True)


def _plain(headers: Headers, name: str) -> CompressedMatrix:
    parts = {part: f"{name}.{part}" for part in ("weight", "weight_scale")}
    rows, columns = headers.matrix(parts["weight"], ("I8",))
    groups = _groups(headers, parts["weight_scale"], rows)
    if f"{name}.weight_zero_point" in headers.all:
        parts["weight_zero_point"] = f"{name}.weight_zero_point"
        headers.found(parts["weight_zero_point"], ("I8",), headers.all[parts["weight_scale"]][0])
    group = group_of(headers, name, columns, groups, None)
    return CompressedMatrix((rows, columns), parts, "compressed-tensors, int8", 8, group, False)


def _groups(headers: Headers, name: str, rows: int) -> int:
    """Groups of a row by the shape of its scales: [rows, groups], [rows], or [1] for all."""
    shape = headers.found(name, FLOATS, None)
    if shape in ((), (1,), (1, 1), (rows,)):
        return 1
    if len(shape) == 2 and shape[0] == rows and shape[1] > 0:
        return shape[1]
    raise CheckpointError(
        f"{headers.where}: tensor {name!r} has shape {list(shape)}; allowed: [1], or [{rows}, groups]"
    )


def pack(q: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int) -> dict[str, np.ndarray]:
    """The tensors of a matrix by what they are. q: uint8 [N, K], zeros unsigned as q, [N, G]; None for 2**(b - 1)."""
    parts = {
        "weight_packed": pack_words(q, bits),
        "weight_scale": scales,
        "weight_shape": np.array(q.shape, np.int64),
    }
    if zeros is not None:
        packed = pack_words(np.ascontiguousarray(zeros.T.astype(np.uint8)), bits)
        parts["weight_zero_point"] = np.ascontiguousarray(packed.T)
    return parts
