"""A notebook of the project, filled in for a model and a text of one's own: `workbench notebook`.

Each notebook has one line that names its model, and those that score a text one that names it; the copy has them
changed, and no outputs. Everything else follows from the model (`workbench.studies.fitting`).
"""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from workbench.assets import notebooks
from workbench.errors import WorkbenchError
from workbench.files.writing import write_text
from workbench.models.source import open_source, require_floats

#: The lines that are changed: what is assigned, and the comment that stays behind it.
MODEL_LINE = re.compile(r"^(CHECKPOINT|MODEL) = [^#\n]+(#.*the one line to change)$", re.M)
TEXT_LINE = re.compile(r"^(TEXT) = [^#\n]+(#.*)$", re.M)
#: What a notebook says to its study if it quantizes the model.
QUANTIZES = re.compile(r"\bStudy\(.*\bquantizes=True\)")
#: Seconds that one cell may take.
CELL_TIMEOUT = 3600


def names() -> list[str]:
    """Of all notebooks, such as "01_quantization_accuracy"."""
    return sorted(path.stem for path in notebooks().glob("[0-9]*.ipynb"))


def find(name: str) -> Path:
    """A notebook by its name, its number, or the beginning of either. Raises WorkbenchError listing what there is."""
    there = names()
    found = [each for each in there if each.startswith(name) or each.partition("_")[2].startswith(name)]
    if len(found) == 1 and name:
        return notebooks() / f"{found[0]}.ipynb"
    close = difflib.get_close_matches(name, [each.partition("_")[2] for each in there], 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    said = "is no notebook" if not found else "means several notebooks"
    raise WorkbenchError(f"notebook: {name!r} {said}{meant}; allowed: {', '.join(there)}")


def filled(name: str, model: str | None = None, text: str | None = None) -> dict[str, Any]:
    """The notebook as JSON values of its format, without outputs, for a model (a folder, a hub id or a fetched name)
    and a text (a file, or a name as `eval.named_texts` knows them); None leaves what is there.

    Folders and files are written in full, since a notebook runs where it lies. Raises WorkbenchError for a notebook
    that does not exist, and for one that takes no model, or no text; of a model that is here, what opening it raises,
    and CheckpointError for a quantized one in a notebook that quantizes.
    """
    path = find(name)
    notebook = json.loads(path.read_text("utf-8"))
    for what, line, value in (("model", MODEL_LINE, model), ("text", TEXT_LINE, text)):
        if value is not None:
            _assign(notebook, line, _literal(value), f"notebook {path.stem} takes no {what} of one's own")
    if model is not None:
        _check(notebook, model, path.stem)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    notebook["metadata"].pop("widgets", None)
    return notebook


def write(notebook: dict[str, Any], output: Path, *, execute: bool = False) -> None:
    """Write a notebook, whole or not at all; execute: after it has run in the folder of the output, with its results.

    Raises WorkbenchError for another suffix than .ipynb, where what runs notebooks is not installed, and for the first
    cell that fails, whose error is in the notebook, which is written then too; StorageError where nothing can be.
    """
    if output.suffix != ".ipynb":
        raise WorkbenchError(f"notebook: the output is a .ipynb file, not {output}")
    failed = None
    if execute:
        notebook, failed = _executed(notebook, output.absolute().parent)
    write_text(output, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    if failed is not None:
        raise WorkbenchError(f"{output}: a cell failed: {failed}")


def _assign(notebook: dict[str, Any], line: re.Pattern[str], literal: str, otherwise: str) -> None:
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        changed, count = line.subn(lambda match: f"{match[1]} = {literal}  {match[2]}", source)
        if count and cell["cell_type"] == "code":
            cell["source"] = changed.splitlines(keepends=True)
            return
    raise WorkbenchError(otherwise)


def _check(notebook: dict[str, Any], model: str, name: str) -> None:
    """Open the model if it is a folder or file here, and see that the notebook can work on it; a name of the hub or of
    the catalogue is looked at when the notebook runs."""
    code = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    if not Path(model).expanduser().exists():
        return
    source = open_source(model, verify=False)
    if any(map(QUANTIZES.search, code)):
        require_floats(source, f"notebook {name} quantizes the model")


def _literal(value: str) -> str:
    """A Python literal of a name, or of the full path of what there is."""
    there = Path(value).expanduser()
    return json.dumps(str(there.absolute()) if there.exists() else value, ensure_ascii=False)


def _executed(notebook: dict[str, Any], folder: Path) -> tuple[dict[str, Any], str | None]:
    """The notebook with its outputs, and what ended it before its last cell."""
    try:
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise WorkbenchError(f"notebook: --execute needs the extra lab ({error})") from error
    opened = nbformat.reads(json.dumps(notebook), as_version=4)
    client = NotebookClient(
        opened,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    failed = None
    try:
        client.execute()
    except CellExecutionError as error:
        failed = f"{error.ename}: {error.evalue}"
    return json.loads(nbformat.writes(opened)), failed
