"""What requests may say, asked of the application in this process; whatever comes, clients can read the answer."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import closing

import httpx
import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import workbench
from workbench.models.token_bytes import TokenBytes
from workbench.runtime.textstream import TextEnd
from workbench.serve import app as app_module
from workbench.serve.app import Limits, host_name, make_app
from workbench.serve.asked import Served
from workbench.serve.chat import KEYS as CHAT
from workbench.serve.completions import KEYS as COMPLETION
from workbench.serve.engine import Engine
from workbench.serve.server import allowed_hosts, is_loopback

from .conftest import SEQUENCES

MOST_BODY = 20_000
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def app(reference):
    with closing(Engine(reference, SEQUENCES, 64)) as engine:
        yield make_app(engine, Served(reference, "stories"), Limits(MOST_BODY))


def ask(
    app, path: str, data: bytes | dict | None, headers: dict = JSON, method: str = "POST"
) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app)  # raises what the application did not expect
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            content = json.dumps(data).encode() if isinstance(data, dict) else data
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(asked())


def refused(response: httpx.Response, status: int = 400) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


# ---- bodies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not valid JSON"),
        (b"[1, 2]", "allowed: a JSON object"),
        (b'{"prompt": "a", "prompt": "b"}', "is given twice"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN is not JSON"),
        (b'{"prompt": "\\ud800"}', "not valid UTF-8"),
        (b'{"prompt": "\xff"}', "not valid UTF-8"),
        (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_json_is_refused(app, data, says):
    assert says in refused(ask(app, "/v1/completions", data))["message"]


def test_bodies_have_a_size_a_type_and_a_time(app, monkeypatch):
    large = {"prompt": "a" * MOST_BODY}
    assert f"allowed: {MOST_BODY}" in refused(ask(app, "/v1/completions", large), 413)["message"]
    assert (
        "text/plain"
        in refused(ask(app, "/v1/completions", b"{}", {"content-type": "text/plain"}), 415)["message"]
    )

    async def slow():
        yield b"{"
        await asyncio.sleep(30)

    monkeypatch.setattr(app_module, "BODY_S", 0.05)
    assert "did not arrive" in refused(ask(app, "/v1/completions", slow()), 408)["message"]


def test_other_addresses_and_methods_are_refused_in_the_same_shape(app):
    assert "Not Found" in refused(ask(app, "/v2", None, method="GET"), 404)["message"]
    error = refused(ask(app, "/v1/completions", None, method="GET"), 405)
    assert "Not Allowed" in error["message"] and error["code"] == "method_not_allowed"
    assert refused(ask(app, "/v1/models/gpt-4", None, method="GET"), 404)["param"] == "model"


def test_tokens_that_the_model_has_no_row_for_are_refused(folder, tmp_path):
    """Words that were added to a tokenizer and not to the model: in a text, in a chat, in what a template writes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|added|>"], special_tokens=True)
    extended = shutil.copytree(folder, tmp_path / "extended")
    tokenizer.save_pretrained(extended)
    model = workbench.load(extended, backend="torch")
    id_ = model.vocab_size
    assert model.tokenizer.convert_tokens_to_ids("<|added|>") == id_
    says = f"holds token {id_}; allowed: 0 to {id_ - 1}, the vocabulary"
    with closing(Engine(model, 1, 4)) as engine:
        small = make_app(engine, Served(model, "extended"), Limits(MOST_BODY))
        for prompt, param in (
            ("a <|added|>", "prompt"),
            ([id_], "prompt"),
            (["a", "<|added|>"], "prompt[1]"),
        ):
            error = refused(ask(small, "/v1/completions", {"prompt": prompt, "echo": True}))
            assert error["param"] == param and says in error["message"]
        messages = [{"role": "user", "content": "<|added|>"}]
        error = refused(ask(small, "/v1/chat/completions", {"messages": messages}))
        assert error["param"] == "messages" and says in error["message"]


