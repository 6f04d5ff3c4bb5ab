"""Decoders written as ONNX: the integers that went out come back, and what runs the graph gives the same logits,
token by token with the cache too. The graph is run by operators in numpy, and by onnxruntime where it is installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.checkpoints import random_state, write_checkpoint
from tests.models.family_cases import LENGTH, write_family
from tests.runtime.models import check_parity, random_ids, reference_on
from tests.support.foreign import SIZES, write_quantized
from tests.support.gguf_files import LLAMA, Kind, quantized, write_gguf
from workbench import cli
from workbench.convert.convert import convert
from workbench.convert.imported import import_model
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, StorageError, WorkbenchError
from workbench.formats.tensor import WeightTensor
from workbench.formats.text import parse_format
from workbench.models.foreign.export import export
from workbench.models.source import open_source

onnx = pytest.importorskip("onnx")

#: Family and number of its case; the format of all matrices and those of some.
CASES = {
    "llama": (None, "int4/32", {"down_proj": "int4/64"}),  # rows of 96 end within a block
    "llama-table": (None, "int8/channel/sym", {"embed_tokens": "int4/96", "v_proj": "int2/64/z5"}),
    "mistral": (0, "int4/96/sym", {"o_proj": "f16"}),
    "mistral-floats": (1, "bf16", {"gate_proj": "int8/32"}),
    "qwen2": (3, "int8/64", {"embed_tokens": "f32", "up_proj": "int4/tensor"}),
    "qwen3": (1, "int2/32", {"q_proj": "int4/32/z3"}),
    "qwen3-table": (0, "int4/32/f32", {"embed_tokens": "int2/channel/sym"}),
}
LONGER = {"max_position_embeddings": 128}
#: Models with offsets, which come from others: Q4_1 everywhere, an embedding that is tied too; and 8 bits.
OFFSETS = ("gguf", "mlx-8")


def write_with_offsets(folder: Path, case: str) -> Path:
    if case != "gguf":
        write_quantized(folder, case, config=SIZES | LONGER)
        return folder
    folder.mkdir()
    return write_gguf(
        folder / "q4_1.gguf", LLAMA | LONGER, lambda name, values: quantized(name, values, Kind.Q4_1)
    )


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Case -> the converted model and what was written of it, once."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}

    def of(case: str):
        if case in OFFSETS:
            if case not in made:
                import_model(write_with_offsets(folder / f"{case}-source", case), folder / case)
                export(open_source(folder / case), "onnx", folder / f"{case}-onnx")
                made[case] = folder / case, folder / f"{case}-onnx"
        elif case not in made:
            number, fmt, others = CASES[case]
            source = folder / f"{case}-source"
            if number is None:
                config = SIZES | LONGER
                write_checkpoint(source, random_state(config, torch.float16), config)
            else:
                write_family(source, case.split("-")[0], number)
            overrides = {f"*.{name}.*": parse_format(each) for name, each in others.items()}
            convert(source, folder / case, ConvertOptions(parse_format(fmt), overrides=overrides))
            files = export(open_source(folder / case), "onnx", folder / f"{case}-onnx")
            assert set(files) >= {"model.onnx", "config.json", "genai_config.json"}
            made[case] = folder / case, folder / f"{case}-onnx"
        return made[case]

    return of


@pytest.mark.parametrize("case", [*CASES, *OFFSETS])
def test_integers_that_went_out_come_back(make, case):
    source, again = map(open_source, make(case))
    assert set(source.names()) == set(again.names())
    for name in source.names():
        sent, found = source.tensor(name), again.tensor(name)
        np.testing.assert_array_equal(found.dequantize(), sent.dequantize(), name)
        assert found.format.is_quantized == sent.format.is_quantized
        if case in OFFSETS:
            assert found.format.offset == sent.format.offset == sent.format.is_quantized
        if sent.format.is_quantized:
            columns = sent.shape[1]
            np.testing.assert_array_equal(found.quants()[:, :columns], sent.quants()[:, :columns], name)


def numpy_session(path):
    from tests.support.onnx_reference import evaluator

    return evaluator(str(path))


def onnxruntime_session(path):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Run:
    """A session of an exported folder and the cache of one text."""

    def __init__(self, folder, open_session):
        self.session = open_session(folder / "model.onnx")
        graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
        self.outputs = [each.name for each in graph.output]
        shapes = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim] for each in graph.input}
        self.cache = {
            name: np.zeros((1, shape[1], 0, shape[3]), np.float32)
            for name, shape in shapes.items()
            if name.startswith("past")
        }
        self.length = 0

    def logits(self, ids) -> np.ndarray:
        """Of the next tokens, [tokens, vocabulary]."""
        self.length += len(ids)
        inputs = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, self.length), np.int64)}
        found = dict(zip(self.outputs, self.session.run(None, {**inputs, **self.cache}), strict=True))
        self.cache = {name: found[name.replace("past_key_values", "present")] for name in self.cache}
        return found["logits"][0]


@pytest.mark.parametrize("open_session", [numpy_session, onnxruntime_session])
@pytest.mark.parametrize("case", [*CASES, *OFFSETS])
def test_logits_are_those_of_the_references(make, case, open_session):
    """A prompt, the next tokens at once, and one by one."""
    folder, written = make(case)
    ids = random_ids(open_source(folder).config["vocab_size"], LENGTH)
    expected = reference_on(folder, compute=torch.float64, max_tokens=LENGTH).forward(ids).logits
    run = Run(written, open_session)
    pieces = [ids[:50], ids[50:64], *ids[64:, None]]
    check_parity(np.concatenate([run.logits(piece) for piece in pieces]), expected, 5e-5)


def test_greedy_tokens_of_the_embedded_model(tmp_path):
    """Here and there, INT8 activations as well, which are asked for by name and change little."""
    runtime = pytest.importorskip("onnxruntime")
    assert runtime.__version__
    import workbench
    from tests.conftest import REPOSITORY

    convert(
        REPOSITORY / "workbench" / "assets" / "demo-model",
        tmp_path / "int4",
        ConvertOptions(parse_format("int4/32")),
    )
    command = ["export", str(tmp_path / "int4"), "--to", "onnx"]
    assert cli.main([*command, str(tmp_path / "f32")]) == 0
    assert cli.main([*command, str(tmp_path / "int8"), "--activations", "int8"]) == 0
    model = workbench.load(tmp_path / "int4", backend="torch")
    prompt = model.tokenizer("Once upon a time there was a little").input_ids
    expected = list(model.generate_ids(prompt, 24))
    run, found = Run(tmp_path / "f32", onnxruntime_session), []
    logits = run.logits(prompt)
    while len(found) < len(expected):
        found.append(int(logits[-1].argmax()))
        logits = run.logits(found[-1:])
    assert found == expected
    of_all = [*prompt, *found]
    exact, rounded = (Run(tmp_path / each, onnxruntime_session).logits(of_all) for each in ("f32", "int8"))
    assert 1e-3 < np.abs(exact - rounded).max() < 2


def test_onnxruntime_genai_is_told_what_the_graph_has(make):
    _, written = make("qwen2")
    told = json.loads((written / "genai_config.json").read_text())
    graph = onnx.load(written / "model.onnx").graph
    decoder = told["model"]["decoder"]
    inputs, outputs = ({each.name for each in side} for side in (graph.input, graph.output))
    names = {
        name
        for each in decoder["inputs"].values()
        for name in (each, *(each.replace("%d", str(i)) for i in range(3)))
    }
    assert inputs <= names
    assert outputs <= {each.replace("%d", str(i)) for each in decoder["outputs"].values() for i in range(3)}
    assert (decoder["num_attention_heads"], decoder["num_key_value_heads"], decoder["head_size"]) == (
        4,
        2,
        16,
    )
    assert (told["model"]["type"], told["model"]["vocab_size"]) == ("qwen2", 259)
    assert (told["model"]["eos_token_id"], told["model"]["pad_token_id"]) == (2, 2)
    assert told["search"]["max_length"] == told["model"]["context_length"] == 128


def test_what_is_too_large_for_one_file_lies_beside_it(make, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.models.foreign.export_onnx.INSIDE_BYTES", 50_000)
    folder, whole = make("llama")
    source = open_source(folder)
    assert export(source, "onnx", tmp_path / "out")[-1] == "model.onnx.data"
    sizes = [(each / "model.onnx").stat().st_size for each in (whole, tmp_path / "out")]
    assert sizes[1] < sizes[0] - 10_000  # tensors of a page and more are outside
    again = open_source(tmp_path / "out")
    for name in source.names():
        np.testing.assert_array_equal(again.tensor(name).dequantize(), source.tensor(name).dequantize(), name)
    ids = [1, 2, 3]
    inside, outside = (Run(each, numpy_session).logits(ids) for each in (whole, tmp_path / "out"))
    np.testing.assert_array_equal(inside, outside)
    from tests.support.disk import small_files

    with small_files(20_000), pytest.raises(StorageError, match=r"full.*: cannot be written"):
        export(source, "onnx", tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "model, how, message",
    [
        ({"embed_tokens": "int4/32/z3"}, {}, r"embed_tokens.weight \(int4/32/z3\): its zero-points have fractions"),
        ({"q_proj": "int4/32/z3/f32"}, {}, r"q_proj.weight \(int4/32/z3/f32\): .* scales in f32 are rounded"),
        ({}, {"floats": "f16"}, "computes in f32, and has its floats so; allowed: f32, or none"),
        ({}, {"activations": "f16"}, "activations = 'f16'; allowed of onnx: f32, int8"),
    ],
    ids=str,
)  # fmt: skip
def test_what_onnx_cannot_hold_is_refused(tmp_path, model, how, message):
    write_checkpoint(tmp_path / "floats", random_state(SIZES, torch.float16), SIZES)
    overrides = {f"*.{name}.*": parse_format(each) for name, each in model.items()}
    convert(
        tmp_path / "floats", tmp_path / "in", ConvertOptions(parse_format("int4/32"), overrides=overrides)
    )
    with pytest.raises(WorkbenchError, match=message):
        export(open_source(tmp_path / "in"), "onnx", tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()


def test_offsets_that_a_graph_cannot_have_are_refused(make, tmp_path, monkeypatch):
    """Blocks that end within a row; offsets that f32 does not hold beside integers from 0 up; no zeros beside them."""
    folder, written = make("mlx-8")
    source = open_source(folder)
    name = next(name for name in source.names() if source.describe(name)[1].offset)
    read = type(source).tensor

    def tensor(self, wanted: str):
        found = read(self, wanted)
        if wanted != name:
            return found
        planes = dict(found.planes)
        planes |= {
            each: np.full_like(planes[each], value) for each, value in (("scales", 1), ("offsets", 1e-4))
        }
        return WeightTensor(name, found.shape, found.format, planes)

    with monkeypatch.context() as patch:
        patch.setattr(type(source), "tensor", tensor)
        with pytest.raises(WorkbenchError, match="its offsets are not f32 beside integers from 0 up"):
            export(source, "onnx", tmp_path / "out")
    described = type(source).describe
    with monkeypatch.context() as patch:
        patch.setattr(type(source), "describe", lambda self, each: (
            ((64, 72), parse_format("int4/32/offset")) if each == name else described(self, each)))  # fmt: skip
        with pytest.raises(
            WorkbenchError, match="blocks that do not divide rows of 72; what fits: blocks that do"
        ):
            export(source, "onnx", tmp_path / "out")
    shutil.copytree(written, tmp_path / "without")
    model = onnx.load(written / "model.onnx")
    node = next(each for each in model.graph.node if each.op_type == "MatMulNBits")
    node.input[3] = ""
    onnx.save(model, tmp_path / "without" / "model.onnx")
    with pytest.raises(CheckpointError, match="_offsets' needs zero-points of 0 beside it"):
        open_source(tmp_path / "without")


def test_other_families_and_other_targets_are_refused(tmp_path, make):
    write_family(tmp_path / "in", "granite", 0)
    write_family(tmp_path / "narrow", "qwen3", 2)
    with pytest.raises(WorkbenchError, match="heads of 24; what fits: multiples of 16"):
        export(open_source(tmp_path / "narrow"), "onnx", tmp_path / "out")
    with pytest.raises(
        WorkbenchError, match="onnx is written of llama, mistral, qwen2, qwen3; this is granite"
    ):
        export(open_source(tmp_path / "in"), "onnx", tmp_path / "out")
    with pytest.raises(WorkbenchError, match="activations = 'int8'; allowed of hf: f32"):
        export(open_source(make("llama")[0]), "hf", tmp_path / "out", activations="int8")
