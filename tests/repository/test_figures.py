"""A figure says what it is of: no table of losses in the README or the documentation stands without its model."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES

#: What a model costs: heads of such columns.
LOSS = re.compile(r"perplexity|\bKL\b|\bPPL\b|nats|same top-1|change", re.IGNORECASE)
MODELS = re.compile(r"embedded|SmolLM2|stories260K|babyllama105|Llama-\d|random weights", re.IGNORECASE)
#: What is to be said wherever the embedded model's figures stand.
NO_CLAIM = re.compile(
    r"prove[sd]? the|nothing of (?:what quantization costs )?others?|nothing of other models|still computes",
    re.IGNORECASE,
)


def tables(text: str) -> list[tuple[str, str]]:
    """Each Markdown table of figures, with the section that it stands in."""
    found = []
    for section in re.split(r"^(?=##? )", text, flags=re.MULTILINE):
        for table in re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE):
            head, _, *rows = table.splitlines()
            if LOSS.search(head) and any(re.search(r"\d\.\d", row) for row in rows):
                found.append((section, table))
    return found


FOUND = [(page, *each) for page in PAGES for each in tables(page.read_text("utf-8"))]


@pytest.mark.parametrize("page, section, table", FOUND, ids=lambda value: getattr(value, "name", ""))
def test_a_table_of_losses_names_its_model(page, section, table):
    assert MODELS.search(section), table


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_of_the_embedded_model_claim_nothing_of_others(page):
    text = page.read_text("utf-8")
    if any("embedded" in section.lower() for section, _ in tables(text)):
        assert NO_CLAIM.search(" ".join(text.split()))


def test_tables_are_found():
    assert {page.name for page, *_ in FOUND} >= {
        "benchmarks.md",
        "quantizers.md",
        "evaluation.md",
        "kernels.md",
    }
    assert len(FOUND) > 12
