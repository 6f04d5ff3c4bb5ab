"""Mixtures of experts written for others: transformers and our reader find in them what went out."""

from __future__ import annotations

import shutil

import gguf
import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY
from tests.models.family_cases import LENGTH, config_of, oracle_logits, randomise, write_family
from tests.runtime.models import check_parity, random_ids, reference_on
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, UnsupportedModelError, WorkbenchError
from workbench.formats.text import parse_format
from workbench.models.checkpoint_files import read_header
from workbench.models.foreign.export import export
from workbench.models.source import open_source

MIXTURES = ("llama4_text", "mixtral", "qwen3_moe")
#: What llama.cpp computes: experts in all layers, scores normalised; and sizes that all types take.
AS_GGUF = {
    "mixtral": {"intermediate_size": 96, "head_dim": 32},
    "qwen3_moe": {"decoder_sparse_step": 1, "norm_topk_prob": True, "moe_intermediate_size": 64, "head_dim": 32},
}  # fmt: skip


def converted(folder, fmt: str, **of: str):
    """The checkpoint beside `folder` in a format; of: formats of some matrices."""
    overrides = {f"*.{name}.*": parse_format(each) for name, each in of.items()}
    convert(folder.parent / "source", folder, ConvertOptions(parse_format(fmt), overrides=overrides))
    return open_source(folder)


def same(source, again) -> None:
    assert set(source.names()) == set(again.names())
    for name in source.names():
        np.testing.assert_array_equal(again.tensor(name).dequantize(), source.tensor(name).dequantize(), name)


@pytest.mark.parametrize("family", MIXTURES)
def test_transformers_reads_experts_as_its_checkpoints_have_them(tmp_path, family):
    write_family(tmp_path / "source", family)
    source = converted(tmp_path / "int4", "int4/32", up_proj="f16")  # gate and up differ in type
    export(source, "hf", tmp_path / "out")
    same(source, open_source(tmp_path / "out"))
    sent, found = (read_header(tmp_path / name / "model.safetensors") for name in ("source", "out"))
    assert {name: shape for name, (shape, _) in sent.items()} == {n: shape for n, (shape, _) in found.items()}
    ids = random_ids(259, LENGTH)
    expected = reference_on(tmp_path / "int4", compute=torch.float64, max_tokens=LENGTH).forward(ids).logits
    check_parity(expected, oracle_logits(tmp_path / "out", ids), 5e-6)
    for target in ("gptq", "compressed-tensors"):
        with pytest.raises(WorkbenchError, match=rf"{target} of .*int4: .*; what fits: --to hf or gguf"):
            export(source, target, tmp_path / target)
    assert not (tmp_path / "gptq").exists()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Family -> its converted model with the embedded model's tokenizer, and the GGUF file of that."""
    from transformers import AutoConfig, AutoModelForCausalLM

    found = {}
    for family, change in AS_GGUF.items():
        folder = tmp_path_factory.mktemp(family)
        config = {**config_of(family), **change, "vocab_size": 4096}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        randomise(model, family)
        model.save_pretrained(folder / "source")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(REPOSITORY / "workbench" / "assets" / "demo-model" / name, folder / "source")
        source = converted(folder / "model", "int4/32/sym", down_proj="int8/32/sym", v_proj="bf16")
        export(source, "gguf", folder / "model.gguf")
        found[family] = folder
    return found


@pytest.mark.parametrize("family", AS_GGUF)
def test_gguf_holds_experts_in_stacks_and_gives_them_back(written, family):
    source, again = (open_source(written[family] / name) for name in ("model", "model.gguf"))
    same(source, again)
    formats = {name: str(again.describe(name)[1]) for name in again.names()}
    experts = "block_sparse_moe" if family == "mixtral" else "mlp"
    assert formats[f"model.layers.1.{experts}.experts.gate_proj.weight"] == "int4/32/sym"
    assert formats[f"model.layers.1.{experts}.experts.down_proj.weight"] == "int8/32/sym"
    assert formats[f"model.layers.1.{experts}.gate.weight"] == "f32"
    ids = random_ids(4096, 40)
    expected, found = (
        reference_on(written[family] / name, max_tokens=64).forward(ids).logits
        for name in ("model", "model.gguf")
    )
    np.testing.assert_array_equal(found, expected)
    tensors = {each.name: each for each in gguf.GGUFReader(written[family] / "model.gguf").tensors}
    stack = tensors["blk.1.ffn_down_exps.weight"]
    experts, middle = (4, 96) if family == "mixtral" else (8, 64)
    assert (list(stack.shape), stack.tensor_type.name) == ([middle, 64, experts], "Q8_0")
    values = gguf.dequantize(np.array(stack.data), stack.tensor_type)
    name = next(name for name in source.names() if "layers.1" in name and "experts.down_proj" in name)
    np.testing.assert_array_equal(values.reshape(-1, middle), source.tensor(name).dequantize())


def test_transformers_reads_qwen3_moe_from_gguf(written):
    """Given the configuration, since it does not read the width of experts from the metadata."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, ids = written["qwen3_moe"], random_ids(4096, 40)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file="model.gguf",
        config=AutoConfig.from_pretrained(folder / "source"),
        dtype=torch.float32,
    ).eval()
    with torch.inference_mode():
        found = model(torch.as_tensor(ids)[None]).logits[0].numpy()
    check_parity(reference_on(folder / "model", max_tokens=64).forward(ids).logits, found, 2e-5)


def _edited(written, tmp_path, family: str, key: bytes, form: int, value: int):
    """The file with another number under a key."""
    data = bytearray((written[family] / "model.gguf").read_bytes())
    at = data.index(key) + len(key) + 4
    data[at : at + 4] = value.to_bytes(4, "little")
    (tmp_path / "model.gguf").write_bytes(data)
    return tmp_path / "model.gguf"


@pytest.mark.parametrize(
    "family, key, value, message",
    [
        ("mixtral", b"llama.expert_count", 8, "has 4 experts; the metadata say 8|has shape"),
        (
            "mixtral",
            b"llama.expert_count",
            0,
            "llama.expert_count is not understood; allowed",
        ),
        (
            "mixtral",
            b"llama.expert_used_count",
            5,
            "num_experts_per_tok is 5; allowed: an integer from 1 to 4",
        ),
        ("qwen3_moe", b"qwen3moe.expert_count", 2**32 - 1, "the metadata say 4294967295|allowed"),
        ("qwen3_moe", b"qwen3moe.expert_feed_forward_length", 96, "has shape .*, but config.json asks for"),
    ],
)
def test_metadata_that_are_not_of_the_tensors_are_refused(written, tmp_path, family, key, value, message):
    with pytest.raises((CheckpointError, UnsupportedModelError), match=message):
        open_source(_edited(written, tmp_path, family, key, 4, value))


@pytest.mark.parametrize(
    "family, index, message",
    [
        ("qwen3_moe", 0, "layers without experts beside those that have them; what fits: --to hf"),
        ("qwen3_moe", 2, "layers that look back no further than a window"),
        ("llama4_text", 0, "gguf is written of llama, qwen2, qwen3, mixtral, qwen3_moe; this is llama4_text"),
    ],
)
def test_what_gguf_does_not_say_of_a_mixture_is_refused(tmp_path, family, index, message):
    write_family(tmp_path / "in", family, index)
    with pytest.raises(WorkbenchError, match=message):
        export(open_source(tmp_path / "in"), "gguf", tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
