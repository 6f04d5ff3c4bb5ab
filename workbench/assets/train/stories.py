"""Story files: reading, writing, the split of the real stories, and the check against copied text.

A story file is UTF-8 text in which a line `<|endoftext|>` ends each story. In sampled training text a story
that the teacher's context cut short ends at a line `<|cut|>` instead, so that training can tell it from a
real ending.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

END = "<|endoftext|>"
CUT = "<|cut|>"
SPLIT_RULE = (
    "int(sha256(utf-8 of the stripped story)[:8 hex digits], 16) % 10: 0 test, 1 validation, else train"
)
LONG_LINE = 80


def read_stories(path: Path) -> list[str]:
    """Stories of a file, stripped, empty ones left out, in file order."""
    return [story for story, _ in read_pieces(path)]


def read_pieces(path: Path) -> Iterator[tuple[str, bool]]:
    """(story, whole) pairs of a file; `whole` is False where the story ends at `<|cut|>`."""
    lines: list[str] = []
    with Path(path).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            mark = line.rstrip("\n")
            if mark in (END, CUT):
                story = "".join(lines).strip()
                lines = []
                if story:
                    yield story, mark == END
            else:
                lines.append(line)
    story = "".join(lines).strip()
    if story:
        yield story, True


def write_stories(path: Path, stories: Iterable[str]) -> str:
    """Write stories, each followed by the line that ends it; returns the file's sha256."""
    data = "".join(f"{story}\n{END}\n" for story in stories).encode()
    Path(path).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def split_of(story: str) -> str:
    """`train`, `validation` or `test`, by `SPLIT_RULE`: equal stories always land in the same part."""
    bucket = int(hashlib.sha256(story.strip().encode()).hexdigest()[:8], 16) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def split_stories(path: Path) -> dict[str, list[str]]:
    """The three parts of a story file, each in file order."""
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for story in read_stories(path):
        parts[split_of(story)].append(story)
    return parts


def split_fingerprint(parts: dict[str, list[str]]) -> str:
    """sha256 over the rule and over every story of every part, in order."""
    digest = hashlib.sha256(SPLIT_RULE.encode())
    for name in sorted(parts):
        digest.update(f"\0{name}".encode())
        for story in parts[name]:
            digest.update(b"\0" + story.encode())
    return digest.hexdigest()


class CopyCheck:
    """Tells whether a text holds a story, or any of its lines of at least `LONG_LINE` characters."""

    def __init__(self, stories: Iterable[str]):
        self._text = "\n".join(stories)

    def copied(self, story: str) -> bool:
        story = story.strip()
        if story in self._text:
            return True
        return any(
            len(line) >= LONG_LINE and line in self._text for line in map(str.strip, story.split("\n"))
        )
