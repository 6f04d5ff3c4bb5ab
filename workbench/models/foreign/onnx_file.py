"""What of an ONNX file says where weights are: its nodes, and its initializers in the file or in others beside it.

The `onnx` package parses the file; data outside of it is mapped here, since a file says by itself where that lies.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workbench.errors import CheckpointError, WorkbenchError
from workbench.files.reading import open_regular, read_bytes
from workbench.models.checkpoint_files import is_file_name

#: Elements that weights, scales and zero-points are stored as, by their number in a file; and their bits.
DTYPES = {1: "F32", 10: "F16", 16: "BF16", 2: "U8", 3: "I8"}
ELEMENTS = {
    name: np.dtype(code)
    for name, code in zip(DTYPES.values(), ("<f4", "<f2", "<u2", "u1", "i1"), strict=True)
}
#: The largest file that protobuf has.
MOST_BYTES = 2 << 30


class Node(NamedTuple):
    """op: as "MatMulNBits"; attributes: integers and texts alone."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Initializer:
    """dtype: a name of `ELEMENTS`. raw: its bytes in the file, or None. file, offset: where they lie beside it."""

    shape: tuple[int, ...]
    dtype: str
    raw: bytes | None
    file: Path | None = None
    offset: int = 0

    def values(self) -> np.ndarray:
        """Read-only, of `shape`; BF16 as the bits. Raises OSError, ValueError."""
        count, element = math.prod(self.shape), ELEMENTS[self.dtype]
        if self.file is None:
            return np.frombuffer(self.raw or b"", element, count).reshape(self.shape)
        with open_regular(self.file) as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, element, count, self.offset).reshape(self.shape)


@dataclass(frozen=True)
class OnnxFile:
    """nodes: in order. initializers: those that may be weights, by name. producer: the program that wrote it."""

    path: Path
    nodes: tuple[Node, ...]
    initializers: Mapping[str, Initializer]
    producer: str

    @property
    def data_files(self) -> list[Path]:
        """The files beside it that hold weights."""
        return sorted({each.file for each in self.initializers.values() if each.file is not None})


def open_onnx(path: Path) -> OnnxFile:
    """Raises CheckpointError for a file that is none or that lies, WorkbenchError where the package is missing."""
    onnx = require_onnx(f"{path}: ONNX files are read")
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_bytes(path, MOST_BYTES))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise CheckpointError(f"{path}: not an ONNX file: {error}") from error
    nodes = tuple(
        Node(
            _text(each.op_type),
            _text(each.name),
            tuple(map(_text, each.input)),
            tuple(map(_text, each.output)),
            _attributes(each),
        )
        for each in model.graph.node
    )
    initializers: dict[str, Initializer] = {}
    for tensor in model.graph.initializer:
        name = _text(tensor.name)
        if name in initializers:
            raise CheckpointError(f"{path}: tensor {name!r} is there twice")
        if tensor.data_type in DTYPES:
            initializers[name] = _initializer(path, name, tensor)
    if not nodes or not initializers:
        raise CheckpointError(f"{path}: holds {len(nodes)} nodes and {len(initializers)} tensors of weights")
    return OnnxFile(path, nodes, initializers, _text(model.producer_name)[:80])


def require_onnx(what: str) -> Any:
    """The package onnx. Raises WorkbenchError where it is missing; what: that is done with it."""
    try:
        import onnx
    except ImportError as error:
        raise WorkbenchError(
            f"{what} with the package onnx ({error}): pip install 'webgpu-quant-workbench[onnx]'"
        ) from error
    return onnx


def _text(value: str | bytes) -> str:
    """A text of the file, of which the protobuf library gives the bytes where they are no UTF-8."""
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    kinds = {onnx.AttributeProto.INT: lambda a: a.i, onnx.AttributeProto.STRING: lambda a: a.s}
    return {_text(each.name): kinds[each.type](each) for each in node.attribute if each.type in kinds}


def _initializer(path: Path, name: str, tensor: Any) -> Initializer:
    """Raises CheckpointError for a tensor whose bytes are not there."""
    import onnx

    dtype = DTYPES[tensor.data_type]
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape) or (count := math.prod(shape)) > 1 << 40:
        raise CheckpointError(f"{path}: tensor {name!r} has shape {list(shape)}; allowed: sizes from 0")
    nbytes = count * ELEMENTS[dtype].itemsize
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return Initializer(shape, dtype, None, *_outside(path, name, tensor, nbytes))
    raw = tensor.raw_data or _typed(tensor, ELEMENTS[dtype])
    if len(raw) != nbytes:
        raise CheckpointError(
            f"{path}: tensor {name!r} has {len(raw)} bytes, but shape {list(shape)} of {dtype} needs {nbytes}"
        )
    return Initializer(shape, dtype, raw)


def _typed(tensor: Any, element: np.dtype) -> bytes:
    """Bytes of numbers that are stored one by one; those of 16 and 8 bits lie in the array of 32-bit integers."""
    if element == ELEMENTS["F32"]:
        return np.array(tensor.float_data, element).tobytes()
    return np.array(tensor.int32_data, "<i4").astype(f"<i{element.itemsize}").tobytes()


def _outside(path: Path, name: str, tensor: Any, nbytes: int) -> tuple[Path, int]:
    """File and offset of a tensor's bytes. Raises CheckpointError unless they lie in a file of the same folder."""
    said = {_text(each.key): _text(each.value) for each in tensor.external_data}
    location = said.get("location", "")
    if not is_file_name(location):
        raise CheckpointError(
            f"{path}: tensor {name!r} lies in {location!r}; allowed: a file of the same folder"
        )
    file = path.parent / location
    try:
        offset, length = (
            int(said.get(key, fallback)) for key, fallback in (("offset", 0), ("length", nbytes))
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: tensor {name!r}: {error}") from error
    try:
        with open_regular(file) as stream:
            size = stream.seek(0, 2)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    if length != nbytes or offset < 0 or offset + nbytes > size:
        raise CheckpointError(
            f"{path}: tensor {name!r} is {length} bytes at {offset} of {location}, which has {size}; its shape needs "
            f"{nbytes}"
        )
    return file, offset
