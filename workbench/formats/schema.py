"""Checking a JSON value against a JSON schema: the part of draft 2020-12 that the manifest's schema uses.

The library `jsonschema` agrees with it (a test compares them on damaged manifests), but takes seconds to
import where Jupyter has installed its optional checkers, and words its errors for schema authors. Here an
error names the place and what is allowed. Stricter than the draft in two points: 1.0 is not an integer, and a
pattern must match the whole string, a newline at its end included.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

_ANNOTATIONS = {"$schema", "$defs", "title", "description"}
_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "null": type(None)}
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


class SchemaError(ValueError):
    """A value that breaks a rule: `path` (keys and indices) tells where, `why` what is wrong."""

    def __init__(self, path: tuple, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


def short(value: object) -> str:
    """`repr` of at most 120 characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= 120 else f"{text[:116]} ..."


def _is(value: object, name: str) -> bool:
    return type(value) is _TYPES[name]  # by identity: True is no integer


def check(value: object, schema: dict, root: dict | None = None, path: tuple = ()) -> None:
    """Raises `SchemaError` for the first rule that `value` breaks; `root` is where `$ref` starts."""
    root = schema if root is None else root
    for rule, wanted in schema.items():
        if rule in _ANNOTATIONS or rule in ("then", "else"):
            continue
        if rule == "$ref":
            check(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, path)
        elif rule == "type":
            names = [wanted] if isinstance(wanted, str) else wanted
            if not any(_is(value, name) for name in names):
                raise SchemaError(path, f"{short(value)} is not of type {' or '.join(names)}")
        elif rule == "const":
            _check_enum(value, [wanted], path)
        elif rule == "enum":
            _check_enum(value, wanted, path)
        elif rule == "if":
            branch = schema.get("then" if _holds(value, wanted, root) else "else", {})
            check(value, branch, root, path)
        elif type(value) is dict and rule in _OBJECT:
            _check_object(value, rule, wanted, schema, root, path)
        elif type(value) is list and rule in _ARRAY:
            _check_array(value, rule, wanted, root, path)
        elif type(value) is str and rule == "pattern":
            if not re.fullmatch(wanted, value):
                raise SchemaError(path, f"{short(value)} does not match {wanted}")
        elif type(value) is int and rule in _NUMBER:
            if not _NUMBER[rule](value, wanted):
                raise SchemaError(path, f"{short(value)} breaks the rule {rule} {wanted}")
        elif rule not in (*_OBJECT, *_ARRAY, *_NUMBER, "pattern"):
            raise NotImplementedError(f"the schema uses {rule!r}, which this checker does not know")


def _holds(value: object, schema: dict, root: dict) -> bool:
    try:
        check(value, schema, root)
    except SchemaError:
        return False
    return True


def _check_enum(value: object, allowed: list, path: tuple) -> None:
    if not any(type(value) is type(each) and value == each for each in allowed):
        raise SchemaError(path, f"{short(value)} is not allowed, only {', '.join(map(repr, allowed))}")


_NUMBER = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "multipleOf": lambda value, unit: value % unit == 0,
}
_ARRAY = ("items", "minItems", "maxItems")
_OBJECT = (
    "required",
    "properties",
    "additionalProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
)


def _check_array(value: list, rule: str, wanted: Any, root: dict, path: tuple) -> None:
    if rule == "items":
        for index, inner in enumerate(value):
            check(inner, wanted, root, (*path, index))
    elif (len(value) < wanted) if rule == "minItems" else (len(value) > wanted):
        raise SchemaError(path, f"has {len(value)} items, which breaks the rule {rule} {wanted}")


def _check_object(value: dict, rule: str, wanted: Any, schema: dict, root: dict, path: tuple) -> None:
    if rule == "required":
        for name in wanted:
            if name not in value:
                raise SchemaError((*path, name), "is missing")
    elif rule == "properties":
        for name, inner in wanted.items():
            if name in value:
                check(value[name], inner, root, (*path, name))
    elif rule == "propertyNames":
        for name in value:
            try:
                check(name, wanted, root)
            except SchemaError as error:
                raise SchemaError((*path, name[:80]), f"is not a name allowed here: {error.why}") from None
    elif rule == "additionalProperties":
        known = schema.get("properties", {})
        for name, inner in value.items():
            if name in known:
                continue
            if wanted is False:
                raise SchemaError((*path, name[:80]), f"is unknown, only {', '.join(known)} are allowed")
            check(inner, wanted, root, (*path, name))
    elif (len(value) < wanted) if rule == "minProperties" else (len(value) > wanted):
        raise SchemaError(path, f"has {len(value)} fields, which breaks the rule {rule} {wanted}")
