"""Models written in others' layouts: what comes back is bit for bit what went out, or nothing was written."""

from __future__ import annotations

import json
from collections import Counter

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.models.checkpoints import random_state, write_checkpoint
from tests.support.foreign import SIZES
from tests.support.gguf_files import NAMES, write_gguf
from workbench import cli
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import OutputExistsError, StorageError, WorkbenchError
from workbench.formats.text import parse_format
from workbench.models.foreign.export import export
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer

DOWN = "model.layers.1.mlp.down_proj.weight"
TEXT = "Once upon a time there was a café, and 17 bunnies said: “Hop!”\n\n  The end."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The embedded model's, which is byte-level; models here have its vocabulary."""
    from tests.conftest import REPOSITORY

    return REPOSITORY / "workbench" / "assets" / "demo-model"


@pytest.fixture(scope="module")
def make(tmp_path_factory, tokenizer):
    """Converts one random checkpoint into a format, once; `of`: formats of some matrices."""
    folder = tmp_path_factory.mktemp("models")
    config = SIZES | {"vocab_size": 4096}
    write_checkpoint(folder / "source", random_state(config, torch.float16), config, tokenizer=tokenizer)

    def made(fmt: str, **of: str):
        out = folder / "-".join([fmt, *of.values()]).replace("/", "_")
        if not out.exists():
            overrides = {f"*.{name}.*": parse_format(each) for name, each in of.items()}
            convert(folder / "source", out, ConvertOptions(parse_format(fmt), overrides=overrides))
        return open_source(out)

    return made


def same(source, other) -> None:
    assert set(source.names()) == set(other.names())
    for name in source.names():
        np.testing.assert_array_equal(source.tensor(name).dequantize(), other.tensor(name).dequantize(), name)
    ours, theirs = load_tokenizer(source.tokenizer_path), load_tokenizer(other.tokenizer_path)
    assert ours(TEXT).input_ids == theirs(TEXT).input_ids
    assert ours.decode(ours(TEXT).input_ids) == theirs.decode(theirs(TEXT).input_ids)


CASES = {
    "hf": [("int4/32", {}, "f32"), ("f16", {}, "f16")],
    "compressed-tensors": [
        ("int4/32", {}, "int4/32"),
        ("int8/channel/sym", {"down_proj": "int4/32/sym"}, "int4/32/sym"),
        ("int2/32/f32", {"q_proj": "f16"}, "int2/32/f32"),
        ("int4/tensor", {}, "int4/channel"),
    ],
    "gptq": [("int4/32", {}, "int4/32"), ("int8/channel/sym", {}, "int8/channel/sym"), ("int2/32", {}, "int2/32")],
    "gguf": [
        ("int4/32/sym", {}, "int4/32/sym"),
        ("int8/32/sym", {"down_proj": "f16"}, "f16"),
        ("int4/32", {"down_proj": "bf16"}, "bf16"),
        ("int2/64/sym", {"down_proj": "int2/32"}, "int4/32/sym"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "target, case", [(target, case) for target, cases in CASES.items() for case in cases], ids=str
)
def test_what_comes_back_is_what_went_out(make, tmp_path, target, case):
    fmt, of, expected = case
    source, out = make(fmt, **of), tmp_path / "out.gguf"
    export(source, target, out)
    again = open_source(out)
    same(source, again)
    assert str(again.describe(DOWN)[1]) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_a_gguf_file_is_read_by_its_own_package(make, tmp_path):
    source = make("int4/32/sym")
    export(source, "gguf", tmp_path / "out.gguf")
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for here, there in (("mlp.down_proj", NAMES["mlp.down_proj"]), ("self_attn.k_proj", "attn_k")):
        tensor = tensors[f"blk.1.{there}.weight"]
        assert tensor.tensor_type.name == "Q4_0"
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type))
        weights = source.tensor(f"model.layers.1.{here}.weight").dequantize()
        if there == "attn_k":  # each head's first half on even rows, its second on odd ones
            weights = np.concatenate(
                [np.stack(np.split(head, 2), 1).reshape(16, 64) for head in np.split(weights, 2)]
            )
        np.testing.assert_array_equal(values, weights)
    assert reader.fields["llama.rope.dimension_count"].contents() == 16


def test_offsets_go_back_into_q4_1_and_nowhere_else(tmp_path):
    file = write_gguf(tmp_path / "in.gguf")
    source = open_source(file)
    export(source, "gguf", tmp_path / "out.gguf")
    same(source, open_source(tmp_path / "out.gguf"))
    before, after = (
        {t.name: (t.tensor_type, t.data.tobytes()) for t in gguf.GGUFReader(tmp_path / name).tensors}
        for name in ("in.gguf", "out.gguf")
    )
    assert before == after
    with pytest.raises(
        WorkbenchError, match=r"\(int4/32/offset\): it has offsets in place of zero-points; what fits"
    ):
        export(source, "compressed-tensors", tmp_path / "other")


