"""Where a WGSL compiler stumbled, in lines of the file that a person edits and not of the generated module.

Naga (wgpu) draws a snippet whose head is a file, a line and a column, under a line with the error, and labels below the
code. A compiler that writes otherwise loses nothing but its places: its message is shown as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

_HEAD = re.compile(r"┌─ [^\n]*?:(\d+):(\d+)")
_TITLE = re.compile(r"^\s*(?:Shader\b[^\n]*?\berror|error): ([^\n]+)$", re.MULTILINE)
_LABEL = re.compile(r"[│|]\s*[\^~-]+ ([^\n]+)$", re.MULTILINE)
#: Two labels may share a line: marks, then marks and text.
_MARKS = re.compile(r"^.*[\^~]\s")
#: Labels that name an object of the compiler's own.
_INTERNAL = "naga::"


@dataclass(frozen=True)
class Place:
    """line, column: from 1, of the variant's own file; of the header in front of it where `in_header`."""

    line: int
    column: int
    message: str
    in_header: bool = False

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}{' of the header' if self.in_header else ''}: {self.message}"


def places(message: str, body_line: int) -> tuple[Place, ...]:
    """The places that a compiler's message names. body_line: lines in front of the variant's own file (header.py)."""
    found = []
    heads = list(_HEAD.finditer(message))
    for head, after in zip_longest(heads, heads[1:]):
        end = after.start() if after else len(message)
        titles = _TITLE.findall(message, 0, head.start())
        snippet = message[head.end() : end]
        labels = [_MARKS.sub("", label) for label in _LABEL.findall(snippet)]
        labels = [label for label in labels if not label.startswith(_INTERNAL)]
        causes = [line.strip() for line in snippet.splitlines() if re.match(r"\s+(?![│|=\d\s])", line)]
        said = dict.fromkeys([*titles[-1:], *labels[:1], *causes[-1:]])
        line, column = map(int, head.groups())
        in_header = line <= body_line
        found.append(Place(line - (0 if in_header else body_line), column, "; ".join(said), in_header))
    return tuple(found)
