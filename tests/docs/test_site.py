"""What pages take from the code when the site is built, and that it builds without a warning."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

import wgsl_kernels
import workbench
from docs.generated import commands, filled, records
from docs.generated.python import entry, signature
from tests.conftest import REPOSITORY
from workbench import cli
from workbench.browser.certificate import Certificates, opened
from workbench.sweeps.published import registry


def test_every_command_and_option_is_in_the_reference():
    text = filled("<!-- generated: commands -->")
    parsers = commands.subparsers(cli.build_parser())
    assert re.findall(r"^## workbench (.*)$", text, re.MULTILINE) == list(parsers)
    for name, parser in parsers.items():
        part = text.split(f"## workbench {name}\n")[1].split("\n## workbench")[0]
        for action in parser._actions:
            for option in action.option_strings:
                assert option in part or option in ("-h", "--help"), f"{name} {option}"


def test_what_a_parser_says_is_shown_as_it_is():
    assert commands.prose("a `code_1` of *.x and [N] <y>") == r"a `code_1` of \*.x and \[N\] \<y>"
    assert commands.prose("one ` alone_") == r"one \` alone\_"


@pytest.mark.parametrize("module", [workbench, wgsl_kernels], ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference_with_its_docstring(module):
    page = filled((REPOSITORY / "docs" / "reference" / "python.md").read_text("utf-8"))
    for name in module.__all__:
        if name == "__version__":
            continue
        found = re.search(rf"^`+{{py:\w+}} {module.__name__}\.{name}\b.*\n\n(\w.*)", page, re.MULTILINE)
        assert found, name
        assert found[1] == getattr(module, name).__doc__.strip().splitlines()[0], name


def test_signatures_are_those_of_the_source():
    def example(a: str, *, b: int | None = None, _hidden: int = 1, c: object = object()) -> list[str]: ...

    assert signature(example) == "(a: str, *, b: int | None = None, c: object = ...) -> list[str]"
    shown = entry("workbench.errors.NoAdapterError", workbench.errors.NoAdapterError)
    assert shown.startswith("``````{py:exception} workbench.errors.NoAdapterError")


def test_tables_and_cells_of_records():
    assert all(f"| {name} " in records.published_cells() for name in registry())
    first = records.table_of_a_page("evaluation.md", "protocols")
    assert first.startswith("| name | text |")
    with pytest.raises(LookupError, match="has no section #nothing"):
        records.table_of_a_page("evaluation.md", "nothing")
    with pytest.raises(KeyError, match="poems"):
        filled("<!-- generated: poems -->")


def test_certificates_of_the_documentation_are_whole():
    """The seal of each is checked as it is read. Kernels, 64 greedy tokens and 4 windows are what references give."""
    files = (REPOSITORY / "docs" / "certificates").glob("*.json")
    found = Certificates({file.name: opened(file.read_text("utf-8"), str(file)) for file in files})
    assert {row["runtime"].split("/")[0].split()[0] for row in found.rows()} == {"Chrome", "Node"}
    assert found.beyond() == [] and all(row["within"] == row["cases"] > 300 for row in found.rows())
    for row in found.models.rows():
        assert (
            row["status"] == "within"
            and row["same tokens"] == "64 of 64"
            and row["windows"].startswith("4 of")
        )
    shown = records.certificates()
    assert all(f"| {row['certificate']} " in shown for row in found.rows())
    assert '<a href="../embedded-model/index.html">Open it</a>' in filled(
        "<!-- generated: model-page Open it -->"
    )


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("furo", reason="the extra docs is not installed")
    pytest.importorskip("myst_nb", reason="the extra docs is not installed")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        "docs",
        "-d",
        tmp_path / "trees",
    ]
    done = subprocess.run(
        [*command, ".", tmp_path / "site"], cwd=REPOSITORY, capture_output=True, encoding="utf-8", timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file(), "what a web server shows first"
    pages = [path.read_text("utf-8") for path in (tmp_path / "site").rglob("*.html")]
    assert len(pages) > 45
    fetched = re.compile(
        r'<(?:script|img|link rel="(?:stylesheet|preload)")[^>]*(?:src|href)="(?:https?:)?//'
    )
    assert [match[0] for page in pages for match in fetched.finditer(page)] == []
    assert (tmp_path / "site" / "embedded-model" / "programs" / "programs.json").is_file()
    assert "<math" in (tmp_path / "site" / "docs" / "statistics.html").read_text("utf-8")
    shutil.rmtree(tmp_path)
