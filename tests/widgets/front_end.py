"""A notebook of given cells in a real JupyterLab or Notebook 7, with widgets in its outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import nbformat

from tests.notebooks.lab import LabNotebook, jupyter_lab
from tests.support.chromium import browser_page

NAME = "widgets.ipynb"
SENTINEL = "print('a kernel', 'answers')"


def write_notebook(folder: Path, cells: list[str]) -> None:
    """The cells behind one that tells when a kernel answers, so the first of them is cell 1."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (SENTINEL, *cells)]
    nbformat.write(notebook, folder / NAME)


@contextlib.contextmanager
def opened(tmp_path: Path, cells: list[str]) -> Iterator[tuple[LabNotebook, Path]]:
    """The cells in JupyterLab with a kernel that answers; yields the notebook and its file."""
    folder, home = tmp_path / "notebooks", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    write_notebook(folder, cells)
    with jupyter_lab(folder, home) as (address, token), browser_page("about:blank") as page:
        page.set_viewport_size({"width": 1280, "height": 1100})
        notebook = LabNotebook(page, address, token, NAME)
        notebook.wait_for_kernel(0, "a kernel answers")
        yield notebook, folder / NAME
