"""The pages of the documentation, and the blocks of code that stand in them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
#: A fenced block, also one that is indented below an item of a list.
FENCED = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def named(page: Path) -> str:
    """A page as messages speak of it."""
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """What a page has in a language, block by block, in order."""
    return [body for _, named, body in FENCED.findall(page.read_text("utf-8")) if named.strip() == language]


def python_blocks(page: Path) -> list[str]:
    return blocks(page, "python")
