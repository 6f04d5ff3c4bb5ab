"""Links from page to page lead somewhere, wherever they are read: files exist, and headings that an anchor names."""

from __future__ import annotations

import re
import urllib.parse
from pathlib import Path

import pytest

from docs.generated.records import slug
from tests.conftest import REPOSITORY
from tests.docs.pages import FENCED, PAGES, named

LINK = re.compile(r"\]\(([^()\s]+)\)")
LINKING = [*PAGES, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"]


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    found = []
    for target in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or not file.is_relative_to(REPOSITORY):
            found.append(f"{target}: there is no such file")
        elif anchor and anchor not in anchors(file):
            found.append(f"{target}: there is no such heading")
    return found


def anchors(page: Path) -> set[str]:
    text = FENCED.sub("", page.read_text("utf-8"))
    return {slug(re.sub(r"[`*]", "", heading)) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", LINKING, ids=named)
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_the_reader_finds_what_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.test_links.REPOSITORY", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A `name`, and more\n[a](#a-name-and-more) [b](#no) [c](none.md) [d](https://e.org/x#y)\n"
    )
    assert broken(page) == ["#no: there is no such heading", "none.md: there is no such file"]


def test_every_page_is_in_the_list_of_contents():
    """Those beside index.md by name or as others, those in folders by the folder's list."""
    from docs.generated import filled

    index = filled((REPOSITORY / "docs" / "index.md").read_text("utf-8"))
    listed = set(re.findall(r"^[\w/.-]+$", index, re.MULTILINE))
    for page in PAGES:
        inside = page.relative_to(REPOSITORY / "docs") if page.name != "README.md" else None
        if inside is not None and inside.stem != "index" and inside.parts[0] != "howto":
            assert inside.with_suffix("").as_posix() in listed, named(page)


#: Every address elsewhere that a reader is sent to. `make links` asks them all whether they answer.
ELSEWHERE = {
    "https://anywidget.dev/en/afm/",
    "https://keepachangelog.com/en/1.1.0/",
    "https://ui.perfetto.dev",
}
ADDRESS = re.compile(r"\bhttps?://[^\s<>()\"'`|]+")
#: Those of one's own server, in examples.
OWN = re.compile(r"http://(?:localhost|127\.0\.0\.1|HOST)(?:[:/]|$)")


def elsewhere(text: str) -> set[str]:
    return {found.rstrip(".,;:") for found in ADDRESS.findall(text) if not OWN.match(found)}


def test_addresses_elsewhere_are_few_secure_and_meant():
    """A new one is added here on purpose, and one that is gone is taken away: addresses go stale."""
    found = set().union(*(elsewhere(page.read_text("utf-8")) for page in LINKING))
    assert found == ELSEWHERE
    for address in found:
        parts = urllib.parse.urlsplit(address)
        assert parts.scheme == "https" and "." in parts.netloc and not parts.query, address


def test_addresses_are_found_wherever_they_stand():
    text = "See https://a.org/b, <http://c.org>, [d](https://e.org/f) and `curl http://localhost:8000/v1`."
    assert elsewhere(text) == {"https://a.org/b", "http://c.org", "https://e.org/f"}
