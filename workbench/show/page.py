"""A page of results: one HTML file that asks nobody for anything, light or dark as the reader's system is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from workbench.files.writing import write_text

from .figures import TURNED, Picture

#: Nothing is fetched and nothing runs, whatever a text that stands in the page says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d5d9de, #3d434b); --soft: light-dark(#f4f6f8, #1f242b);
  --muted: light-dark(#5b636d, #a2a9b3); }
body { font: 16px/1.55 system-ui, sans-serif;
  color: light-dark(#1f2328, #e6e8eb); background: light-dark(#fff, #16191d);
  max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.3; } h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { color: var(--muted); padding-bottom: 0.3rem; }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; }
ul { padding-left: 1.2rem; } li { margin: 0.2rem 0; overflow-wrap: anywhere; }
.notes { color: var(--muted); font-size: 0.9rem; }
svg, blockquote { max-width: 100%; height: auto; }
blockquote { margin: 0; padding: 0.7rem 1.1rem; background: var(--soft); border-left: 3px solid var(--line);
  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: 0.9em ui-monospace, Menlo, Consolas, monospace; background: var(--soft); padding: 0.1em 0.3em; }
""" + (
    f"@media screen and (prefers-color-scheme: dark) {{ svg {{ {TURNED}; }} }}\n"
    "@media print { body { max-width: none; margin: 0; } h2 { break-after: avoid; } svg, tr { break-inside: avoid; } }"
)


def page(title: str, *parts: str) -> str:
    """A whole page. title: text. parts: HTML, as the functions below and `Table.html` make it of text."""
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            *parts,
            "</body>\n</html>\n",
        ]
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def wide(table: str) -> str:
    """A table that scrolls for itself where the page is narrow."""
    return f'<div class="wide">\n{table}\n</div>'


def points(lines: Iterable[str], kind: str = "") -> str:
    """A list. lines: text, in which what stands between backticks is code. kind: a class of the list."""
    items = "\n".join(f"<li>{coded(line)}</li>" for line in lines)
    return f'<ul class="{kind}">\n{items}\n</ul>' if kind else f"<ul>\n{items}\n</ul>"


def paragraph(text: str) -> str:
    """As in `points`."""
    return f"<p>{coded(text)}</p>"


def quoted(text: str) -> str:
    """A text as it is, lines included."""
    return f"<blockquote>{escape(text)}</blockquote>"


def drawing(picture: Picture, said: str) -> str:
    """A figure, sharp at every size. said: what it shows, in words."""
    return picture.svg().replace("<svg", f'<svg role="img" aria-label="{escape(said)}"', 1)


def coded(text: str) -> str:
    """Text with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def write_page(path: Path, title: str, *parts: str) -> None:
    """Write `page(...)`. Raises StorageError."""
    write_text(path, page(title, *parts))
