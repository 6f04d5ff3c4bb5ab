"""ONNX models that apply one linear layer several times, each product the bias of the next.

Weights lie in a file beside the model: protocol buffers end at 2 GiB.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .layer import Layer

WEIGHTS = "weights.bin"
#: The version of the format, and of the operators, that onnxruntime has read since 1.20.
IR_VERSION, OPSET = 10, 21
NUMPY = {"f16": np.float16, "f32": np.float32}


@dataclass(frozen=True)
class Chain:
    """file: the model's name in its folder. output: the name of its result. weight_bytes: of one copy."""

    file: str
    output: str
    weight_bytes: int


@dataclass
class _Model:
    """Nodes and initializers of a model that is being written."""

    folder: Path | None
    dtype: str
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)

    def small(self, name: str, array: np.ndarray) -> None:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(array, name))

    def weights(self, planes: dict[str, np.ndarray], copies: int) -> None:
        """Copies of the planes in the file of weights (kept where it is there already), named NAME0, NAME1, ..."""
        from onnx import TensorProto, helper

        path, offset = self.folder / WEIGHTS, 0
        write = not path.exists()
        with path.open("wb" if write else "rb") as file:
            for copy in range(copies):
                for name, array in planes.items():
                    offset = -(-offset // 4096) * 4096
                    if write:
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
                    self.initializers.append(tensor)
                    offset += array.nbytes

    def bias(self, previous: str, layer: Layer) -> str:
        """The first row of a product as a vector of its own: a view for one token, a small copy for several."""
        from onnx import helper

        name = f"bias_{previous}"
        if layer.tokens == 1:
            self.nodes.append(helper.make_node("Reshape", [previous, "vector"], [name]))
        else:
            self.nodes.append(helper.make_node("Gather", [previous, "first"], [name], axis=0))
        return name

    def save(self, layer: Layer, output: str, file: str) -> None:
        from onnx import TensorProto, helper

        self.small("vector", np.array([layer.rows], np.int64))
        self.small("first", np.array(0, np.int64))
        kind = TensorProto.FLOAT16 if self.dtype == "f16" else TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", kind, [layer.tokens, layer.columns])],
            [helper.make_tensor_value_info(output, kind, [layer.tokens, layer.rows])],
            [each for each in self.initializers if any(each.name in node.input for node in self.nodes)],
        )
        operators = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=operators, ir_version=IR_VERSION)
        (self.folder / file).write_bytes(model.SerializeToString())


def nbits_planes(layer: Layer, block: int, dtype: str) -> dict[str, np.ndarray]:
    """Quants [rows, blocks, bytes], scales [rows, blocks], zero-points [rows, bytes] as MatMulNBits reads them.

    Its numbers are unsigned (INT8's are moved by 128), lowest bits first. Blocks that are longer than `block` become
    several with the same scale.
    """
    blocks, times = layer.columns // block, layer.block // block
    shift = 128 if layer.bits == 8 else 0
    quants = layer.words.numpy().view(np.uint8)[:, : layer.columns * layer.bits // 8]
    planes = {
        "quants": (quants ^ np.uint8(shift)).reshape(layer.rows, blocks, -1),
        "scales": np.repeat(layer.scales.numpy(), times, 1).astype(NUMPY[dtype]),
    }
    if layer.zeros is not None:
        zeros = np.repeat(layer.zeros.numpy().astype(np.int32) + shift, times, 1).astype(np.uint8)
        together = 8 // layer.bits
        zeros = np.pad(zeros, ((0, 0), (0, -blocks % together))).reshape(layer.rows, -1, together)
        places = np.arange(together, dtype=np.uint8) * layer.bits
        planes["zeros"] = np.bitwise_or.reduce(zeros << places, axis=-1).astype(np.uint8)
    return planes


def nbits_chain(
    layer: Layer, block: int, dtype: str, *, calls: int, copies: int, folder: Path | None
) -> Chain:
    """`calls` MatMulNBits in one model; without a folder nothing is written and only the sizes are told."""
    planes = nbits_planes(layer, block, dtype)
    file, size = f"chain{calls}.onnx", sum(array.nbytes for array in planes.values())
    if folder is None:
        return Chain(file, "", size)
    from onnx import helper

    model, output = _Model(folder, dtype), ""
    model.weights(planes, copies)
    for at in range(calls):
        copy = at % copies
        zeros = f"zeros{copy}" if "zeros" in planes else ""
        inputs = ["x", f"quants{copy}", f"scales{copy}", zeros]
        if output:
            inputs += ["", model.bias(output, layer)]
        while not inputs[-1]:
            inputs.pop()
        output = f"y{at}"
        shape = {"K": layer.columns, "N": layer.rows, "bits": layer.bits, "block_size": block}
        model.nodes.append(
            helper.make_node(
                "MatMulNBits", inputs, [output], domain="com.microsoft", accuracy_level=4, **shape
            )
        )
    model.save(layer, output, file)
    return Chain(file, output, size)


def dense_chain(
    layer: Layer, operator: str, dtype: str, *, calls: int, copies: int, folder: Path | None
) -> Chain:
    """`calls` products with an unquantized weight: Gemm with a bias, or MatMul on the product before."""
    file = f"chain{calls}.onnx"
    weight = layer.weight.numpy().astype(NUMPY[dtype])
    if folder is None:
        return Chain(file, "", weight.nbytes)
    from onnx import helper

    model, output = _Model(folder, dtype), ""
    model.weights({"weight": weight if operator == "Gemm" else weight.T}, copies)
    for at in range(calls):
        inputs = ["x", f"weight{at % copies}"]
        if output and operator == "Gemm":
            inputs.append(model.bias(output, layer))
        elif output:
            inputs[0] = output
        output = f"y{at}"
        extra = {"transB": 1} if operator == "Gemm" else {}
        model.nodes.append(helper.make_node(operator, inputs, [output], **extra))
    model.save(layer, output, file)
    return Chain(file, output, weight.nbytes)
