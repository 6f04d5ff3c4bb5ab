"""Weights of a decoder in an ONNX graph, found by the names of its nodes and initializers as onnxruntime-genai's model
builder and Optimum write them, under their names in a Hugging Face checkpoint.

Quantized are the second inputs of MatMulNBits (com.microsoft), w = scale (q - zero):

    B            uint8 [N, blocks, block bits / 8]      q along K, the first in the lowest bits
    scales       [N, blocks]                            f32 or f16
    zero_points  uint8 [N, blocks bits / 8], rounded up; absent: 2**(bits - 1); or floats [N, blocks], which onnxruntime
                 turns into offsets: w = scale q - (scale zero), each rounded to f32

and the tables of GatherBlockQuantized, which are stored alike. An initializer "NAME_offsets", f32 [N, blocks], beside
quants "NAME_Q4" is what exports of here add to the product or the row: w = scale q + offset.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.foreign.integers import Grid, moved
from workbench.models.foreign.onnx_file import Node, OnnxFile
from workbench.models.foreign.packed import FLOATS, MOST, Headers, Packed, Read
from workbench.models.foreign.words import pack_words

BITS = (2, 4, 8)
#: Blocks that onnxruntime's CPU provider multiplies at all bits, the largest first.
BLOCKS = (256, 128, 64, 32)
NORMS = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2, "RMSNormalization": 1}
#: Inputs that follow from the configuration: tables of rotations.
TABLES = {"GroupQueryAttention": (7, 8), "RotaryEmbedding": (2, 3)}
#: Ends the name of the offsets beside quants.
OFFSETS = "_offsets"
_OWN = (
    (re.compile(r"\.attn\."), ".self_attn."),
    (re.compile(r"(?<=[qk]_norm)\.layernorm(?=\.)"), ""),
    (re.compile(r"\.(MatMul|Add)(?=\.(weight|bias)$)"), ""),
    (re.compile(r"^model\.layers\.\d+\.final_norm_layernorm\."), "model.norm."),
)


@dataclass(frozen=True)
class NBitsMatrix(Packed):
    """bits: of q; block: columns a scale."""

    bits: int
    block: int

    def grid(self, read: Read) -> Grid:
        rows, columns = self.shape
        if "offsets" in self.parts:
            return self._beside_offsets(read)
        blocks = -(-columns // self.block)
        scales = np.ascontiguousarray(read(self.parts["scales"]).reshape(rows, blocks))
        zeros: np.ndarray | int = 2 ** (self.bits - 1)
        if "zero_points" in self.parts:
            stored = read(self.parts["zero_points"]).reshape(rows, -1)
            if stored.dtype != np.uint8:
                return Grid(self.bits, columns, self.block, scales, 0, offsets=-(scales * stored))
            zeros = _unpacked(stored, self.bits)[:, :blocks].astype(np.int16)
        return Grid(self.bits, columns, self.block, scales, zeros)

    def _beside_offsets(self, read: Read) -> Grid:
        """Raises CheckpointError unless the zero-points are zeros, which leave w = s q."""
        name = self.parts.get("zero_points")
        if name is None or read(name).any():
            raise CheckpointError(f"{self.parts['offsets']!r} needs zero-points of 0 beside it")
        scales, offsets = (
            read(self.parts[part]).reshape(self.shape[0], -1) for part in ("scales", "offsets")
        )
        return Grid(self.bits, self.shape[1], self.block, scales, 0, offsets=offsets)

    def quants(self, read: Read) -> np.ndarray:
        rows, columns = self.shape
        return _unpacked(read(self.parts["quants"]).reshape(rows, -1), self.bits)[:, :columns]


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """uint8 [n, 8 / bits values a byte] of bytes [n, bytes], the first value in the lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (packed[..., None] >> shifts & np.uint8(2**bits - 1)).reshape(len(packed), -1)


def offsets_beside(quants: str) -> str | None:
    """The name of the offsets beside quants of a name; None for one that exports of here do not give quants."""
    stem, _, bits = quants.rpartition("_Q")
    return f"{stem}{OFFSETS}" if stem and bits in map(str, BITS) else None


def own_name(name: str) -> str:
    """The name of an initializer in a Hugging Face checkpoint, where it follows from its own."""
    for pattern, own in _OWN:
        name = pattern.sub(own, name)
    return name


