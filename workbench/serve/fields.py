"""Fields of a request: which there are, and what each may be. Nothing is ignored that would change an answer.

A field that is null counts as absent, as OpenAI has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workbench.errors import WorkbenchError
from workbench.models.keys import REQUIRED, TEXT, TRUTH, Key, Kind, integer, list_of, number, one_of, shown
from workbench.runtime.sampling import SEEDS, SamplingOptions

from .errors import ApiError, wrong

#: Stop strings of a request, and characters of each.
MOST_STOPS, LONGEST_STOP = 16, 1000
#: Answers to one prompt.
MOST_ANSWERS = 128

_STOP = Kind(
    f"a string of 1 to {LONGEST_STOP} characters",
    lambda value: TEXT.holds(value) and 0 < len(value) <= LONGEST_STOP,
)
_STOPS = Kind(
    f"a list of at most {MOST_STOPS} of them",
    lambda value: list_of(_STOP).holds(value) and len(value) <= MOST_STOPS,
)
_EMPTY = Kind("an empty object", lambda value: isinstance(value, Mapping) and not value)
NO_TOOLS = "a model writes text here, and calls no tools"
_NO_PENALTY = "repetition_penalty is the one that there is"

#: Of every request that generates.
COMMON = (
    Key("model", TEXT, None),
    Key("n", integer(1, MOST_ANSWERS), 1),
    Key("seed", integer(-(2**63), SEEDS - 1), None),
    Key("stop", _STOP | _STOPS, ()),
    Key("stream", TRUTH, False),
    Key("stream_options", Kind("an object", lambda value: isinstance(value, Mapping)), None),
    Key("temperature", number(0, 100), 1.0),
    Key("top_p", number(0, 1), 1.0),
    Key("top_k", integer(0), 0),
    Key("min_p", number(0, 1), 0.0),
    Key("repetition_penalty", number(0, 100, above=True), 1.0),
    Key("frequency_penalty", one_of(0), 0, _NO_PENALTY),
    Key("presence_penalty", one_of(0), 0, _NO_PENALTY),
    Key("logit_bias", _EMPTY, None, "logits are taken as they are"),
    Key("user", TEXT, None),
)


def read_fields(body: Any, keys: Iterable[Key], where: str = "") -> dict[str, Any]:
    """The value of every key, by name. where: in front of names in messages, for objects inside of the body.

    Raises `ApiError` that names the field, its value and what is allowed, also for a field that no key has.
    """
    known = {key.name: key for key in keys}
    if not isinstance(body, Mapping):
        raise wrong(where.rstrip(".") or "body", f"the body is {shown(body)}; allowed: a JSON object")
    for name in body:
        if name not in known:
            raise wrong(
                where + name[:80], f"{where}{name[:80]}: there is no such field; allowed: {', '.join(known)}"
            )
    found = {}
    for name, key in known.items():
        value = body.get(name)
        if value is None and key.default is REQUIRED:
            raise wrong(where + name, f"{where}{name} is missing; allowed: {key.kind.allowed}")
        if value is None:
            found[name] = key.default
        elif key.kind.holds(value):
            found[name] = value
        else:
            why = f" ({key.why})" if key.why else ""
            raise wrong(where + name, f"{where}{name} is {shown(value)}; allowed: {key.kind.allowed}{why}")
    return found


def usage_wanted(fields: Mapping[str, Any]) -> bool:
    """Whether a stream ends with the numbers of tokens. Raises `ApiError`."""
    options = fields["stream_options"]
    if options is None:
        return False
    if not fields["stream"]:
        raise wrong(
            "stream_options", "stream_options means nothing without stream; allowed: stream = true beside it"
        )
    return bool(
        read_fields(options, [Key("include_usage", TRUTH, False)], "stream_options.")["include_usage"]
    )


def stops_of(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Stop strings."""
    stop = fields["stop"]
    return (stop,) if isinstance(stop, str) else tuple(stop)


def sampling_of(fields: Mapping[str, Any], seed: int) -> SamplingOptions:
    """How tokens are drawn. Raises `ApiError`."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    try:
        return SamplingOptions(seed=seed % SEEDS, **{name: fields[name] for name in names})
    except WorkbenchError as error:  # what only they know, such as numbers that f32 has not
        raise ApiError(400, str(error)) from error
