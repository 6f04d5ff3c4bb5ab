"""Listening: a socket, uvicorn, and an end that gives what runs some time."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from workbench.errors import WorkbenchError

from .app import Bodies, Limits, make_app
from .asked import Served
from .engine import Engine
from .errors import STOPPING

#: Signals that end the server.
SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: Seconds that responses have to say that they were ended, behind the time that they had to end by themselves.
LAST_WORDS_S = 5


class _Server(uvicorn.Server):
    """Ends with status 0 when it is told to end: running answers get `grace` seconds, or until it is told once more,
    and are then ended."""

    def __init__(self, config: uvicorn.Config, engine: Engine, bodies: Bodies, grace: float) -> None:
        super().__init__(config)
        self._engine, self._bodies, self._grace = engine, bodies, grace
        self._told = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the server, the second one what it still answers. uvicorn's own second SIGINT leaves
        clients without a word; it is the third one here. (This runs in the middle of anything that this thread does;
        the engine's lock can be taken again by who has it.)"""
        self._told += 1
        if self._told == 2:
            self._engine.end_all()
        else:
            super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which would raise the signal once more at the end."""
        before = {each: signal.signal(each, self.handle_exit) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.refuse(STOPPING)
        self._bodies.stop()
        ending = asyncio.get_running_loop().call_later(self._grace, self._engine.end_all)
        await super().shutdown(sockets)
        ending.cancel()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 for any that is free. Raises `WorkbenchError`."""
    try:
        family, *_, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:  # a name can be one that no encoding of names has
        why = error
        if isinstance(error, OSError) and error.errno:
            why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno)
        raise WorkbenchError(
            f"cannot listen at {host}, port {port}: {why}; choose another --host or --port"
        ) from error


def allowed_hosts(host: str) -> tuple[str, ...] | None:
    """What clients of a server at this host may call it; None for anything, where it is open to others anyway."""
    return tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", host))) if is_loopback(host) else None


def serve(  # many parameters: what a server is started with
    model: Any,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    sequences: int = 8,
    queue: int = 256,
    reuse: bool = True,
    max_body: int = 8 << 20,
    grace: float = 10.0,
    ready: Callable[[str], None] = print,
) -> None:
    """Answer requests until SIGINT or SIGTERM comes. ready: called with the address when clients are heard.

    Raises `WorkbenchError` where nothing can listen there, and `OutOfMemoryError` where so many sequences do not fit.
    """
    with contextlib.closing(listen(host, port)) as listening:
        engine = Engine(model, sequences, queue, reuse=reuse)
        try:
            app = make_app(engine, Served(model, name), Limits(max_body, api_key, allowed_hosts(host)))
            config = uvicorn.Config(
                app,
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(grace) + LAST_WORDS_S,
            )
            bound = listening.getsockname()
            shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
            ready(f"http://{shown}:{bound[1]}/v1")
            _Server(config, engine, app.state.bodies, grace).run([listening])
        finally:
            engine.close()
