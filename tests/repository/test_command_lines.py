"""Every command line in the README, the documentation and the notebooks' text is one that the real parser takes."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shlex
from dataclasses import dataclass

import pytest

from tests.conftest import REPOSITORY
from tests.docs.pages import PAGES
from workbench import cli

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
FENCED = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
#: What the parser may say of a line that is not complete.
INCOMPLETE = re.compile(r"arguments? .*(?:is|are) required|expected (?:one|at least one) argument$")


#: Where commands lie before the environment is activated; also behind other programs that start them.
VENV = ".venv/bin/"


@dataclass(frozen=True)
class Line:
    """A command line of a page; a mention in a sentence, or one with dots in it, need not be complete."""

    text: str
    complete: bool

    @property
    def arguments(self) -> list[str]:
        """Without a comment, what follows in the shell, and the dots that stand for others."""
        words = shlex.split(self.text, comments=True)[1:]
        end = next((i for i, word in enumerate(words) if word in ("&", "|", ">", "&&")), len(words))
        return [word for word in words[:end] if word != "..."]

    @property
    def wrong(self) -> str:
        """What the parser says against it, "" if nothing."""
        name = self.arguments[0]
        unknown = [] if name == "lm-eval" else set(re.findall(OPTION, self.text)) - OPTIONS[name]
        if unknown:
            return f"workbench {name} has no {', '.join(sorted(unknown))}"
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                PARSER.parse_args(self.arguments)
        except SystemExit as stopped:
            error = said.getvalue().strip().splitlines()[-1] if stopped.code else ""
            return "" if not self.complete and INCOMPLETE.search(error) else error
        return ""


def command_lines(text: str) -> list[Line]:
    """`workbench COMMAND ...` in fenced or indented blocks, lines joined at backslashes, and inline."""
    blocks = [
        body for language, body in FENCED.findall(text) if language.strip() in ("", "sh", "bash", "console")
    ]
    prose = FENCED.sub("", text)
    blocks.append("\n".join(re.findall(r"^ {4}(.*)$", prose, re.MULTILINE)))
    written = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = [(line.strip().removeprefix("$ ").rpartition(VENV)[2], True) for line in written]
    found += [(" ".join(code.split()), False) for code in INLINE.findall(prose)]
    return [
        Line(line, complete and "..." not in line)
        for line, complete in found
        if line.startswith("workbench ") and line.split()[1] in OPTIONS
    ]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    found = {option for action in parser._actions for option in action.option_strings}
    return found.union(*(options_of(sub) for sub in subparsers(parser).values()))


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    kinds = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(kinds[0].choices) if kinds else {}


PARSER = cli.build_parser()
OPTIONS = {name: options_of(sub) for name, sub in subparsers(PARSER).items()}
PAGE_LINES = [(page.name, line) for page in PAGES for line in command_lines(page.read_text("utf-8"))]


@pytest.mark.parametrize("page, line", PAGE_LINES, ids=lambda value: getattr(value, "text", value)[:60])
def test_a_command_line_is_taken(page, line):
    assert line.wrong == "", f"{page}: {line.text}"


#: Options of other programs that the pages speak of.
OTHERS = {
    "--scheduler-file",
    "--nthreads",
    "--no-nanny",
    "--port",
    "--resources",
    "--model_args",
    "--tasks",
    "--gres",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_option_that_is_mentioned_exists(page):
    known = OTHERS.union(*OPTIONS.values())
    prose = page.read_text("utf-8")
    named = {option for code in INLINE.findall(FENCED.sub("", prose)) for option in OPTION.findall(code)}
    assert named <= known, f"{page.name}: {sorted(named - known)}"


def test_targets_of_make_exist():
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text("utf-8")
        named = re.findall(
            r"^ *make ([a-z-]+)", "\n".join(body for _, body in FENCED.findall(text)), re.MULTILINE
        )
        named += re.findall(r"^make ([a-z-]+)", "\n".join(INLINE.findall(text)), re.MULTILINE)
        assert set(named) <= targets, page.name
    assert "demo" in targets


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_command_lines_of_notebooks(notebook):
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert [(line.text, line.wrong) for line in command_lines(text) if line.wrong] == []


def test_the_reader_finds_what_is_wrong():
    """Fenced, indented and inline; continued lines; and a switch that is not there."""
    text = (
        "`workbench tune OUT` and `workbench.load`\n\n    workbench sweep A.toml   # a note\n\n"
        "```\nworkbench quantize --model M --format int4 \\\n    --output O\nworkbench generate --model M\n```\n"
        "```python\nworkbench generate\n```\n"
        "`workbench quantize --override x=int8 ...`, `workbench generate --prompt`\n"
    )
    found = {line.text.split()[1] + str(index): line.wrong for index, line in enumerate(command_lines(text))}
    assert list(found) == ["quantize0", "generate1", "sweep2", "tune3", "quantize4", "generate5"]
    assert [found[name] for name in ("quantize0", "sweep2", "tune3", "generate5")] == [""] * 4
    assert "required: --prompt" in found["generate1"]
    assert found["quantize4"] == "workbench quantize has no --override"
    assert len(PAGE_LINES) > 50
