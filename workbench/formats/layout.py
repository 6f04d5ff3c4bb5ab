"""Layouts of a quantized tensor in a file, and the conversion between them, bit for bit both ways.

planar       three planes, `quants`, `scales` and `zeros` or `offsets` (see tensor.py): aligned, uploaded without a copy
interleaved  one plane `blocks`, block after block of

                 scale    2 bytes (f16) or 4 (f32), little-endian
                 zero     1 byte (int8), absent if symmetric; or the offset, of the scale's type
                 packed   the q of the block, packed as in `quants`

A block of INT4-128 and one of INT2-256 are both 67 bytes, so kernels cannot read them as u32: interleaved is
a layout of exchange. With granularity "channel" a block is a row; with "tensor" it is all rows at once.

The order within a byte (`low-first`, `high-first`) is independent of the layout; `reorder` changes it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workbench.dtypes import NUMPY
from workbench.formats.errors import FormatError
from workbench.formats.packing import WORD
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, plane_specs

LAYOUTS = ("planar", "interleaved")


def stored_planes(
    shape: tuple[int, ...], format: WeightFormat, layout: str
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The planes a tensor has in a file: name -> (shape, dtype). Float tensors are planar alone."""
    if layout not in LAYOUTS:
        raise FormatError(f"{layout!r} is not one of {', '.join(map(repr, LAYOUTS))}", field="layout")
    planar = plane_specs(shape, format)
    if layout == "planar":
        return planar
    if not format.is_quantized:
        raise FormatError(f"{layout!r} is not possible for {format}, only 'planar'", field="layout")
    return {"blocks": ((*_blocks(shape, format), _block_bytes(shape, format)), np.dtype(np.uint8))}


def _blocks(shape: tuple[int, ...], format: WeightFormat) -> tuple[int, int]:
    return format.scale_shape(*shape)


def _head_bytes(format: WeightFormat) -> tuple[int, int]:
    """Bytes of the scale and of the zero-point, or offset, in front of a block."""
    zero = 0 if format.zero_plane is None else NUMPY[format.zero_plane[1]].itemsize
    return NUMPY[format.scale_dtype].itemsize, zero


def _block_bytes(shape: tuple[int, ...], format: WeightFormat) -> int:
    rows, columns = shape
    weights = (
        rows * format.padded_columns(columns) if format.granularity == "tensor" else format.block(columns)
    )
    return sum(_head_bytes(format)) + weights * format.bits // 8


def interleave(tensor: WeightTensor) -> np.ndarray:
    """The plane `blocks` of a quantized tensor: uint8 [rows, blocks, bytes of a block], [1, 1, n] for
    "tensor".
    """
    ((shape, _),) = stored_planes(tensor.shape, tensor.format, "interleaved").values()
    scale, zero = _head_bytes(tensor.format)
    blocks = np.empty(shape, np.uint8)
    blocks[..., :scale] = _bytes(tensor.planes["scales"]).reshape(*shape[:2], scale)
    if tensor.format.zero_plane is not None:
        plane = _bytes(tensor.planes[tensor.format.zero_plane[0]])
        blocks[..., scale : scale + zero] = plane.reshape(*shape[:2], zero)
    blocks[..., scale + zero :] = _bytes(tensor.planes["quants"]).reshape(*shape[:2], -1)
    return blocks


def deinterleave(blocks: np.ndarray, name: str, shape: tuple[int, ...], format: WeightFormat) -> WeightTensor:
    """The inverse of `interleave`: a planar tensor from `blocks`, uint8 as `stored_planes` tells."""
    ((wanted, dtype),) = stored_planes(shape, format, "interleaved").values()
    if blocks.shape != wanted or blocks.dtype != dtype:
        raise FormatError(
            f"is {blocks.dtype} {list(blocks.shape)}, but {format} of shape {list(shape)} "
            f"needs uint8 {list(wanted)}",
            tensor=name,
            field="planes.blocks",
        )
    scale, zero = _head_bytes(format)
    packed = np.ascontiguousarray(blocks[..., scale + zero :]).reshape(shape[0], -1)
    planes = {
        "quants": packed.view(WORD),
        "scales": np.ascontiguousarray(blocks[..., :scale]).view(NUMPY[format.scale_dtype])[..., 0],
    }
    if format.zero_plane is not None:
        plane, element = format.zero_plane
        stored = np.ascontiguousarray(blocks[..., scale : scale + zero])
        planes[plane] = stored.view(NUMPY[element])[..., 0]
    return WeightTensor(name, shape, format, planes)


def _bytes(plane: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(plane).reshape(-1).view(np.uint8)


def _reversed_in_byte(bits: int) -> np.ndarray:
    """Table: a byte -> the byte with its 8 / bits fields in reverse order."""
    byte, result = np.arange(256, dtype=np.uint16), np.zeros(256, np.uint16)
    for shift in range(0, 8, bits):
        result |= ((byte >> shift) & (2**bits - 1)) << (8 - bits - shift)
    return result.astype(np.uint8)


def reorder(tensor: WeightTensor, order: str) -> WeightTensor:
    """The same weights packed in another order within each byte; the tensor itself if nothing changes."""
    format = replace(tensor.format, order=order)
    if format == tensor.format:
        return tensor
    words = np.ascontiguousarray(tensor.planes["quants"])
    swapped = _reversed_in_byte(format.bits)[words.view(np.uint8)].view(WORD)
    return WeightTensor(tensor.name, tensor.shape, format, {**tensor.planes, "quants": swapped})
