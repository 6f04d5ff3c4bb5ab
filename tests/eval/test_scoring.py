"""Comparisons where the logits are, against the host's in f64: the same figures, and no row of logits read back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from eval.perplexity import perplexities, perplexity
from eval.scoring import Scoring
from eval.top_logits import StoredBaseline
from tests.eval.conftest import byte_tokenizer
from tests.runtime.models import Shape, model_on, reference_on, write_random
from workbench.errors import WorkbenchError
from workbench.runtime.device import Device, adapter_missing, open_device
from workbench.runtime.side_by_side import share_memory, side_by_side

SCHEME = "hf-strided-64-32"
SHAPE = Shape("compared", 64, 96, 4, 2, 16, vocab=1500)
FIGURES = ("ppl", "ln_ratio_se", "difference_rms", "delta_p_rms", "same_top1", "kl_se")


@dataclass
class Foreign:
    """A model seen only through what evaluation asks of one, so that it is compared on the host."""

    model: object

    def __getattr__(self, name):
        return getattr(self.model, name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint and one whose weights differ a little."""
    import safetensors.torch as st
    import torch

    folder = tmp_path_factory.mktemp("compared")
    base = write_random(folder / "base", SHAPE)
    other = write_random(folder / "other", SHAPE)
    weights = st.load_file(other / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, value in weights.items():
        if value.ndim == 2:
            weights[name] = value + 0.1 * value.std() * torch.randn(value.shape, generator=generator)
    st.save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    for each in (base, other):
        byte_tokenizer().save_pretrained(each)
    return base, other


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def pair(request, folders):
    """The baseline and the model, on one backend."""
    if request.param == "torch":
        return tuple(reference_on(folder, max_tokens=64) for folder in folders)
    if reason := adapter_missing():
        pytest.skip(reason)
    return tuple(model_on(folder, lambda: open_device(promised=True), max_tokens=64) for folder in folders)


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, SHAPE.vocab, 200)


def test_figures_are_those_of_the_host(pair, ids, monkeypatch):
    base, model = pair
    read = []
    original = Device.read_all
    monkeypatch.setattr(
        Device, "read_all", lambda self, wanted: read.extend(n for *_, n in wanted) or original(self, wanted)
    )
    here = perplexity(model, ids, SCHEME, baseline=base)
    most = max(read, default=0)
    host = perplexity(Foreign(model), ids, SCHEME, baseline=base)
    for name in FIGURES:
        assert getattr(here.baseline, name) == pytest.approx(getattr(host.baseline, name), rel=1e-6)
    for name, value in host.baseline.kl.items():
        assert here.baseline.kl[name] == pytest.approx(value, rel=1e-6), name
    assert here.ppl == pytest.approx(host.ppl, rel=1e-6)
    assert here.baseline.ln_ratio == pytest.approx(host.baseline.ln_ratio, abs=1e-7)
    assert np.array_equal(here.top1, host.top1) and here.seconds > 0
    assert most < SHAPE.vocab, "a few numbers a token are read, no row of logits"


def test_several_models_against_one(pair, ids):
    base, model = pair
    third = Foreign(model)
    told = []
    together = perplexities(
        {"a": model, "base": base},
        ids,
        SCHEME,
        baseline="base",
        progress=lambda done, total, name, nll: told.append((done, total, name)),
    )
    mixed = perplexities({"a": model, "base": base, "c": third}, ids, SCHEME, baseline="base")
    assert together["a"].baseline.kl_mean == pytest.approx(mixed["c"].baseline.kl_mean, rel=1e-6)
    assert [name for *_, name in told] == ["base", "a"] * together["a"].windows
    assert together["base"].baseline is None
    alone = perplexity(base, ids, SCHEME)
    assert together["base"].ppl == pytest.approx(alone.ppl, rel=1e-9)


def test_a_stored_baseline_is_made_and_used_where_the_logits_are(pair, ids, tmp_path):
    base, model = pair
    here = perplexities(
        {"base": base, "a": model}, ids, SCHEME, baseline="base", save_baseline=tmp_path / "here"
    )["a"]
    alone = perplexity(base, ids, SCHEME, save_baseline=tmp_path / "alone")
    perplexity(Foreign(base), ids, SCHEME, save_baseline=tmp_path / "host")
    kept = {name: StoredBaseline.load(tmp_path / name) for name in ("here", "alone", "host")}
    for name in ("alone", "host"):
        assert np.array_equal(kept[name].top.top_ids, kept["here"].top.top_ids)
        assert np.allclose(kept[name].top.top_log_p, kept["here"].top.top_log_p, rtol=1e-6, atol=1e-6)
        same = np.sort(kept[name].top.tail_ids, 1) == np.sort(kept["here"].top.tail_ids, 1)
        assert same.mean() > 0.99, "the same sample, but for equals"
    assert alone.ppl == pytest.approx(here.baseline.ppl, rel=1e-6)
    stored = perplexity(model, ids, SCHEME, baseline=kept["here"])
    on_host = perplexity(Foreign(model), ids, SCHEME, baseline=kept["here"])
    for name, value in on_host.baseline.kl.items():
        assert stored.baseline.kl[name] == pytest.approx(value, rel=1e-5), name
    for name in ("mean", "median", "p90"):
        assert on_host.baseline.kl[name] == pytest.approx(here.baseline.kl[name], rel=0.02), name
    assert stored.baseline.kl_truncation["bound_mean"] < here.baseline.kl_mean
    json.dumps(stored.to_json(), allow_nan=False)


def test_a_model_against_itself(pair, ids):
    base, _ = pair
    found = perplexity(base, ids, SCHEME, baseline=base).baseline
    assert (found.ln_ratio, found.kl_mean, found.same_top1) == (0.0, 0.0, 1.0)


def test_only_models_of_one_memory_share_it(pair, folders):
    base, model = pair
    assert share_memory([base, model]) and share_memory([base])
    assert not share_memory([base, base]) and not share_memory([base, Foreign(model)])
    other = reference_on(folders[1], max_tokens=64)
    assert share_memory([base, other]) is (base.backend == "torch")
    model.forward = lambda ids: None  # whoever changes what a model does is asked, not passed by
    assert not share_memory([base, model])
    del model.forward
    with pytest.raises(WorkbenchError, match="only if all are there"):
        side_by_side([base, base], [1, 2], lambda rows, targets, places: {})


def test_an_error_while_comparing_leaves_the_models_usable(pair, ids):
    base, model = pair

    def look(rows, targets, places):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        side_by_side([base, model], ids[:40], look)
    assert np.isfinite(model.score(ids[:40]).nll).all()
    assert Scoring({"a": model, "b": base}, "b").order == ["b", "a"]
