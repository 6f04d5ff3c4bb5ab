"""The schema checker against the library `jsonschema`, on a manifest with every field damaged."""

from __future__ import annotations

import random

import jsonschema
import pytest

from tests.formats.damage import NONSENSE, manifest_of, places, put
from tests.formats.models import SMALL, write_model
from workbench.formats import manifest as rules
from workbench.formats.schema import SchemaError, check


def is_valid(value: object, schema: dict) -> bool:
    try:
        check(value, schema)
    except SchemaError:
        return False
    return True


def test_both_say_the_same(tmp_path):
    manifest = manifest_of(write_model(tmp_path / "model", names=SMALL))
    library = jsonschema.Draft202012Validator(rules.schema())
    assert is_valid(manifest, rules.schema()) and library.is_valid(manifest)
    # 1.0 is an integer to the draft, and $ matches in front of a last newline to Python: stricter here on
    # purpose.
    nonsense = [each for each in NONSENSE if not isinstance(each, float) and each != "model.wgpu\n"]
    rng, seen = random.Random(0), set()
    for path in places(manifest):
        for new in rng.sample(nonsense, 3) if path else nonsense:
            damaged = put(manifest, path, new) if path else new
            ours = is_valid(damaged, rules.schema())
            assert ours == library.is_valid(damaged), (path, new)
            seen.add(ours)
        if path and isinstance(path[-1], str):
            damaged = put(manifest, path, None)
            inner = damaged
            for key in path[:-1]:
                inner = inner[key]
            del inner[path[-1]]
            assert is_valid(damaged, rules.schema()) == library.is_valid(damaged), path
    assert seen == {True, False}


@pytest.mark.parametrize(
    ("value", "schema", "path", "why"),
    [
        (1.0, {"type": "integer"}, (), "1.0 is not of type integer"),
        (True, {"type": "integer"}, (), "True is not of type integer"),
        (True, {"const": 1}, (), "only 1"),
        ("a\n", {"pattern": "^a$"}, (), "does not match"),
        (
            {"a": [1, 2, "x"]},
            {"properties": {"a": {"items": {"type": "integer"}}}},
            ("a", 2),
            "'x' is not of type",
        ),
        ({"b": 1}, {"properties": {"a": {}}, "additionalProperties": False}, ("b",), "only a are allowed"),
        ({}, {"required": ["a"]}, ("a",), "is missing"),
        ({"B": 1}, {"propertyNames": {"pattern": "[a-z]"}}, ("B",), "not a name"),
        ([1], {"minItems": 2}, (), "1 items"),
        (6, {"multipleOf": 4}, (), "multipleOf 4"),
    ],
)
def test_errors_name_the_place(value, schema, path, why):
    with pytest.raises(SchemaError) as error:
        check(value, schema)
    assert error.value.path == path and why in error.value.why


def test_a_rule_it_does_not_know_is_not_passed_over():
    with pytest.raises(NotImplementedError, match="oneOf"):
        check(1, {"oneOf": []})
