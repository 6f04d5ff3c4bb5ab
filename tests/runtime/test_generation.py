"""Sessions: greedy tokens of both executors and transformers, chunk boundaries, scores, caches of their own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import torch

from workbench.errors import WorkbenchError
from workbench.runtime import streaming
from workbench.runtime.native import Recorder
from workbench.runtime.sampling import Sampler, SamplingOptions

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


@pytest.mark.parametrize(
    "name", ["stories260K-hf", pytest.param("babyllama105-hf", marks=pytest.mark.release)]
)
def test_200_greedy_tokens_agree_with_transformers(shared, open_promised, name):
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


OPTIONS = [
    SamplingOptions(),
    SamplingOptions(repetition_penalty=1.8),
    SamplingOptions(temperature=1.3, seed=3),
    SamplingOptions(temperature=1.3, top_k=12, top_p=0.95, min_p=0.01, seed=3),
    SamplingOptions(temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=5),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_stream_draws_what_the_host_draws(model, options):
    """Told or not: token after token what the host's sampler makes of the logits, with the probabilities of these."""
    prompt = random_ids(model.vocab_size, 6, seed=7).tolist()
    session, sampler, expected = model.session(), Sampler(options), []
    logits = session.feed(prompt)
    for _ in range(41):
        expected.append(
            sampler.drawn(logits, session.position, [*prompt, *(d.id for d in expected)], told=True)
        )
        logits = session.feed([expected[-1].id])
    assert list(model.generate_ids(prompt, 41, options)) == [drawn.id for drawn in expected]
    session.reset()
    session.feed(prompt)
    first = session.draw(options, told=True)
    found = [first, *session.stream(first.id, 40, options, told=True)]
    for one, other in zip(found, expected, strict=True):
        assert one.id == other.id and one.log_p == pytest.approx(other.log_p, abs=1e-4)
        assert [p for _, p in one.likely] == pytest.approx([p for _, p in other.likely], abs=1e-4)
        assert (
            len({i for i, _ in one.likely} & {i for i, _ in other.likely}) >= 4
        )  # of two alike either may be fifth
    assert session.position == len(prompt) + 40
    session.close()


def test_the_same_tokens_whatever_the_pieces(model):
    """A draw depends on seed and position, not on how the stream was cut, left and taken up again."""
    prompt, options = random_ids(model.vocab_size, 5, seed=8).tolist(), SamplingOptions(1.2, top_k=30, seed=9)
    expected = list(model.generate_ids(prompt, 60, options))
    session = model.session()
    session.feed(prompt)
    found = [session.draw(options).id]
    for count in (1, 2, 7, 30, 19):
        found += [drawn.id for drawn in session.stream(found[-1], count, options)]
    assert found == expected
    session.close()


@pytest.mark.parametrize("options", OPTIONS[1::3], ids=str)
@pytest.mark.parametrize("taken", [1, 3, 20])
def test_what_nobody_took_is_taken_back(model, options, taken):
    """A stream left in its middle leaves position and cache as if no more had been computed."""
    prompt = random_ids(model.vocab_size, 9, seed=12).tolist()
    expected = list(model.generate_ids(prompt, 60, options))
    session = model.session()
    session.feed(prompt)
    first = session.draw(options).id
    stream = session.stream(first, 59, options)
    found = [first, *(next(stream).id for _ in range(taken))]
    assert session.position == len(prompt) + taken
    with pytest.raises(WorkbenchError, match="between the steps of `stream`"):
        session.feed([1])
    with pytest.raises(WorkbenchError, match="between the steps of `stream`"):
        session.back(1)
    stream.close()
    assert session.position == len(prompt) + taken and found == expected[: taken + 1]
    logits = session.feed(found[-1:])
    whole = model.forward([*prompt, *found]).logits[-1]
    assert np.abs(logits - whole).max() <= 1e-5 * np.abs(whole).max()
    session.back(1)
    rest = [drawn.id for drawn in session.stream(found[-1], 20, options)]
    assert found + rest == expected[: taken + 21]
    session.close()


def test_nobody_else_moves_a_session_that_is_being_read(model):
    ids = random_ids(model.vocab_size, 60, seed=6)
    session = model.session()
    reading = session.feed_all(ids)
    first = next(reading)
    calls = (
        lambda: session.feed([1]),
        lambda: session.back(1),
        session.reset,
        lambda: session.greedy_after(1, 2),
        lambda: next(session.stream(1, 2)),
        lambda: next(session.feed_all([1])),
    )
    for call in calls:
        with pytest.raises(WorkbenchError, match="between the steps of `feed_all`"):
            call()
    assert session.position == len(first)
    rest = list(reading)
    expected = model.forward(ids).logits
    assert np.abs(np.concatenate([first, *rest]) - expected).max() <= 1e-5 * np.abs(expected).max()
    later = session.stream(1, model.max_tokens - session.position)  # begins when its first token is taken
    session.feed([1])
    with pytest.raises(WorkbenchError, match="more do not fit"):
        next(later)
    session.close()


def test_streams_side_by_side(model):
    """Two streams and another user of the device in turns; one is dropped, one ends with its session."""
    prompts = [random_ids(model.vocab_size, count, seed=count).tolist() for count in (4, 11)]
    expected = [list(model.generate_ids(prompt, 30, OPTIONS[3])) for prompt in prompts]
    streams = [model.generate_ids(prompt, 30, OPTIONS[3]) for prompt in prompts]
    found = [[], []]
    for _ in range(30):
        for stream, tokens in zip(streams, found, strict=True):
            tokens.append(next(stream))
        model.score(prompts[1])
    assert found == expected
    session = model.session()
    session.feed(prompts[0])
    stream = session.stream(1, 50)
    next(stream)
    session.close()
    with pytest.raises(WorkbenchError, match="closed"):
        list(stream)
    for _ in range(20):  # many that nobody exhausts: their readbacks are used again
        next(model.generate_ids(prompts[0], 30))
    if model.backend == "wgpu":
        assert len(model.executor.readbacks) <= 6


