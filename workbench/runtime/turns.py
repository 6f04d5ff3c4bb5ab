"""One call at a time on an object whose state a second one would spoil: who comes in between gets an error.

A lock would not do: an edit that uses the session which waits for it would wait for itself, and a thread that came
second would go on from a state that it does not know.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from workbench.errors import SessionBusyError


class Turns:
    """Whose turn it is. A turn of several steps can be paused between them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._name: str | None = None
        self._paused = False

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[Turns]:
        """A call's turn; raises `SessionBusyError` while there is another."""
        with self._guard:
            if self._name is not None:
                raise SessionBusyError(self._busy())
            self._name = name
        try:
            yield self
        finally:
            with self._guard:
                self._name, self._paused = None, False

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Between two steps of the turn, while its caller has the results."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    @contextlib.contextmanager
    def last(self) -> Iterator[None]:
        """What ends the object, between calls or steps; raises `SessionBusyError` in the middle of a step."""
        with self._guard:
            if self._name is not None and not self._paused:
                raise SessionBusyError(self._busy())
            yield

    def _busy(self) -> str:
        if self._paused:
            return f"this session is between the steps of `{self._name}`; take its iterator to the end, or close it"
        return f"this session is in the middle of `{self._name}`; one call at a time, also from edits and other threads"


def alone(method: Callable) -> Callable:
    """A method that has the turn of `self._turns` while it runs."""

    @functools.wraps(method)
    def taking_turns(self, *args: Any, **kwargs: Any) -> Any:
        with self._turns.of(method.__name__):
            return method(self, *args, **kwargs)

    return taking_turns
