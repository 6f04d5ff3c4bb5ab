"""Baselines kept as the top of their logits: what they give, and that no damaged or foreign file is read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("k", [1, 5, 40])
def test_kl_over_the_top_and_the_rest_by_hand(k):
    base, other = logits(1), logits(2)
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
    bound, _, _ = kept.kl(other)
    assert bound == pytest.approx(expected, rel=1e-9)
    assert np.exp(kept.log_tail) == pytest.approx(1 - np.sort(p, 1)[:, -k:].sum(1), abs=1e-12)
    whole = divergence(other, base, np.zeros(7, int)).kl
    assert (bound <= whole + 1e-12).all() and bound.mean() < whole.mean()
    draws = np.array([TopLogits.of(base, k, seed).kl(other)[1:] for seed in range(400)]).mean(0)
    error = np.sqrt(draws[1] / 400) + 1e-12
    assert (np.abs(draws[0] - (whole - bound)) < 5 * error).all(), "unbiased, with the variance it says"


def test_all_logits_give_all_of_kl():
    base, other = logits(1), logits(2)
    kept = TopLogits.of(base, 1000)
    bound, missing, variance = kept.kl(other)
    assert bound == pytest.approx(divergence(other, base, np.zeros(7, int)).kl, rel=1e-9)
    assert not missing.any() and not variance.any()
    assert (kept.log_tail == -np.inf).all() and kept.describe()["tail_mass_max"] == 0.0
    assert TopLogits.of(base, 3).kl(base)[0].max() < 1e-14, "a model does not differ from itself"


def test_more_logits_come_closer():
    base, other = logits(3), logits(4)
    found = [TopLogits.of(base, k).kl(other)[0].mean() for k in (1, 4, 16, 50)]
    assert found == sorted(found)


def test_a_file_gives_what_the_model_gives(file, tiny, worse, prose):
    later = perplexity(worse, prose[:400], SCHEME, baseline=file)
    together = perplexity(worse, prose[:400], SCHEME, baseline=tiny)
    for name in ("ppl", "ln_ratio", "ln_ratio_se_clustered", "same_top1", "delta_p_rms"):
        assert getattr(later.baseline, name) == pytest.approx(getattr(together.baseline, name), rel=1e-9)
    assert 0 < later.baseline.kl_mean < together.baseline.kl_mean
    assert together.baseline.kl_truncation is None
    cut = json.loads(json.dumps(later.to_json(), allow_nan=False))["baseline"]["kl_truncation"]
    assert (
        cut["top_k"] == 16
        and 0 < cut["tail_mass_mean"] < cut["tail_mass_max"] < 1
        and "lower bound" in cut["kl_is"]
    )
    whole = later.baseline.kl_mean + cut["missing_mean"]
    assert abs(whole - together.baseline.kl_mean) < 4 * cut["missing_mean_se"]
    assert cut["missing_mean_se"] < together.baseline.kl_mean / 20
    assert (
        "at least" in later.summary() and "16 likeliest" in later.summary() and "missing" in later.summary()
    )
    same = perplexity(tiny, prose[:400], SCHEME, baseline=file).baseline
    assert same.kl_mean < 1e-13 and same.same_top1 == 1.0 and same.difference_rms < 1e-12


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
        ({"normalizer": top.normalizer[1:]}, "shapes"),
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
