from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from eval.losses import format_loss, kernel_loss, noise_floor, precision_loss, split_losses
from eval.perplexity import perplexity
from eval.result import PerplexityResult
from tests.eval.reference import ReferenceModel
from workbench.errors import ProtocolError


def half(model: ReferenceModel) -> ReferenceModel:
    """The same weights computed in f16."""
    import copy

    return ReferenceModel(copy.deepcopy(model.model).half(), model.tokenizer)


@pytest.fixture(scope="module")
def runs(tiny, prose):
    """An unquantized model, a disturbed one (its weights stand for dequantized ones), and that in f16."""
    disturbed = tiny.perturbed(0.02, seed=9)
    models = {"unquantized": tiny, "quantized": disturbed, "f16": half(disturbed)}
    return {name: perplexity(model, prose, "disjoint-64", max_windows=6) for name, model in models.items()}


def test_each_loss_is_a_paired_difference(runs):
    loss = format_loss(runs["quantized"], runs["unquantized"])
    d = runs["quantized"].token_nll - runs["unquantized"].token_nll
    assert loss.kind == "format"
    assert loss.mean == pytest.approx(math.log(runs["quantized"].ppl / runs["unquantized"].ppl), abs=1e-12)
    assert loss.se == pytest.approx(d.std(ddof=1) / math.sqrt(len(d)), rel=1e-9)
    assert loss.rms == pytest.approx(math.sqrt(np.mean(d**2)), rel=1e-12)
    assert loss.max_abs == np.abs(d).max()
    assert (loss.tokens, loss.windows) == (len(d), runs["quantized"].windows)
    assert "format loss" in str(loss) and "RMS" in str(loss)
    assert json.loads(json.dumps(loss.to_json(), allow_nan=False))["rms"] == loss.rms


def test_one_window_has_no_clustered_error(runs):
    d = runs["quantized"].token_nll[:9]
    stored = format_loss(d, d + 0.5, np.zeros(9, int)).to_json()
    json.dumps(stored, allow_nan=False)
    assert (
        stored["se_clustered"] is None
        and stored["interval95"] == [None, None]
        and stored["mean"] == pytest.approx(-0.5)
    )


def test_half_precision_is_noise_beside_the_weights(runs):
    precision = precision_loss(runs["f16"], runs["quantized"])
    assert 0 < precision.rms < format_loss(runs["quantized"], runs["unquantized"]).rms
    assert abs(precision.mean) < precision.rms


def test_the_parts_add_up_to_the_total(runs):
    """With one backend's f16 run in the place of the kernels', whose kernel loss is then exactly nothing."""
    losses = split_losses(runs["unquantized"], runs["quantized"], runs["f16"], quantized_f16=runs["f16"])
    assert list(losses) == ["format", "precision", "kernel", "total"]
    assert losses["kernel"].rms == 0.0
    parts = sum(losses[kind].mean for kind in ("format", "precision", "kernel"))
    assert parts == pytest.approx(losses["total"].mean, abs=1e-14)
    without = split_losses(runs["unquantized"], runs["quantized"], runs["f16"])
    assert list(without) == ["format", "kernel", "total"]
    assert without["kernel"].mean == pytest.approx(losses["precision"].mean, abs=1e-15)


def test_arrays_come_with_their_windows(runs):
    one, other = runs["quantized"], runs["unquantized"]
    assert format_loss(one.token_nll, other.token_nll, one.window_index) == format_loss(one, other)
    with pytest.raises(ProtocolError, match="must have one shape"):
        format_loss(one.token_nll, other.token_nll)
    with pytest.raises(ProtocolError, match="must have one shape"):
        kernel_loss(one.token_nll, other.token_nll[1:], one.window_index)
    with pytest.raises(ProtocolError, match="two results or two arrays"):
        kernel_loss(one, other.token_nll)


def test_a_difference_of_int8_backends_is_no_kernel_loss(runs):
    ran = {"activations": "int8", "cache": "f32"}
    rounded = replace(runs["f16"], provenance=ran)
    with pytest.raises(ProtocolError, match=r"is the INT8 activation noise floor .* no kernel loss"):
        kernel_loss(rounded, runs["quantized"])
    with pytest.raises(ProtocolError, match="is the INT8 activation and cache noise floor"):
        split_losses(
            runs["unquantized"], runs["quantized"], replace(rounded, provenance=dict.fromkeys(ran, "int8"))
        )
    found = noise_floor(rounded, runs["quantized"])
    assert str(found).startswith("INT8 activation noise floor ") and found.rms > 0
    assert noise_floor(runs["f16"], runs["quantized"]).kind == "noise floor"


def test_a_result_with_int8_activations_names_its_noise_floor(runs, tmp_path):
    """Measured, or said to be unknown."""
    rounded = replace(runs["f16"], provenance={"activations": "int8", "cache": "f32"})
    assert "INT8 activation noise floor: not measured" in rounded.summary()
    assert "INT8 activation noise floor" in rounded.unrecorded and rounded.to_json()["noise_floor"] is None
    found = rounded.with_noise_floor(runs["quantized"])
    d = rounded.token_nll - runs["quantized"].token_nll
    assert found.noise_floor["rms"] == pytest.approx(np.sqrt(np.mean(d**2)))
    assert "not measured" not in found.summary() and "INT8 activation noise floor: d " in found.summary()
    assert "INT8 activation noise floor" not in found.unrecorded
    found.save(tmp_path / "result")
    assert PerplexityResult.load(tmp_path / "result").noise_floor == found.noise_floor
    assert "noise floor" not in runs["f16"].summary()


def test_losses_of_different_windows_do_not_exist(runs, tiny, prose):
    with pytest.raises(ProtocolError, match="cannot be paired: windows"):
        format_loss(runs["quantized"], perplexity(tiny, prose, "disjoint-64", max_windows=2))


BARS = {"f32": (1e-6, 1e-5), "f16": (1e-3, 2e-2)}


@pytest.mark.parametrize("dtype", BARS)
@pytest.mark.parametrize(("form", "quantizer"), [("int8", "rtn"), ("int4", "rtn"), ("int2", "grid")])
def test_kernels_lose_nothing_beside_their_references(
    shared, tmp_path, story_tokens, adapter, form, quantizer, dtype
):
    """The same packed bytes at the same precision: the mean of d and its RMS stay under the bars, in nats.

    INT2 by the grid search, since round to nearest leaves no model of it: its perplexity is in the hundreds, logits
    and log-likelihoods are several times larger, and so is their rounding (RMS 1.2e-5 in f32).
    """
    import workbench
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.spec import WeightFormat

    if dtype == "f16" and not adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    options = ConvertOptions(WeightFormat(form, block_size=32), quantizer=quantizer)
    convert(shared / "models" / "stories260K-hf", tmp_path / "m", options)
    models = [workbench.load(tmp_path / "m", backend=backend, dtype=dtype) for backend in ("wgpu", "torch")]
    kernels, references = (perplexity(m, story_tokens, "disjoint-256", max_windows=2) for m in models)
    loss = kernel_loss(kernels, references)
    mean, rms = BARS[dtype]
    assert loss.tokens == 2 * 255 and abs(loss.mean) < mean and 0 < loss.rms < rms, str(loss)
