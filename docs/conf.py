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
