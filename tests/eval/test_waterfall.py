"""Error waterfalls: of a matrix against arithmetic written out here, of a model against its own losses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import workbench
from eval import model_waterfall as waterfalls
from eval.losses import format_loss
from eval.model_waterfall import NOISE, model_waterfall
from eval.perplexity import perplexities
from eval.waterfall import layer_waterfall, weight_waterfall
from eval.weight_stages import stage_weights, stages
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import ProtocolError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.quantizers import QUANTIZERS

from ..runtime.models import Shape, write_random

FORMATS = [
    WeightFormat("int4", block_size=32),
    WeightFormat("int8", granularity="channel"),
    WeightFormat("int2", block_size=64),
    WeightFormat("int4", block_size=32, symmetric=True),
    WeightFormat("int4", granularity="tensor", scale_dtype="f32"),
]


@pytest.fixture(scope="module")
def weights():
    return (np.random.default_rng(3).standard_t(4, (24, 100)) / 10).astype(np.float32)


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(4).standard_normal((16, 100)).astype(np.float32)


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_last_stage_is_what_the_file_holds(weights, form):
    last = stage_weights(weights, form, stages(form)[-1])
    made = quantized_tensor("w", weights.shape, form, *QUANTIZERS["rtn"].quantize(weights, form)).dequantize()
    assert np.array_equal(last, made)
    assert np.abs(stage_weights(weights, form, "range") - weights).max() < 1e-7, "the range clips nothing"


def test_stages_of_one_block_by_hand():
    """Weights -1 .. 2 in INT2: levels are 1 apart, the zero-point a third of a step off an integer."""
    w = np.zeros((1, 32), np.float32)
    w[0, :5] = [-1.0, 0.2, 0.9, 1.6, 1.9]
    form = WeightFormat("int2", block_size=32)
    s, z = 2.9 / 3, 1.0 / (2.9 / 3)
    real = s * (np.clip(np.rint(w / s + z), 0, 3) - z)
    assert stage_weights(w, form, "rounding") == pytest.approx(real, abs=1e-6)
    half = float(np.float16(s))
    half_z = 1.0 / half
    assert stage_weights(w, form, "scale") == pytest.approx(
        half * (np.clip(np.rint(w / half + half_z), 0, 3) - half_z), abs=1e-6
    )
    assert stage_weights(w, form, "zero-point") == pytest.approx(
        half * (np.clip(np.rint(w / half) + 1, 0, 3) - 1)
    )


def test_a_search_clips_and_rounds(weights):
    form = WeightFormat("int2", block_size=64)
    found = weight_waterfall(weights, form, quantizer="grid")
    assert found["range"].mse > 0 and found["zero-point"].adds_mse > 0
    made = quantized_tensor(
        "w", weights.shape, form, *QUANTIZERS["grid"].quantize(weights, form)
    ).dequantize()
    assert found["zero-point"].mse == pytest.approx(np.mean((made.astype(float) - weights) ** 2), rel=1e-9)
    assert found["zero-point"].mse < weight_waterfall(weights, form)["zero-point"].mse
    by_function = weight_waterfall(weights, form, quantizer=QUANTIZERS["grid"].quantize)
    assert by_function.causes == found.causes


@pytest.mark.parametrize("activations", ["f32", "f16", "int8"])
def test_causes_add_up(weights, inputs, activations):
    form = WeightFormat("int4", block_size=32)
    found = weight_waterfall(weights, form, inputs=inputs, activations=activations, kernel=False)
    last = found.causes[-1]
    assert sum(cause.adds_output_error for cause in found.causes) == pytest.approx(
        last.output_error, rel=1e-12
    )
    assert sum(cause.adds_mse for cause in found.causes) == pytest.approx(last.mse, rel=1e-12)
    stored = stage_weights(weights, form, "zero-point").astype(float)
    x = inputs.astype(float)
    wanted = x @ weights.astype(float).T
    error = ((x @ stored.T - wanted) ** 2).sum() / (wanted**2).sum()
    assert found["zero-point"].output_error == pytest.approx(error, rel=1e-12)
    assert found["zero-point"].sqnr_db == pytest.approx(
        10 * np.log10((weights.astype(float) ** 2).sum() / ((stored - weights) ** 2).sum())
    )
    if activations == "int8":
        blocks = np.pad(inputs, ((0, 0), (0, 28))).reshape(16, 4, 32)
        scale = np.abs(blocks).max(-1, keepdims=True) / 127
        rounded = (np.rint(blocks / scale) * scale).reshape(16, 128)[:, :100].astype(float)
        error = ((rounded @ stored.T - wanted) ** 2).sum() / (wanted**2).sum()
        assert found["int8 activations"].output_error == pytest.approx(error, rel=1e-5)
    assert (activations == "f32") == (last.name == "zero-point")


@pytest.mark.parametrize("activations", ["f32", "int8"])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_the_kernel_adds_next_to_nothing(weights, inputs, form, activations, adapter):
    found = weight_waterfall(weights, form, inputs=inputs, activations=activations, kernel=True)
    assert found.causes[-1].name == "kernel" and found.notes == ()
    assert abs(found["kernel"].adds_output_error) < 1e-5 * found["kernel"].output_error


def test_it_shows_itself(weights, inputs):
    found = weight_waterfall(weights, WeightFormat("int4", block_size=32), inputs=inputs, kernel=False)
    json.dumps(found.to_json(), allow_nan=False)
    assert [row["cause"] for row in found.rows()] == ["range", "rounding", "f16 scale", "zero-point"]
    assert "int4/32 (rtn)" in str(found) and "f16 scale" in found._repr_html_()
    axes = found.plot()
    heights = [bar.get_height() for bar in axes.patches]
    assert heights[-1] == pytest.approx(found.causes[-1].output_error)
    assert "adds, output" not in weight_waterfall(weights, WeightFormat("int4", block_size=32)).rows()[0]


def test_what_does_not_fit_is_refused(weights, inputs):
    form = WeightFormat("int4", block_size=32)
    with pytest.raises(ProtocolError, match="is not quantized"):
        weight_waterfall(weights, WeightFormat("f16"))
    with pytest.raises(ProtocolError, match="activations are one of"):
        weight_waterfall(weights, form, inputs=inputs, activations="int4")
    with pytest.raises(ProtocolError, match="give its inputs"):
        weight_waterfall(weights, form, activations="int8")
    with pytest.raises(ProtocolError, match="are needed, not"):
        weight_waterfall(weights, form, inputs=inputs[:, :7])
    with pytest.raises(ProtocolError, match="quantizer 'gptq9' is unknown"):
        weight_waterfall(weights, form, quantizer="gptq9")
    with pytest.raises(ProtocolError, match="stage 'kernel' is unknown"):
        stage_weights(weights, form, "kernel")


@pytest.fixture(scope="module")
def converted(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    source = shared / "models" / "stories260K-hf"
    for quantizer in ("rtn", "grid"):
        convert(
            source,
            folder / quantizer,
            ConvertOptions(WeightFormat("int2", block_size=32), quantizer=quantizer),
        )
    return folder


@pytest.fixture(scope="module")
def source(shared):
    return shared / "models" / "stories260K-hf"


def test_a_layer_with_its_own_inputs(source):
    model = workbench.load(source, backend="torch")
    form = WeightFormat("int4", block_size=32)
    found = layer_waterfall(model, "layers.2.mlp.down_proj", [1, 403, 407, 261], form, kernel=False)
    assert found.shape == (64, 172) and 0 < found["zero-point"].output_error < 0.1
    with pytest.raises(ProtocolError, match=r"no matrix 'layers.9"):
        layer_waterfall(model, "layers.9.mlp.down_proj", [1], form)


def test_a_models_causes_add_up_to_its_format_loss(converted, source, story_tokens):
    found = model_waterfall(
        converted / "rtn", source, story_tokens, "disjoint-512", dtype="int8", kernel=False, max_windows=2
    )
    assert list(found.adds) == ["range", "rounding", "scale", "zero-point", "int8 activations"]
    assert sum(loss.mean for loss in found.adds.values()) == pytest.approx(found.total.mean, abs=1e-12)
    assert found.adds["range"].rms < 1e-5 and found.adds["rounding"].mean > 0.1
    models = {
        "q": workbench.load(converted / "rtn", backend="torch"),
        "f": workbench.load(source, backend="torch"),
    }
    own = perplexities(models, story_tokens, "disjoint-512", max_windows=2)
    loss = format_loss(own["q"], own["f"])
    weights_only = sum(found.adds[name].mean for name in ("range", "rounding", "scale", "zero-point"))
    assert weights_only == pytest.approx(loss.mean, abs=1e-6)
    json.dumps(found.to_json(), allow_nan=False)
    assert found.rows()[-1]["cause"] == "total" and "zero-point" in str(found)
    assert found.plot().patches[-1].get_height() == pytest.approx(found.total.mean)


def test_through_the_kernels(converted, source, story_tokens, adapter):
    found = model_waterfall(converted / "rtn", source, story_tokens, "disjoint-128", max_windows=1)
    assert found.quantizer == "rtn" and found.notes == () and list(found.adds)[-1] == "kernel"
    assert abs(found.adds["kernel"].mean) < 1e-5 and found.adds["kernel"].rms < 1e-4


def test_int8_activations_have_a_noise_floor_and_no_kernel_loss(converted, source, story_tokens, adapter):
    found = model_waterfall(
        converted / "rtn", source, story_tokens, "disjoint-128", dtype="int8", max_windows=2
    )
    assert list(found.adds)[-2:] == ["int8 activations", NOISE] and "kernel" not in str(found.rows())
    assert sum(loss.mean for loss in found.adds.values()) == pytest.approx(found.total.mean, abs=1e-12)
    noise = found.adds[NOISE]
    assert 1e-5 < noise.rms < 2 * found.adds["int8 activations"].rms, "as large as what such activations cost"
    assert found.kernels.within and found.kernels.tokens == 128
    assert found.kernels.verdict in str(found) and found.kernels.verdict in found._repr_html_()
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["kernels"]["within"] is True


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """A random checkpoint in 16 bits, and what round to nearest makes of it."""
    folder = tmp_path_factory.mktemp("halves")
    checkpoint = write_random(folder / "bf16", Shape("bf16", 64, 96, 4, 2, 16, dtype="bfloat16"))
    convert(checkpoint, folder / "int4", ConvertOptions(WeightFormat("int4", block_size=32)))
    return checkpoint, folder / "int4"


def test_two_sets_of_weights_lie_in_memory_at_a_time(halves, monkeypatch):
    """The unquantized one as it is stored, and that of one stage; with caches for a window, not for the context."""
    import gc
    import weakref

    stages_seen, real = [], waterfalls.perplexities

    def looking(models, *arguments, **options):
        gc.collect()
        assert not any(each() for each in stages_seen), "the stage before is gone"
        base, stage = models.values()
        stages_seen.append(weakref.ref(stage.executor))
        found = real(models, *arguments, **options)
        dense = [w for (name, *kind), w in base.executor._weights.items() if kind == ["dense"]]
        assert {w.dtype for w in dense} == {torch.bfloat16}
        assert {model._scratch[False].capacity for model in (base, stage)} == {512}
        return found

    monkeypatch.setattr(waterfalls, "perplexities", looking)
    monkeypatch.setattr(waterfalls, "PART_WEIGHTS", 700)  # a matrix in many parts
    ids = np.random.default_rng(5).integers(0, 131, 260)
    told = []
    found = model_waterfall(
        halves[1],
        halves[0],
        ids,
        "disjoint-64",
        kernel=False,
        max_windows=2,
        progress=lambda *each: told.append(each[:2]),
    )
    assert list(found.results) == ["unquantized", "range", "rounding", "scale", "zero-point"]
    assert told == [(done, 16) for done in range(1, 17)]
    stored, checkpoint = (workbench.load(path, backend="torch") for path in reversed(halves))
    direct = real({"a": checkpoint, "b": stored}, ids, "disjoint-64", baseline="a", max_windows=2)
    for name, result in (("unquantized", direct["a"]), ("zero-point", direct["b"])):
        assert found.results[name].token_nll == pytest.approx(result.token_nll, abs=1e-5)


def test_a_model_of_other_weights_is_refused(converted, source, story_tokens, tmp_path, shared):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(converted / "grid", other)
    manifest = json.loads((other / "manifest.json").read_text())
    with pytest.raises(ProtocolError, match="holds no quantized matrix"):
        model_waterfall(source, source, story_tokens, "disjoint-512")
    from workbench.formats.reader import StoredModel

    stored = StoredModel.open(other)
    stored.manifest["provenance"]["quantizer"] = "rtn"
    assert manifest["provenance"]["quantizer"] == "grid"
    with pytest.raises(ProtocolError, match="is not what quantizer 'rtn' makes"):
        model_waterfall(stored, source, story_tokens, "disjoint-128", kernel=False, max_windows=1)