def _of(node: Node, what: str = "weight") -> str:
    """The tensor of a node: "/model/layers.0/attn/q_proj/MatMul_Q4" -> "model.layers.0.self_attn.q_proj.weight"."""
    return own_name(".".join(node.name.strip("/").split("/")[:-1]) + f".{what}")


@dataclass(frozen=True)
class Plain:
    """Floats as they are. transposed: [columns, rows], as MatMul takes them."""

    initializer: str
    transposed: bool = False


def plain(file: OnnxFile) -> dict[str, Plain]:
    """Float weights by their names in a Hugging Face checkpoint. Raises UnsupportedModelError."""
    found: dict[str, Plain] = {}
    taken = {offsets for name in file.initializers if (offsets := offsets_beside(name)) in file.initializers}
    for node in file.nodes:
        if node.attributes.get("rotary_interleaved"):
            raise UnsupportedModelError(f"{file.path}: {node.name!r} rotates neighbours (rotary_interleaved)")
        at = {**NORMS, "MatMul": 1}.get(node.op)
        if at is not None and at < len(node.inputs) and node.inputs[at] in file.initializers:
            name = node.inputs[at]
            matrix = node.op == "MatMul"
            if not matrix or len(file.initializers[name].shape) == 2:
                found[_of(node)] = Plain(name, matrix)
                taken.add(name)
        taken |= {node.inputs[at] for at in TABLES.get(node.op, ()) if at < len(node.inputs)}
        if node.op in ("MatMulNBits", "GatherBlockQuantized"):
            taken |= set(node.inputs[1:5])
            if node.op == "MatMulNBits" and len(node.inputs) > 5 and node.inputs[5]:
                found[_of(node, "bias")] = Plain(node.inputs[5])
                taken.add(node.inputs[5])
    for name, tensor in file.initializers.items():
        if name in taken or tensor.dtype not in FLOATS or np.prod(tensor.shape) <= 1 or "rotary_emb" in name:
            continue
        found.setdefault(own_name(name), Plain(name))
    return found


def packed(file: OnnxFile, headers: Headers) -> Iterator[tuple[str, Packed]]:
    """Quantized matrices by their names in a Hugging Face checkpoint. Raises CheckpointError, UnsupportedModelError."""
    reshaped = {
        node.outputs[0]: node.inputs[0] for node in file.nodes if node.op == "Reshape" and node.outputs
    }
    for node in file.nodes:
        if node.op == "MatMulNBits":
            yield _of(node), _matrix(node, headers)
        elif node.op == "GatherBlockQuantized":
            yield _of(node), _table(node, headers, reshaped)


def _inputs(node: Node, headers: Headers, names: dict[str, int]) -> dict[str, str]:
    """What inputs are called, by what they are; those that are left out are not there. Raises CheckpointError where
    quants or scales are."""
    found = {what: node.inputs[at] for what, at in names.items() if at < len(node.inputs) and node.inputs[at]}
    for what in ("quants", "scales"):
        if what not in found:
            raise CheckpointError(f"{headers.where}: {node.name!r} has no {what}, its input {names[what]}")
    return found


def _attribute(
    node: Node, headers: Headers, name: str, allowed: range | tuple[int, ...], default: int = -1
) -> int:
    value = node.attributes.get(name, default)
    if value not in allowed:
        said = (
            f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        )
        raise UnsupportedModelError(f"{headers.where}: {name} of {node.name!r} is {value!r}; allowed: {said}")
    return value


def _block(node: Node, headers: Headers, default: int) -> int:
    return _attribute(node, headers, "block_size", tuple(1 << at for at in range(4, 15)), default)


