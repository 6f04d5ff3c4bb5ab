"""Integer weights through WGSL against the references in f64; f16 activations against references that round alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat

from .models import SHAPES, Shape, check_parity, model_on, random_ids, reference_on, write_random
from .test_parity import padded_logits

pytestmark = pytest.mark.usefixtures("few_steps")

SHAPE = Shape("quantized", 102, 352, 6, 2, 24, vocab=131, layers=1, attention_bias=True)
FORMATS = (
    WeightFormat("int8"),
    WeightFormat("int8", block_size=32, symmetric=True),
    WeightFormat("int8", "channel", scale_dtype="f32"),
    WeightFormat("int4"),
    WeightFormat("int4", block_size=32, symmetric=True, scale_dtype="f32"),
    WeightFormat("int4", "tensor"),
    WeightFormat("int4", block_size=96, zero_frac_bits=3),
    WeightFormat("int2"),
    WeightFormat("int2", block_size=64, zero_frac_bits=5),
    WeightFormat("int2", "channel", symmetric=True),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("quantized") / "source", SHAPE)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_random_checkpoint(checkpoint, open_promised, tmp_path, fmt, record_property):
    """Formats take turns between a padded prefill and a few tokens, since each is compiled anew; the defaults take
    both on the shared checkpoints."""
    count = (39, 13)[FORMATS.index(fmt) % 2]
    layout = "interleaved" if fmt.granularity == "block" and fmt.symmetric else "planar"
    convert(checkpoint, tmp_path / "model", ConvertOptions(fmt, layout=layout))
    ids = random_ids(SHAPE.vocab, count)
    oracle = reference_on(tmp_path / "model", compute=torch.float64).forward(ids).logits
    model = model_on(tmp_path / "model", open_promised)
    record_property("error", check_parity(padded_logits(model, ids), oracle))


def test_mixed_formats(checkpoint, open_promised, tmp_path):
    """Each matrix keeps its own format; a tied-like choice of f16 for embedding and head among integers."""
    options = ConvertOptions(
        WeightFormat("int4"),
        embedding=WeightFormat("f16"),
        lm_head=WeightFormat("int8"),
        overrides={"*.v_proj.weight": WeightFormat("bf16"), "*.down_proj.weight": WeightFormat("int2")},
    )
    convert(checkpoint, tmp_path / "model", options)
    ids = random_ids(SHAPE.vocab, 39)
    oracle = reference_on(tmp_path / "model", compute=torch.float64).forward(ids).logits
    check_parity(padded_logits(model_on(tmp_path / "model", open_promised), ids, after=2), oracle)


@pytest.mark.parametrize("dtype", ["int8", "int4", "int2"])
@pytest.mark.parametrize(
    "name", ["stories260K-hf", pytest.param("babyllama105-hf", marks=pytest.mark.release)]
)
def test_shared_checkpoint(shared, open_promised, tmp_path, name, dtype, record_property):
    convert(shared / "models" / name, tmp_path / "model", ConvertOptions(WeightFormat(dtype)))
    oracle = reference_on(tmp_path / "model", compute=torch.float64)
    ids = random_ids(oracle.vocab_size, 39, seed=2)
    model = model_on(tmp_path / "model", open_promised)
    after = 2 if name.startswith("stories") else 0
    error = check_parity(padded_logits(model, ids, after), oracle.forward(ids).logits)
    record_property("error", error)


@pytest.mark.parametrize("subgroups", [True, False], ids=["subgroups", "trees"])
def test_f16_activations(tmp_path, open_promised, subgroups, record_property):
    """Both round to f16 at the same places, so they differ only where a sum's last f32 bits tip such a rounding.

    In the first layer few do, each by a unit in the last place. Later ones follow from those that tipped, and in
    the logits both are almost independent samples of f16's rounding errors: their RMS distance from each other then
    approaches sqrt(2) of the distance from f32, and stays below twice that.
    """
    if not open_promised(subgroups=subgroups).adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    folder = write_random(tmp_path / "source", SHAPES[5])
    ids = random_ids(SHAPES[5].vocab, 39)
    names = ("layers.0.attn.input", "layers.0.attn.q_rotated", "layers.0.attn.context", "layers.0.mlp.hidden")
    full = reference_on(folder).forward(ids).logits
    half = reference_on(folder, dtype="f16").forward(ids, keep=names)
    model = model_on(folder, lambda: open_promised(subgroups=subgroups), dtype="f16")
    device = model.executor.run("all", ids, model.executor.new_cache(64), keep=names)
    for name in names[:2]:
        ours, theirs = device[name].astype(np.float32), half.kept[name].astype(np.float32)
        assert device[name].dtype == np.float16
        assert (np.abs(ours - theirs) <= 2.0**-10 * np.abs(theirs) + 1e-6 * np.abs(theirs).max()).all(), name
        assert (ours == theirs).mean() > 0.98, name
    for name in names[2:]:  # a few units of the magnitudes that were summed
        ours, theirs = device[name].astype(np.float32), half.kept[name].astype(np.float32)
        assert np.abs(ours - theirs).max() <= 2.0**-9 * np.abs(theirs).max(), name
    from_half, from_full = _rms(device["logits"] - half.logits), _rms(half.logits - full)
    record_property("rms", (from_half, from_full))
    assert from_full > 1e-5 * np.abs(full).max()  # f16 is really in use
    assert from_half < 2 * from_full


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2)))
