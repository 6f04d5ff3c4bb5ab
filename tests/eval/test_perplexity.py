from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import workbench
from eval.comparison import compare
from eval.perplexity import NonFiniteScoreError, perplexities, perplexity
from eval.result import PerplexityResult
from eval.texts import Tokens, encode, load_text
from tests.eval.conftest import STORIES, byte_tokenizer
from tests.eval.reference import ReferenceModel, Scores
from workbench.errors import ProtocolError, WorkbenchError

KEYS = {
    "protocol",
    "backend",
    "tokens_scored",
    "windows",
    "ppl",
    "ppl_se",
    "nll",
    "baseline",
    "provenance",
}


def direct_losses(model: ReferenceModel, ids, begins, ends, firsts) -> tuple[list[float], list[int]]:
    """Mean loss and number of targets of each window, as `transformers` computes them from labels."""
    import torch

    losses, counts = [], []
    for begin, end, first in zip(begins, ends, firsts, strict=True):
        window = torch.tensor(ids[begin:end])[None]
        labels = window.clone()
        labels[:, :first] = -100
        with torch.no_grad():
            losses.append(float(model.model(window, labels=labels).loss))
        counts.append(int((labels[:, 1:] != -100).sum()))
    return losses, counts


def hugging_face_loop(model: ReferenceModel, ids, length: int, stride: int) -> tuple[float, float]:
    """Perplexity by the documented sliding window of `transformers`: over tokens, and with its weights."""
    import torch

    total = exact = weights = targets = previous = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        new = end - previous
        window = torch.tensor(ids[begin:end])[None]
        labels = window.clone()
        labels[:, :-new] = -100
        with torch.no_grad():
            loss = float(model.model(window, labels=labels).loss)
        valid, scored = int((labels != -100).sum()), int((labels[:, 1:] != -100).sum())
        total, weights = total + loss * (valid - 1), weights + valid - 1
        exact, targets = exact + loss * scored, targets + scored
        previous = end
        if end == len(ids):
            break
    return math.exp(exact / targets), math.exp(total / weights)


def test_first_windows_of_tinystories_against_transformers(stories260k, story_tokens):
    """The reference row of 200 windows is 4.1216; 40 windows here, each against `transformers`' own loss."""
    tokens = story_tokens
    result = perplexity(stories260k, tokens, "disjoint-512", max_windows=40)
    begins = np.arange(40) * 512
    losses, counts = direct_losses(stories260k, tokens.ids, begins, begins + 512, [1] * 40)
    assert counts == [511] * 40
    sums = np.bincount(result.window_index, weights=result.token_nll)
    np.testing.assert_allclose(sums / 511, losses, rtol=2e-6)
    assert result.ppl == pytest.approx(math.exp(np.mean(losses)), rel=1e-6)
    assert result.ppl == pytest.approx(4.7640, abs=5e-4), "hard stories come first"
    assert (result.windows, result.tokens_scored) == (40, 40 * 511)
    assert result.documents == 1910 and result.bos_policy == "before each document"


def test_without_stripping_the_stories_the_model_is_at_a_loss(stories260k, stories, story_tokens):
    """What stands between documents matters: 4.41 against 4.12 on 200 windows."""
    plain = stories.content.split(STORIES)
    ids = np.concatenate(
        [[1, *stories260k.tokenizer(one, add_special_tokens=False)["input_ids"]] for one in plain[:60]]
    )
    loose = perplexity(stories260k, ids, "disjoint-512", max_windows=12)
    strict = perplexity(stories260k, story_tokens, "disjoint-512", max_windows=12)
    assert loose.ppl > strict.ppl + 0.1


def test_wikitext2_begins_like_the_reference_protocol(stories260k, shared, wikitext2_tokens):
    result = perplexity(stories260k, wikitext2_tokens, "wikitext2-gptq-512", max_windows=4)
    lines = load_text(shared / "data" / "wiki.test.raw").content.split("\n")[:-1]
    joined = "\n\n".join("" if line == " " else line + "\n" for line in lines)[:20_000]
    ids = stories260k.tokenizer(joined)["input_ids"]
    begins = np.arange(4) * 512
    losses, _ = direct_losses(stories260k, ids, begins, begins + 512, [1] * 4)
    assert result.ppl == pytest.approx(math.exp(np.mean(losses)), rel=1e-6)
    assert result.windows_available == 1591 and result.tokens_available == 815_066
    assert result.unrecorded == ()
    assert "the first of 1591" in result.summary()


