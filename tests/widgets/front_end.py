"""A notebook of given cells in a real JupyterLab or Notebook 7, with widgets in its outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import nbformat

from tests.notebooks.lab import LabNotebook, jupyter_lab
from tests.support.chromium import page_of

NAME = "widgets.ipynb"
#: Errors of the front ends themselves. Notebook 7 asks for commands of a file browser that its notebook page lacks.
PARDONED = {"lab/tree": (), "notebooks": ("reading 'schema'", "'filebrowser:open-path' not registered")}
SENTINEL = "print('a kernel', 'answers')"


def write_notebook(folder: Path, cells: list[str]) -> None:
    """The cells behind one that tells when a kernel answers, so the first of them is cell 1."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (SENTINEL, *cells)]
    nbformat.write(notebook, folder / NAME)


@contextlib.contextmanager
def served(folder: Path, cells: list[str]) -> Iterator[tuple[str, str]]:
    """A server with the cells in `folder`/notebooks; yields (address, token)."""
    notebooks, home = folder / "notebooks", folder / "home"
    notebooks.mkdir()
    home.mkdir()
    write_notebook(notebooks, cells)
    with jupyter_lab(notebooks, home) as (address, token):
        yield address, token


@contextlib.contextmanager
def opened(browser, server: tuple[str, str], app: str = "lab/tree") -> Iterator[LabNotebook]:
    """The notebook with a kernel that answers. Uncaught errors in the page are raised at the end."""
    with page_of(browser, "about:blank", PARDONED[app]) as page:
        page.set_viewport_size({"width": 1280, "height": 1100})
        notebook = LabNotebook(page, *server, NAME, app=app)
        notebook.wait_for_kernel(0, "a kernel answers")
        yield notebook
