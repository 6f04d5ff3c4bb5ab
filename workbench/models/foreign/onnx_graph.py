"""A decoder as an ONNX graph: nodes, names and inputs as onnxruntime-genai's model builder has them, which its runtime,
and whoever looks for weights by name, know.

    input_ids        int64 [batch, tokens]
    attention_mask   int64 [batch, past + tokens]                      0 for padding behind a text
    past_key_values.LAYER.key, .value   f32 [batch, heads, past, size]
    logits           f32 [batch, tokens, vocabulary]
    present.LAYER.key, .value           f32 [batch, heads, past + tokens, size]

Integers are multiplied by MatMulNBits and looked up by GatherBlockQuantized, floats by MatMul and Gather; attention
with its rotary embedding and its cache is GroupQueryAttention. Neither takes offsets, w = s q + b: b times the sum of
each block of inputs is added to a product, and b to a row that is looked up. All of it is f32 but what
`accuracy_level` makes of the inputs of MatMulNBits (1: f32; 4: 8 bits, with a scale a block, as onnxruntime's faster
kernels want them).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.formats.tensor import WeightTensor
from workbench.models.foreign.onnx_weights import OFFSETS, pack
from workbench.models.source import Source

#: Of the operators, and of the file: read since onnxruntime 1.20.
OPSET, IR = 21, 10
CONTRIB = "com.microsoft"
PRODUCER = "webgpu-quant-workbench"
#: Tensors beside the file begin at multiples of this, so that they can be mapped.
_ALIGNMENT = 4096
_LENGTHS = ("batch_size", "sequence_length", "past_sequence_length", "total_sequence_length")


class Initializers:
    """Tensors of a graph, each written when it is added. beside: the file that takes their bytes; None: the graph's."""

    def __init__(self, beside: Path | None) -> None:
        self.all: dict[str, Any] = {}
        self._beside = beside
        if beside is not None:
            beside.touch()

    def add(self, name: str, values: np.ndarray) -> str:
        """The name, under which there is one tensor. Raises OSError."""
        from onnx import TensorProto, helper, numpy_helper

        if name in self.all:
            return name
        values = np.ascontiguousarray(values)
        if self._beside is None or values.nbytes < _ALIGNMENT:
            self.all[name] = numpy_helper.from_array(values, name)
            return name
        with self._beside.open("ab") as file:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            place = {"location": self._beside.name, "offset": file.tell(), "length": values.nbytes}
            file.write(values.data)
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor = TensorProto(name=name, dims=values.shape, data_type=kind, data_location=TensorProto.EXTERNAL)
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.all[name] = tensor
        return name


