"""`workbench serve` in a process of its own, asked by the clients that people use."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import numpy as np
import openai
import pytest

from workbench import cli
from workbench.models.chat import chat_ids

from .conftest import CONTEXT, SEQUENCES, Server

PROMPTS = ("Once upon a time", "The dog", "Lily and Tom went to the park, and there", "One day")


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.at, api_key="none", max_retries=0) as made:
        yield made


def until(condition, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def text_of(model, ids, count: int) -> str:
    found = model.tokenizer.decode([*ids, *model.generate_ids(ids, count)], skip_special_tokens=True)
    return found.removeprefix(model.tokenizer.decode(ids, skip_special_tokens=True))


# ---- the openai client -------------------------------------------------------------------------------------------


def test_completions_are_those_of_the_model(client, reference):
    assert [each.id for each in client.models.list()] == ["stories"]
    assert client.models.retrieve("stories").owned_by == "workbench"
    found = client.completions.create(model="stories", prompt=list(PROMPTS), max_tokens=9, temperature=0)
    ids = [reference.encode_prompt(prompt) for prompt in PROMPTS]
    assert [each.text for each in found.choices] == [text_of(reference, each, 9) for each in ids]
    assert {each.finish_reason for each in found.choices} == {"length"}
    assert found.usage.prompt_tokens == sum(map(len, ids)) and found.usage.completion_tokens == 36
    given = client.completions.create(
        model="stories", prompt=ids[0], max_tokens=9, temperature=0, stop=[" was", "x"]
    )
    assert given.choices[0].text == text_of(reference, ids[0], 9).partition(" was")[0]
    assert given.choices[0].finish_reason == "stop" and given.usage.completion_tokens < 9


def test_a_prompt_that_was_read_is_not_read_again(client, reference):
    """Usage says so, of the prompts of a request together; n answers of a prompt count once."""
    prompt = (
        "Sara and Ben had a big red kite with a very long tail, and they liked to let it fly high in the sky. It was "
        "so high that they could not see it any more, and that made them laugh. Then the wind blew it into a tree."
    )
    asked = {"model": "stories", "max_tokens": 5, "temperature": 0, "n": 2}
    first = client.completions.create(prompt=prompt, **asked)
    again = client.completions.create(prompt=[prompt, prompt + " One day"], **asked)
    read, longer = (reference.encode_prompt(each) for each in (prompt, prompt + " One day"))
    assert first.usage.prompt_tokens == len(read)
    assert first.usage.prompt_tokens_details.cached_tokens <= 1  # BOS, of an answer before
    assert again.usage.prompt_tokens == len(read) + len(longer)
    assert again.usage.prompt_tokens_details.cached_tokens >= 2 * len(read) - 2
    assert {each.text for each in first.choices} == {text_of(reference, read, 5)}
    assert [each.text for each in again.choices] == [
        text_of(reference, ids, 5) for ids in (read, read, longer, longer)
    ]


def test_answers_are_drawn_from_their_seeds(client, reference):
    hot = {"model": "stories", "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 1.2, "top_p": 0.95}
    found = client.completions.create(**hot, n=3, seed=5, extra_body={"top_k": 40})
    texts = [each.text for each in found.choices]
    assert texts == [
        "".join(reference.generate(PROMPTS[0], 12, 1.2, 40, 0.95, seed=seed)) for seed in (5, 6, 7)
    ]
    assert len(set(texts)) == 3
    free = [client.completions.create(**hot).choices[0].text for _ in range(3)]
    assert len(set(free)) > 1  # without a seed each is another


def test_streams_say_what_whole_answers_say(client):
    asked = {
        "model": "stories",
        "prompt": list(PROMPTS[:2]),
        "max_tokens": 9,
        "temperature": 0,
        "logprobs": 2,
    }
    whole = client.completions.create(**asked, echo=True)
    stream = list(
        client.completions.create(**asked, echo=True, stream=True, stream_options={"include_usage": True})
    )
    assert stream[-1].choices == [] and stream[-1].usage == whole.usage
    for index, expected in enumerate(whole.choices):
        chunks = [each.choices[0] for each in stream[:-1] if each.choices[0].index == index]
        assert "".join(each.text for each in chunks) == expected.text
        assert [each.finish_reason for each in chunks] == [None] * (len(chunks) - 1) + ["length"]
        tokens = [token for each in chunks if each.logprobs for token in each.logprobs.tokens]
        assert tokens == expected.logprobs.tokens and len(chunks) > 9
        for token, offset in list(zip(tokens, expected.logprobs.text_offset, strict=True))[1:]:
            assert expected.text[offset:].startswith(token)


def test_a_chat_is_what_the_template_makes_of_it(client, reference):
    parts = [{"type": "text", "text": "On"}, {"type": "text", "text": "ce"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Once"}]
    ids = chat_ids(reference.tokenizer, plain)
    asked = {"model": "stories", "messages": messages, "max_completion_tokens": 6, "temperature": 0}
    asked |= {"logprobs": True, "top_logprobs": 2}
    found = client.chat.completions.create(**asked)
    (choice,) = found.choices
    assert choice.message.content == text_of(reference, ids, 6) and choice.message.role == "assistant"
    assert found.usage.prompt_tokens == len(ids)
    told = choice.logprobs.content
    assert b"".join(bytes(each.bytes) for each in told).decode().strip() == choice.message.content.strip()
    logits = reference.forward([*ids, *reference.generate_ids(ids, 5)]).logits.astype(np.float64)[
        len(ids) - 1 :
    ]
    for each, row in zip(told, logits, strict=True):
        log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
        best = np.sort(log_p)[::-1][:2]
        assert [other.logprob for other in each.top_logprobs] == pytest.approx(best.tolist(), abs=1e-3)
        assert each.logprob == each.top_logprobs[0].logprob
    stream = list(client.chat.completions.create(**asked, stream=True))
    assert stream[0].choices[0].delta.role == "assistant"
    assert "".join(each.choices[0].delta.content or "" for each in stream) == choice.message.content
    assert stream[-1].choices[0].finish_reason == "length"


def test_what_is_refused_names_the_field(client):
    cases = (
        ({"max_tokens": CONTEXT}, "max_tokens", f"max_tokens is {CONTEXT}; allowed: up to"),
        ({"temperature": -1}, "temperature", "temperature is -1; allowed: a number from 0 to 100"),
        ({"frequency_penalty": 1}, "frequency_penalty", "allowed: 0"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "allowed: an empty object"),
        ({"best_of": 2}, "best_of", "allowed: n"),
        ({"prompt": [[5, 10**6]]}, "prompt[0]", "holds token 1000000; allowed: 0 to"),
        ({"prompt": [5] * (CONTEXT + 1)}, "prompt", f"has {CONTEXT + 1} tokens; allowed: {CONTEXT}"),
        ({"extra_body": {"beams": 2}}, "beams", "there is no such field"),
    )
    for changed, param, says in cases:
        with pytest.raises(openai.BadRequestError, match=says) as refused:
            client.completions.create(**{"model": "stories", "prompt": "Once"} | changed)
        assert refused.value.param == param and refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="allowed: 'stories'"):
        client.completions.create(model="gpt-4", prompt="Once")
    messages = [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]
    with pytest.raises(openai.BadRequestError, match=r"messages\[1\].role is 'tool'; allowed: \"system\""):
        client.chat.completions.create(model="stories", messages=messages)


# ---- lm-evaluation-harness ---------------------------------------------------------------------------------------


def test_lm_eval_gets_the_log_likelihoods_of_the_engine(server, folder, reference, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")
    pytest.importorskip("tenacity", reason="local-completions needs tenacity")
    import datasets
    from lm_eval.tasks import TaskManager

    from eval.lm_eval_adapter import WorkbenchLM

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    texts = ("Once upon a time, there was a little", "Tom had a big red", "Lily and Ben are")
    rows = [{"text": text, "choices": [" girl", " ball", " friends. They like to play"]} for text in texts]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"label": 0}) + "\n" for row in rows))
    task = {
        "task": "choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "text",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    }

    def samples(model, **options) -> list:
        manager = TaskManager(include_defaults=False)
        found = lm_eval.simple_evaluate(
            model=model, tasks=[task], bootstrap_iters=0, task_manager=manager, device="cpu", **options
        )
        return [answer for each in found["samples"]["choices"] for (answer,) in each["resps"]]

    options = (
        f"model=stories,base_url={server.at}/completions,tokenizer_backend=huggingface,tokenizer={folder}"
    )
    options += f",num_concurrent=4,max_retries=1,max_length={CONTEXT},add_bos_token=True"
    theirs = samples("local-completions", model_args=options, batch_size=2)
    ours = samples(WorkbenchLM(reference))
    assert len(theirs) == 9 and {greedy for _, greedy in ours} == {True, False}
    for (log_p, greedy), (expected, best) in zip(theirs, ours, strict=True):
        assert log_p == pytest.approx(expected, abs=1e-4) and greedy is best


# ---- several clients ---------------------------------------------------------------------------------------------


def test_clients_at_once_get_what_each_gets_alone(client):
    """More of them than sequences; short and long prompts, greedy and drawn, with and without log-probabilities."""
    asked = [
        {"prompt": PROMPTS[index % 4] * (1 + index % 2), "max_tokens": 8 + 3 * index, "seed": index}
        | ({"temperature": 0} if index % 3 else {"temperature": 0.9})
        | ({"logprobs": 1, "echo": index == 4} if index in (2, 4) else {})
        for index in range(6)
    ]

    def ask(options):
        choice = client.completions.create(model="stories", **options).choices[0]
        return choice.text, choice.finish_reason, choice.logprobs and choice.logprobs.tokens

    alone = [ask(options) for options in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        assert list(pool.map(ask, asked)) == alone


def long_request(n: int = 1) -> dict:
    """So hot that no end of text is likely."""
    hot = {"temperature": 100, "seed": 1, "n": n, "max_tokens": CONTEXT - 8}
    return {"model": "stories", "prompt": "Once", "stream": True, **hot}


@contextmanager
def begun(server, body: dict, **more) -> Iterator[Iterator[str]]:
    """The events of a stream of which the first has come; the client hangs up when the block ends."""
    with httpx.stream("POST", f"{server.at}/completions", json=body, timeout=60, **more) as response:
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
        next(lines)
        yield lines


def test_a_client_that_hangs_up_frees_its_rows(server):
    """In the middle of a stream, while some of its answers wait, and in front of a whole answer."""
    with begun(server, long_request(SEQUENCES + 3)):
        health = server.health()
        assert health["running"] == SEQUENCES and health["waiting"] == 3
    until(lambda: server.health()["running"] == server.health()["waiting"] == 0, 5)
    body = long_request(SEQUENCES) | {"stream": False}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.at}/completions", json=body, timeout=0.2)
    until(lambda: server.health()["running"] == 0, 5)


def test_a_full_queue_says_so_and_takes_nothing_of_a_request(server, client):
    with begun(server, long_request(SEQUENCES)):
        with pytest.raises(openai.RateLimitError, match="17 more do not fit into a queue of 16") as full:
            client.completions.create(model="stories", prompt="Once", n=17)
        assert full.value.response.headers["retry-after"] == "1" and server.health()["waiting"] == 0
    until(lambda: server.health()["running"] == 0, 5)


# ---- keys, hosts, the end ----------------------------------------------------------------------------------------


def test_a_signal_ends_answers_within_the_grace_time(folder, reference, adapter):
    """Through the kernels. Answers that take longer say that they were ended, the rest of a request is not waited for;
    the port is free again."""
    server = Server(folder, "--backend", "wgpu", "--grace", 0.3, "--api-key", "sesame")
    key = {"authorization": "Bearer sesame"}
    port = int(server.root.rpartition(":")[2])
    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
        openai.OpenAI(base_url=server.at, api_key="other", max_retries=0).models.list()
    assert httpx.get(f"{server.at}/models", headers=key | {"host": "evil.example"}).status_code == 403
    body = {"prompt": "Once", "max_tokens": 4, "temperature": 0}
    found = httpx.post(f"{server.at}/completions", json=body, headers=key, timeout=60).json()
    assert found["choices"][0]["text"] == text_of(reference, reference.encode_prompt("Once"), 4)
    head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer sesame\r\n"
    half = f"{head}content-type: application/json\r\ncontent-length: 99\r\n\r\n{{".encode()
    with (
        socket.create_connection(("127.0.0.1", port)) as slow,
        begun(server, long_request(), headers=key) as lines,
    ):
        slow.sendall(half)
        server.health()  # behind which it has read what it was sent before
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert b" 503 " in slow.recv(1000)
        *_, last = lines
    assert json.loads(last)["error"]["message"] == "the server is stopping"
    assert server.stop() == (0, "") and time.monotonic() - began < 10
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_port_that_is_taken_costs_no_loading(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli.main(["serve", "no such model", "--port", str(taken.getsockname()[1])]) == 2
    said = capsys.readouterr().err
    assert "cannot listen at 127.0.0.1, port" in said and "in use; choose another --host or --port" in said


def test_a_host_that_others_reach_is_warned_of(capsys):
    for key, who in (([], "anybody"), (["--api-key", "sesame"], "whoever has the key")):
        assert cli.main(["serve", "no such model", "--host", "0.0.0.0", "--port", "0", *key]) == 2
        assert f"open to other machines: {who} can use this server" in capsys.readouterr().err
    assert cli.main(["serve", "no such model", "--port", "0", "--api-key", " "]) == 2
    assert "not an empty text" in capsys.readouterr().err
