"""Each family against transformers in f64, on both backends and through everything that is done with a model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoConfig

import workbench
from eval.texts import Tokens
from tests.models.family_cases import (
    CASES,
    IDS,
    LENGTH,
    LIKE_LLAMA,
    SMALL,
    config_of,
    oracle_logits,
    oracle_of,
    write_family,
)
from tests.runtime.models import check_parity, random_ids, reference_on
from workbench.convert.calibration import CalibrationOptions
from workbench.convert.capture import capture
from workbench.convert.convert import convert
from workbench.convert.decoder import Decoder
from workbench.convert.fold import fold_layer
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.models.families import FAMILIES, architecture_of
from workbench.models.source import open_source
from workbench.precision.sensitivity import sensitivity
from workbench.runtime.device import adapter_missing

#: Sentences that a byte-level tokenizer makes enough windows of.
TEXT = "".join(f"{n} plus {n} is {2 * n}. " for n in range(400))
needs_adapter = pytest.mark.skipif(adapter_missing() is not None, reason=str(adapter_missing()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(family, index) -> its checkpoint, written when first asked for."""
    made = {}

    def folder(family: str, index: int = 0):
        if (family, index) not in made:
            made[family, index] = write_family(tmp_path_factory.mktemp(family) / str(index), family, index)
        return made[family, index]

    return folder


def test_every_family_has_cases():
    assert set(CASES) == set(FAMILIES) - {"llama"}  # which has tests of its own
    assert all(len(cases) >= 3 for cases in CASES.values())


#: Tokens that are written behind a prompt, as many as a cache of LENGTH holds.
NEW = 60
#: Tokens of the largest step that a prompt of LENGTH is cut into.
STEP = 64
#: The bound of logits in f32, of the largest logit. In the second configuration of Gemma 3 f32 has no more digits to
#: give: transformers itself is 1.2e-5 from its f64 there.
F32 = {("gemma3_text", 1): 2e-5}


@pytest.mark.parametrize(("family", "index"), IDS)
def test_references_agree_with_transformers(folders, family, index):
    folder, ids = folders(family, index), random_ids(config_of(family)["vocab_size"], LENGTH)
    oracle = oracle_logits(folder, ids)
    check_parity(
        reference_on(folder, compute=torch.float64, max_tokens=LENGTH).forward(ids).logits, oracle, 5e-6
    )
    check_parity(
        reference_on(folder, max_tokens=LENGTH).forward(ids).logits, oracle, F32.get((family, index), 1e-5)
    )


@needs_adapter
@pytest.mark.parametrize(("family", "index"), IDS)
def test_kernels_agree_with_transformers(folders, family, index):
    """A prompt in steps of several sizes, then token by token. A family's first configuration has steps of a few tokens
    too, which are compiled anew."""
    length = LENGTH if index == 0 else STEP + 2
    folder, ids = folders(family, index), random_ids(config_of(family)["vocab_size"], length)
    model = workbench.load(folder, backend="wgpu", max_tokens=LENGTH)
    oracle, bound = oracle_logits(folder, ids), F32.get((family, index), 1e-5)
    check_parity(model.forward(ids).logits, oracle, bound)
    cache = model.executor.new_cache(LENGTH)
    pieces = [ids[:STEP], *ids[STEP:, None]]  # of sizes that are compiled already, but for single tokens
    found = np.concatenate([model.executor.run("all", piece, cache)["logits"] for piece in pieces])
    check_parity(found, oracle, bound)


@needs_adapter
@pytest.mark.parametrize("family", CASES)
def test_greedy_tokens_are_those_of_transformers(folders, family):
    folder, ids = folders(family), random_ids(259, LENGTH - NEW).tolist()
    with torch.inference_mode():
        expected = oracle_of(folder).generate(
            torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, eos_token_id=-1, pad_token_id=0
        )[0, LENGTH - NEW :]
    found = list(workbench.load(folder, backend="wgpu", max_tokens=LENGTH).generate_ids(ids, NEW))
    # a tie within rounding may fall either way, and all that follows with it
    if found != expected.tolist():
        at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
        logits = np.sort(oracle_logits(folder, np.array([*ids, *expected[:at]]))[-1])
        assert logits[-1] - logits[-2] < 4e-5 * np.abs(logits).max()


#: format, activations, cache: the first for every family, the others in turns.
STORED = [
    ("int4/32", "int8", "int8"),
    ("int8/32", "f32", "f32"),
    ("int2/32", "f16", "int8"),
]


@needs_adapter
@pytest.mark.parametrize("family", CASES)
def test_formats_activations_and_caches(folders, family, tmp_path):
    ids = random_ids(259, STEP)  # one step, since compiling is what a case costs
    every, *turns = STORED
    for form, activations, cache in (every, turns[list(CASES).index(family) % len(turns)]):
        out = tmp_path / form.replace("/", "-")
        if not out.exists():
            convert(folders(family), out, ConvertOptions(parse_format(form)))
        kernels, references = (
            workbench.load(out, backend=backend, dtype=activations, cache=cache).forward(ids).logits
            for backend in ("wgpu", "torch")
        )
        # f16 rounds at every step, and INT8 activations and caches turn differences of rounding into steps of a quant
        loose = {"int8", "f16"} & {activations, cache}
        off = np.sqrt(np.mean((kernels - references) ** 2)) / np.sqrt(np.mean(references**2))
        assert off < (6e-2 if loose else 1e-5), (form, activations, cache, off)


