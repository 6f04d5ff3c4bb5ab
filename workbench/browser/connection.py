"""Workers in pages that compute for this process: calls go there as messages and come back with bytes.

A `Host` knows the views of a widget, of which the newest has the workers: one for each `Connection`. Messages carry
`view` and `engine` to say whose they are. A worker asks for the weights' bytes itself, piece by piece, so that nothing
is sent that nobody waits for.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from workbench.errors import DeviceLostError, NoAdapterError, NonFiniteError, OutOfMemoryError, WorkbenchError

from .script import script

#: Seconds that the first call waits for a page.
PAGE_S = 60.0
#: Seconds after which whoever waits looks whether the page is still there.
LOOK_S = 0.2

#: (file, offset, bytes) -> bytes
Read = Callable[[str, int, int], bytes]
#: What is sent to a view: content and buffers.
Tell = Callable[[dict[str, Any], list], None]
#: Errors of a page, by kind (`errors.js`), that are others than `WorkbenchError` here.
_ERRORS = {
    "no-webgpu": NoAdapterError,
    "no-adapter": NoAdapterError,
    "out-of-memory": OutOfMemoryError,
    "device-lost": DeviceLostError,
    "not-finite": NonFiniteError,
}


class Answer:
    """What a call will give."""

    def __init__(self, connection: Connection):
        self._connection, self._came = connection, threading.Event()
        self.content: dict[str, Any] = {}
        self.buffers: list = []

    def came(self, content: dict[str, Any], buffers: list) -> None:
        self.content, self.buffers = content, buffers
        self._came.set()

    def wait(self, limit: float | None = None) -> tuple[dict[str, Any], list]:
        """What was done, and its bytes. limit: seconds. Raises the page's error, `DeviceLostError` where the page goes
        away, and TimeoutError."""
        left = math.inf if limit is None else limit
        while not self._came.wait(min(LOOK_S, left)):
            left -= LOOK_S
            if self._connection.lost:
                raise DeviceLostError("the page that computed was closed or shown anew; start again")
            if left <= 0:
                raise TimeoutError(f"the page has not answered within {limit:g} s")
        if error := self.content.get("error"):
            raise _ERRORS.get(error.get("kind"), WorkbenchError)(f"in the page: {error['message']}")
        return self.content["done"], self.buffers


class Connection:
    """One worker of the newest view, begun with the first call. lost: its page has gone."""

    def __init__(self, host: Host, engine: int, read: Read):
        self._host, self._engine, self._read = host, engine, read
        self._view: str | None = None
        self._numbers, self._waiting = itertools.count(), {}
        self._lock = threading.Lock()
        self.lost = False

    def ask(self, name: str, given: dict[str, Any] | None = None, buffers: Sequence = ()) -> Answer:
        """Begin a call. Raises `WorkbenchError` where there is no page to compute in."""
        with self._lock:
            if self._view is None and not self.lost:
                self._view = self._host.wait()
                self._send({"start": True}, [script("remote").encode()])
            if self.lost:
                raise DeviceLostError("the page that computed was closed or shown anew; start again")
            number = next(self._numbers)
            self._waiting[number] = answer = Answer(self)
        self._send({"call": number, "name": name, "given": given or {}}, list(buffers))
        return answer

    def call(
        self, name: str, given: dict[str, Any] | None = None, buffers: Sequence = ()
    ) -> tuple[dict, list]:
        """What the worker answers, and its bytes."""
        return self.ask(name, given, buffers).wait()

    def hear(self, content: dict[str, Any], buffers: list) -> None:
        """A message of the worker; on any thread."""
        if "ended" in content:
            self.lose()
        elif "read" in content:
            self._give(content)
        elif (answer := self._waiting.pop(content.get("call"), None)) is not None:
            answer.came(content, buffers)

    def lose(self) -> None:
        self.lost = True
        if self._view is not None:
            self._send({"end": True}, [])

    def _give(self, content: dict[str, Any]) -> None:
        number = content["read"]
        try:
            data = self._read(str(content["file"]), int(content["offset"]), int(content["length"]))
        except Exception as error:  # told where it was asked
            self._send({"read": number, "error": str(error)}, [])
        else:
            self._send({"read": number}, [data])

    def _send(self, content: dict[str, Any], buffers: list) -> None:
        self._host.tell({"view": self._view, "engine": self._engine, **content}, buffers)


class Host:
    """The views of a widget. tell: sends a message to all of them."""

    def __init__(self, tell: Tell):
        self.tell = tell
        self._view: str | None = None
        self._there = threading.Condition()
        self._connections: list[Connection] = []

    def connect(self, read: Read) -> Connection:
        """A worker to be, which reads its weights with `read`."""
        connection = Connection(self, len(self._connections), read)
        self._connections.append(connection)
        return connection

    def here(self, view: str) -> None:
        """A view has opened: it computes from now on."""
        self.gone(self._view)
        with self._there:
            self._view = view
            self._there.notify_all()

    def gone(self, view: str | None) -> None:
        if view is None or view != self._view:
            return
        self._view = None
        for connection in self._connections:
            if connection._view == view and not connection.lost:
                connection.lose()

    def wait(self) -> str:
        """The view that computes. Raises `WorkbenchError` where none opens."""
        with self._there:
            if not self._there.wait_for(lambda: self._view is not None, PAGE_S):
                raise WorkbenchError(
                    "the widget computes in the page that shows it, and no page does; show it in a cell"
                )
            return str(self._view)

    def hear(self, content: dict[str, Any], buffers: list) -> None:
        """A message of a worker."""
        engine = content.get("engine")
        if isinstance(engine, int) and 0 <= engine < len(self._connections):
            connection = self._connections[engine]
            if content.get("view") == connection._view:
                connection.hear(content, buffers)
