"""Sphinx's configuration of the documentation site: `make docs`.

The source folder is the repository, not docs/, so that a link from a page to a notebook or to CONTRIBUTING.md is the
same on the site and where the repository is read. Notebooks are shown as they are stored; nothing of them is run.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "docs")]

import generated  # noqa: E402  (beside this file)

facts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
project = "WebGPU quantization workbench"
author = f"{facts['name']} contributors"
version = release = facts["version"]

root_doc = "docs/index"
extensions = ["myst_nb", "generated.mathml"]
include_patterns = ["docs/**.md", "notebooks/*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md"]
# Folders that are not even to be looked through.
exclude_patterns = [".*", "build", "dist", "runs", "tests", "workbench", "wgsl_kernels", "eval"]

nb_execution_mode = "off"
# Nothing is fetched for widgets, which are shown as the HTML that they leave.
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]
nb_render_markdown_format = "myst"  # tables too
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 4
python_maximum_signature_line_length = 90
smartquotes = False  # "--option" stays what it is

html_theme = "furo"
html_title = project
html_extra_path = ["site"]
html_math_renderer = "mathml"
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = html_show_sourcelink = False

# Addresses in examples.
linkcheck_ignore = [r"https?://localhost.*", r"https?://HOST.*"]


def fill(app: Any, name: str, source: list[str]) -> None:
    """What a page asks for takes the place of the comment that asks for it."""
    if not name.startswith("notebooks/"):
        source[0] = generated.filled(source[0])


def embedded_model(app: Any, failed: Exception | None) -> None:
    """The embedded model in a page, beside the documentation that links to it."""
    if failed or app.builder.name != "html":
        return
    from workbench.browser.model_case import embedded
    from workbench.browser.page import write_page

    with embedded() as model:
        write_page(model, Path(app.outdir) / generated.MODEL_PAGE, max_tokens=512, overwrite=True)


def setup(app: Any) -> None:
    app.connect("source-read", fill)
    app.connect("build-finished", embedded_model)
