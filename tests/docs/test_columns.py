"""The glossary of columns has every column that the code makes, and no other."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator

from eval.comparison import Comparison
from tests.conftest import REPOSITORY
from workbench.sweeps.render import COLUMNS, records
from workbench.sweeps.rows import Conditions, Row

PAGE = REPOSITORY / "docs" / "reference" / "columns.md"
#: What heads of tables are called where they are written: variables, and functions that return them.
VARIABLES = {"head", "kl_head", "columns", "costs", "variants"}
FUNCTIONS = {"head", "rows", "_columns", "_split_columns"}
#: Modules with such names that are no heads of tables.
OTHERS = {"browser/certificate.py", "models/contents.py", "runtime/session.py"}


def explained() -> set[str]:
    """Names in the first columns of the page's tables."""
    first = re.findall(r"^\| (`.*?`) \|", PAGE.read_text("utf-8").replace(r"\|", "¦"), re.MULTILINE)
    return {name.replace("¦", "|") for cell in first for name in re.findall(r"`([^`]+)`", cell)}


def literals(node: ast.expr) -> Iterator[str]:
    """Texts of a list, of the keys of a dict, and of the first of pairs; what is filled in becomes FORMAT."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            yield from literals(key or value)
    elif isinstance(node, ast.List | ast.Tuple):
        for each in node.elts:
            yield from literals(each.elts[0] if isinstance(each, ast.Tuple) and each.elts else each)
    elif isinstance(node, ast.Starred):
        yield from literals(node.value)
    elif isinstance(node, ast.IfExp):
        yield from literals(node.body)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "FORMAT" for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def heads(source: str) -> Iterator[str]:
    """Titles of columns that stand in a module: by the names of what holds them, and as the first of `Table(...)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {target.id.lower() for target in targets if isinstance(target, ast.Name)}
            if names & VARIABLES:
                yield from literals(node.value)
        elif isinstance(node, ast.Call) and node.args and "Table" in ast.unparse(node.func).split("."):
            yield from literals(node.args[0])
        elif isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Dict) or (node.name == "head" and isinstance(inner, ast.List)):
                    yield from literals(inner)


def in_the_source() -> set[str]:
    found = set()
    for package in ("workbench", "eval"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if path.relative_to(REPOSITORY / package).as_posix() not in OTHERS and "assets" not in path.parts:
                found.update(heads(path.read_text("utf-8")))
    return {re.sub(r" \(FORMAT\)$", "", title) for title in found} - {""}


def of_records() -> set[str]:
    """Fields of CSV and JSON: those of a row, and of its conditions."""
    nothing = {field.name: None for field in dataclasses.fields(Row)}
    conditions = Conditions(*(None for field in dataclasses.fields(Conditions)))
    (record,) = records([Row(**{**nothing, "conditions": conditions})])
    return set(record)


def of_kernel_records() -> set[str]:
    """Fields of a metric's row, from the functions that make it."""
    source = (REPOSITORY / "workbench" / "kernel_bench" / "rows.py").read_text("utf-8")
    functions = {each.name: each for each in ast.walk(ast.parse(source)) if isinstance(each, ast.FunctionDef)}
    made = [node for name in ("metric_rows", "_sampled") for node in ast.walk(functions[name])]
    return {
        text for node in made if isinstance(node, ast.Dict) for text in literals(node) if text != "common"
    }


def test_fields_that_the_page_on_results_names_are_in_them():
    """`baseline.ln_ratio` is a field of what a result is paired with."""
    page = (REPOSITORY / "docs" / "howto" / "read-a-result.md").read_text("utf-8")
    cells = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    fields = {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}
    tree = ast.parse((REPOSITORY / "eval" / "result.py").read_text("utf-8"))
    functions = [
        each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef) and each.name == "to_json"
    ]
    dicts = [node for each in functions for node in ast.walk(each) if isinstance(node, ast.Dict)]
    paired = {"kl_mean", *(field.name for field in dataclasses.fields(Comparison))}
    there = {text for each in dicts for text in literals(each)} | {f"baseline.{name}" for name in paired}
    assert len(fields) > 15
    assert sorted(fields - there) == []


def test_every_column_is_explained():
    there = in_the_source() | {title for title, _ in COLUMNS} | of_records() | of_kernel_records()
    assert {"perplexity ± SE", "us a call", "KL alone, nats a token", "kl_p99.9", "wgsl_sha256"} <= there
    assert sorted(there - explained()) == []
    assert sorted(explained() - there) == []


def test_the_census_finds_what_it_should():
    source = (
        "HEAD = ['one', *MORE]\nhead += [f'{name}: KL', 'two']\nTable(['three'], rows)\n"
        "Table.of({'four': 1, **({'five (x)': 2} if more else {})}, rows)\nother = ['six']\n"
        "def head(self):\n    return ['seven', f'us ({x})']\n"
    )
    found = ["one", "FORMAT: KL", "two", "three", "four", "five (x)", "seven", "us (FORMAT)"]
    assert sorted(heads(source)) == sorted(found)
