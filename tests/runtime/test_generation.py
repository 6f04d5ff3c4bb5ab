"""Sessions: greedy tokens of both executors and transformers, chunk boundaries, scores, caches of their own."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from workbench.errors import WorkbenchError

from .models import SHAPES, model_on, random_ids, reference_on, write_random

NEW_TOKENS = 200


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("generation") / "model", SHAPES[5])


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def model(request, checkpoint, open_promised):
    return (
        model_on(checkpoint, open_promised, max_tokens=128)
        if request.param == "wgpu"
        else reference_on(checkpoint, max_tokens=128)
    )


@pytest.mark.parametrize("name", ["stories260K-hf", "babyllama105-hf"])
def test_200_greedy_tokens_agree_with_transformers(shared, open_promised, name):
    import torch
    from transformers import LlamaForCausalLM

    folder = shared / "models" / name
    device = model_on(folder, open_promised, max_tokens=256)
    prompt = device.encode_prompt("Once upon a time")
    hub = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    hub.generation_config.eos_token_id = None  # 200 tokens, whatever they are
    with torch.inference_mode():
        expected = hub.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0
        )
    expected = expected[0, len(prompt) :].tolist()
    assert len(expected) == NEW_TOKENS
    assert list(device.generate_ids(prompt, NEW_TOKENS)) == expected
    assert list(reference_on(folder).generate_ids(prompt, NEW_TOKENS)) == expected
    session = device.session()
    session.feed(prompt)
    assert session.greedy(NEW_TOKENS) == expected
    session.close()


def test_chunks_do_not_matter(model):
    """The same logits whether tokens come at once, in odd pieces, or one by one; and as `forward` gives them."""
    ids = random_ids(model.vocab_size, 74)
    expected = model.forward(ids).logits
    bound = 1e-5 * np.abs(expected).max()
    session = model.session()
    for first, last in ((0, 3), (3, 73), (73, 74)):
        logits = session.feed(ids[first:last])
        assert session.position == last
        assert np.abs(logits - expected[last - 1]).max() <= bound
    session.reset()
    assert session.position == 0
    for place, token in enumerate(ids[:20]):
        assert np.abs(session.feed([token]) - expected[place]).max() <= bound
    session.close()


def test_greedy_ways_agree(model):
    """greedy, greedy_after and feeding the best token one by one are the same continuation."""
    prompt = random_ids(model.vocab_size, 9, seed=4)
    session = model.session()
    token = int(session.feed(prompt).argmax())
    one_by_one = [token]
    for _ in range(39):
        token = int(session.feed([token]).argmax())
        one_by_one.append(token)
    session.reset()
    session.feed(prompt)
    assert session.greedy(40) == one_by_one  # more than are recorded into one submit
    assert session.position == len(prompt) + 39
    session.reset()
    first = int(session.feed(prompt).argmax())
    assert session.greedy_after(first, 5) == one_by_one[1:6]
    assert session.greedy_after(one_by_one[5], 34) == one_by_one[6:40]
    assert session.position == len(prompt) + 39
    session.close()


def test_score_is_the_log_softmax_of_forward(model):
    import torch

    ids = random_ids(model.vocab_size, 90, seed=5)
    logits = model.forward(ids).logits
    scores = model.score(ids, logits=True)
    expected = -torch.log_softmax(torch.from_numpy(logits[:-1]).double(), -1).numpy()[np.arange(89), ids[1:]]
    assert scores.nll.dtype == np.float64 and scores.nll.shape == (89,)
    assert np.abs(scores.nll - expected).max() <= 1e-5 * np.abs(logits).max()
    assert np.array_equal(scores.top1, logits[:-1].argmax(-1))
    assert np.abs(scores.logits - logits[:-1]).max() <= 1e-5 * np.abs(logits).max()
    without = model.score(ids)
    assert without.logits is None
    assert np.allclose(without.nll, scores.nll, rtol=0, atol=1e-6)


def test_interleaved_sessions_keep_their_own_caches(model):
    prompts = [random_ids(model.vocab_size, count, seed=count) for count in (7, 12)]
    expected = []
    for prompt in prompts:
        session = model.session()
        session.feed(prompt)
        expected.append(session.greedy(12))
        session.close()
    sessions = [model.session() for _ in prompts]
    tokens = [[int(session.feed(prompt).argmax())] for session, prompt in zip(sessions, prompts, strict=True)]
    for _ in range(11):
        model.score(random_ids(model.vocab_size, 6))  # and a third user of the device between them
        for session, found in zip(sessions, tokens, strict=True):
            found.append(int(session.feed(found[-1:]).argmax()))
    assert tokens == expected
    for session in sessions:
        session.close()


def test_threads_do_not_disturb_each_other(model):
    prompts = [random_ids(model.vocab_size, count, seed=count) for count in (5, 21, 34)]
    expected = [list(model.generate_ids(prompt, 40)) for prompt in prompts]
    scored = [model.score(prompt).nll for prompt in prompts]
    found, failures = {}, []

    def work(index: int) -> None:
        try:
            for _ in range(3):
                tokens = list(model.generate_ids(prompts[index], 40))
                found.setdefault(index, []).append((tokens, model.score(prompts[index]).nll))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    for index, results in found.items():
        for tokens, nll in results:
            assert tokens == expected[index]
            assert np.array_equal(nll, scored[index])


def test_prompts_of_many_lengths_in_any_order(checkpoint, open_promised):
    """Longer steps make shared buffers grow; what was prepared for shorter ones must follow."""
    model = model_on(checkpoint, open_promised, max_tokens=300)
    ids = random_ids(model.vocab_size, 280)
    first = model.forward(ids[:3]).logits
    session = model.session()
    token = int(session.feed(ids[:3]).argmax())
    model.forward(ids)  # steps of 256, 16, 4 and 4
    model.score(ids)
    assert np.array_equal(model.forward(ids[:3]).logits, first)
    kept = model.forward(ids[:20], keep=["layers.0.mlp.out"])
    assert np.abs(kept.logits[:3] - first).max() <= 1e-5 * np.abs(first).max()
    assert int(model.forward(ids[:3]).logits[-1].argmax()) == token
    other = model.session()
    other.feed(ids[:3])
    assert session.greedy(10) == other.greedy(10)
    session.close()
    other.close()


@pytest.mark.parametrize("top_k", [1, 12, 63, 64, 130])
def test_sampling_with_top_k_reads_few_logits_and_draws_the_same(model, monkeypatch, top_k):
    from workbench.runtime.sampling import Sampler, SamplingOptions
    from workbench.runtime.session import Session

    prompt = random_ids(model.vocab_size, 6, seed=7)
    options = SamplingOptions(temperature=1.3, top_k=top_k, top_p=0.95, min_p=0.01, seed=3)
    sizes = []
    fed = Session.feed_top
    monkeypatch.setattr(Session, "feed_top", lambda self, token: sizes.append(self.top) or fed(self, token))
    found = list(model.generate_ids(prompt, 50, options))
    assert len(sizes) == (49 if top_k < 64 else 0)
    monkeypatch.setattr(Sampler, "enough", lambda self, count: False)
    assert list(model.generate_ids(prompt, 50, options)) == found
    assert len(set(found)) > 1 or top_k == 1


def test_where_the_largest_logits_do_not_tell_all_are_read(model, monkeypatch):
    from workbench.runtime.sampling import Sampler, SamplingOptions

    prompt = random_ids(model.vocab_size, 6, seed=7)
    options = SamplingOptions(temperature=1.0, top_k=5, seed=3)
    expected = list(model.generate_ids(prompt, 20, options))
    few = Sampler.from_top
    calls = []

    def every_other(self, logits, ids):
        calls.append(len(ids))
        return few(self, logits, ids) if len(calls) % 2 else None

    monkeypatch.setattr(Sampler, "from_top", every_other)
    assert list(model.generate_ids(prompt, 20, options)) == expected and calls == [64] * 19


def test_the_largest_logits_are_those_of_feed(model):
    ids = random_ids(model.vocab_size, 9, seed=11)
    session = model.session()
    session.feed(ids[:8])
    values, found = session.feed_top(int(ids[8]))
    assert session.position == 9 and session.top == len(values) == 64
    session.back(1)
    assert session.position == 8
    logits = session.feed(ids[8:])
    order = np.argsort(-logits, kind="stable")[:64]
    assert np.array_equal(found, order) and np.array_equal(values, logits[order])
    with pytest.raises(WorkbenchError, match="10 tokens cannot be taken back of the 9"):
        session.back(10)
    session.back(9)
    session.feed(ids)
    assert np.abs(session.feed_top(1)[0]).max() > 0
    session.close()
