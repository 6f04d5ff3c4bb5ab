"""What pages of the documentation take from the code when the site is built, so that it is written down once.

A page asks for it in a comment on a line of its own, which shows nothing where the page is read as it is:

    <!-- generated: commands -->
    <!-- generated: python workbench -->

The first word is one of `WHAT`, the others are handed to it. What comes back is MyST Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from . import commands, contents, python, records

REPOSITORY = Path(__file__).resolve().parents[2]
#: Where the site has the embedded model's page.
MODEL_PAGE = "embedded-model"


def model_page(title: str, *more: str) -> str:
    """A link to the embedded model's page, from a page in docs/."""
    return f'<a href="../{MODEL_PAGE}/index.html">{" ".join((title, *more))}</a>'


#: What may be asked for -> a function of the words behind it.
WHAT: dict[str, Callable[..., str]] = {
    "certificates": records.certificates,
    "commands": commands.every_command,
    "model-page": model_page,
    "python": python.names,
    "published": records.published_cells,
    "table": records.table_of_a_page,
    "other-pages": contents.other_pages,
}
ASKED = re.compile(r"^<!-- generated: (.*?) -->$", re.MULTILINE)


def filled(text: str) -> str:
    """A page's text with everything in it that it asks for. Raises KeyError for what does not exist."""

    def made(asked: re.Match[str]) -> str:
        what, *words = asked[1].split()
        return WHAT[what](*words)

    return ASKED.sub(made, text)
