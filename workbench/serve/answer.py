"""What a request gets back, whole or as a stream of events, while somebody is there to read it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from workbench.known import known

from .asked import Asked, Served
from .choice import Choice, Piece
from .engine import Engine
from .errors import ApiError, answer_to

#: Of a stream: nothing between here and the reader may keep it back.
STREAM_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


class Shape(Protocol):
    """What the answers of an endpoint look like (`CompletionShape`, `ChatShape`). kind, chunk_kind: OpenAI's `object`
    of a response and of an event; prefix: of ids; told: with how likely tokens were."""

    kind: str
    chunk_kind: str
    prefix: str

    def whole(self, index: int, pieces: list[Piece], reason: str, told: bool) -> dict[str, Any]: ...

    def opening(self, index: int) -> dict[str, Any] | None: ...

    def chunk(self, index: int, piece: Piece, told: bool) -> dict[str, Any]: ...

    def closing(self, index: int, reason: str) -> dict[str, Any]: ...


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII, which no text can break."""
    return Response(json.dumps(content), status, headers, "application/json")


class Answer:
    """The response to a request that generates, as ASGI calls it. Its jobs end with it, however it ends."""

    def __init__(self, engine: Engine, served: Served, asked: Asked, shape: Shape) -> None:
        self._engine, self._served, self._asked, self._shape = engine, served, asked, shape
        self._told = asked.likely is not None
        self._head = {
            "id": f"{shape.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": served.called(asked.adapter),
        }
        self._events: asyncio.Queue[tuple[Choice, Piece | None]] = asyncio.Queue()
        self._choices: list[Choice] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()

        def deliver(choice: Choice, piece: Piece | None) -> None:
            with contextlib.suppress(RuntimeError):  # a server that was killed has no loop any more
                loop.call_soon_threadsafe(self._events.put_nowait, (choice, piece))

        # of up to 128 answers, each of which looks at what its prompt ends with
        self._choices = await asyncio.to_thread(self._asked.choices, self._served, deliver)
        try:
            self._engine.submit(self._choices)
        except Exception as error:
            raise answer_to(error) from error
        send_all = self._stream(send) if self._asked.stream else self._whole(scope, receive, send)
        work, gone = asyncio.create_task(send_all), asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            self._engine.cancel(self._choices)
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    async def _given(self) -> AsyncIterator[tuple[Choice, Piece | None]]:
        """Pieces as they come, and None behind the last of each choice. Raises `ApiError` for one that failed."""
        left = len(self._choices)
        while left:
            choice, piece = await self._events.get()
            if piece is None:
                left -= 1
                if choice.error is not None:
                    raise answer_to(choice.error)
            yield choice, piece

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        pieces: dict[int, list[Piece]] = {choice.index: [] for choice in self._choices}
        async for choice, piece in self._given():
            if piece is not None:
                pieces[choice.index].append(piece)
        choices = [
            self._shape.whole(choice.index, pieces[choice.index], _reason(choice), self._told)
            for choice in self._choices
        ]
        body = self._head | {
            "object": self._shape.kind,
            "choices": choices,
            "usage": self._asked.used(self._choices),
        }
        await json_response(body)(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        """Events of the server. Nothing is sent before the first piece, so that what fails early has its status."""
        given = self._given()
        begun = False
        opened: set[int] = set()
        try:
            async for choice, piece in given:
                if not begun:
                    begun = True
                    await send(
                        {"type": "http.response.start", "status": 200, "headers": list(STREAM_HEADERS)}
                    )
                if choice.index not in opened:
                    opened.add(choice.index)
                    if (opening := self._shape.opening(choice.index)) is not None:
                        await self._event(send, [opening])
                if piece is None:
                    await self._event(send, [self._shape.closing(choice.index, _reason(choice))])
                else:
                    await self._event(send, [self._shape.chunk(choice.index, piece, self._told)])
            if self._asked.usage:
                await self._event(send, [], self._asked.used(self._choices))
            await _send_event(send, "[DONE]", more=False)
        except ApiError as error:
            if not begun:
                raise
            await _send_event(send, json.dumps(error.body), more=False)

    async def _event(self, send: Send, choices: list, usage: dict | None = None) -> None:
        body = self._head | {"object": self._shape.chunk_kind, "choices": choices}
        if self._asked.usage:
            body["usage"] = usage
        await _send_event(send, json.dumps(body))


async def _send_event(send: Send, data: str, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": more})


async def _until_gone(receive: Receive) -> None:
    """Wait until the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _reason(choice: Choice) -> str:
    """Why an answer ended, in OpenAI's words, which has one for both ends of a text's length."""
    reason = known(choice.finish_reason)
    return "length" if reason == "context" else reason
