"""What makers of random inputs take: their signatures name every option, handed on or not."""

from __future__ import annotations

import inspect
from collections.abc import Callable

Maker = Callable[..., dict]


def options_of(make_inputs: Maker) -> dict[str, inspect.Parameter]:
    """The options of a maker by name. Raises `ValueError` where `**` hides some."""
    parameters = inspect.signature(make_inputs).parameters
    hidden = [name for name, each in parameters.items() if each.kind is each.VAR_KEYWORD]
    if hidden:
        raise ValueError(f"hides what it takes behind **{hidden[0]}; its signature must name every option")
    return dict(parameters)


def handing_on(make_inputs: Maker, *others: Maker, without: tuple[str, ...] = ()) -> Maker:
    """`make_inputs`, which hands what it does not name on to `others`, with a signature that names all of it.

    without: options that it settles itself.
    """
    found = dict(inspect.signature(make_inputs).parameters)
    found = {name: each for name, each in found.items() if each.kind is not each.VAR_KEYWORD}
    for other in others:
        found = {**options_of(other), **found}
    kind = inspect.Parameter.KEYWORD_ONLY
    make_inputs.__signature__ = inspect.Signature(
        [each.replace(kind=kind) for name, each in found.items() if name not in without]
    )
    return make_inputs
