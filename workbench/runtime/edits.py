"""Changing activations in flight: functions that run between the call that writes an activation and its readers.

An edit is `{name: function}`. `function(x, position)` gets a copy of the activation, x [rows, width], f32 whatever it
is stored as (f64 from an oracle in f64), one row for each real token of the step; the first row's token stands at
`position` in the sequence. It returns the replacement: real numbers of the same shape, which are rounded to the type
that the activation is stored as. Prompts come in steps (of up to 256 tokens on a device, 512 in PyTorch), generated
tokens one by one. Where a plan has one row only (`logits` while generating), it is that of the step's last token. In a
batch of sequences it is `function(x, positions, sequences)`, since a step has rows of several: arrays that say where
each row's token stands.

Results must be finite, since WGSL lets a compiler assume that numbers are; to forbid a token, give its logit a very
low number such as -1e30. The function may run other models, but not the one whose step it interrupts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from workbench.errors import WorkbenchError
from workbench.plan.plan import Plan, PlanError

Edits = Mapping[str, Callable[..., np.ndarray]]

_inside = threading.local()  # .executors: those whose steps this thread's edits interrupt, outermost first


class EditError(WorkbenchError):
    """An edit returned something that cannot replace the activation, or ran the model that it interrupts."""


def check_edits(plan: Plan, edits: Edits | None) -> Edits:
    """The edits; raises `PlanError` for a name that is no float activation, `EditError` for what is no function."""
    edits = dict(edits or {})
    for name in plan.check_names(edits):
        buffer = plan.arrays[name][0]
        if buffer.dtype not in ("f32", "f16"):
            raise PlanError(f"{name!r} holds {buffer.dtype}; edits change activations of f32 or f16")
        if len(plan.buffers[name].shape) != 2:
            raise PlanError(
                f"{name!r} has shape {plan.buffers[name].shape}; edits change rows of [tokens, width]"
            )
        if not callable(edits[name]):
            raise EditError(f"the edit of {name!r} is a function of (x, position), not {edits[name]!r}")
    return edits


def by_sequence(edits: Sequence[Edits | None]) -> Edits | None:
    """Edits of a batch, as functions of (x, positions, sequences), from those of each of its sequences, as functions of
    (x, position); None if there are none."""

    def edit_of(name: str) -> Callable[..., np.ndarray]:
        def edit(x: np.ndarray, positions: np.ndarray, sequences: np.ndarray) -> np.ndarray:
            for sequence, own in enumerate(edits):
                rows = np.flatnonzero(sequences == sequence)
                if own is None or name not in own or not len(rows):
                    continue
                given = np.asarray(own[name](x[rows], int(positions[rows[0]])))
                if given.shape != x[rows].shape:
                    raise EditError(
                        f"the edit of {name!r} returned shape {given.shape}; it must be {x[rows].shape}, as that of x"
                    )
                x[rows] = given
            return x

        return edit

    names = {name: None for own in edits for name in own or {}}
    return {name: edit_of(name) for name in names} or None


def stops(writes: Sequence[Iterable[str]], names: Iterable[str]) -> list[tuple[int, str]]:
    """(number of calls to run before, name), in the order of the calls; of several writers of a name the last.

    writes: what each call writes.
    """
    written = {}
    for index, outputs in enumerate(writes):
        for name in outputs:
            written[name] = index + 1
    return sorted((written[name], name) for name in names)


def replacement(
    executor: object, name: str, edits: Edits, x: np.ndarray, places: tuple, storage
) -> np.ndarray:
    """What the edit of `name` makes of x, rounded to the type `storage`; raises `EditError`.

    executor: the one that waits, and that the function cannot use meanwhile. places: what the function is told beside
    x.
    """
    compute = np.promote_types(x.dtype, np.float32)
    with _waiting(executor):
        given = edits[name](x.astype(compute), *places)
    where = f"the edit of {name!r}"
    if given is None:
        raise EditError(f"{where} returned nothing; it returns the activation that takes the place of x")
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor on a device, or with a gradient
        raise EditError(f"{where} returned a {type(given).__name__} that is not an array: {error}") from error
    if array.dtype.kind not in "fiu":
        raise EditError(f"{where} returned {array.dtype} numbers; allowed: real floats and integers")
    if array.shape != x.shape:
        raise EditError(f"{where} returned shape {array.shape}; it must be {x.shape}, as that of x")
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = array.astype(compute).astype(storage)
    if not np.isfinite(rounded).all():
        row, column = np.argwhere(~np.isfinite(rounded))[0]
        raise EditError(
            f"{where} returned {array[row, column]} in row {row}, column {column}, "
            f"which is not a finite {np.dtype(storage).name}"
        )
    return rounded


@contextlib.contextmanager
def _waiting(executor: object) -> Iterator[None]:
    before = getattr(_inside, "executors", ())
    _inside.executors = (*before, executor)
    try:
        yield
    finally:
        _inside.executors = before


def refuse_inside(executor: object) -> None:
    """Raises `EditError` where an edit interrupts a step of this executor: another would overwrite its activations."""
    if any(waiting is executor for waiting in getattr(_inside, "executors", ())):
        raise EditError("an edit cannot run the model whose step it interrupts; compute what it needs before")
