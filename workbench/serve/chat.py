"""/v1/chat/completions: what a request may say, and what its answers look like."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import WorkbenchError
from workbench.models.chat import chat_ids
from workbench.models.keys import NULL, REQUIRED, TEXT, TRUTH, Key, Kind, integer, list_of, one_of

from .asked import Asked, Served
from .choice import Piece, Prompt, Told
from .errors import wrong
from .fields import COMMON, NO_TOOLS, read_fields, sampling_of, stops_of, usage_wanted

#: Alternatives told beside each token.
MOST_LIKELY = 20
ROLES = ("system", "developer", "user", "assistant")
_TEXT_ONLY = "answers are text"
_PLAIN = Kind(
    '{"type": "text"}', lambda value: isinstance(value, Mapping) and dict(value) == {"type": "text"}
)
_NO_LIST = Kind("an empty list", lambda value: value == [] and isinstance(value, list))
_OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))

KEYS = (
    *COMMON,
    Key(
        "messages",
        Kind("a list of messages", lambda value: isinstance(value, list) and bool(value)),
        REQUIRED,
    ),
    Key("max_tokens", integer(1), None),
    Key("max_completion_tokens", integer(1), None),
    Key("logprobs", TRUTH, False),
    Key("top_logprobs", integer(0, MOST_LIKELY), None),
    Key("tools", _NO_LIST, None, NO_TOOLS),
    Key("tool_choice", one_of("none", "auto"), None, NO_TOOLS),
    Key("parallel_tool_calls", TRUTH, None),
    Key("functions", _NO_LIST, None, NO_TOOLS),
    Key("function_call", one_of("none", "auto"), None, NO_TOOLS),
    Key("response_format", _PLAIN, None, "text is not bound to a form"),
    Key("modalities", Kind('["text"]', lambda value: value == ["text"]), None, _TEXT_ONLY),
    Key("audio", NULL, None, _TEXT_ONLY),
    Key("prediction", NULL, None, "nothing is written ahead"),
    Key("reasoning_effort", NULL, None, "the template decides"),
    Key("verbosity", NULL, None, "the template decides"),
    Key("web_search_options", NULL, None, NO_TOOLS),
    Key("store", one_of(False), None, "nothing is stored"),
    Key("metadata", _OBJECT, None),
    Key("service_tier", one_of("auto", "default"), None),
    Key("safety_identifier", TEXT, None),
    Key("prompt_cache_key", TEXT, None),
)

_PARTS = list_of(_OBJECT)
_MESSAGE = (
    Key("role", one_of(*ROLES), REQUIRED),
    Key("content", TEXT | Kind("a list of parts", _PARTS.holds), REQUIRED),
    Key("name", TEXT, None),
    Key("refusal", NULL, None),
    Key("tool_calls", _NO_LIST, None, NO_TOOLS),
)
_PART = (Key("type", one_of("text"), REQUIRED, "a model reads text"), Key("text", TEXT, REQUIRED))


def read_chat(body: Any, served: Served) -> Asked:
    """A request's JSON. Raises `ApiError`."""
    fields = read_fields(body, KEYS)
    adapter = served.adapter_of(fields["model"])
    usage = usage_wanted(fields)
    if fields["top_logprobs"] is not None and not fields["logprobs"]:
        raise wrong(
            "top_logprobs", "top_logprobs means nothing without logprobs; allowed: logprobs = true beside it"
        )
    messages = [_message(each, f"messages[{index}].") for index, each in enumerate(fields["messages"])]
    if not getattr(served.model.tokenizer, "chat_template", None):
        raise wrong(
            "messages", "this model has no chat template; allowed: /v1/completions", "no_chat_template"
        )
    try:
        ids = chat_ids(served.model.tokenizer, messages)
    except WorkbenchError as error:
        raise wrong("messages", f"messages: {error}") from error
    served.check_vocabulary(ids, "messages")
    limit = _limit(fields)
    seed = secrets.randbits(64) if fields["seed"] is None else fields["seed"]
    return Asked(
        prompts=[(Prompt(ids, ""), served.limit_of(ids, limit[1], "messages", limit[0]))],
        options=[sampling_of(fields, seed + index) for index in range(fields["n"])],
        likely=(fields["top_logprobs"] or 0) if fields["logprobs"] else None,
        echo=False,
        stop=stops_of(fields),
        stream=fields["stream"],
        usage=usage,
        adapter=adapter,
    )


def _limit(fields: Mapping[str, Any]) -> tuple[str, int | None]:
    """The field that says how many tokens an answer has at most, and how many."""
    old, new = fields["max_tokens"], fields["max_completion_tokens"]
    if old is not None and new is not None and old != new:
        raise wrong(
            "max_tokens", f"max_tokens is {old} and max_completion_tokens {new}; allowed: one of them"
        )
    return ("max_tokens", old) if new is None else ("max_completion_tokens", new)


def _message(given: Any, where: str) -> dict[str, str]:
    """A message for the template, its text in one. OpenAI's developers speak in the system's role."""
    fields = read_fields(given, _MESSAGE, where)
    content = fields["content"]
    if not isinstance(content, str):
        parts = [read_fields(each, _PART, f"{where}content[{index}].") for index, each in enumerate(content)]
        content = "".join(part["text"] for part in parts)
    role = "system" if fields["role"] == "developer" else fields["role"]
    return {"role": role, "content": content} | ({"name": fields["name"]} if fields["name"] else {})


class ChatShape:
    """What answers look like. whole: of a response; chunk: of a stream."""

    kind, chunk_kind = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, served: Served) -> None:
        self._served = served

    def whole(self, index: int, pieces: Sequence[Piece], reason: str, told: bool) -> dict[str, Any]:
        """An answer in one."""
        message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
        tokens = [token for piece in pieces for token in piece.tokens]
        logprobs = self._logprobs(tokens) if told else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream begins with: who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, piece: Piece, told: bool) -> dict[str, Any]:
        """The next piece of a stream."""
        return self._chunk(index, {"content": piece.text}, self._logprobs(piece.tokens) if told else None)

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        """The last of a stream, which says why it ended."""
        return self._chunk(index, {}, reason=reason)

    @staticmethod
    def _chunk(
        index: int, delta: dict, logprobs: dict | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Told]) -> dict[str, Any]:
        content = [
            {
                **self._token(each.id, each.log_p),
                "top_logprobs": [self._token(other, log_p) for other, log_p in each.likely],
            }
            for each in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, log_p: float | None) -> dict[str, Any]:
        served = self._served
        return {"token": served.spelled(token), "logprob": log_p, "bytes": list(served.bytes_of(token))}
