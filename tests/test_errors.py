"""Messages of errors: cut where all are made, with both ends, and otherwise as they were written."""

from __future__ import annotations

import pickle
import warnings

import pytest

from workbench import errors
from workbench.errors import LONGEST, LONGEST_WORD, WorkbenchError, WorkbenchWarning, shortened
from workbench.formats.errors import FormatError

KINDS = [
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, (WorkbenchError, WorkbenchWarning))
]


@pytest.mark.parametrize("kind", [*KINDS, FormatError])
def test_the_message_of_every_error_is_cut(kind):
    whole = "w" * LONGEST
    assert str(kind(whole)) == whole
    for long in ("x" * 2**20, "x y " * 2**18):
        error = kind(f"model.bin: tensor {long!r} is missing; allowed: this")
        assert len(str(error)) <= getattr(kind, "longest", LONGEST)
        assert str(error).startswith("model.bin: tensor 'x") and str(error).endswith(
            "is missing; allowed: this"
        )
        if kind is not FormatError:
            assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_places_of_a_format_error_stay_whole_beside_its_message():
    error = FormatError("is damaged", tensor="t" * 10_000).at(file="model.wgpu", field="shape")
    assert error.tensor == "t" * 10_000 and len(str(error)) < 2 * LONGEST_WORD
    assert str(error).startswith("model.wgpu: tensor 'ttt") and str(error).endswith(
        "field 'shape': is damaged"
    )


def test_what_is_cut_says_how_long_it_was():
    assert shortened("a" * 50, 40) == "a" * 16 + "…(50 characters)…" + "a" * 7
    one, other = shortened("a" * 5000 + " and " + "b" * 5000).split(" and ")
    assert one == shortened("a" * 5000, LONGEST_WORD) and other == shortened("b" * 5000, LONGEST_WORD)


def test_a_warning_is_cut():
    with pytest.warns(WorkbenchWarning) as caught:
        warnings.warn("x" * 2**20, WorkbenchWarning, stacklevel=1)
    assert len(str(caught[0].message)) <= LONGEST_WORD
