"""ONNX models that apply one linear layer several times, each product the bias of the next.

Weights lie in a file beside the models: protocol buffers end at 2 GiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.dtypes import NUMPY
from workbench.known import known

from .layer import Layer

WEIGHTS = "weights.bin"
#: The version of the format, and of the operators, that onnxruntime has read since 1.20.
IR_VERSION, OPSET = 10, 21
#: Mapped files are read by pages.
PAGE = 4096


def nbits_planes(layer: Layer, block: int, dtype: str) -> dict[str, np.ndarray]:
    """Quants [rows, blocks, bytes], scales [rows, blocks], zero-points [rows, bytes] as MatMulNBits reads them.

    Its numbers are unsigned (INT8's are moved by 128), lowest bits first. Blocks that are longer than `block` become
    several with the same scale.
    """
    blocks, times = layer.columns // block, layer.block // block
    shift = 128 if layer.bits == 8 else 0
    quants = known(layer.words).numpy().view(np.uint8)[:, : layer.columns * layer.bits // 8]
    planes = {
        "quants": (quants ^ np.uint8(shift)).reshape(layer.rows, blocks, -1),
        "scales": np.repeat(known(layer.scales).numpy(), times, 1).astype(NUMPY[dtype]),
    }
    if layer.zeros is not None:
        zeros = np.repeat(layer.zeros.numpy().astype(np.int32) + shift, times, 1).astype(np.uint8)
        together = 8 // layer.bits
        zeros = np.pad(zeros, ((0, 0), (0, -blocks % together))).reshape(layer.rows, -1, together)
        places = np.arange(together, dtype=np.uint8) * layer.bits
        planes["zeros"] = np.bitwise_or.reduce(zeros << places, axis=-1).astype(np.uint8)
    return planes


@dataclass(frozen=True)
class Model:
    """A file in its folder, the name of its result, and that of a part of it: who has read the part has waited for the
    whole, without copying much."""

    file: str
    output: str
    part: str


class Operator:
    """A layer as one ONNX operator: "MatMulNBits" on quantized planes, "Gemm" or "MatMul" on a dense weight.

    One token is a vector to MatMulNBits, so that its product is a bias as it stands.
    """

    def __init__(self, layer: Layer, name: str, dtype: str, block: int = 0):
        self.layer, self.name, self.dtype, self._block = layer, name, dtype, block
        if name == "MatMulNBits":
            self.planes = nbits_planes(layer, block, dtype)
        else:
            weight = layer.weight.numpy().astype(NUMPY[dtype])
            self.planes = {"weight": weight if name == "Gemm" else weight.T}
        self.weight_bytes = sum(array.nbytes for array in self.planes.values())
        self._vector = name == "MatMulNBits" and layer.tokens == 1

    @property
    def x(self) -> np.ndarray:
        """The activations in the shape that the models take."""
        x = self.layer.x.numpy().astype(NUMPY[self.dtype])
        return x[0] if self._vector else x

    def write_weights(self, folder: Path, copies: int) -> list[Any]:
        """Write copies of the planes, `quants0`, `quants1`, ...; the initializers that refer to them."""
        from onnx import TensorProto, helper

        tensors, offset = [], 0
        with (folder / WEIGHTS).open("wb") as file:
            for copy in range(copies):
                for name, array in self.planes.items():
                    offset = -(-offset // PAGE) * PAGE
                    file.seek(offset)
                    file.write(np.ascontiguousarray(array).data)
                    tensor = TensorProto(
                        name=f"{name}{copy}",
                        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                        dims=array.shape,
                        data_location=TensorProto.EXTERNAL,
                    )
                    place = {"location": WEIGHTS, "offset": offset, "length": array.nbytes}
                    for key, value in place.items():
                        tensor.external_data.add(key=key, value=str(value))
                    tensors.append(tensor)
                    offset += array.nbytes
        return tensors

    def write_model(self, folder: Path, weights: list[Any], copies: int, calls: int) -> Model:
        """A model of so many calls, which take the copies of the weights in turns."""
        from onnx import TensorProto, helper, numpy_helper

        nodes, output = [], ""
        for at in range(calls):
            nodes += self._nodes(output, f"y{at}", at % copies)
            output = f"y{at}"
        part = output
        if self.layer.tokens > 1:
            part = "part"
            nodes.append(helper.make_node("Gather", [output, "first"], [part], axis=0))
        used = {name for node in nodes for name in node.input}
        first = numpy_helper.from_array(np.array(0, np.int64), "first")
        kind = TensorProto.FLOAT16 if self.dtype == "f16" else TensorProto.FLOAT
        row = [self.layer.rows]
        shapes = {part: row, output: row if self._vector else [self.layer.tokens, *row]}
        graph = helper.make_graph(
            nodes,
            "chain",
            [helper.make_tensor_value_info("x", kind, self.x.shape)],
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
            [tensor for tensor in [*weights, first] if tensor.name in used],
        )
        operators = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=operators, ir_version=IR_VERSION)
        file = f"chain{calls}.onnx"
        (folder / file).write_bytes(model.SerializeToString())
        return Model(file, output, part)

    def _nodes(self, previous: str, output: str, copy: int) -> list[Any]:
        """One call, which waits for the one before it; previous: that one's result, "" for the first."""
        from onnx import helper

        if self.name == "MatMulNBits":
            return self._nbits_nodes(previous, output, copy)
        inputs = ["x", f"weight{copy}"]
        if self.name == "MatMul":
            return [helper.make_node("MatMul", [previous or "x", inputs[1]], [output])]
        return [helper.make_node("Gemm", [*inputs, *filter(None, [previous])], [output], transB=1)]

    def _nbits_nodes(self, previous: str, output: str, copy: int) -> list[Any]:
        from onnx import helper

        inputs = [
            "x",
            f"quants{copy}",
            f"scales{copy}",
            f"zeros{copy}" if "zeros" in self.planes else "",
            "",  # order of the columns
            previous,
        ]
        nodes = []
        if previous and not self._vector:  # a small dispatch of its own
            nodes.append(helper.make_node("Gather", [previous, "first"], [f"bias_{output}"], axis=0))
            inputs[-1] = f"bias_{output}"
        while not inputs[-1]:
            inputs.pop()
        sizes = {"K": self.layer.columns, "N": self.layer.rows, "bits": self.layer.bits}
        attributes: Mapping[str, Any] = {**sizes, "block_size": self._block, "accuracy_level": 4}
        nodes.append(helper.make_node("MatMulNBits", inputs, [output], domain="com.microsoft", **attributes))
        return nodes
