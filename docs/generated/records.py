"""Figures that stand elsewhere in the repository: published cells, certificates, and tables of other pages."""

from __future__ import annotations

import re
from pathlib import Path

from workbench.browser.certificate import Certificates, opened
from workbench.sweeps.published import registry
from workbench.sweeps.reproduce import listing

DOCS = Path(__file__).resolve().parents[1]
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


def published_cells() -> str:
    """`workbench/sweeps/published.toml` as `workbench reproduce --list` shows it."""
    return listing(list(registry().values()))


def certificates() -> str:
    """What `workbench certificates` shows of those in docs/certificates, whose seals are checked."""
    files = sorted((DOCS / "certificates").glob("*.json"))
    found = Certificates({file.name: opened(file.read_text("utf-8"), str(file)) for file in files})
    return "\n".join((found.table().markdown(), "", found.models.table().markdown()))


def table_of_a_page(page: str, anchor: str, place: str = "1") -> str:
    """The so-maniest table of a section: its file in docs/, the anchor of its heading, and the place from 1.

    Raises LookupError where there is no such section or table.
    """
    text = (DOCS / page).read_text("utf-8")
    for heading, body in re.findall(r"^#+ (.*)\n((?:(?!^#+ ).*\n?)*)", text, re.MULTILINE):
        if slug(heading) == anchor:
            return TABLE.findall(body + "\n")[int(place) - 1]
    raise LookupError(f"{page} has no section #{anchor}")


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
