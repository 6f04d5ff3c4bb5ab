"""A family whose names are its own runs everywhere: only its file knows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import workbench
from eval.perplexity import perplexity
from eval.texts import encode, load_text
from tests.eval.conftest import byte_tokenizer
from tests.models.checkpoints import write_checkpoint
from tests.models.other_family import CONFIG, Parallel, forward
from workbench.convert.calibration import CalibrationOptions
from workbench.convert.convert import convert
from workbench.convert.fold import scaled_by
from workbench.convert.options import ConvertOptions
from workbench.formats.text import parse_format
from workbench.model_bench.speed import measure_speed
from workbench.models.families import FAMILIES, architecture_of
from workbench.models.source import open_source
from workbench.precision.sensitivity import sensitivity
from workbench.runtime.device import adapter_missing

IDS = [3, 99, 41, 7, 120, 200, 11, 64, 65, 2, 18, 33]
TEXT = "".join(f"{n} times {n} is {n * n}; " for n in range(300))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.rand(spec.shape, generator=generator) + 0.5
        if len(spec.shape) == 1
        else torch.randn(spec.shape, generator=generator) / spec.shape[1] ** 0.5
        for name, spec in Parallel.parse(CONFIG).tensors().items()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory, state):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "parallel", Parallel)
        folder = write_checkpoint(tmp_path_factory.mktemp("parallel"), state, CONFIG)
        byte_tokenizer().save_pretrained(folder)
        (folder / "text.txt").write_text(TEXT)
        yield open_source(folder)


@pytest.fixture(scope="module")
def calibration(source) -> CalibrationOptions:
    return CalibrationOptions(text=str(source.path / "text.txt"), windows=8, length=32)


@pytest.mark.parametrize("backend", ["torch", "wgpu"])
def test_it_computes_what_it_says(source, state, backend):
    if backend == "wgpu" and (missing := adapter_missing()):
        pytest.skip(missing)
    model = workbench.load(source, backend=backend)
    expected = forward(CONFIG, state, IDS).numpy()
    np.testing.assert_allclose(model.forward(IDS).logits, expected, rtol=1e-3, atol=2e-4)
    drawn = list(model.generate_ids(IDS, 8))
    assert drawn[0] == expected[-1].argmax()


@pytest.mark.parametrize("quantizer", ["rtn", "gptq", "awq", "trained"])
def test_it_is_quantized(source, calibration, tmp_path, quantizer):
    given = {} if quantizer == "rtn" else {"calibration": calibration}
    steps = {"steps": 4} if quantizer == "trained" else {}
    options = ConvertOptions(parse_format("int4/32"), quantizer=quantizer, **given, **steps)
    convert(source, tmp_path / "out", options)
    quantized, plain = (workbench.load(each, backend="torch") for each in (tmp_path / "out", source))
    off = quantized.forward(IDS).logits - plain.forward(IDS).logits
    assert 0 < np.sqrt((off**2).mean()) < 0.5
    tensors = quantized.source.manifest["provenance"].get("tensors", {})
    if quantizer != "rtn":
        assert set(tensors) == {name for name in source.names() if len(source.describe(name)[0]) == 2}


def test_what_reads_one_input_is_found_in_the_plan(source):
    plan = architecture_of(source.config).build(source.describe)
    for read, tensor in {
        "input": "norm",  # read by five matrices
        "attn.context": "mix.v_proj.weight",
        "mlp.hidden": "ffn.up_proj.weight",
    }.items():
        assert [source.tensor for source in scaled_by(plan, f"layers.1.{read}")] == [f"h.1.{tensor}"]


def test_it_is_measured(source):
    text = load_text(source.path / "text.txt")
    model = workbench.load(source)
    tokens = encode(model.tokenizer, text, "disjoint-32")
    table = sensitivity(source, tokens, "disjoint-32", formats=[parse_format("int4/32")], max_windows=2)
    together = {tuple(group.tensors) for group in table.groups}
    assert (
        tuple(f"h.0.{name}_proj.weight" for name in ("mix.q", "mix.k", "mix.v", "ffn.gate", "ffn.up"))
        in together
    )
    assert len(table.groups) == 2 + 3 * 3 and (table.kl > 0).all()
    found = perplexity(model, tokens, "disjoint-32", max_windows=2)
    assert np.isfinite(found.ppl)
    assert measure_speed(model, IDS, decode_tokens=4, repetitions=1).decode.median > 0


def test_an_unknown_family_is_refused_by_name():
    with pytest.raises(
        workbench.errors.UnsupportedModelError, match="model_type is 'mamba'; allowed: 'llama'"
    ):
        architecture_of({"model_type": "mamba"})
