"""Errors that a user of the workbench may meet, each a subclass of `WorkbenchError`.

`workbench.formats.errors.FormatError` stands apart: it is a `ValueError` that knows its places.

Messages quote names and values that come from files, and a file may hold a name of megabytes. So messages are cut here,
where all are made (`shortened`), and code that raises quotes a name whole.
"""

from __future__ import annotations

import re

#: Characters of a message; of a word in one that is longer.
LONGEST, LONGEST_WORD = 2000, 200
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD + 1},}}")


def shortened(text: str, most: int = LONGEST) -> str:
    """A text of at most `most` characters: of a longer one long words are cut in their middle, then the whole.

    Both ends stay, since a message says where at its beginning and what is allowed at its end.
    """
    if len(text) <= most:
        return text
    return _cut(_LONG_WORD.sub(lambda word: _cut(word[0], min(most, LONGEST_WORD)), text), most)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    mark = f"…({len(text):,} characters)…"
    kept = max(0, most - len(mark))
    return text[: kept - kept // 3] + mark + text[len(text) - kept // 3 :]


class WorkbenchError(Exception):
    """Base of every error raised on purpose by this package outside the file formats; its message is `shortened`."""

    #: Characters of the message.
    longest = LONGEST

    def __init__(self, *arguments: object) -> None:
        super().__init__(
            *(shortened(each, self.longest) if isinstance(each, str) else each for each in arguments)
        )


class UnsupportedModelError(WorkbenchError):
    """A checkpoint asks for something that no plan builder knows; names the field, its value and what is allowed."""


class CheckpointError(WorkbenchError):
    """A source checkpoint is missing, incomplete, not safetensors, or holds non-finite weights."""


class CacheFullError(WorkbenchError):
    """The key/value cache holds no room for the next token."""


class PromptTooLongError(WorkbenchError):
    """A prompt does not fit into the key/value cache."""


class OutputExistsError(WorkbenchError, FileExistsError):
    """What is to be written is there already, and is not replaced. path: where, if `overwrite` would replace it."""

    def __init__(self, message: str, path: object = None) -> None:
        super().__init__(message)
        self.path = path

    def __str__(self) -> str:
        return str(self.args[0])


class StorageError(WorkbenchError, OSError):
    """A file could not be written (a full disk, a limit, permissions): names it, why, and what to do.

    errno: the system's number, None where it gave none. Nothing of the file was left behind.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number

    def __str__(self) -> str:
        return str(self.args[0])


class NoAdapterError(WorkbenchError):
    """No WebGPU adapter was found."""


class OutOfMemoryError(WorkbenchError):
    """The device could not allocate what a plan needs."""


class NonFiniteError(WorkbenchError):
    """A model's results are not finite; names the first activation where NaN or an infinity appears."""


class SessionBusyError(WorkbenchError):
    """A session is used while another of its calls has not ended; says which."""


class DeviceLostError(WorkbenchError):
    """The device was lost; the next call opens a new one."""


class KernelError(WorkbenchError):
    """A kernel did not compile; says where in its own file. places: `workbench.runtime.messages.Place`s."""

    longest = 20_000  # the compiler's own words, with pieces of the source

    def __init__(self, message: str, places: tuple = ()):
        super().__init__(message)
        self.places = places


class SweepError(WorkbenchError):
    """Something impossible is asked of a sweep, a table or a published cell; says what, and what is allowed."""


class SchedulerLostError(SweepError):
    """The scheduler of a sweep is gone. What is finished is kept; the sweep goes on when it is started again."""


class TextError(WorkbenchError):
    """A text is not UTF-8, holds half of a surrogate pair, or cannot be read; says where."""


class ProtocolError(WorkbenchError):
    """An evaluation protocol was named or used wrongly."""


class WorkbenchWarning(UserWarning):
    """What was asked for works, and its result is doubtful or costs more than it has to; says what to do.

    Base of every warning of this package; a command says it as a line on stderr. Its message is `shortened`.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(shortened(each) if isinstance(each, str) else each for each in arguments))
