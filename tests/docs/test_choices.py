"""What is chosen by name stands where people look for what there is: each family, quantizer and protocol."""

from __future__ import annotations

import re

import pytest

from eval import protocols
from eval.protocol_names import FORMS
from tests.conftest import REPOSITORY
from workbench.models.families import FAMILIES
from workbench.quantizers import QUANTIZERS


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text("utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_a_row(family):
    rows = re.findall(r"^\| (`.*?) \|", page("models.md"), re.MULTILINE)
    assert any(f"`{family}`" in row for row in rows), f"no row of docs/models.md, Families, has `{family}`"


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_quantizer_is_named(quantizer):
    assert f"`{quantizer}`" in page("formats.md"), f"docs/formats.md, Formats, does not name `{quantizer}`"


@pytest.mark.parametrize("kind", FORMS)
def test_a_protocol_has_a_row(kind):
    for where, text in (
        ("docs/evaluation.md", page("evaluation.md")),
        (protocols.__file__, protocols.__doc__),
    ):
        assert f"\n| `{kind}" in text, f"no row of the table of protocols in {where} begins with `{kind}"
