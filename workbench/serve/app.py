"""The ASGI application: who may ask, what is read of a request, and the endpoints."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.formats.errors import FormatError
from workbench.formats.strict_json import strict_json

from .answer import Answer, Shape, json_response
from .asked import Asked, Served
from .chat import ChatShape, read_chat
from .completions import CompletionShape, read_completion
from .engine import Engine
from .errors import STOPPING, ApiError, UnavailableError, answer_to

#: Seconds that the body of a request may take to arrive.
BODY_S = 60


@dataclass(frozen=True)
class Limits:
    """max_body: bytes of a request. api_key: what clients must show; None for nothing. hosts: names that the header
    `Host` may have, so that no page of the web reaches a server on its reader's machine by a name of its own; None for
    any."""

    max_body: int
    api_key: str | None = None
    hosts: Collection[str] | None = None


def make_app(engine: Engine, served: Served, limits: Limits) -> Starlette:
    """The application for one model. Its state has the `bodies` that are on their way (`Bodies`)."""
    bodies = Bodies(limits.max_body)

    def described(name: str) -> dict[str, Any]:
        found = {"id": name, "object": "model", "created": served.created, "owned_by": "workbench"}
        return found if name == served.name else {**found, "parent": served.name}

    async def health(request: Request) -> Response:
        found = {"running": engine.running, "waiting": engine.waiting, "sequences": engine.sequences}
        why = engine.unavailable
        status = {"status": "ok"} if why is None else {"status": "unavailable", "reason": why}
        return json_response(status | {"model": served.name} | found, 200 if why is None else 503)

    async def models(request: Request) -> Response:
        return json_response({"object": "list", "data": [described(name) for name in served.names]})

    async def one_model(request: Request) -> Response:
        return json_response(described(served.called(served.adapter_of(request.path_params["name"]))))

    def generating(read: Callable[[Any, Served], Asked], shape: Shape) -> Callable:
        async def endpoint(request: Request) -> Answer:
            data = await bodies.read(request)
            # tokenizers take their time over long texts
            return Answer(engine, served, await asyncio.to_thread(lambda: read(parsed(data), served)), shape)

        return endpoint

    routes = [
        Route("/health", health),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", one_model),
        Route("/v1/completions", generating(read_completion, CompletionShape(served)), methods=["POST"]),
        Route("/v1/chat/completions", generating(read_chat, ChatShape(served)), methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            ApiError: _failed,
            HTTPException: _refused,
            ClientDisconnect: _gone,
            Exception: _broken,
        },
    )
    app.add_middleware(Guard, limits=limits)
    app.state.bodies = bodies
    return app


class Bodies:
    """Bodies of requests, of so many bytes at most, while they arrive; `stop` waits for none of them any longer."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._arriving: set[asyncio.Timeout] = set()
        self._stopped = False

    def stop(self) -> None:
        """Take no more bodies, nor the rest of those that are arriving: requests that would be refused anyway."""
        self._stopped = True
        for each in self._arriving:
            each.reschedule(asyncio.get_running_loop().time())

    async def read(self, request: Request) -> bytes:
        """The body of a request. Raises `ApiError` for what is no JSON by its type, too large, or too slow, and when
        nothing is taken any more."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if (
            kind != "application/json"
        ):  # a page of the web may send anything else to this machine without asking
            raise ApiError(415, f"content-type is {kind[:80]!r}; allowed: application/json")
        data = bytearray()
        try:
            async with asyncio.timeout(0 if self._stopped else BODY_S) as arriving:
                self._arriving.add(arriving)
                async for piece in request.stream():
                    data += piece
                    if len(data) > self._most:
                        raise ApiError(
                            413,
                            f"the body has more than {self._most} bytes; allowed: {self._most} (--max-body)",
                        )
        except TimeoutError:
            if self._stopped:
                raise answer_to(UnavailableError(STOPPING)) from None
            raise ApiError(408, f"the body did not arrive within {BODY_S} s") from None
        finally:
            self._arriving.discard(arriving)
        return bytes(data)


def parsed(data: bytes) -> Any:
    """JSON of a body. Raises `ApiError`."""
    try:
        return strict_json(data)
    except FormatError as error:
        raise ApiError(400, f"the body: {error}") from error


class Guard:
    """Lets through who shows the key, and asks for this host."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._against(scope)) is not None:
            await json_response(error.body, error.status, error.headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _against(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._limits.hosts is not None and host_name(headers.get("host", "")) not in self._limits.hosts:
            return ApiError(
                403, f"the header Host names another server; allowed: {', '.join(self._limits.hosts)}"
            )
        if self._limits.api_key is None or scope["path"] == "/health":
            return None
        shown = headers.get("authorization", "").encode("latin-1")
        if hmac.compare_digest(shown, b"Bearer " + self._limits.api_key.encode()):
            return None
        return ApiError(
            401,
            "the API key is missing or wrong; allowed: the one that the server was started with, as Authorization: "
            "Bearer KEY",
            "authentication_error",
            code="invalid_api_key",
        )


def host_name(header: str) -> str:
    """The name in a header `Host`, without the port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].lower()


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return json_response(error.body, error.status, error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    """What the router says: no such address, or another method."""
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    headers = dict(error.headers or {})
    return json_response(ApiError(error.status_code, message, code=code).body, error.status_code, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _broken(request: Request, error: Exception) -> Response:
    """A mistake of this program, which the log shows."""
    return json_response(
        ApiError(500, "the server made a mistake; its log says which", "server_error").body, 500
    )
