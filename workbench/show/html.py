"""Pieces of HTML that several results are made of. Text that they are given is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_CELL = "text-align:left; vertical-align:top; width:50%; white-space:pre-wrap; overflow-wrap:anywhere"


def folded(title: str, text: str) -> str:
    """Text that a click unfolds."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def columns(found: Mapping[str, str], caption: str = "") -> str:
    """Passages side by side. found: title -> HTML."""
    said = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = "".join(f"<th style='text-align:left'>{escape(title)}</th>" for title in found)
    body = "".join(f"<td style='{_CELL}'>{passage}</td>" for passage in found.values())
    return f"<table style='width:100%'>{said}<tr>{head}</tr><tr>{body}</tr></table>"