def test_prompts_alone_are_told_and_nothing_is_written(app, reference):
    """What scoring clients ask for: echo with max_tokens 0, of texts and of ids, of one token, too."""
    ids = reference.encode_prompt("Once upon a time")
    asked = {"echo": True, "max_tokens": 0, "logprobs": 1, "prompt": [ids, ids[:1]]}
    one, other = ask(app, "/v1/completions", asked).json()["choices"]
    assert one["text"] == "Once upon a time" and one["finish_reason"] == "length"
    expected = -reference.score(ids).nll
    first, *rest = one["logprobs"]["token_logprobs"]
    assert first is None and rest == pytest.approx(expected.tolist(), abs=1e-4)
    assert other["logprobs"]["token_logprobs"] == [None] and other["logprobs"]["tokens"] == ["<s>"]
    plain = ask(app, "/v1/completions", {"prompt": "Once", "echo": True, "max_tokens": 0}).json()["choices"][
        0
    ]
    assert plain["text"] == "Once" and plain["logprobs"] is None


def test_a_stop_string_takes_its_tokens_along(app):
    """The tokens of an answer are those whose text is in it, also where a stop string begins inside of one."""
    asked = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "logprobs": 0}
    whole = ask(app, "/v1/completions", asked).json()["choices"][0]
    for stop in (whole["text"][5:12], whole["text"][7:9], whole["text"][-3:]):
        found = ask(app, "/v1/completions", asked | {"stop": [stop]}).json()["choices"][0]
        assert found["text"] == whole["text"].partition(stop)[0] and found["finish_reason"] == "stop"
        offsets = [at for at in whole["logprobs"]["text_offset"] if at < len(found["text"])]
        assert found["logprobs"]["text_offset"] == offsets
        assert len(found["logprobs"]["tokens"]) == len(offsets)


def test_an_answer_whose_text_cannot_be_written_is_told(app, reference, monkeypatch):
    """Wherever a tokenizer fails: with the last token, and behind it."""
    for part in ("push", "finish"):
        with monkeypatch.context() as broken:
            broken.setattr(TextEnd, part, lambda *arguments: 1 / 0)
            asked = {"prompt": "Once", "max_tokens": 2, "temperature": 0}
            assert "ZeroDivisionError" in refused(ask(app, "/v1/completions", asked), 500)["message"]
        found = ask(app, "/v1/completions", asked).json()["choices"][0]
        assert found["text"] == "".join(reference.generate("Once", 2))


# ---- whatever comes ----------------------------------------------------------------------------------------------

VALID = {
    "/v1/completions": {"model": "stories", "prompt": "Once", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 2},
}
NAMES = {"/v1/completions": COMPLETION, "/v1/chat/completions": CHAT}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, 1.0, 1e-45, 1e300, "", "text", "user", "stories", "function", "auto"])
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "include_usage", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_body_breaks_the_server(app, data):
    path = data.draw(st.sampled_from(sorted(VALID)))
    names = [key.name for key in NAMES[path]]
    changes = data.draw(st.dictionaries(st.sampled_from(names) | st.text(max_size=4), VALUES, max_size=3))
    response = ask(app, path, json.dumps(VALID[path] | changes).encode())
    if response.status_code == 200:
        if response.headers["content-type"].startswith("text/event-stream"):
            assert response.text.endswith("data: [DONE]\n\n")
        else:
            assert response.json()["choices"]
    else:
        refused(response, response.status_code)
        assert response.status_code in (400, 404, 413, 429)


# ---- small parts -------------------------------------------------------------------------------------------------


def test_hosts():
    assert [host_name(each) for each in ("localhost:8000", "[::1]:80", "Evil.example", "")] == [
        "localhost",
        "[::1]",
        "evil.example",
        "",
    ]
    assert [is_loopback(each) for each in ("127.0.0.1", "127.8.0.1", "::1", "localhost")] == [True] * 4
    assert [is_loopback(each) for each in ("0.0.0.0", "::", "192.168.1.5", "example.org")] == [False] * 4
    assert allowed_hosts("0.0.0.0") is None and "127.8.0.1" in allowed_hosts("127.8.0.1")


def test_tokens_are_bytes(reference):
    """Together those of a text's tokens are its bytes, whatever characters they cut."""
    bytes_of = TokenBytes(reference.tokenizer)
    for text in (" Once upon a time", " a \N{SNOWMAN} b", " \N{SNAKE}"):
        ids = reference.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(map(bytes_of, ids)).strip() == text.encode().strip()
    assert bytes_of(10**6).startswith(b"<token")
    served = Served(reference, "stories")
    assert any(served.spelled(i).startswith("bytes:\\x") for i in range(300))
