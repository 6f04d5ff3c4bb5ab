"""GGUF files as models: every type's weights are those of the `gguf` package, and integers stay integers."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest
import torch

import workbench
from tests.support.gguf_files import LLAMA, NAMES, Kind, quantized, random_blocks, write_gguf
from workbench.convert.imported import import_model
from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.reader import StoredModel
from workbench.models.foreign.gguf_config import rope_factors
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.device import adapter_missing

#: Rows of 256, which blocks of all types divide.
WIDE = LLAMA | {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 1}
KEPT = {
    "Q8_0": "int8/32/sym",
    "Q4_0": "int4/32/sym",
    "Q5_0": "int8/32/sym",
    "Q4_1": "int4/32/offset",
    "Q5_1": "int8/32/offset",
    "Q4_K": "int4/32/offset",
    "Q5_K": "int8/32/offset",
    "IQ4_NL": "int8/32/sym",
    "IQ4_XS": "int8/32/sym",
    "BF16": "bf16",
    "F16": "f16",
}
TYPES = (
    "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "MXFP4",
)  # fmt: skip
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def all_types(tmp_path_factory):
    """One file with a layer whose matrices have as many types as there are, and the weights by `gguf` itself."""
    folder, rng = tmp_path_factory.mktemp("types"), np.random.default_rng(0)
    config = WIDE | {"num_hidden_layers": 4}
    left = list(TYPES)

    def store(name: str, values: np.ndarray):
        if values.ndim == 1 or "embed" in name or not left:
            return quantized(name, values, Kind.Q8_0 if values.ndim == 2 else Kind.F32)
        kind = Kind[left.pop(0)]
        if kind in (Kind.F16, Kind.BF16):
            return gguf.quantize(values, kind), kind
        return random_blocks(values, kind, rng), kind

    file = write_gguf(folder / "all.gguf", config, store)
    assert not left
    expected = {}
    for tensor in gguf.GGUFReader(file).tensors:
        values = np.array(gguf.dequantize(tensor.data, tensor.tensor_type))
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):  # back from neighbours, head by head
            heads = np.split(values, 4 if "attn_q" in tensor.name else 2)
            values = np.concatenate([np.concatenate([head[0::2], head[1::2]]) for head in heads])
        before, _, own = tensor.name.removesuffix(".weight").rpartition(".")
        here = {there: here for here, there in NAMES.items()}[own]
        layer = f"model.layers.{before.removeprefix('blk.')}." if before else ""
        expected[f"{layer}{here}.weight"] = tensor.tensor_type.name, values
    return file, expected


def test_weights_of_every_type_are_those_of_its_own_reader_bit_for_bit(all_types, tmp_path):
    file, expected = all_types
    source = open_source(file)
    assert set(source.names()) == set(expected) and {kind for kind, _ in expected.values()} >= set(TYPES)
    for name, (kind, weights) in expected.items():
        fmt = source.describe(name)[1]
        assert str(fmt).removesuffix("/f32") == KEPT.get(kind, "f32").removesuffix("/f32"), kind
        np.testing.assert_array_equal(source.tensor(name).dequantize(), weights, f"{name}, {kind}")
    said = " ".join(source.notes)
    assert "in Q4_0 (1) keep their integers" in said and "in Q6_K (1) are dequantized to f32" in said
    import_model(file, tmp_path / "out")
    stored = StoredModel.open(tmp_path / "out")
    for name, (kind, weights) in expected.items():
        np.testing.assert_array_equal(stored.tensor(name).dequantize(), weights, f"{name}, {kind}")
    origin = stored.manifest["provenance"]["source"]
    assert origin["gguf"]["types"]["Q8_0"] >= 2 and origin["gguf"]["general.architecture"] == "llama"
    assert list(origin["sha256"]) == ["all.gguf"]


def test_ranges_of_rows_are_those_of_the_whole(all_types, monkeypatch):
    monkeypatch.setattr("workbench.models.foreign.gguf_model.PART_BYTES", 4 * 256 * 24)
    source = open_source(all_types[0])
    parts = list(source.parts(Q))
    assert [start for start, _ in parts] == list(range(0, 256, 24))
    rows = np.concatenate([part.dequantize() for _, part in parts])
    np.testing.assert_array_equal(rows, all_types[1][Q][1])


@pytest.mark.parametrize("weights, nbytes", [(64, 18), (128, 34)])
def test_q2_0_is_told_from_a_forks_by_its_length(tmp_path, weights, nbytes):
    """The package does not write it: bytes go in as int8, whose columns and type are then changed in the file."""
    rng = np.random.default_rng(0)
    rows, own = 256, f"blk.0.{NAMES['mlp.down_proj']}.weight"
    blocks = rng.integers(0, 256, (rows, 256 // weights, nbytes), np.uint8)
    blocks[..., :2] = rng.uniform(0.01, 1, blocks.shape[:2]).astype("<f2")[..., None].view(np.uint8)

    def store(name, values):
        if "down_proj" in name:
            return blocks.reshape(rows, -1).view(np.int8), Kind.I8
        return quantized(name, values, Kind.Q8_0)

    file = write_gguf(tmp_path / "q2.gguf", WIDE, store)
    data = bytearray(file.read_bytes())
    at = data.index(own.encode()) + len(own) + 4
    columns, rows_there, kind = struct.unpack_from("<QQI", data, at)
    assert (columns, rows_there, kind) == (256 // weights * nbytes, rows, Kind.I8)
    struct.pack_into("<QQI", data, at, 256, rows, 42)
    file.write_bytes(data)
    tensor = open_source(file).tensor("model.layers.0.mlp.down_proj.weight")
    assert str(tensor.format) == f"int2/{weights}"
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2").astype(np.float32)
    q = np.stack([(blocks[..., 2:] >> shift) & 3 for shift in (0, 2, 4, 6)], -1).reshape(
        rows, 256 // weights, -1
    )
    np.testing.assert_array_equal(
        tensor.dequantize(), ((q.astype(np.float32) - 1) * scales).reshape(rows, 256)
    )


QWEN2 = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
QWEN3 = LLAMA | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
del QWEN2["head_dim"]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_other_architectures_compute_what_transformers_does(tmp_path, family):
    import transformers

    torch.manual_seed(0)
    config, model = {
        "qwen2": (transformers.Qwen2Config(**QWEN2), transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config(**QWEN3), transformers.Qwen3ForCausalLM),
    }[family]
    theirs = model(config).eval()
    state = {
        name: torch.randn(each.shape) * 0.1 + (each.ndim == 1) for name, each in theirs.state_dict().items()
    }
    state.pop("lm_head.weight")

    def store(name, values):
        kind = Kind.Q4_0 if "proj" in name and values.ndim == 2 else Kind.F32
        stored = gguf.quantize(values, kind)
        state[name] = torch.from_numpy(np.array(gguf.dequantize(stored, kind)))
        return stored, kind

    sizes = {f"{family}__attention__{which}_length": 16 for which in ("key", "value")}
    file = write_gguf(
        tmp_path / "q.gguf", LLAMA, store, state=state, architecture=family, pre="qwen2", **sizes
    )
    assert open_source(file).config["model_type"] == family
    assert not theirs.load_state_dict(state, strict=False).unexpected_keys
    ids = list(range(3, 30))
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    logits = workbench.load(file, backend="torch").forward(ids).logits
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.skipif(adapter_missing(), reason="no WebGPU adapter")
def test_kernels_give_what_the_dequantized_weights_give(tmp_path):
    def store(name, values):
        kinds = {"gate": Kind.Q8_0, "down": Kind.Q5_0, "q_proj": Kind.Q4_1, "embed": Kind.F16}
        return quantized(
            name, values, next((kind for part, kind in kinds.items() if part in name), Kind.Q4_0)
        )

    file = write_gguf(tmp_path / "mixed.gguf", LLAMA, store)
    ids = np.arange(3, 40)
    ours = workbench.load(file, backend="wgpu").score(ids).nll
    plain = workbench.load(file, backend="torch").score(ids).nll
    assert abs(ours.mean() - plain.mean()) < 1e-6


def test_a_published_file_is_the_published_checkpoint(shared):
    """stories260K in GGUF and as a Hugging Face folder: the same weights and, but for spaces at ends, tokens."""
    source = open_source(shared / "models" / "stories260K.gguf")
    other = open_source(shared / "models" / "stories260K-hf")
    for name in other.names():
        np.testing.assert_array_equal(source.tensor(name).dequantize(), other.tensor(name).dequantize(), name)
    ours, theirs = load_tokenizer(source.tokenizer_path), load_tokenizer(other.tokenizer_path)
    text = "Once upon a time, there was a café with 17 bunnies; 'they' said: “Hop!”"
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.decode(ours(text).input_ids, skip_special_tokens=True) == text


def test_keys_have_as_many_heads_as_queries_where_nothing_is_said(tmp_path, monkeypatch):
    """As the format has it; files of the first Llama have one number for both."""
    config = LLAMA | {"num_key_value_heads": LLAMA["num_attention_heads"]}
    said = open_source(write_gguf(tmp_path / "said.gguf", config))
    monkeypatch.setattr(gguf.GGUFWriter, "add_head_count_kv", lambda *_: None)
    unsaid = open_source(write_gguf(tmp_path / "unsaid.gguf", config))
    assert unsaid.config == said.config and unsaid.config["num_key_value_heads"] == 4
    name = "model.layers.1.self_attn.k_proj.weight"
    np.testing.assert_array_equal(unsaid.tensor(name).dequantize(), said.tensor(name).dequantize())


@pytest.mark.parametrize("split", [4, 100])
def test_shards_are_one_model(tmp_path, split):
    write_gguf(tmp_path / "one.gguf")
    write_gguf(tmp_path / "many.gguf", split=split)
    shards = sorted(tmp_path.glob("many*.gguf"))
    assert len(shards) == (5 if split == 4 else 1)
    one, many = open_source(tmp_path / "one.gguf"), open_source(shards[-1])
    assert sorted(one.names()) == sorted(many.names()) and len(many.source_hashes()) == len(shards)
    for name in one.names():
        np.testing.assert_array_equal(one.tensor(name).dequantize(), many.tensor(name).dequantize())
    (tmp_path / "one.gguf").unlink()
    assert open_source(tmp_path).path == shards[0]  # a folder of them alone
    if split == 4:
        shards[2].unlink()
        with pytest.raises(CheckpointError, match=r"00003-of-00005\.gguf: the shard is missing"):
            open_source(tmp_path)


def test_a_folder_of_several_models_asks_which(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"several GGUF files \(a.gguf, b.gguf\); name one"):
        open_source(tmp_path)


def test_factors_of_the_rotation_are_llama_3_1s_scaling(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    factors = rope_factors(LLAMA["head_dim"], LLAMA["rope_theta"], scaling)
    file = write_gguf(tmp_path / "scaled.gguf", extra={"rope_freqs.weight": factors})
    source = open_source(file)
    assert source.config["rope_scaling"] == scaling and "rope_freqs.weight" not in source.names()
    file = write_gguf(tmp_path / "other.gguf", extra={"rope_freqs.weight": factors * np.float32(1.1)})
    with pytest.raises(UnsupportedModelError, match=r"factors of rope_freqs\.weight are not those of Llama"):
        open_source(file)


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2", "gpt-2"])
def test_byte_level_text_is_split_as_asked_and_comes_back(tmp_path, pre):
    tokenizer = load_tokenizer(open_source(write_gguf(tmp_path / "t.gguf", pre=pre)).tokenizer_path)
    text = "In 1999, “quoted”\n\n\tthe  3½ 猫 <|im_end|>"
    ids = tokenizer(text).input_ids
    first = [1] if pre == "llama-bpe" else []
    assert ids[: len(first)] == first and tokenizer.decode(ids[len(first) :]) == text and ids[-1] == 2
    # "the" is one merge away from " the": where a digit is a piece of its own no space stays with it.
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("the  1234")
    split = {
        "smollm": ["the", "ĠĠ", "1", "2", "3", "4"],
        "llama-bpe": ["the", "Ġ", "Ġ", "123", "4"],
        "qwen2": ["the", "Ġ", "Ġ", "1", "2", "3", "4"],
        "gpt-2": ["the", "Ġ", "Ġ1234"],
    }
    assert [piece for piece, _ in pieces] == split[pre]


def test_more_ids_end_a_text_where_the_file_says_so(tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tokenizer__ggml__eot_token_id=0)
    assert open_source(file).config["eos_token_id"] == [2, 0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architecture": "falcon"}, "general.architecture is 'falcon'; allowed: 'llama', 'qwen2', 'qwen3'"),
        ({"llama__rope__scaling__type": "yarn"}, "rope.scaling.type is 'yarn'; allowed: none, linear"),
        ({"llama__expert_weights_scale": 2.0}, "llama.expert_weights_scale is not understood"),
        ({"extra": {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}}, "attn_q_norm.weight' is not one of Llama"),
        ({"extra": {"blk.0.attn_q.bias": np.ones(64, np.float32)}}, "attn_q.bias' is not one of LlamaForCausalLM"),
    ],
    ids=["architecture", "scaling", "experts", "norm", "bias"],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_its_name(tmp_path, changes, message):
    with pytest.raises(UnsupportedModelError, match=message):
        open_source(write_gguf(tmp_path / "x.gguf", **changes))


@pytest.mark.parametrize(
    "at, form, value, message",
    [
        (0, "I", 7, "does not begin with GGUF"),
        (4, "I", 1, "its version is 1; allowed: 2 and 3"),
        (8, "Q", 1 << 60, "1152921504606846976 tensors"),
        (16, "Q", 1 << 40, "1099511627776 keys"),
        (24, "Q", 1 << 62, "a name of 4611686018427387904 bytes"),
    ],
)
def test_lies_in_the_header_are_refused_at_once(tmp_path, at, form, value, message):
    file = write_gguf(tmp_path / "x.gguf")
    data = bytearray(file.read_bytes())
    struct.pack_into(f"<{form}", data, at, value)
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        open_source(file)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a whole GGUF file"):
        open_source(file)
