"""Running the notebooks, and storing them with fresh outputs.

`python -m tests.notebooks.execute [NAME...]` makes each notebook anew from its py:percent file, runs it in a temporary
folder and stores it; do so after every change of a .py file in notebooks/.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import REPOSITORY

NOTEBOOKS = REPOSITORY / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT_S = 600
KERNEL = "python3"


def scripts() -> list[Path]:
    """The py:percent files of all notebooks."""
    return sorted(NOTEBOOKS.glob("[0-9]*.py"))


def from_script(script: Path):
    """The notebook of a py:percent file, without outputs."""
    import jupytext

    notebook = jupytext.read(script)
    notebook.metadata["language_info"] = {"name": "python"}
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:02d}"  # the same at every run: a smaller diff
    return notebook


def execute(notebook, folder: Path, environment: dict[str, str]):
    """Run all cells in a fresh kernel of this interpreter with `folder` as working directory; outputs are in place.

    environment: the kernel's. Raises nbclient's CellExecutionError at the first cell that fails.
    """
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name=KERNEL,
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
    )
    return client.execute(env=environment)


def kernel_environment(folder: Path) -> dict[str, str]:
    """This process's environment, with a runtime folder: where there is none, Wayland's library says so on stderr.

    Kernels are compiled as on users' machines, which the tests' own are not: stored notebooks tell how fast they run.
    """
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700, exist_ok=True)
    own = {"XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(REPOSITORY), "GALLIVM_PERF": ""}
    # A kernel that knows of a test leaves out what processes write on stderr, which users see.
    return {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} | own


def for_storage(notebook):
    """Drop what only a running kernel can show, wherever something else says the same."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET_VIEW in data and len(data) > 1:
                del data[WIDGET_VIEW]
        if "outputs" in cell:
            cell.outputs = _merged(cell.outputs)
    notebook.metadata.pop("widgets", None)
    return notebook


def _merged(outputs: list) -> list:
    """Consecutive pieces of one stream as one output, as JupyterLab stores them."""
    merged: list = []
    for output in outputs:
        last = merged[-1] if merged else {}
        if output.output_type == "stream" and output["name"] == last.get("name"):
            last["text"] += output["text"]
        else:
            merged.append(output)
    return merged


def refresh(script: Path) -> tuple[float, float]:
    """Store the notebook of a script with fresh outputs; returns the wall and CPU seconds that it took."""
    import nbformat

    notebook = from_script(script)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "notebooks"
        work.mkdir()
        began = time.perf_counter()
        execute(notebook, work, kernel_environment(Path(folder)))
        seconds = time.perf_counter() - began
    nbformat.write(for_storage(notebook), script.with_suffix(".ipynb"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for path in scripts():
        if not wanted or path.stem in wanted:
            print("{}: {:.0f} s, {:.0f} s of CPU".format(path.stem, *refresh(path)))