@pytest.mark.parametrize(("length", "stride"), [(64, 24), (64, 64), (33, 1), (40, 39)])
@pytest.mark.parametrize("count", [30, 64, 65, 99])
def test_strided_is_hugging_faces_sliding_window(tiny, prose, length, stride, count):
    ids = encode(tiny.tokenizer, prose, "disjoint-8").ids[:count]
    if stride == length and count % length == 1:
        return  # a window of one token: the documented loop divides by zero there
    result = perplexity(tiny, ids, f"hf-strided-{length}-{stride}")
    exact, documented = hugging_face_loop(tiny, ids, length, stride)
    assert result.ppl == pytest.approx(exact, rel=1e-5)
    assert result.ppl_hf_loop == pytest.approx(documented, rel=1e-5)
    assert result.to_json()["ppl_hf_loop"] == result.ppl_hf_loop


def test_strided_windows_of_a_trained_model(stories260k, story_tokens):
    ids = story_tokens.ids[:1536]
    result = perplexity(stories260k, ids, "hf-strided-512-256")
    assert (result.ppl, result.ppl_hf_loop) == pytest.approx(
        hugging_face_loop(stories260k, ids, 512, 256), rel=1e-6
    )
    assert result.tokens_scored == 1535
    disjoint = perplexity(stories260k, ids, "disjoint-512")
    assert result.ppl < disjoint.ppl, "more context predicts better"


def test_llamacpp_scores_the_second_half(tiny, prose):
    result = perplexity(tiny, prose, "llamacpp-64", max_windows=3)
    ids = tiny.tokenizer(prose)["input_ids"]
    losses = []
    for begin in range(0, 192, 64):
        chunk = [tiny.tokenizer.bos_token_id, *ids[begin + 1 : begin + 64]]
        losses += direct_losses(tiny, chunk, [0], [64], [33])[0]
    assert result.tokens_scored == 3 * 31
    assert result.ppl == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_one_model_is_scored_without_its_logits(tiny, prose):
    tiny.calls.update(score=0, forward=0)
    perplexity(tiny, prose, "disjoint-64", max_windows=3)
    assert tiny.calls == {"score": 3, "forward": 0}


def test_windows_side_by_side_give_the_same_figures(shallow, prose):
    """Five windows, two a step: the last group has one."""
    for backend in ("wgpu", "torch"):
        model = workbench.load(shallow, backend=backend)
        alone = perplexity(model, prose, "disjoint-64", max_windows=5)
        together = perplexity(model, prose, "disjoint-64", max_windows=5, windows_per_step=2)
        assert np.abs(together.token_nll - alone.token_nll).max() < 1e-4
        assert together.ppl == pytest.approx(alone.ppl, rel=1e-6)
        with pytest.raises(ProtocolError, match="windows_per_step=1 here"):
            perplexity(model, prose, "disjoint-64", max_windows=2, windows_per_step=2, baseline=model)


@pytest.mark.parametrize("backend", ["wgpu", "torch"])
def test_windows_side_by_side_beside_those_of_a_baseline(shallow, prose, backend, tmp_path):
    """Paired figures, token by token those of windows one by one."""
    model, baseline = (workbench.load(shallow, backend=backend, cache=cache) for cache in ("int8", "f32"))
    options = {"max_windows": 4, "baseline": baseline}
    alone = perplexity(model, prose, "disjoint-32", **options)
    together = perplexity(model, prose, "disjoint-32", windows_per_step=2, **options)
    # a key on the edge between two quants may fall to either side
    assert np.abs(together.token_nll - alone.token_nll).max() < 0.02
    assert together.baseline.ppl == pytest.approx(alone.baseline.ppl, rel=1e-6)
    assert together.baseline.kl["mean"] == pytest.approx(alone.baseline.kl["mean"], rel=0.1)
    assert together.baseline.ln_ratio == pytest.approx(alone.baseline.ln_ratio, abs=1e-3)
    with pytest.raises(ProtocolError, match="windows_per_step=1 here"):
        path = tmp_path / "kept.npz"
        perplexity(model, prose, "disjoint-32", windows_per_step=2, save_baseline=path, **options)


