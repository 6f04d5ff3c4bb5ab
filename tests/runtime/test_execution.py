"""What a model is run as: one list of options, in the signatures of all that take them."""

from __future__ import annotations

import inspect
import typing

import pytest

import workbench
from workbench.runtime.choices import Execution, choose

OPTIONS = typing.get_type_hints(Execution)


@pytest.mark.parametrize("function", [workbench.load, workbench.describe])
def test_options_are_in_the_signature_with_their_defaults(function):
    parameters, defaults = inspect.signature(function).parameters, inspect.signature(choose).parameters
    assert {name: parameters[name].default for name in OPTIONS} == {
        name: defaults[name].default for name in OPTIONS
    }
    assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def test_the_list_is_that_of_what_takes_them():
    hints = typing.get_type_hints(choose)
    assert {name: hints[name] for name in OPTIONS} == OPTIONS
    assert set(hints) - set(OPTIONS) == {"config", "backend", "return"}


@pytest.mark.parametrize("function", [workbench.load, workbench.describe])
def test_a_misspelt_option_is_named(function):
    with pytest.raises(
        TypeError, match=rf"^{function.__name__}\(\) got an unexpected keyword argument 'dtyp'"
    ):
        function("DIR", dtyp="f16")
    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) too many positional"):
        function("DIR", "torch", "f16")
