"""Errors as OpenAI's clients read them: a status, and a body that says what was wrong, with which field."""

from __future__ import annotations

from typing import Any

from workbench.errors import DeviceLostError, OutOfMemoryError, WorkbenchError

#: Why a server that was told to end takes nothing, and what it ends.
STOPPING = "the server is stopping"
#: What a client is told to wait before it tries again, seconds.
RETRY_S = 1


class ApiError(Exception):
    """What a request is answered with in place of a result.

    status: of HTTP. kind: OpenAI's `type`. param: the field that is wrong, where one is. code: for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of it."""
        return {
            "error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code},
        }

    @property
    def headers(self) -> dict[str, str]:
        """Of the response."""
        found = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        return found | ({"retry-after": str(RETRY_S)} if self.status in (429, 503) else {})


def wrong(param: str, message: str, code: str | None = None) -> ApiError:
    """The error for a field of a request."""
    return ApiError(400, message, param=param, code=code)


class UnavailableError(WorkbenchError):
    """Nothing can be run at the moment: a lost device is being replaced, or the server stops."""


class QueueFullError(WorkbenchError):
    """More requests wait than may wait."""


def answer_to(error: BaseException) -> ApiError:
    """What an error of the engine, or of one of its jobs, is answered with."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), "rate_limit_error", code="queue_full")
    for kind, code in (
        (UnavailableError, "unavailable"),
        (DeviceLostError, "device_lost"),
        (OutOfMemoryError, "out_of_memory"),
    ):
        if isinstance(error, kind):
            return ApiError(503, str(error), "server_error", code=code)
    return ApiError(500, f"{type(error).__name__}: {error}", "server_error", code="failed")
