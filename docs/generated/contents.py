"""Pages that no list of contents names yet, so that a new page is on the site as soon as it is written."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```", re.MULTILINE | re.DOTALL)


def other_pages() -> str:
    """A toctree of the pages beside docs/index.md that it does not name, by file name; "" where it names all."""
    listed = {
        line.strip()
        for body in TOCTREE.findall((DOCS / "index.md").read_text("utf-8"))
        for line in body.splitlines()
    }
    pages = sorted(page.stem for page in DOCS.glob("*.md") if page.stem not in {*listed, "index"})
    if not pages:
        return ""
    return "\n".join(["```{toctree}", ":caption: More", ":hidden:", "", *pages, "```"])
