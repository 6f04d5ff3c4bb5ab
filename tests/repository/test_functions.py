"""Functions are short and take few parameters, or say beside their signature why not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("workbench", "wgsl_kernels", "eval")
MOST_LINES, MOST_PARAMETERS = 80, 8
FILES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))


def excessive(source: str) -> Iterator[tuple[str, str]]:
    """(function, what it is without a reason) of each function that is too long or takes too much; and of each with a
    reason that it no longer needs."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        parameters = sum(each.arg not in ("self", "cls") for each in named)
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        signature = "\n".join(lines[node.lineno - 1 : max(node.lineno, node.body[0].lineno - 1)])
        for value, most, what in (
            (length, MOST_LINES, "long"),
            (parameters, MOST_PARAMETERS, "many parameters"),
        ):
            said = re.search(rf"# (?:.*; )?{what}: \w+", signature) is not None
            if (value > most) != said:
                yield node.name, f"{what}: {value}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_what_is_long_says_why(path: Path):
    assert list(excessive(path.read_text("utf-8"))) == []


def test_the_rule_finds_what_it_should():
    many = ", ".join("abcdefghi")
    body = "    pass\n" * MOST_LINES
    assert list(excessive(f"def f({many}): ...")) == [("f", "many parameters: 9")]
    assert list(excessive(f"class C:\n    def f(self, {many[3:]}): ...")) == []
    assert list(excessive(f"def f(  # many parameters: one an operand\n    {many},\n): ...")) == []
    assert list(excessive(f"def f(\n    {many},\n):  # many parameters: one an operand\n    pass")) == []
    assert list(excessive(f"def f():\n{body}")) == [("f", f"long: {MOST_LINES + 1}")]
    assert list(excessive(f"def f():  # long: a table of cases\n{body}")) == []
    assert list(excessive(f"def f({many}):  # long: a table\n{body}")) == [("f", "many parameters: 9")]
    assert list(excessive("def f(a):  # many parameters: one an operand\n    pass")) == [
        ("f", "many parameters: 1")
    ]
