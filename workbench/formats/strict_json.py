"""JSON without its traps: what the standard library lets pass and a file from a stranger may hold."""

from __future__ import annotations

import json

from workbench.formats.errors import FormatError


def strict_json(data: bytes) -> object:
    """Parses UTF-8 JSON.

    `FormatError` for duplicate keys, NaN and infinities, numbers beyond a float64, lone surrogates, integers
    of thousands of digits, and nesting deeper than the interpreter's recursion limit.
    """

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
        if "\\u" in text:  # only an escape can spell half of a surrogate pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except FormatError:
        raise
    except RecursionError:
        raise FormatError("is nested too deeply", field="(whole file)") from None
    except UnicodeError as error:
        raise FormatError(f"is not valid UTF-8: {error.reason}", field="(whole file)") from None
    except ValueError as error:  # JSONDecodeError, or an integer of thousands of digits
        raise FormatError(f"is not valid JSON: {str(error)[:200]}", field="(whole file)") from None