def test_a_slow_consumer_finds_little_computed(model, monkeypatch):
    """The device stops after two groups, however many tokens were asked for."""
    if model.backend != "wgpu":
        pytest.skip("the references never run ahead")
    sent, send = [], streaming.Flight.send
    monkeypatch.setattr(streaming.Flight, "send", lambda *given: sent.append(given[-1]) or send(*given))
    tokens = model.generate_ids(random_ids(model.vocab_size, 4), 100)
    taken = 0
    for _ in tokens:
        taken += 1
        assert sum(sent) <= 100 and sum(sent[:-3]) <= taken  # one group being handed out, two ahead
    assert taken == 100 and sum(sent) == 99
    sent.clear()
    with contextlib.closing(model.session()) as session:
        session.feed([1, 2])
        for at, _ in enumerate(session.stream(3, 50, ahead=False)):
            assert sum(sent) <= at + sent[-1]  # nothing runs while this is looked at
    assert sum(sent) == 50


def test_steps_of_a_group_are_one_pass(model, monkeypatch):
    """Or as many as keep the device busy with the group in front: 1, 1, 1, 2, 4, 8 and 16 steps, in passes of no more
    steps than that. A later stream knows how many steps a group may have, and doubles them from the first on."""
    if model.backend != "wgpu":
        pytest.skip("the references have no passes")
    monkeypatch.setattr(streaming, "GROUP_S", 10)
    passes, groups = [], []
    encode, send = Recorder.encode, streaming.Flight.send

    def encoded(recorder, compute):
        passes.append(compute)
        encode(recorder, compute)

    def sent(flight, steps):
        before = len(passes)
        send(flight, steps)
        own = passes[before:]
        groups.append((steps, max(own.count(each) for each in own)))

    monkeypatch.setattr(Recorder, "encode", encoded)
    monkeypatch.setattr(streaming.Flight, "send", sent)
    model.executor.paces.clear()
    with contextlib.closing(model.session()) as session:
        session.feed([1, 2])
        tokens = session.greedy_after(3, 50)
    assert groups == [(1, 1), (1, 1), (1, 1), (2, 1), (4, 2), (8, 4), (16, 8), (16, 16), (1, 1)]
    groups.clear()
    with contextlib.closing(model.session()) as session:
        session.feed([1, 2])
        assert session.greedy_after(3, 50) == tokens and len(tokens) == 50
    assert groups == [(1, 1), (2, 1), (4, 2), (8, 4), (16, 8), (16, 16), (3, 3)]


def test_caches_share_what_binds_nothing_of_them(model):
    """A new cache binds what reads it, and nothing else anew."""
    if model.backend != "wgpu":
        pytest.skip("the references bind nothing")
    executor = model.executor
    with executor.device.lock:
        caches = [executor.new_cache(64) for _ in range(2)]
        first, second = (executor.recorder("greedy", 1, cache, ()) for cache in caches)
        program = executor.program("greedy", 1, caches[0])
    shared = [a is b for a, b in zip(first.groups, second.groups, strict=True)]
    own = [
        all(program.buffers[name].kind in ("weight", "constant", "activation") for name, _, _ in each.buffers)
        for each in program.dispatches
    ]
    assert shared == own and 0 < sum(own) < len(own)
    for cache in caches:
        executor.free_cache(cache)


def test_a_process_may_end_while_the_device_runs_ahead(checkpoint, open_promised):
    open_promised()  # skips where there is no adapter
    script = """
        import sys, workbench
        from workbench.runtime.sampling import SamplingOptions
        model = workbench.load(sys.argv[1], backend="wgpu", max_tokens=128)
        streams = [model.generate_ids([1, 2, 3], 100, SamplingOptions(1.0, seed=seed)) for seed in range(4)]
        print([next(stream) for stream in streams for _ in range(4)])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(checkpoint)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.split()) == 16


def test_why_a_stream_ended(model):
    prompt = random_ids(model.vocab_size, 100, seed=2).tolist()
    short, long = model.generate_ids(prompt, 5), model.generate_ids(prompt, 500)
    assert short.finish_reason is None
    assert (len(list(short)), short.finish_reason) == (5, "length")
    assert (len(list(long)), long.finish_reason) == (29, "context")
    exact = model.generate_ids(prompt, 29)
    assert (len(list(exact)), exact.finish_reason) == (29, "length")
    assert list(model.generate_ids(prompt, 0)) == []
    for wrong in (-1, 2.5, None, True, "7"):
        with pytest.raises(WorkbenchError, match="max_new_tokens"):
            model.generate_ids(prompt, wrong)


@pytest.mark.parametrize("told", [False, True])
def test_logits_that_are_not_finite_end_a_stream(model, monkeypatch, told):
    """NaN in the cache, as a broken weight would leave it."""
    session = model.session()
    session.feed(random_ids(model.vocab_size, 6))
    cache = session._cache
    if model.backend == "wgpu":
        values = np.full(cache.buffers["layers.0.kv"].size // 4, np.nan, np.float32)
        model.executor.device.write(cache.buffers["layers.0.kv"], values)
    else:
        cache.tensors["layers.0.kv"] = torch.full_like(cache.tensors["layers.0.kv"], float("nan"))
    with pytest.raises(WorkbenchError, match="are not finite"):
        list(session.stream(1, 4, SamplingOptions(temperature=1.0), told=told))
    session.close()
