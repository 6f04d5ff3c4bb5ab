"""/v1/completions: what a request may say, and what its answers look like."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import WorkbenchError
from workbench.models.keys import NULL, REQUIRED, TEXT, TRUTH, Key, Kind, integer, list_of, one_of

from .asked import Asked, Served
from .choice import Piece, Prompt, Told
from .errors import wrong
from .fields import COMMON, MOST_ANSWERS, read_fields, sampling_of, stops_of, usage_wanted

#: Tokens told beside each, and tokens of an answer that does not say how many.
MOST_LIKELY, DEFAULT_TOKENS = 20, 16
_IDS = Kind("a list of token ids", lambda value: list_of(integer(0)).holds(value) and bool(value))


def _several(kind: Kind, what: str) -> Kind:
    return Kind(
        f"a list of 1 to {MOST_ANSWERS} {what}",
        lambda value: (
            isinstance(value, list) and 0 < len(value) <= MOST_ANSWERS and all(map(kind.holds, value))
        ),
    )


KEYS = (
    *COMMON,
    Key("prompt", TEXT | _IDS | _several(TEXT, "strings") | _several(_IDS, "lists of token ids"), REQUIRED),
    Key("max_tokens", integer(0), DEFAULT_TOKENS),
    Key("echo", TRUTH, False),
    Key("logprobs", integer(0, MOST_LIKELY), None),
    Key("best_of", integer(1, MOST_ANSWERS), None),
    Key("suffix", one_of("") | NULL, None, "text is written behind a prompt, and not into a gap"),
)


def read_completion(body: Any, served: Served) -> Asked:
    """A request's JSON. Raises `ApiError`."""
    fields = read_fields(body, KEYS)
    adapter = served.adapter_of(fields["model"])
    usage = usage_wanted(fields)
    if fields["best_of"] not in (None, fields["n"]):
        raise wrong(
            "best_of", f"best_of is {fields['best_of']}; allowed: n, since every answer is given back"
        )
    given = fields["prompt"]
    prompts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    if len(prompts) * fields["n"] > MOST_ANSWERS:
        raise wrong(
            "n", f"n is {fields['n']} for {len(prompts)} prompts; allowed: {MOST_ANSWERS} answers in all"
        )
    told = fields["echo"] and fields["logprobs"] is not None
    found = []
    for index, each in enumerate(prompts):
        param = f"prompt[{index}]" if prompts is given else "prompt"
        prompt = _prompt(each, served, param, echo=fields["echo"], told=told)
        found.append((prompt, served.limit_of(prompt.ids, fields["max_tokens"], param, "max_tokens")))
    seed = secrets.randbits(64) if fields["seed"] is None else fields["seed"]
    return Asked(
        prompts=found,
        options=[sampling_of(fields, seed + index) for index in range(fields["n"])],
        likely=fields["logprobs"],
        echo=fields["echo"],
        stop=stops_of(fields),
        stream=fields["stream"],
        usage=usage,
        adapter=adapter,
    )


def _prompt(given: str | list[int], served: Served, param: str, *, echo: bool, told: bool) -> Prompt:
    model, text = served.model, given if isinstance(given, str) else None if echo else ""
    if isinstance(given, str):
        try:
            ids = model.encode_prompt(given)
        except WorkbenchError as error:
            raise wrong(param, f"{param}: {error}") from error
    else:
        ids = given
    served.check_vocabulary(ids, param)
    return Prompt.of(model.tokenizer, ids, text, placed=told)


class CompletionShape:
    """What answers look like. whole: of a response; chunk: of a stream."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def __init__(self, served: Served) -> None:
        self._served = served

    def whole(self, index: int, pieces: Sequence[Piece], reason: str, told: bool) -> dict[str, Any]:
        """An answer in one."""
        tokens = [token for piece in pieces for token in piece.tokens]
        return self._choice(index, "".join(piece.text for piece in pieces), tokens if told else None, reason)

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream begins with; nothing."""
        return None

    def chunk(self, index: int, piece: Piece, told: bool) -> dict[str, Any]:
        """The next piece of a stream."""
        return self._choice(index, piece.text, piece.tokens if told else None, None)

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        """The last of a stream, which says why it ended."""
        return self._choice(index, "", None, reason)

    def _choice(
        self, index: int, text: str, tokens: Sequence[Told] | None, reason: str | None
    ) -> dict[str, Any]:
        logprobs = None if tokens is None else self._logprobs(tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Told]) -> dict[str, list]:
        spelled = self._served.spelled
        return {
            "tokens": [spelled(each.id) for each in tokens],
            "token_logprobs": [each.log_p for each in tokens],
            "top_logprobs": [self._likely(each) for each in tokens],
            "text_offset": [each.offset for each in tokens],
        }

    def _likely(self, token: Told) -> Mapping[str, float] | None:
        """The likeliest tokens, best first, and the token itself. Of two that are spelled alike the likelier one."""
        if token.log_p is None:
            return None
        found: dict[str, float] = {}
        for each, log_p in (*token.likely, (token.id, token.log_p)):
            found.setdefault(self._served.spelled(each), log_p)
        return found
