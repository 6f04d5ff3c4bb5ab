"""A child process that answers a JSON object a line: what may crash or hang runs there, and is ended with it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from workbench.known import known

#: Characters of a child's stderr that an error quotes.
TAIL = 1500


class ChildError(RuntimeError):
    """A child process answered with an error."""


class ChildEndedError(ChildError):
    """A child process has ended by itself: a crash, or an exit that nobody asked for."""


class ChildTimeoutError(ChildError):
    """A child process did not answer in time, and was ended."""


class Child:
    """Runs a script and asks it; use as a context manager or `close` it. It imports from where this process does.

    environment: variables added to this process's own.
    """

    def __init__(self, script: Path, environment: dict[str, str] | None = None):
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            # -P: the script's folder is no place to import from.
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
        )
        self._stdin, self._stdout = known(self._process.stdin), known(self._process.stdout)
        os.set_blocking(self._stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._stdout, selectors.EVENT_READ)
        self._name = script.stem

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, timeout: float, **request: Any) -> Any:
        """What the child answers to a request; raises ChildError, and ChildTimeoutError after `timeout` seconds."""
        try:
            self._stdin.write(json.dumps(request).encode() + b"\n")
            self._stdin.flush()
        except OSError:
            raise self._ended() from None
        answer = b""
        while not answer.endswith(b"\n"):
            if not self._selector.select(timeout):
                self.close()
                raise ChildTimeoutError(f"{self._name} did not answer within {timeout:g} s")
            part = self._stdout.read()
            if part == b"":
                raise self._ended()
            answer += part or b""
        found = json.loads(answer)
        if "error" in found:
            raise ChildError(found["error"])
        return found["value"]

    def _ended(self) -> ChildEndedError:
        status = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()[-TAIL:]
        self.close()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return ChildEndedError(f"{self._name} ended with {how}{': ' if said else ''}{said}")

    def close(self) -> None:
        """End the process at once; what it held on a device goes with it."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if not self._stderr.closed:
            self._selector.close()
            self._stdin.close()
            self._stdout.close()
            self._stderr.close()