def _matrix(node: Node, headers: Headers) -> NBitsMatrix:
    bits, block = _attribute(node, headers, "bits", BITS, 4), _block(node, headers, 128)
    rows, columns = (_attribute(node, headers, size, range(1, MOST)) for size in "NK")
    parts = _inputs(node, headers, {"quants": 1, "scales": 2, "zero_points": 3, "g_idx": 4})
    if "g_idx" in parts:
        raise UnsupportedModelError(
            f"{headers.where}: {node.name!r} has g_idx, an order of its columns (act-order)"
        )
    blocks = -(-columns // block)
    _check(headers, parts, rows, blocks, bits)
    nbytes = block * bits // 8
    headers.found(parts["quants"], ("U8",), (rows, blocks, nbytes), (rows, blocks * nbytes))
    return NBitsMatrix((rows, columns), parts, f"MatMulNBits, {bits} bits", bits, block)


def _table(node: Node, headers: Headers, reshaped: dict[str, str]) -> NBitsMatrix:
    bits, block = _attribute(node, headers, "bits", BITS, 4), _block(node, headers, 128)
    _attribute(node, headers, "gather_axis", (0,), 0)
    _attribute(node, headers, "quantize_axis", (1, -1), 1)
    parts = _inputs(node, headers, {"quants": 0, "scales": 2, "zero_points": 3})
    parts["quants"] = reshaped.get(parts["quants"], parts["quants"])
    shape = headers.found(parts["quants"], ("U8",), None)
    rows, packed_bytes = (shape[0] if shape else 0), int(np.prod(shape[1:]))
    columns = packed_bytes * 8 // bits
    if not 0 < rows < MOST or not 0 < columns < MOST:
        headers.matrix(parts["quants"], ())
    _check(headers, parts, rows, -(-columns // block), bits)
    return NBitsMatrix((rows, columns), parts, f"GatherBlockQuantized, {bits} bits", bits, block)


def _check(headers: Headers, parts: dict[str, str], rows: int, blocks: int, bits: int) -> None:
    """Raise CheckpointError unless scales, zero-points and offsets are there for all blocks; adds the offsets."""
    headers.found(parts["scales"], FLOATS, (rows, blocks), (rows * blocks,))
    offsets = offsets_beside(parts["quants"])
    if offsets is not None and offsets in headers.all:
        headers.found(offsets, FLOATS, (rows, blocks))
        parts["offsets"] = offsets
    if "zero_points" in parts:
        name, nbytes = parts["zero_points"], -(-blocks * bits // 8)
        if name in headers.all and headers.all[name][1] == "U8":
            headers.found(name, ("U8",), (rows, nbytes), (rows * nbytes,))
        else:
            headers.found(name, FLOATS, (rows, blocks), (rows * blocks,))


def block_of(fmt: WeightFormat, columns: int) -> int:
    """Columns of the operator's blocks that make up those of a format."""
    return next(each for each in BLOCKS if fmt.block(columns) % each == 0)


def offsets_of(tensor: WeightTensor) -> np.ndarray | None:
    """Offsets, f32, beside q from 0 up; None if f32 does not hold them."""
    scales, offsets = (tensor.planes[name].astype(np.float32) for name in ("scales", "offsets"))
    return moved(offsets, scales, 128 if tensor.format.dtype == "int8" else 0)


def pack(tensor: WeightTensor) -> tuple[int, dict[str, np.ndarray]]:
    """The block size and the tensors of a quantized matrix, by what they are, in the order of the operator's inputs.

    Blocks that the operator does not have are several of its own. Scales are f32; so are zero-points with fractions,
    whose scale * zero is exact where the scales are f16. Formats with offsets have zero-points of 0, and the offsets
    last, for which the operator has no input; f32 is to hold them (`offsets_of`).
    """
    fmt, (rows, columns) = tensor.format, tensor.shape
    block = block_of(fmt, columns)
    blocks = -(-columns // block)

    def by_block(plane: np.ndarray) -> np.ndarray:
        plane = np.broadcast_to(plane, (rows, plane.shape[1])).astype(np.float32)
        return np.ascontiguousarray(np.repeat(plane, fmt.block(columns) // block, axis=1)[:, :blocks])

    shift = 128 if fmt.dtype == "int8" else 0
    q = np.zeros((rows, blocks * block), np.uint8)
    np.add(tensor.quants()[:, :columns], shift, out=q[:, :columns], dtype=np.int16, casting="unsafe")
    quants = pack_words(q, fmt.bits).view(np.uint8).reshape(rows, blocks, -1)
    parts = {"quants": quants, "scales": by_block(tensor.planes["scales"])}
    if fmt.offset:
        offsets = offsets_of(tensor)
        assert offsets is not None, "the export looked"
        parts["zero_points"] = np.zeros((rows, -(-blocks * fmt.bits // 8)), np.uint8)
        parts["offsets"] = by_block(offsets)
    elif not fmt.symmetric:
        zeros = by_block(tensor.zero_points() + shift)
        if not fmt.zero_frac_bits:
            zeros = pack_words(zeros.astype(np.uint8), fmt.bits).view(np.uint8)
            zeros = np.ascontiguousarray(zeros[:, : -(-blocks * fmt.bits // 8)])
        parts["zero_points"] = zeros
    return block, parts
