"""What is stored: notebook and script agree, outputs are complete, and nothing of the machine is in them."""

from __future__ import annotations

import json
import re

import pytest

from tests.notebooks.execute import WIDGET_VIEW
from tests.repository.test_files import HOME_PATHS
from tests.support.chromium import browser_page

LARGEST = 600_000
#: Of each notebook: pictures, tables at least, and the heads of one table that readers come for.
SHOWN = {
    "01_quantization_accuracy": (5, 9, ("perplexity", "KL")),
    "02_kernel_lab": (5, 4, ("step", "times as fast")),
    "03_generation": (3, 7, ("parts at token", "flips")),
    "04_benchmark_tables": (1, 4, ("published", "verdict")),
    "05_per_layer_precision": (6, 6, ("predicted KL", "perplexity")),
    "06_compare_models": (1, 2, ("KL p99.9", "last word")),
    "07_mixtures_of_experts": (3, 6, ("perplexity", "of the KL is routing's")),
}
TEMPORARY_PATHS = re.compile(r"(?<![\w.:/-])/(?:tmp|var|usr|opt|mnt)/")
ADDRESSES = re.compile(r" at 0x[0-9a-f]{6,}")


def outputs(notebook):
    return [(i, output) for i, cell in enumerate(notebook.cells) for output in cell.get("outputs", [])]


def said(output) -> str:
    """All text of an output; pictures left out."""
    texts = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
    return str(output.get("text", "")) + json.dumps(texts)


def test_script_and_notebook_agree(script):
    jupytext = pytest.importorskip("jupytext")
    from jupytext.compare import compare_notebooks

    notebook = jupytext.read(script.with_suffix(".ipynb"))
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    compare_notebooks(jupytext.read(script), notebook, fmt="py:percent")


def test_every_cell_was_run_in_order(stored):
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_outputs_are_clean(stored):
    for index, output in outputs(stored):
        assert output.output_type != "error", f"cell {index}: {output.get('evalue')}"
        assert output.get("name") != "stderr", f"cell {index}: {output.get('text')}"
        text = said(output)
        assert not HOME_PATHS.search(text.encode()), f"cell {index}: a path of a machine"
        assert not TEMPORARY_PATHS.search(text), f"cell {index}: a path of a machine"
        assert not ADDRESSES.search(text), f"cell {index}: the address of an object"
        assert "Warning" not in text, f"cell {index}: a warning"


def test_outputs_read_without_a_kernel(script, stored):
    assert "widgets" not in stored.metadata
    kinds = [kind for _, output in outputs(stored) for kind in output.get("data", {})]
    assert WIDGET_VIEW not in kinds
    pictures, tables, _ = SHOWN[script.stem]
    assert kinds.count("image/png") >= pictures
    pages = [str(output.get("data", {}).get("text/html", "")) for _, output in outputs(stored)]
    assert kinds.count("text/markdown") + sum("<table" in page for page in pages) >= tables


def test_size(script):
    assert script.with_suffix(".ipynb").stat().st_size < LARGEST


@pytest.mark.notebook
@pytest.mark.browser
def test_exported_page_shows_tables_and_pictures_offline(script, stored, tmp_path):
    nbconvert = pytest.importorskip("nbconvert")
    body, _ = nbconvert.HTMLExporter().from_notebook_node(stored)
    page_file = tmp_path / "page.html"
    page_file.write_text(body, encoding="utf-8")
    pictures = sum("image/png" in output.get("data", {}) for _, output in outputs(stored))
    with browser_page("about:blank") as page:
        page.route(re.compile("^https?:"), lambda route: route.abort())
        page.goto(page_file.as_uri())
        page.wait_for_function("[...document.images].every(image => image.complete)")
        shown = page.evaluate(
            "[...document.images].filter(i => i.naturalWidth > 300 && i.checkVisibility()"
            " && i.getBoundingClientRect().width > 300).length"
        )
        tables = page.locator("table").filter(visible=True)
        heads = [" ".join(table.locator("tr").first.all_inner_texts()) for table in tables.all()]
    assert shown == pictures
    wanted = SHOWN[script.stem][2]
    assert any(all(name in head for name in wanted) for head in heads), heads
