"""Text from outside: bytes of files and stdin, arguments of a command, strings of other programs.

Text here is Unicode and its bytes are UTF-8. Whatever is not is refused by name and place, before a tokenizer sees it:
tokenizers raise errors of their own kinds for it, or read it as something else.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import TextError
from workbench.files.reading import read_bytes

_SURROGATE = re.compile("[\ud800-\udfff]")
#: First bytes of other encodings, the longer ones first.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def decode(data: bytes, where: str) -> str:
    """The text of UTF-8 bytes, nothing changed. where: how a message names it, such as "text stories.txt".

    Raises TextError with the offset of the first byte that is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        looks = next(
            (f" (it looks like {name})" for mark, name in _MARKS.items() if data.startswith(mark)), ""
        )
        raise TextError(
            f"{where}: byte {error.start} (0x{data[error.start]:02X}) is not UTF-8{looks}"
        ) from error


def read(path: str | Path, where: str) -> str:
    """The text of a file, newlines untouched. Raises TextError, also for a file that cannot be read."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise TextError(f"{where}: cannot be read ({error.strerror or error})") from error
    return decode(data, where)


def read_stream(stream: Any, where: str) -> str:
    """All of a text stream such as `sys.stdin` as UTF-8, whatever the locale; raises TextError."""
    if stream is None:
        raise TextError(f"{where}: is closed")
    binary: BinaryIO | None = getattr(stream, "buffer", None)
    return decode(binary.read(), where) if binary is not None else checked(stream.read(), where)


def checked(text: Any, where: str) -> str:
    """The string itself if UTF-8 can say it. Raises TextError for a lone surrogate, and for what is no string."""
    if not isinstance(text, str):
        raise TextError(f"{where}: is a {type(text).__name__}, not text")
    if found := _SURROGATE.search(text):
        raise TextError(
            f"{where}: character {found.start()} is U+{ord(found[0]):04X}, half of a surrogate pair, which is not text"
        )
    return text


def argument(text: str, where: str) -> str:
    """An argument of a command line as text. Raises TextError.

    Python keeps the bytes that the locale cannot decode as lone surrogates; they are read again as UTF-8, so that an
    argument means the same in a C locale.
    """
    if not _SURROGATE.search(text):
        return text
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return checked(text, where)
    return decode(data, where)