def test_a_zero_point_of_0_makes_it_version_2(make, tmp_path):
    """Version 1 stores z - 1."""
    source = make("int4/32")
    export(source, "gptq", tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    zeros = np.concatenate([source.tensor(n).planes["zeros"].ravel() for n in source.names() if "proj" in n])
    assert config["checkpoint_format"] == ("gptq_v2" if (zeros == 0).any() else "gptq")
    assert state["model.layers.0.mlp.up_proj.qweight"].dtype == torch.int32
    assert state["model.embed_tokens.weight"].dtype == torch.float32  # integers, exactly


@pytest.mark.parametrize(
    "target, fmt, of, message",
    [
        ("gguf", "int8/32", {}, r"embed_tokens.weight \(int8/32\): q - z reaches from -255 to 255; what fits: int4"),
        ("gguf", "int4/32/z3", {}, "its zero-points have fractions; what fits: int4/32/sym"),
        ("gguf", "int4/32/sym", {"down_proj": "int4/64/sym"}, r"rows of 96 are padded; what fits"),
        ("gptq", "int4/32", {"down_proj": "int8/32"}, r"down_proj.weight \(int8/32\): most matrices are int4/32"),
        ("gptq", "int4/32", {"down_proj": "f16"}, "most matrices are int4/32"),
        ("gptq", "int4/32/f32", {}, "its scales do not fit f16"),
        ("compressed-tensors", "int4/32/z3", {}, "fractions; what fits: formats with whole zero-points"),
        ("compressed-tensors", "int4/64", {}, "its blocks do not divide rows of 96"),
        ("compressed-tensors", "f16", {}, "no matrix is quantized; what fits: --to hf"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_target_cannot_hold_is_refused_and_nothing_written(make, tmp_path, target, fmt, of, message):
    with pytest.raises(WorkbenchError, match=message):
        export(make(fmt, **of), target, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_gguf_cannot_name_is_refused(make, tmp_path, shared):
    config = SIZES | {"vocab_size": 512}
    folder = shared / "models" / "stories260K-hf"
    write_checkpoint(tmp_path / "in", random_state(config), config, tokenizer=folder)
    with pytest.raises(WorkbenchError, match="GGUF has no tokenizer that splits"):
        export(open_source(tmp_path / "in"), "gguf", tmp_path / "out.gguf")
    # SentencePiece's own, as a GGUF file had it, goes back.
    source = open_source(shared / "models" / "stories260K.gguf")
    export(source, "gguf", tmp_path / "out.gguf")
    same(source, open_source(tmp_path / "out.gguf"))


@pytest.mark.parametrize("target", CASES)
def test_a_full_disk_leaves_nothing(make, tmp_path, target):
    from tests.support.disk import small_files

    source = make("int4/32/sym")
    load_tokenizer(source.tokenizer_path)
    with small_files(20_000), pytest.raises(StorageError, match=r"out.*: cannot be written"):
        export(source, target, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_large_models_become_shards(make, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.models.float_checkpoint.SHARD_BYTES", 300_000)
    source = make("int4/32")
    for target in ("hf", "compressed-tensors"):
        export(source, target, tmp_path / target)
        index = json.loads((tmp_path / target / "model.safetensors.index.json").read_text())
        files = sorted(path.name for path in (tmp_path / target).glob("*.safetensors"))
        assert sorted(set(index["weight_map"].values())) == files and len(files) == 2
        same(source, open_source(tmp_path / target))


def test_the_command_replaces_only_when_asked(make, tmp_path, capsys):
    source, out = make("int4/32/sym"), tmp_path / "out"
    command = ["export", str(source.path), str(out), "--to", "gptq", "--floats", "f16"]
    assert cli.main(command) == 0 and "config.json" in capsys.readouterr().out
    assert load_file(out / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.float16
    assert cli.main(command) == 2 and "--overwrite replaces it" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"holds no config\.json"):
        export(source, "hf", tmp_path / "other", overwrite=True)


@pytest.mark.parametrize(
    ("fmt", "types", "wider"),
    [("int4/32", "Q8_0", True), ("int4/32/sym", "Q4_0", False), ("int8/32/sym", "Q8_0", False)],
)
def test_the_command_says_which_types_hold_a_gguf_file(make, tmp_path, capsys, fmt, types, wider):
    source, out = make(fmt), tmp_path / "model.gguf"
    assert (
        cli.main(["export", str(source.path), str(out), "--to", "gguf", "--json", str(tmp_path / "a.json")])
        == 0
    )
    said, shown = capsys.readouterr()
    told = json.loads((tmp_path / "a.json").read_text("utf-8"))
    found = Counter(tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors)
    assert told["types"] == found and found[types] > 1 and told["bytes"] == out.stat().st_size
    assert f"{found[types]} {types}" in said and said.endswith(" MB\n")
    assert (f"{found['Q8_0']} {fmt}; int4/32/sym (Q4_0)" in shown) is wider