def test_against_a_baseline(tiny, prose):
    """Two models on the same windows, against the formulas on whole logits matrices."""
    worse = tiny.perturbed(0.05, seed=1)
    result = perplexity(worse, prose, "disjoint-64", baseline=tiny)
    b = result.baseline
    import torch

    kl, q, p, same = [], [], [], []
    ids = np.array(tiny.tokenizer(prose)["input_ids"])
    for w in range(result.windows):
        window = ids[w * 64 : (w + 1) * 64]
        log_q, log_p = (
            torch.tensor(m.forward(window[:-1]).logits).double().log_softmax(-1).numpy()
            for m in (worse, tiny)
        )
        kl.append((np.exp(log_p) * (log_p - log_q)).sum(1))
        q.append(-log_q[np.arange(63), window[1:]])
        p.append(-log_p[np.arange(63), window[1:]])
        same.append(log_q.argmax(1) == log_p.argmax(1))
    d = np.concatenate(q) - np.concatenate(p)
    assert result.ppl == pytest.approx(math.exp(np.concatenate(q).mean()), rel=1e-10)
    assert b.ppl == pytest.approx(math.exp(np.concatenate(p).mean()), rel=1e-10)
    assert b.ln_ratio == pytest.approx(math.log(result.ppl / b.ppl), abs=1e-12)
    assert b.ln_ratio_se == pytest.approx(d.std(ddof=1) / math.sqrt(len(d)), rel=1e-8)
    assert b.difference_rms == pytest.approx(math.sqrt(np.mean(d**2)), rel=1e-8)
    assert b.kl_mean == pytest.approx(np.concatenate(kl).mean(), rel=1e-8)
    assert b.same_top1 == np.concatenate(same).mean()
    assert b.same_top1_se == pytest.approx(math.sqrt(b.same_top1 * (1 - b.same_top1) / (len(d) - 1)))
    assert b.delta_p_mean == pytest.approx((np.exp(-np.concatenate(q)) - np.exp(-np.concatenate(p))).mean())
    assert 0 < b.kl["median"] < b.kl["p90"] < b.kl["p99"] <= b.kl["max"]
    assert result.ppl == pytest.approx(perplexity(worse, prose, "disjoint-64").ppl, rel=1e-9)


def test_a_model_does_not_differ_from_itself(tiny, prose):
    b = perplexity(tiny, prose, "disjoint-64", baseline=tiny, max_windows=2).baseline
    assert (b.ln_ratio, b.kl_mean, b.same_top1, b.difference_rms) == (0.0, 0.0, 1.0, 0.0)


def test_a_stored_result_serves_as_baseline(tiny, prose, tmp_path):
    worse = tiny.perturbed(0.05, seed=1)
    perplexity(tiny, prose[:400], "hf-strided-64-32").save(tmp_path / "baseline.npz")
    stored = PerplexityResult.load(tmp_path / "baseline.npz")
    later = perplexity(worse, prose[:400], "hf-strided-64-32", baseline=stored)
    together = perplexity(worse, prose[:400], "hf-strided-64-32", baseline=tiny)
    assert later.baseline.kl_mean is None
    for name in ("ppl", "ln_ratio", "ln_ratio_se", "ln_ratio_se_clustered", "same_top1"):
        assert getattr(later.baseline, name) == pytest.approx(getattr(together.baseline, name), rel=1e-7)
    together.save(tmp_path / "both.npz")
    again = PerplexityResult.load(tmp_path / "both.npz")
    assert json.dumps(again.to_json()) == json.dumps(together.to_json())
    assert np.array_equal(again.token_nll, together.token_nll)


def test_results_of_other_targets_are_not_paired(tiny, prose):
    result = perplexity(tiny, prose, "disjoint-64", max_windows=3)
    for other, what in (
        (perplexity(tiny, prose, "disjoint-64", max_windows=2), "windows is 3 and 2"),
        (perplexity(tiny, prose, "disjoint-32", max_windows=3), "protocol is disjoint-64 and disjoint-32"),
        (perplexity(tiny, prose[1:], "disjoint-64", max_windows=3), "tokens_sha256"),
    ):
        with pytest.raises(ProtocolError, match=what):
            compare(result, other)


def test_anything_but_a_stored_result_is_refused(tiny, prose, tmp_path):
    (tmp_path / "text.npz").write_text("no zip")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name, why in (
        ("none", "cannot be read"),
        ("text.npz", "not a stored"),
        ("other.npz", "not a stored"),
    ):
        with pytest.raises(ProtocolError, match=why):
            PerplexityResult.load(tmp_path / name)


