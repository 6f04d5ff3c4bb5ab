"""JSON without its traps: what the standard library lets pass and a file from a stranger may hold.

Two bytes of JSON can become hundreds of bytes of Python objects. So values are counted in the text, which is fast,
before any is made. The limits are about twice what the manifest of a 400B model of 128 experts needs, in
tensors of their own and with its plan: 181,000 objects and lists, 344,000 commas.
"""

from __future__ import annotations

import json
import re
from typing import Any

from workbench.formats.errors import FormatError

#: Objects and lists in one file; commas, which come between values; levels of nesting.
MOST_CONTAINERS, MOST_COMMAS, MOST_LEVELS = 400_000, 700_000, 200
#: Marks of strings, before anything else is counted.
_MOST_QUOTES = 4_000_000
#: Backslashes in strings: between two escapes the parser makes a string of its own.
_MOST_ESCAPES = 400_000
#: A string, or the beginning of one that does not end.
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)', re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")
#: An escape that spells half of a surrogate pair.
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def check_size(data: bytes) -> None:
    """`FormatError` if the text would make more values, or nest them deeper, than any file of ours. Never slow."""
    if data.count(b'"') > _MOST_QUOTES:
        raise FormatError(f"holds more than {_MOST_QUOTES // 2} strings", field="(whole file)")
    if data.count(b"\\") > _MOST_ESCAPES:
        raise FormatError(f"holds more than {_MOST_ESCAPES} escapes", field="(whole file)")
    marks = _STRING.sub(b"", data)
    for most, found, what in (
        (MOST_CONTAINERS, marks.count(b"{") + marks.count(b"["), "objects and lists"),
        (MOST_COMMAS, marks.count(b","), "values"),
    ):
        if found > most:
            raise FormatError(f"holds {found} {what}, {most} are allowed", field="(whole file)")
    level = 0
    for mark in _BRACKET.findall(marks):
        level += 1 if mark in b"{[" else -1
        if level > MOST_LEVELS:
            raise FormatError(
                f"is nested too deeply, in more than {MOST_LEVELS} levels", field="(whole file)"
            )


def strict_json(data: bytes) -> Any:
    """Parses UTF-8 JSON.

    `FormatError` for duplicate keys, NaN and infinities, numbers beyond a float64, lone surrogates, integers
    of thousands of digits, and more or deeper values than `check_size` allows.
    """
    check_size(data)

    def pairs(items: list[tuple[str, object]]) -> dict:
        result = dict(items)
        if len(result) < len(items):
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))
            raise FormatError("is given twice in one object", field=twice[:80])
        return result

    def constant(name: str) -> object:
        raise FormatError(f"the constant {name} is not JSON", field="(whole file)")

    def number(text: str) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise FormatError(f"the number {text[:40]} is too large", field="(whole file)")
        return value

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_float=number)
        if _HALF.search(text):
            _check_strings(value)
        return value
    except FormatError:
        raise
    except RecursionError:
        raise FormatError("is nested too deeply", field="(whole file)") from None
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise FormatError(f"is not valid UTF-8: {error.reason}", field="(whole file)") from None
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise FormatError(f"is not valid JSON: {str(error)[:200]}", field="(whole file)") from None


def _check_strings(value: object) -> None:
    """UnicodeError for a string or key with half of a surrogate pair. Copies nothing, recurses nowhere."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            each.encode("utf-8")
        elif isinstance(each, dict):
            left += each
            left += each.values()
        elif isinstance(each, list):
            left += each
