"""ONNX files whose products are MatMulNBits: integers as they are, by the names of onnxruntime-genai and Optimum."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from workbench.convert.imported import import_model
from workbench.errors import CheckpointError, UnsupportedModelError, WorkbenchError
from workbench.formats.reader import StoredModel
from workbench.models.source import open_source

onnx = pytest.importorskip("onnx")

from tests.support.foreign import SIZES, Rounded  # noqa: E402
from tests.support.onnx_files import decoder, nbits, write_onnx  # noqa: E402

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "style, bits, block, zeros, expected",
    [
        ("builder", 4, 32, "none", "int4/32/sym"),
        ("builder", 8, 64, "packed", "int8/64"),
        ("builder", 4, 128, "none", "int4/128/sym"),
        ("optimum", 4, 64, "float", "int4/64/offset/f32"),
        ("optimum", 2, 32, "packed", "int2/32"),
        ("optimum", 4, 16, "none", "f32"),
    ],
)
def test_weights_are_those_of_the_operator_bit_for_bit(tmp_path, style, bits, block, zeros, expected):
    graph = decoder(style, bits, block, zeros)
    write_onnx(tmp_path / "in", graph, outside=style == "builder")
    source = open_source(tmp_path / "in")
    assert set(source.names()) == set(graph.weights)
    assert source.unread == (
        {"lm_head.weight": "tied to model.embed_tokens.weight"} if style == "optimum" else {}
    )
    for name, weights in graph.weights.items():
        fmt = source.describe(name)[1]
        quantized = name.endswith("_proj.weight") or (style == "builder" and "embed" in name)
        own = expected if weights.shape[-1] > block else expected.replace(f"/{block}", "/channel")
        assert str(fmt) == (own if quantized else "f32"), name
        np.testing.assert_array_equal(source.tensor(name).dequantize(), weights, name)
    rows = np.concatenate([part.dequantize() for _, part in source.parts(Q)])
    np.testing.assert_array_equal(rows, graph.weights[Q])
    assert source.stored_as(Q) == f"MatMulNBits, {bits} bits"


def test_an_imported_model_holds_the_same_and_says_where_from(tmp_path):
    graph = decoder("builder", zeros="packed")
    write_onnx(tmp_path / "in", graph, file="onnx/model_q4.onnx")  # as repositories for browsers have it
    import_model(tmp_path / "in", tmp_path / "out")
    stored = StoredModel.open(tmp_path / "out")
    for name, weights in graph.weights.items():
        np.testing.assert_array_equal(stored.tensor(name).dequantize(), weights, name)
    origin = stored.manifest["provenance"]["source"]
    assert origin["onnx"] == {"producer": "a test", "file": "onnx/model_q4.onnx"}
    assert set(origin["sha256"]) >= {"config.json", "onnx/model_q4.onnx", "onnx/model_q4.onnx.data"}


@pytest.mark.parametrize(
    "bits, zeros", [(4, "none"), (4, "packed"), (4, "float"), (8, "packed"), (2, "packed")]
)
def test_onnxruntime_multiplies_with_the_same_weights(bits, zeros):
    """Its CPU provider on the identity, which adds nothing but zeros."""
    runtime = pytest.importorskip("onnxruntime")
    helper = onnx.helper
    parts, weights = nbits(
        Rounded(np.random.default_rng(0).normal(size=(24, 80)), bits, 32, zeros == "none"), 32, zeros
    )
    parts = {
        name: part.astype(np.float32) if part.dtype == np.float16 else part for name, part in parts.items()
    }
    names = ["x", *(name for name in ("quants", "scales", "zero_points") if name in parts)]
    node = helper.make_node(
        "MatMulNBits",
        names,
        ["y"],
        domain="com.microsoft",
        K=80,
        N=24,
        bits=bits,
        block_size=32,
        accuracy_level=1,
    )
    x, y = (helper.make_tensor_value_info(name, 1, [80, width]) for name, width in (("x", 80), ("y", 24)))
    tensors = [onnx.numpy_helper.from_array(part, name) for name, part in parts.items()]
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(
        helper.make_graph([node], "g", [x], [y], tensors), opset_imports=versions, ir_version=10
    )
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": np.eye(80, dtype=np.float32)})
    np.testing.assert_array_equal(product.T, weights)


def _config(folder, **changes):
    (folder / "config.json").write_text(json.dumps(SIZES | changes))


def _two(folder):
    (folder / "other.onnx").write_bytes(b"")


def _data_in(name):
    def change(folder):
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        tensor = next(each for each in model.graph.initializer if each.external_data)
        next(each for each in tensor.external_data if each.key == "location").value = name
        onnx.save(model, folder / "model.onnx")

    return change


def _edited(edit):
    def change(folder):
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        edit(model.graph, next(node for node in model.graph.node if node.op_type == "MatMulNBits"))
        onnx.save(model, folder / "model.onnx")

    return change


def _no_quantized(graph, node):
    kept = [
        each for each in graph.node if "BlockQuantized" not in each.op_type and "NBits" not in each.op_type
    ]
    del graph.node[:]
    graph.node.extend(kept)


def _interleaved(graph, node):
    graph.node[-1].attribute.append(onnx.helper.make_attribute("rotary_interleaved", 1))


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda folder: (folder / "config.json").unlink(), CheckpointError, "model builder writes none"),
        (lambda folder: _config(folder, model_type="gemma"), UnsupportedModelError, "'gemma'; allowed of ONNX"),
        (lambda folder: _config(folder, intermediate_size=64), UnsupportedModelError, "shape .* but config.json asks"),
        (_two, CheckpointError, r"several ONNX files \(model.onnx, other.onnx\); name one"),
        (_data_in("../secret"), CheckpointError, r"lies in '\.\./secret'; allowed: a file of the same folder"),
        (_data_in("a" * 5000), CheckpointError, r"lies in 'a+….*…a+'; allowed: a file of the same folder"),
        (lambda folder: (folder / "model.onnx.data").write_bytes(b""), CheckpointError, "model.onnx.data, which has 0"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"no"), CheckpointError, "not an ONNX file"),
        (_edited(lambda graph, node: node.input.extend(["", "order"])), UnsupportedModelError, "has g_idx, an order"),
        (_edited(lambda graph, node: node.input.pop()), CheckpointError, "MatMul_Q4' has no scales, its input 2"),
        (_edited(_no_quantized), UnsupportedModelError, "no product of it is a MatMulNBits"),
        (_edited(_interleaved), UnsupportedModelError, "rotates neighbours"),
    ],
    ids=["config", "family", "sizes", "two", "outside", "long", "short", "bytes", "order", "scales", "floats",
         "rotation"],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, error, message):
    write_onnx(tmp_path, decoder("builder"))
    change(tmp_path)
    with pytest.raises(error, match=message):
        open_source(tmp_path if (tmp_path / "config.json").exists() else tmp_path / "model.onnx")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    write_onnx(tmp_path, decoder("builder"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WorkbenchError, match=r"pip install 'webgpu-quant-workbench\[onnx\]'"):
        open_source(tmp_path)