def test_the_record_says_what_a_row_needs(tiny, prose):
    result = perplexity(tiny, prose, "disjoint-64", baseline=tiny.perturbed(0.1, 2), max_windows=1)
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert set(record) >= KEYS
    assert {"ppl", "ln_ratio", "ln_ratio_se", "kl_mean", "same_top1"} <= set(record["baseline"])
    assert record["ppl_se_clustered"] is None, "one window has no error between windows"
    assert record["provenance"] == tiny.describe_provenance()
    assert record["ppl_se"] == pytest.approx(
        record["ppl"] * np.std(result.token_nll, ddof=1) / math.sqrt(result.tokens_scored)
    )
    assert record["nll"] == pytest.approx(math.log(record["ppl"]))
    assert "text dataset" in record["unrecorded"] and "tokenizer" not in record["unrecorded"]
    assert perplexity(tiny, prose, "disjoint-64", max_windows=1).to_json()["baseline"] is None
    bare = perplexity(tiny, tiny.tokenizer(prose)["input_ids"], "disjoint-64", max_windows=1)
    assert {"text sha256", "tokenizer", "BOS policy"} <= set(bare.unrecorded)
    assert bare.bits_per_byte is None
    other = perplexity(tiny, prose, "wikitext2-gptq-64", max_windows=1)
    assert any("WikiText-2" in what for what in other.unrecorded)


def test_bits_per_byte_of_a_byte_tokenizer_are_bits_per_token(tiny):
    result = perplexity(tiny, "plain ascii only. " * 20, "hf-strided-64-32")
    assert result.bits_per_byte == pytest.approx(result.nll / math.log(2))


def test_a_result_shows_itself(tiny, prose):
    result = perplexity(tiny, prose, "disjoint-64", baseline=tiny, max_windows=2)
    assert f"{result.ppl:.4f}" in result.summary() and "disjoint-64" in result.summary()
    page = replace(result, backend="<b>")._repr_html_()
    assert "&lt;b&gt;" in page and "<b>" not in page and f"{result.ppl:.4f}" in page


def test_progress_is_told(tiny, prose, capfd):
    seen = []
    result = perplexity(tiny, prose, "disjoint-64", max_windows=3, progress=lambda *state: seen.append(state))
    assert [state[:2] for state in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] == pytest.approx(result.nll)
    perplexity(tiny, prose, "disjoint-64", max_windows=2, progress=True)
    assert "2/2" in capfd.readouterr().err


def test_several_models_side_by_side_give_what_each_gives_alone(tiny, prose):
    base = ReferenceModel(tiny.model, tiny.tokenizer)
    models = {"near": tiny.perturbed(0.01, 1), "plain": base, "far": tiny.perturbed(0.05, 2)}
    seen = []
    results = perplexities(
        models,
        prose,
        "disjoint-64",
        baseline="plain",
        max_windows=3,
        progress=lambda *state: seen.append(state),
    )
    assert list(results) == list(models) and base.calls["forward"] == 3 and results["plain"].baseline is None
    assert [state[0] for state in seen] == list(range(1, 10)) and {state[1] for state in seen} == {9}
    assert [state[2] for state in seen[-3:]] == ["plain", "near", "far"]
    assert seen[-1][3] == pytest.approx(results["far"].nll)
    for name in ("near", "far"):
        alone = perplexity(models[name], prose, "disjoint-64", baseline=tiny, max_windows=3)
        assert np.allclose(results[name].token_nll, alone.token_nll, rtol=0, atol=1e-12)
        assert results[name].baseline.kl == pytest.approx(alone.baseline.kl)
        assert results[name].baseline.ppl == pytest.approx(results["plain"].ppl)
    alone = perplexity(tiny, prose, "disjoint-64", max_windows=3)
    assert results["plain"].token_nll == pytest.approx(alone.token_nll, abs=1e-5)
    assert np.array_equal(results["plain"].top1, alone.top1)
    apart = perplexities(models, prose, "disjoint-64", max_windows=3)
    assert apart["far"].baseline is None and apart["far"].ppl == pytest.approx(results["far"].ppl)