class DecoderGraph:
    """Made node by node in the order of the computation.

    model: a dense architecture, of a family that `onnx_model.KNOWN` names. accuracy_level: of MatMulNBits.
    """

    def __init__(self, source: Source, model: Any, initializers: Initializers, accuracy_level: int) -> None:
        self.source, self.model, self.initializers, self.level = source, model, initializers, accuracy_level
        self.nodes: list[Any] = []
        self._sums: dict[tuple[str, int], str] = {}
        self._residual, self._added = "", ""

    def proto(self) -> Any:
        """The whole as onnx has it."""
        from onnx import helper

        self._embed()
        lengths = self._lengths()
        table = self.model.rotary.values((self.model.context_length, self.model.head_dim))
        for name, half in zip(("cos_cache", "sin_cache"), np.split(table, 2, axis=1), strict=True):
            self.initializers.add(name, half)
        for index in range(self.model.layers):
            self._layer(index, lengths)
        final = self._norm(
            "model.norm.weight", f"model.layers.{self.model.layers}.final_norm_layernorm", last=True
        )
        self._head(final)
        inputs, outputs = self._ends()
        graph = helper.make_graph(
            self.nodes, "decoder", inputs, outputs, list(self.initializers.all.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR, producer_name=PRODUCER)

    def _ends(self) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs of the graph."""
        from onnx import TensorProto, helper

        batch, tokens, past, total = _LENGTHS
        heads, size = self.model.kv_heads, self.model.head_dim

        def value(name: str, *shape: int | str, of: int = TensorProto.FLOAT) -> Any:
            return helper.make_tensor_value_info(name, of, shape)

        def caches(name: str, length: str) -> list[Any]:
            names = (f"{name}.{i}.{part}" for i in range(self.model.layers) for part in ("key", "value"))
            return [value(each, batch, heads, length, size) for each in names]

        ids = value("input_ids", batch, tokens, of=TensorProto.INT64)
        mask = value("attention_mask", batch, total, of=TensorProto.INT64)
        logits = value("logits", batch, tokens, self.model.vocab_size)
        return [ids, mask, *caches("past_key_values", past)], [logits, *caches("present", total)]

    def _add(
        self, op: str, name: str, inputs: list[str], outputs: list[str] | None = None, /, **attributes: Any
    ) -> str:
        """A node; the name of its first output."""
        from onnx import helper

        domain = CONTRIB if op in _CONTRIBUTED else ""
        outputs = outputs or [f"{name}/output_0"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, domain=domain, **attributes))
        return outputs[0]

    def _constant(self, *values: int) -> str:
        """A vector of int64."""
        return self.initializers.add(f"/model/constants/INT64/{list(values)}", np.array(values, np.int64))

    def _plain(self, tensor: str, name: str, change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> str:
        """A tensor of the source in f32 as an initializer."""
        if name in self.initializers.all:
            return name
        return self.initializers.add(name, change(self.source.tensor(tensor).dequantize()))

    def _lengths(self) -> tuple[str, str]:
        """What attention is told of the mask: places before each text's last token, and places in all, int32."""
        from onnx import TensorProto

        path = "/model/attn_mask_reformat/attn_mask_subgraph"
        tokens = self._add(
            "ReduceSum", f"{path}/ReduceSum", ["attention_mask", self._constant(1)], keepdims=0
        )
        before = self._add("Sub", f"{path}/Sub", [tokens, self._constant(1)])
        shape = self._add("Shape", f"{path}/Shape", ["attention_mask"])
        one = self.initializers.add("/model/constants/INT64/1", np.array(1, np.int64))
        total = self._add("Gather", f"{path}/Gather", [shape, one], axis=0)
        to = {"to": TensorProto.INT32}
        return (
            self._add("Cast", f"{path}/Sub/Cast", [before], **to),
            self._add("Cast", f"{path}/Gather/Cast", [total], **to),
        )

    def _integers(self, tensor: WeightTensor, stem: str) -> tuple[list[str], dict[str, int]]:
        """Initializers of a matrix in the order of MatMulNBits' inputs, and its attributes; offsets are no input."""
        block, parts = pack(tensor)
        if (offsets := parts.pop("offsets", None)) is not None:
            self.initializers.add(f"{stem}{OFFSETS}", offsets)
        bits = tensor.format.bits
        ending = {part: f"Q{bits}" if part == "quants" else part for part in parts}
        names = [self.initializers.add(f"{stem}_{ending[part]}", values) for part, values in parts.items()]
        return names, {"bits": bits, "block_size": block}

    def _embed(self) -> None:
        name, node = self.model.embedding, "/model/embed_tokens"
        (rows, columns), fmt = self.source.describe(name)
        if not fmt.is_quantized:
            table = self._plain(name, name)
            self._residual = self._add("Gather", f"{node}/Gather", [table, "input_ids"])
            return
        tied = self.model.tied_embeddings
        stem = "lm_head.MatMul.weight" if tied else "model.embed_tokens.weight"
        parts, how = self._integers(self.source.tensor(name), stem)
        width = columns * fmt.bits // 8
        if columns % how["block_size"]:  # a table's rows have no padding, a product's have
            quants = self._add("Reshape", f"{node}/Reshape_rows", [parts[0], self._constant(rows, -1)])
            ends = [self._constant(each) for each in (0, width, 1)]
            table = self._add("Slice", f"{node}/Slice", [quants, *ends])
        else:
            table = self._add("Reshape", f"{node}/Reshape", [parts[0], self._constant(rows, width)])
        how |= {"gather_axis": 0, "quantize_axis": 1}
        inputs = [table, "input_ids", *parts[1:]]
        self._residual = self._add("GatherBlockQuantized", f"{node}/GatherBlockQuantized", inputs, **how)
        if fmt.offset:
            path, block = f"{node}/offsets", how["block_size"]
            offsets = self._add("Gather", f"{path}/Gather", [f"{stem}{OFFSETS}", "input_ids"])
            offsets = self._add("Unsqueeze", f"{path}/Unsqueeze", [offsets, self._constant(-1)])
            rows = [self._residual, self._constant(0, 0, -1, block)]
            added = self._add("Add", f"{path}/Add", [self._add("Reshape", f"{path}/Reshape", rows), offsets])
            self._residual = self._add(
                "Reshape", f"{path}/Reshape_rows", [added, self._constant(0, 0, columns)]
            )

    def _head(self, x: str) -> None:
        if self.model.tied_embeddings and not self.source.describe(self.model.embedding)[1].is_quantized:
            turned = self._add("Transpose", "/lm_head/Transpose", [self.model.embedding], perm=[1, 0])
            self._add("MatMul", "/lm_head/MatMul", [x, turned], ["logits"])
            return
        self._product(self.model.lm_head, "lm_head", x, ["logits"])

    def _product(self, tensor: str, module: str, x: str, outputs: list[str] | None = None) -> str:
        """x times a matrix of the source. module: what it is called here, "model.layers.0.attn.q_proj"."""
        (rows, columns), fmt = self.source.describe(tensor)
        node, stem = node_of(module), f"{module}.MatMul.weight"
        if not fmt.is_quantized:
            weight = self._plain(tensor, stem, np.transpose)
            return self._add("MatMul", f"{node}/MatMul", [x, weight], outputs)
        parts, how = self._integers(self.source.tensor(tensor), stem)
        how |= {"K": columns, "N": rows, "accuracy_level": self.level}
        name = f"{node}/MatMul_Q{fmt.bits}"
        if not fmt.offset:
            return self._add("MatMulNBits", name, [x, *parts], outputs, **how)
        y = self._add("MatMulNBits", name, [x, *parts], **how)
        return self._with_offsets(f"{node}/offsets", [x, y, f"{stem}{OFFSETS}"], how["block_size"], outputs)

    def _with_offsets(self, path: str, tensors: list[str], block: int, outputs: list[str] | None) -> str:
        """A product y = x (s q) and what offsets [rows, blocks] add to it. tensors: x, y, the offsets."""
        x, y, offsets = tensors
        if (x, block) not in self._sums:
            blocks = self._add("Reshape", f"{path}/Reshape", [x, self._constant(0, 0, -1, block)])
            sums = self._add("ReduceSum", f"{path}/ReduceSum", [blocks, self._constant(-1)], keepdims=0)
            self._sums[x, block] = sums
        turned = self._add("Transpose", f"{path}/Transpose", [offsets], perm=[1, 0])
        added = self._add("MatMul", f"{path}/MatMul", [self._sums[x, block], turned])
        return self._add("Add", f"{path}/Add", [y, added], outputs)

    def _linear(self, index: int, part: str, x: str) -> str:
        """A linear layer of a decoder layer, with its bias where it has one. part: "self_attn.q_proj"."""
        tensor = f"model.layers.{index}.{part}"
        module = tensor.replace("self_attn", "attn")
        y = self._product(f"{tensor}.weight", module, x)
        if f"{tensor}.bias" not in self.model.tensors():
            return y
        bias = self._plain(f"{tensor}.bias", f"{module}.Add.bias")
        return self._add("Add", f"{node_of(module)}/Add", [y, bias])

    def _norm(self, tensor: str, module: str, last: bool = False) -> str:
        """The norm of the residual stream, to which first comes what a part of a layer has added."""
        weight = self._plain(tensor, f"{module}.weight")
        node, epsilon = node_of(module), float(self.model.norm_eps)
        out = f"{node}/output_0"
        if not self._added:
            inputs = [self._residual, weight]
            return self._add(
                "SimplifiedLayerNormalization", f"{node}/LayerNorm", inputs, [out],
                axis=-1, epsilon=epsilon, stash_type=1,
            )  # fmt: skip
        inputs = [self._residual, self._added, weight]
        self._residual = f"{node}/output_3"
        outputs = [out] if last else [out, "", "", self._residual]
        op = "SkipSimplifiedLayerNormalization"
        return self._add(op, f"{node}/SkipLayerNorm", inputs, outputs, epsilon=epsilon)

    def _head_norm(self, index: int, part: str, x: str) -> str:
        """The norm of each head in q or k, where the family has one."""
        tensor = f"model.layers.{index}.self_attn.{part}_norm.weight"
        if tensor not in self.model.tensors():
            return x
        path, size = f"/model/layers.{index}/attn/{part}_norm", self.model.head_dim
        weight = self._plain(tensor, f"model.layers.{index}.attn.{part}_norm.layernorm.weight")
        heads = self._add("Reshape", f"{path}/Reshape_1", [x, self._constant(0, -1, size)])
        normed = self._add(
            "SimplifiedLayerNormalization", f"{path}/SimplifiedLayerNormalization", [heads, weight],
            axis=-1, epsilon=float(self.model.norm_eps), stash_type=1,
        )  # fmt: skip
        width = size * (self.model.heads if part == "q" else self.model.kv_heads)
        return self._add("Reshape", f"{path}/Reshape_2", [normed, self._constant(0, -1, width)])

    def _layer(self, index: int, lengths: tuple[str, str]) -> None:
        module = f"model.layers.{index}"
        x = self._norm(f"{module}.input_layernorm.weight", f"{module}.input_layernorm")
        q, k, v = (self._linear(index, f"self_attn.{part}_proj", x) for part in "qkv")
        q, k = self._head_norm(index, "q", q), self._head_norm(index, "k", k)
        past, present = (
            [f"{name}.{index}.{part}" for part in ("key", "value")] for name in ("past_key_values", "present")
        )
        node = f"{node_of(module)}/attn/GroupQueryAttention"
        attended = self._add(
            "GroupQueryAttention", node, [q, k, v, *past, *lengths, "cos_cache", "sin_cache"],
            [f"{node}/output_0", *present], **self._attention(index),
        )  # fmt: skip
        self._added = self._linear(index, "self_attn.o_proj", attended)
        x = self._norm(f"{module}.post_attention_layernorm.weight", f"{module}.post_attention_layernorm")
        gate, up = self._linear(index, "mlp.gate_proj", x), self._linear(index, "mlp.up_proj", x)
        path = f"{node_of(module)}/mlp"
        sigmoid = self._add("Sigmoid", f"{path}/act_fn/Sigmoid", [gate])
        silu = self._add("Mul", f"{path}/act_fn/Mul", [gate, sigmoid])
        self._added = self._linear(index, "mlp.down_proj", self._add("Mul", f"{path}/Mul", [silu, up]))

    def _attention(self, index: int) -> Mapping[str, float]:
        return {
            "num_heads": self.model.heads,
            "kv_num_heads": self.model.kv_heads,
            "scale": self.model.head_dim**-0.5,
            "local_window_size": int(self.model.bounds(index).get("window", -1)),
            "do_rotary": 1,
            "rotary_interleaved": 0,
        }


_CONTRIBUTED = (
    "MatMulNBits",
    "GatherBlockQuantized",
    "GroupQueryAttention",
    "SkipSimplifiedLayerNormalization",
)


def node_of(module: str) -> str:
    """ "model.layers.0.mlp.up_proj" -> "/model/layers.0/mlp/up_proj", as nodes are named."""
    return "/" + re.sub(r"\.(?!\d)", "/", module)
