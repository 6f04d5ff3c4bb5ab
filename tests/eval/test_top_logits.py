"""Baselines kept as the top of their logits: what they give, and that no damaged or foreign file is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import top_logits
from eval.perplexity import perplexities, perplexity
from eval.statistics import divergence
from eval.store import kind_of, read_arrays, write_arrays
from eval.top_logits import KIND, StoredBaseline, TopLogits
from tests.eval.reference import ReferenceModel
from workbench.errors import ProtocolError

SCHEME = "hf-strided-64-32"


@pytest.fixture(scope="module")
def worse(tiny):
    return tiny.perturbed(0.05, seed=1)


@pytest.fixture(scope="module")
def file(tiny, prose, tmp_path_factory):
    path = tmp_path_factory.mktemp("baseline") / "base.logits"
    perplexity(tiny, prose[:400], SCHEME, save_baseline=path, top_k=16)
    return path


def logits(seed: int, rows: int = 7, vocabulary: int = 50) -> np.ndarray:
    return (3 * np.random.default_rng(seed).standard_normal((rows, vocabulary))).astype(np.float32)


@pytest.fixture
def few(monkeypatch):
    """A sample that is small beside a vocabulary of 50."""
    monkeypatch.setattr(top_logits, "STRATA", 2)
    monkeypatch.setattr(top_logits, "SAMPLES", 3)


@pytest.mark.parametrize("apart", [0.05, 1.0, 3.0])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_kl_over_the_top_and_the_rest_by_hand(few, k, apart):
    base = logits(1)
    other = (base + apart * logits(2) / 3).astype(np.float32)
    p, q = (
        np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(1, keepdims=True)
        for x in (base, other)
    )
    expected = []
    for row in range(len(base)):
        top = np.argsort(-p[row])[:k]
        rest = np.setdiff1d(np.arange(50), top)
        tail = p[row, rest].sum()
        expected.append(
            (p[row, top] * np.log(p[row, top] / q[row, top])).sum() + tail * np.log(tail / q[row, rest].sum())
        )
    kept = TopLogits.of(base, k)
    assert kept.tail_ids.shape == (7, 6)
    _, bound, _ = kept.kl(other)
    assert bound == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert kept.tail == pytest.approx(1 - np.sort(p, 1)[:, -k:].sum(1), rel=1e-6)
    whole = divergence(other, base, np.zeros(7, int)).kl
    assert (bound <= whole + 1e-12).all() and bound.mean() < whole.mean()
    draws = np.array([TopLogits.of(base, k, seed).kl(other) for seed in range(400)])
    spread = draws[:, 0].std(0)
    assert (np.abs(draws[:, 0].mean(0) - whole) < 5 * spread / 20 + 1e-9).all(), "right in the mean"
    said = np.sqrt(draws[:, 2].mean(0))
    assert said == pytest.approx(spread, rel=0.5), "with the variance it says"


def test_a_sample_of_the_rest_holds_none_of_the_top_and_likely_tokens_more_often(few):
    base = logits(1)
    counts = np.zeros((7, 50))
    for seed in range(300):
        kept = TopLogits.of(base, 5, seed)
        for row in range(7):
            both = [*kept.top_ids[row], *kept.tail_ids[row]]
            assert len(set(both)) == 11
            counts[row, kept.tail_ids[row]] += 1
    order = np.argsort(-base, 1)
    assert not np.take_along_axis(counts, order[:, :5], 1).any()
    rest = np.take_along_axis(counts, order[:, 5:], 1)
    assert (rest[:, :5].sum(1) > 4 * rest[:, -5:].sum(1)).all()


def test_all_logits_give_all_of_kl():
    base, other = logits(1), logits(2)
    for k in (1000, 3):  # all as the likeliest, and some of them drawn, as all are
        kept = TopLogits.of(base, k)
        found, bound, variance = kept.kl(other)
        assert found == pytest.approx(divergence(other, base, np.zeros(7, int)).kl, rel=1e-6)
        assert not variance.any() and (bound <= found + 1e-6).all()
    assert TopLogits.of(base, 1000).describe()["tail_mass_max"] == 0.0
    assert TopLogits.of(base, 3).kl(base)[0].max() < 1e-12, "a model does not differ from itself"


def test_more_logits_come_closer(few):
    base, other = logits(3), logits(4)
    found = [TopLogits.of(base, k).kl(other)[1].mean() for k in (1, 4, 16, 50)]
    assert found == sorted(found)


@pytest.mark.parametrize("apart", [0.015, 0.4, 1.0])
def test_a_real_vocabulary_loses_little(apart):
    """49,152 tokens with a heavy tail: mean, median and p90 of KL 1e-4 to 0.4, whose top 64 alone give far less."""
    generator = np.random.default_rng(0)
    size, places = 49152, 96
    base = 2.5 * generator.standard_normal((places, size)) - 1.5 * np.log(np.arange(1, size + 1))
    base = (base * np.exp(0.3 * generator.standard_normal((places, 1)))).astype(np.float32)
    spread = apart * np.exp(0.5 * generator.standard_normal((places, 1)))
    other = (base + spread * generator.standard_normal((places, size))).astype(np.float32)
    whole = divergence(other, base, np.zeros(places, int)).kl
    found, bound, variance = TopLogits.of(base).kl(other)
    assert bound.mean() < 0.75 * whole.mean()
    assert found.mean() == pytest.approx(whole.mean(), rel=0.01)
    assert np.median(found) == pytest.approx(np.median(whole), rel=0.02)
    assert np.quantile(found, 0.9) == pytest.approx(np.quantile(whole, 0.9), rel=0.02)
    assert (np.abs(found - whole) < 0.1 * whole).all(), "each place alone"
    assert np.sqrt(np.mean((found - whole) ** 2)) == pytest.approx(np.sqrt(variance.mean()), rel=0.5)


def test_a_file_gives_what_the_model_gives(few, tiny, worse, prose, tmp_path):
    file = tmp_path / "base.logits"
    perplexity(tiny, prose[:400], SCHEME, save_baseline=file, top_k=16)
    later = perplexity(worse, prose[:400], SCHEME, baseline=file)
    together = perplexity(worse, prose[:400], SCHEME, baseline=tiny)
    for name in ("ppl", "ln_ratio", "ln_ratio_se_clustered", "same_top1", "delta_p_rms"):
        assert getattr(later.baseline, name) == pytest.approx(getattr(together.baseline, name), rel=1e-9)
    assert together.baseline.kl_truncation is None
    cut = json.loads(json.dumps(later.to_json(), allow_nan=False))["baseline"]["kl_truncation"]
    assert cut["top_k"] == 16 and cut["samples"] == 6 and "estimate" in cut["kl_is"]
    assert 0 < cut["tail_mass_mean"] < cut["tail_mass_max"] < 1
    assert 0 < cut["bound_mean"] < together.baseline.kl_mean
    assert 0 < cut["estimated_se"] < together.baseline.kl_mean / 20
    assert abs(later.baseline.kl_mean - together.baseline.kl_mean) < 4 * cut["estimated_se"]
    shown = later.summary()
    assert "mean about" in shown and "at least" in shown and "16 likeliest tokens and 6 drawn" in shown
    same = perplexity(tiny, prose[:400], SCHEME, baseline=file).baseline
    assert same.kl_mean < 1e-12 and same.same_top1 == 1.0 and same.difference_rms < 1e-12


def test_fewer_windows_than_the_file_holds(file, worse, tiny, prose):
    part = perplexity(worse, prose[:400], SCHEME, baseline=file, max_windows=3)
    alone = perplexity(worse, prose[:400], SCHEME, baseline=tiny, max_windows=3)
    assert part.windows == 3 and part.baseline.ln_ratio == pytest.approx(alone.baseline.ln_ratio, rel=1e-9)


def test_the_baseline_of_several_is_kept(tiny, worse, prose, tmp_path):
    results = perplexities(
        {"a": worse, "b": tiny}, prose[:300], SCHEME, baseline="b", save_baseline=tmp_path / "b"
    )
    stored = StoredBaseline.load(tmp_path / "b")
    assert np.array_equal(stored.result.token_nll, results["b"].token_nll)
    again = perplexities({"a": worse}, prose[:300], SCHEME, baseline=stored)["a"]
    assert again.baseline.ln_ratio == pytest.approx(results["a"].baseline.ln_ratio, rel=1e-12)
    with pytest.raises(ProtocolError, match="name one"):
        perplexities({"a": worse, "b": tiny}, prose[:300], SCHEME, save_baseline=tmp_path / "c")
    with pytest.raises(ProtocolError, match="top_k is 0"):
        perplexity(tiny, prose[:300], SCHEME, save_baseline=tmp_path / "c", top_k=0)
    assert [p.name for p in tmp_path.iterdir()] == ["b"], "nothing is left of what failed"


def test_other_windows_or_tokenizers_are_refused(file, tiny, worse, prose, stories260k):
    from tests.eval.conftest import byte_tokenizer

    for text, scheme, what in (
        (prose[:400], "disjoint-64", "protocol"),
        (prose[1:401], SCHEME, "tokens_sha256"),
    ):
        with pytest.raises(ProtocolError, match=f"stored baseline is of another {what}"):
            perplexity(worse, text, scheme, baseline=file)
    with pytest.raises(ProtocolError, match="of another tokenizer"):
        perplexity(ReferenceModel(tiny.model, byte_tokenizer(bos=False)), prose[:400], SCHEME, baseline=file)
    short = StoredBaseline.load(file).first(2)
    with pytest.raises(ProtocolError, match=r"holds 2 windows, but .* allowed: max_windows up to 2"):
        perplexity(worse, prose[:400], SCHEME, baseline=short)
    assert perplexity(worse, prose[:400], SCHEME, baseline=short, max_windows=2).baseline.kl


def test_a_noise_floor_stands_beside_the_loss(tiny, worse, prose, file):
    import copy

    half = ReferenceModel(copy.deepcopy(tiny.model).half(), tiny.tokenizer)
    result = perplexity(worse, prose[:400], SCHEME, baseline=tiny, noise_floor=half)
    floor = result.baseline.noise_floor
    assert 0 < floor["kl"]["mean"] < result.baseline.kl_mean / 10 and floor["difference_rms"] > 0
    assert "noise floor" in result.summary()
    json.dumps(result.to_json(), allow_nan=False)
    stored = perplexity(worse, prose[:400], SCHEME, baseline=file, noise_floor=half)
    assert stored.baseline.noise_floor["ln_ratio"] == pytest.approx(floor["ln_ratio"], rel=1e-6)
    with pytest.raises(ProtocolError, match="needs a baseline with logits"):
        perplexity(worse, prose[:400], SCHEME, noise_floor=half)


def test_every_cut_of_a_file_is_refused(file, tmp_path):
    data = file.read_bytes()
    for size in [*range(0, 200, 7), *np.linspace(200, len(data) - 1, 40).astype(int)]:
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(ProtocolError):
            StoredBaseline.load(tmp_path / "cut")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_altered_byte_is_overlooked(file, tmp_path_factory, data):
    whole = bytearray(file.read_bytes())
    place = data.draw(st.one_of(st.integers(0, 6000), st.integers(0, len(whole) - 1)), "place")
    change = data.draw(st.integers(1, 255), "change")
    whole[place] ^= change
    path = tmp_path_factory.getbasetemp() / "altered"
    path.write_bytes(whole)
    with pytest.raises(ProtocolError):
        StoredBaseline.load(path)


def test_files_of_other_kinds_are_refused(tiny, prose, tmp_path):
    perplexity(tiny, prose[:300], SCHEME).save(tmp_path / "result")
    assert kind_of(tmp_path / "result") == "perplexity result" and kind_of(tmp_path / "none") is None
    with pytest.raises(ProtocolError, match=f"allowed here: a '{KIND}' of version 1"):
        StoredBaseline.load(tmp_path / "result")
    with pytest.raises(ProtocolError, match="cannot be read"):
        StoredBaseline.load(tmp_path / "none")
    write_arrays(
        tmp_path / "x", KIND, {"note": float("nan")}, {"x": np.zeros(3, np.int8), "empty": np.zeros((0, 2))}
    )
    record, arrays = read_arrays(tmp_path / "x", KIND, {"x": "int8 uint8", "empty": "float64"})
    assert np.isnan(record["note"]) and arrays["empty"].shape == (0, 2)
    with pytest.raises(ProtocolError, match="array 'x' is int8; allowed: float32"):
        read_arrays(tmp_path / "x", KIND, {"x": "float32", "empty": "float64"})
    with pytest.raises(ProtocolError, match="holds the arrays"):
        StoredBaseline.load(tmp_path / "x")


def test_arrays_that_do_not_fit_are_refused(file, tmp_path):
    whole = StoredBaseline.load(file)
    top = whole.top
    for change, what in (
        ({"top_ids": top.top_ids[:, :3]}, "shapes"),
        ({"top_ids": np.full_like(top.top_ids, 259)}, "token 259 is outside"),
        ({"tail": top.tail[1:]}, "shapes"),
    ):
        fields = {**vars(top), **change}
        StoredBaseline(whole.result, TopLogits(**fields)).save(tmp_path / "odd")
        with pytest.raises(ProtocolError, match=what):
            StoredBaseline.load(tmp_path / "odd")


def test_an_unwritable_place_leaves_nothing(tiny, prose, tmp_path):
    with pytest.raises(ProtocolError, match="there is no folder"):
        perplexity(tiny, prose[:300], SCHEME, save_baseline=tmp_path / "none" / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        perplexity(tiny, prose[:300], SCHEME, save_baseline=tmp_path / "folder")
    (tmp_path / "folder").rmdir()
    assert not list(tmp_path.iterdir())