def test_several_models_must_fit_each_other(tiny, stories260k, prose):
    with pytest.raises(ProtocolError, match="baseline 'c' is none of the models; allowed: a, b"):
        perplexities({"a": tiny, "b": tiny}, prose, "disjoint-64", baseline="c")
    with pytest.raises(ProtocolError, match="the model 'a' has 259 tokens, the model 'b' 512"):
        perplexities({"a": tiny, "b": stories260k}, prose, "disjoint-64")
    with pytest.raises(ProtocolError, match="no model"):
        perplexities({}, prose, "disjoint-64")


def test_what_does_not_fit_is_refused(tiny, prose):
    with pytest.raises(ProtocolError, match="the model's context of 64; allowed: up to 64"):
        perplexity(tiny, prose, "disjoint-65")
    with pytest.raises(ProtocolError, match="max_windows is 0"):
        perplexity(tiny, prose, "disjoint-64", max_windows=0)
    with pytest.raises(ProtocolError, match="token 259 is outside the model's vocabulary, 0 to 258"):
        perplexity(tiny, [259] * 64, "disjoint-64")
    with pytest.raises(ProtocolError, match="these are tokens already"):
        perplexity(tiny, [1] * 64, "disjoint-64", separator="x")
    with pytest.raises(ProtocolError, match="not float64"):
        perplexity(tiny, np.zeros(64), "disjoint-64")
    with pytest.raises(ProtocolError, match="needs at least 64 tokens"):
        perplexity(tiny, "short", "disjoint-64")
    with pytest.raises(ProtocolError, match="joins rows before tokenization"):
        perplexity(tiny, encode(tiny.tokenizer, prose, "disjoint-64"), "wikitext2-gptq-64")
    other = ReferenceModel(tiny.model, byte_tokenizer(bos=False))
    with pytest.raises(ProtocolError, match="different tokenizers"):
        perplexity(tiny, prose, "disjoint-64", baseline=other)
    with pytest.raises(ProtocolError, match="another tokenizer"):
        perplexity(other, encode(tiny.tokenizer, prose, "disjoint-64"), "disjoint-64")


def test_a_baseline_of_another_vocabulary_is_refused(tiny, stories260k, prose):
    with pytest.raises(ProtocolError, match="the model has 259 tokens, the baseline 512"):
        perplexity(tiny, prose, "disjoint-64", baseline=stories260k)


def test_broken_weights_are_named_not_averaged(tiny, prose):
    import torch

    broken = tiny.perturbed(0.0, 0)
    with torch.no_grad():
        broken.model.model.embed_tokens.weight[tiny.tokenizer.convert_tokens_to_ids("z")] = float("nan")
    ids = np.full(192, 70)
    ids[64 + 9] = tiny.tokenizer.convert_tokens_to_ids("z")
    for baseline in (None, tiny):
        with pytest.raises(NonFiniteScoreError, match="window 1 of disjoint-64: the model gives target"):
            perplexity(broken, ids, "disjoint-64", baseline=baseline)
    with pytest.raises(NonFiniteScoreError, match="window 1 of disjoint-64: the baseline gives target"):
        perplexity(tiny, ids, "disjoint-64", baseline=broken)


def test_scores_of_the_wrong_length_are_refused(tiny, prose):
    class OneTooMany(ReferenceModel):
        def score(self, ids):
            scores = super().score(ids)
            return Scores(np.append(scores.nll, 0.0), scores.top1)

    with pytest.raises(WorkbenchError, match="gave 64 nll and 63 top1; expected 63"):
        perplexity(OneTooMany(tiny.model, tiny.tokenizer), prose, "disjoint-64")


def test_tokens_may_be_made_once_for_many_models(tiny, prose):
    tokens = encode(tiny.tokenizer, prose, "disjoint-64", separator=" river ")
    assert isinstance(tokens, Tokens)
    once = perplexity(tiny, tokens, "disjoint-64")
    anew = perplexity(tiny, prose, "disjoint-64", separator=" river ")
    assert np.array_equal(once.token_nll, anew.token_nll)
    assert once.text == anew.text and once.separator == " river "
    with pytest.raises(ProtocolError, match="takes no document separator"):
        perplexity(tiny, tokens, "llamacpp-64")


def test_importing_the_evaluation_loads_nothing_heavy():
    code = (
        "import sys, eval.perplexity, eval.losses, eval.texts; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'wgpu', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
