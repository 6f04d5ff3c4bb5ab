"""Notebook 01 is what a user would write: of the project it uses public names alone."""

from __future__ import annotations

import ast
import re

import pytest

import workbench
from tests.notebooks.execute import NOTEBOOKS

NAME = "01_quantization_accuracy.py"
OURS = ("workbench", "eval", "wgsl_kernels", "tests")
#: How widgets show themselves, and what Python names itself.
PROTOCOL = {"_repr_mimebundle_", "__name__"}


def private(code: str) -> list[str]:
    """Whatever of the project the code uses that is in no `__all__`: imports, attributes, code in comments too."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [
                each.name
                for each in node.names
                if each.name.partition(".")[0] in OURS and (each.name != "workbench" or each.asname)
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in OURS:
            found.append(str(node.module))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr not in PROTOCOL:
            found.append(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            found.append("getattr")
    commented = re.findall(rf"^# (?:from|import) (?:{'|'.join(OURS)})\b.*", code, re.M)
    named = re.findall(r"\bworkbench\.([A-Za-z_]\w*)", code)
    found += [*commented, *(f"workbench.{name}" for name in named if name not in workbench.__all__)]
    return list(dict.fromkeys(found))


def test_notebook_01_uses_public_names_alone():
    code = (NOTEBOOKS / NAME).read_text(encoding="utf-8")
    assert private(code) == []
    assert len(set(re.findall(r"\bworkbench\.(\w+)\(", code))) > 6


@pytest.mark.parametrize(
    "code, found",
    [
        ("import eval.perplexity", "eval.perplexity"),
        ("import workbench as w", "workbench"),
        ("from workbench.studies import plots", "workbench.studies"),
        ("# from eval.texts import encode", "# from eval.texts import encode"),
        ("import workbench\nworkbench.studies.plots", "workbench.studies"),
        ("model._executor", "_executor"),
        ("getattr(model, name)", "getattr"),
    ],
)
def test_what_is_private_is_found(code, found):
    assert private(code) == [found]