@pytest.mark.parametrize("family", CASES)
def test_folding_keeps_the_function(folders, family):
    source = open_source(folders(family))
    model = architecture_of(source.config)
    decoder = Decoder(model, source.describe, 24)
    weights = {name: torch.from_numpy(source.tensor(name).dequantize()) for name in source.names()}
    formats = {n: WeightFormat("int4") if w.ndim == 2 else WeightFormat("f32") for n, w in weights.items()}

    def search(matrices, kind, moments):
        generator = torch.Generator().manual_seed(len(matrices))
        return 3 * torch.rand(matrices[0].shape[1], generator=generator) + 0.2

    hidden = torch.randn(2, 24, model.hidden_size, generator=torch.Generator().manual_seed(1))
    for index, layer in enumerate(decoder.layers):
        own = {name: weights[name] for name in layer.tensors}
        moments = capture(decoder, index, own, hidden, "cpu", 0)
        folded, moved, left = fold_layer(decoder.plan, own, formats, moments, search)
        assert set(moved) | set(left) == set(moments)
        # nothing in front of experts takes scales
        assert any(n.endswith("mlp.hidden") for n in set(moved) - set(left)) or any(
            n.endswith("experts.hidden") for n in left
        )
        expected = decoder.layer(index, own, hidden)
        torch.testing.assert_close(decoder.layer(index, folded, hidden), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", CASES)
def test_decoder_agrees_with_transformers(folders, family):
    """What calibration and training run, layer by layer."""
    folder, ids = folders(family), random_ids(259, 24)
    source, oracle = open_source(folder), oracle_logits(folder, ids)
    decoder = Decoder(architecture_of(source.config), source.describe, 24)
    weights = {name: torch.from_numpy(source.tensor(name).dequantize()) for name in source.names()}
    hidden = decoder.embedded({}, weights[decoder.architecture.embedding][torch.from_numpy(ids)][None])
    for index in range(len(decoder.layers)):
        hidden = decoder.layer(index, weights, hidden)
    products = decoder.final(weights, hidden) @ weights[decoder.architecture.lm_head].T
    check_parity(decoder.logits(products)[0].numpy().astype(np.float64), oracle, 2e-5)


@pytest.mark.parametrize(
    ("family", "quantizer"),
    [("qwen3", "gptq"), ("phi3", "gptq"), ("llama4_text", "gptq"), ("olmo2", "awq"), ("gemma3_text", "awq")],
)
def test_calibrated_quantizers_beat_rounding(folders, family, quantizer, tmp_path):
    folder = folders(family)
    (tmp_path / "text.txt").write_text(TEXT)
    calibration = CalibrationOptions(text=str(tmp_path / "text.txt"), windows=12, length=40)
    options = ConvertOptions(parse_format("int4/32"), quantizer=quantizer, calibration=calibration)
    convert(folder, tmp_path / "out", options)
    stored = open_source(tmp_path / "out")
    against = stored.manifest["provenance"]["calibration"]["against_rtn"]
    assert 0 < against["kl"] < 1.1 * against["kl_nearest"]


@pytest.mark.parametrize("family", CASES)
def test_precision_groups(folders, family):
    source = open_source(folders(family))
    tokens = Tokens(random_ids(259, 64))
    table = sensitivity(source, tokens, "disjoint-32", formats=[parse_format("int4/32")], max_windows=1)
    matrices = {name for name in source.names() if len(source.describe(name)[0]) == 2}
    assert {tensor for group in table.groups for tensor in group.tensors} == matrices
    assert [group.name for group in table.groups][:2] == ["embedding", "layers.0.attn.q_k_v"]
    assert (table.kl > 0).all()


@pytest.mark.parametrize("family", [family for family in CASES if family not in LIKE_LLAMA])
def test_it_is_not_taken_for_a_llama(folders, family, tmp_path):
    """A file that says `llama` but holds another family's tensors is refused."""
    copy = shutil.copytree(folders(family), tmp_path / "copy")
    shared = {key: value for key, value in config_of(family).items() if key in SMALL or key == "head_dim"}
    (copy / "config.json").write_text(json.dumps({**shared, "model_type": "llama"}))
    with pytest.raises(
        (UnsupportedModelError, CheckpointError), match=r"no Llama of this config.json reads|missing|shape"
    ):
        open_source(copy)


@pytest.mark.parametrize(("family", "index"), IDS)
def test_every_key_is_understood_or_refused(family, index):
    """Whatever transformers writes of a configuration is known, down to a note."""
    written = AutoConfig.for_model(**config_of(family, index)).to_dict()
    assert architecture_of(written) == architecture_of(config_of(family, index))
    assert not any("ignored" in note for note in architecture_of(written).notes)
    understood = {key.name for key in FAMILIES[family].keys}
    others = {"attention_chunk_size", "per_layer_config", "quantization_config", "is_causal"}
    for key in others - understood:
        with pytest.raises(UnsupportedModelError, match=key):
            architecture_of(written | {key: 3})
