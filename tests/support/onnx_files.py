"""Small ONNX files of quantized decoders: their nodes, initializers and names as onnxruntime-genai's model builder and
as Optimum write them, without the rest of the graph. Values go in one by one, independent of the project's reader.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.models.checkpoints import random_state
from tests.support.foreign import SIZES, Rounded

Arrays = dict[str, np.ndarray]


def nbits(m: Rounded, block: int, zeros: str) -> tuple[Arrays, np.ndarray]:
    """B, scales and zero-points of a matrix, and its weights. zeros: "none" (symmetric), "packed" or "float"."""
    rows, columns = m.q.shape
    blocks, each = -(-columns // block), 8 // m.bits
    values = np.zeros((rows, blocks * block), int)
    values[:, :columns] = m.q

    def joined(numbers: np.ndarray) -> np.ndarray:
        """[n, N] -> uint8 [n, N / each, rounded up]."""
        lines = []
        for line in numbers:
            whole = sum(int(value) << m.bits * at for at, value in enumerate(line))
            lines.append(np.frombuffer(whole.to_bytes(-(-len(line) // each), "little"), np.uint8))
        return np.stack(lines)

    parts: Arrays = {"quants": joined(values).reshape(rows, blocks, -1), "scales": m.scales}
    if zeros == "packed":
        parts["zero_points"] = joined(m.zeros)
    if zeros == "float":
        parts["zero_points"] = (m.zeros + 0.25).astype(np.float16)
        scales = m.scales.astype(np.float32)
        beside = -(scales * parts["zero_points"].astype(np.float32))
        of = np.arange(columns) // block
        return parts, scales[:, of] * m.q.astype(np.float32) + beside[:, of]
    return parts, m.weights


class Graph:
    """Nodes and initializers as they are added. weights: f32, by names in a Hugging Face checkpoint."""

    def __init__(self, bits: int, block: int, zeros: str, config: dict[str, Any]):
        self.config = config
        self.bits, self.block, self.zeros = bits, block, zeros
        self.nodes: list[Any] = []
        self.initializers: Arrays = {}
        self.weights: Arrays = {}

    def add(
        self, op: str, name: str, inputs: list[str], domain: str = "com.microsoft", **attributes: Any
    ) -> None:
        self.nodes.append(
            helper.make_node(op, inputs, [f"{name}/output_0"], name, domain=domain, **attributes)
        )

    def quantized(self, node: str, stem: str, w: np.ndarray, table: bool = False) -> np.ndarray:
        """A MatMulNBits, or a GatherBlockQuantized of the same layout, with its initializers; the weights in f32."""
        m = Rounded(w, self.bits, self.block, self.zeros == "none")
        parts, weights = nbits(m, self.block, self.zeros)
        if table:  # whose rows are not padded
            parts["quants"] = parts["quants"].reshape(len(w), -1)[:, : w.shape[1] * self.bits // 8]
        names = {part: f"{stem}_{part}" for part in parts}
        self.initializers |= {names[part]: values for part, values in parts.items()}
        inputs = [names[part] for part in ("quants", "scales", "zero_points") if part in names]
        how = {"bits": self.bits, "block_size": self.block}
        if table:
            self.add("Reshape", f"{node}/Reshape", [inputs[0], "shape"], "")
            inputs = [f"{node}/Reshape/output_0", "input_ids", *inputs[1:]]
            self.add(
                "GatherBlockQuantized",
                f"{node}/GatherBlockQuantized",
                inputs,
                gather_axis=0,
                quantize_axis=1,
                **how,
            )
        else:
            rows, columns = w.shape
            self.add("MatMulNBits", f"{node}/MatMul_Q4", ["x", *inputs], K=columns, N=rows, **how)
        return weights

    def model(self) -> onnx.ModelProto:
        tensors = [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in self.initializers.items()]
        graph = helper.make_graph(self.nodes, "decoder", [], [], tensors)
        return helper.make_model(graph, producer_name="a test")


def decoder(
    style: str,
    bits: int = 4,
    block: int = 32,
    zeros: str = "none",
    config: dict[str, Any] = SIZES,
) -> Graph:
    """A decoder's graph. style: "builder" (q, k and v as one matrix, a quantized table) or "optimum" (names of its own
    for matrices, a table of floats and its transpose as the LM head)."""
    graph, builder = Graph(bits, block, zeros, config), style == "builder"
    values = {name: value.float().numpy() for name, value in random_state(config).items()}
    of = ".attn." if builder else ".self_attn."
    stacks: dict[str, list[str]] = {}
    for name, w in values.items():
        module = name.removesuffix(".weight")
        if module.endswith("_proj"):
            stack = module[: -len("q_proj")] + "qkv_proj" if builder and module[-6:-5] in "qkv" else module
            stacks.setdefault(stack, []).append(name)
        elif module.endswith("embed_tokens"):
            if builder:
                graph.weights[name] = graph.quantized(
                    "/model/embed_tokens", "model.embed_tokens.weight", w, True
                )
            else:
                graph.initializers[name] = graph.weights[name] = w
                graph.add("Gather", "/model/embed_tokens/Gather", [name, "input_ids"], "")
                graph.initializers["onnx::MatMul_999"] = w.T
                graph.add("MatMul", "/lm_head/MatMul", ["x", "onnx::MatMul_999"], "")
        elif builder:
            own = module.replace(
                "model.norm", f"model.layers.{config['num_hidden_layers']}.final_norm_layernorm"
            )
            graph.initializers[f"{own}.weight"] = graph.weights[name] = w
            graph.add("SimplifiedLayerNormalization", f"{node_of(own)}/LayerNorm", ["x", f"{own}.weight"], "")
        else:
            graph.initializers[name] = graph.weights[name] = w
            graph.add("Mul", f"{node_of(module)}/Mul_1", [name, "x"], "")
    for number, (stack, names) in enumerate(stacks.items()):
        node = node_of(stack.replace(".self_attn.", of))
        stem = (
            f"{stack.replace('.self_attn.', of)}.MatMul.weight"
            if builder
            else f"onnx::MatMul_{1000 + number}"
        )
        weights = graph.quantized(node, stem, np.concatenate([values[name] for name in names]))
        rows = np.cumsum([len(values[name]) for name in names])[:-1]
        graph.weights |= dict(zip(names, np.split(weights, rows), strict=True))
    graph.initializers["cos_cache"] = np.ones((8, 4), np.float32)
    graph.add(
        "GroupQueryAttention",
        "/model/layers.0/attn/GroupQueryAttention",
        ["q", *[""] * 6, "cos_cache", "cos_cache"],
    )
    return graph


def node_of(module: str) -> str:
    """ "model.layers.0.mlp.up_proj" -> "/model/layers.0/mlp/up_proj", as nodes are named."""
    return "/" + re.sub(r"\.(?!\d)", "/", module)


def write_onnx(folder: Path, graph: Graph, outside: bool = True, file: str = "model.onnx") -> Path:
    """The graph as a file, config.json beside it, and its larger tensors in a file of their own where `outside`."""
    folder.mkdir(parents=True, exist_ok=True)
    model, path = graph.model(), folder / file
    path.parent.mkdir(exist_ok=True)
    onnx.save(
        model,
        path,
        save_as_external_data=outside,
        location=f"{path.name}.data",
        size_threshold=256,
        convert_attribute=False,
    )
    (folder / "config.json").write_text(json.dumps(graph.config))
    return path
