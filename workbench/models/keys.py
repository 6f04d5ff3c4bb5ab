"""Keys of a JSON object, declared: which there are and what each may hold.

A family of models lists the keys of `config.json` that it understands as data; `read_keys` checks a file against the
list. A value is taken as it is or refused with its key's name, never cast: "false" is no false, 1.0 no integer, and
true no 1. Numbers fit into the types that compute with them (64-bit integers, f32), so that nothing later overflows.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import UnsupportedModelError

#: Default of a key that has none: it must be there.
REQUIRED: Any = object()
#: The largest value of counts, sizes and ids.
MOST = 2**31 - 1

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlevel, _short.maxlist, _short.maxdict = 3, 4, 4


@dataclass(frozen=True)
class Kind:
    """What a value may be. allowed: in words; holds: whether a JSON value is one. `a | b` is either."""

    allowed: str
    holds: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(
            f"{self.allowed} or {other.allowed}", lambda value: self.holds(value) or other.holds(value)
        )


@dataclass(frozen=True)
class Key:
    """A key of a JSON object. default: where it is absent; why: no other value is taken."""

    name: str
    kind: Kind
    default: Any = REQUIRED
    why: str = ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def integer(least: int, most: int = MOST) -> Kind:
    return Kind(f"an integer from {least} to {most}", lambda value: _whole(value) and least <= value <= most)


def real(least: float, most: float, *, above: bool = False) -> Kind:
    """A float, written with a point or an exponent; `above`: not `least` itself. NaN and infinities are none."""
    words = (
        f"a decimal number {'above' if above else 'from'} {least:g} {'and up ' if above else ''}to {most:g}"
    )
    return Kind(words, lambda value: isinstance(value, float) and _between(value, least, most, above))


def number(least: float, most: float, *, above: bool = False) -> Kind:
    """A float or a 64-bit integer; `above`: not `least` itself. NaN and infinities are none."""
    words = f"a number {'above' if above else 'from'} {least:g} {'and up ' if above else ''}to {most:g}"

    def holds(value: Any) -> bool:
        fits = isinstance(value, float) or (_whole(value) and -(2**63) <= value < 2**63)
        return fits and _between(value, least, most, above)

    return Kind(words, holds)


def _between(value: float, least: float, most: float, above: bool) -> bool:
    return math.isfinite(value) and (least < value if above else least <= value) and value <= most


def one_of(*values: Any) -> Kind:
    """One of some JSON values, of the same type; 1 is 1.0, but not true."""

    def holds(value: Any) -> bool:
        return any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in values)

    return Kind(" or ".join(json.dumps(each) for each in values), holds)


def list_of(kind: Kind) -> Kind:
    return Kind(
        f"a list of {kind.allowed}", lambda value: isinstance(value, list) and all(map(kind.holds, value))
    )


def object_of(kind: Kind) -> Kind:
    return Kind(
        f"an object of {kind.allowed}",
        lambda value: isinstance(value, Mapping) and all(map(kind.holds, value.values())),
    )


NULL = one_of(None)
TRUTH = one_of(True, False)
TEXT = Kind("a string", lambda value: isinstance(value, str))
ANYTHING = Kind("anything", lambda value: True)
NOTHING = Kind("no such key", lambda value: False)
#: transformers writes NaN and infinities as the object {"__float__": "NaN"}.
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping) and set(value) != {"__float__"})


def shown(value: Any) -> str:
    """A JSON value for a message, cut where it is long or deep."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        return _short.repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits
        return f"a value of type {type(value).__name__}"


def refused(where: str, name: str, value: Any, allowed: str, why: str = "") -> UnsupportedModelError:
    """The error for a key whose value is not taken."""
    reason = f" ({why})" if why else ""
    return UnsupportedModelError(f"{where}: {name} is {shown(value)}; allowed: {allowed}{reason}")


def read_keys(given: Mapping, keys: Iterable[Key], where: str) -> tuple[dict[str, Any], list[str]]:
    """The value of every key, by name, and the names in `given` that no key has.

    where: the file, for messages. Raises UnsupportedModelError naming the key, its value and what is allowed.
    """
    keys = tuple(keys)
    values = {}
    for key in keys:
        if key.name not in given:
            if key.default is REQUIRED:
                raise UnsupportedModelError(f"{where}: {key.name} is missing; allowed: {key.kind.allowed}")
            values[key.name] = key.default
            continue
        value = given[key.name]
        if not key.kind.holds(value):
            raise refused(where, key.name, value, key.kind.allowed, key.why)
        values[key.name] = value
    return values, [str(name) for name in given if name not in values]
