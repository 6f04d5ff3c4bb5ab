"""FIFOs, sockets, devices and folders in the place of files: refused at once, by whatever reads files."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from eval.result import PerplexityResult
from eval.texts import load_text
from eval.top_logits import StoredBaseline
from tests.convert.conftest import small_checkpoint
from tests.formats.models import SMALL, write_model
from workbench.commands.perplexity import stored_baseline
from workbench.errors import WorkbenchError
from workbench.files.reading import is_regular, open_regular, read_bytes, read_text
from workbench.formats.errors import FormatError
from workbench.kernel_bench.differences import read as read_record
from workbench.model_bench.synthetic import shape_config
from workbench.models.source import open_source
from workbench.precision.allocation import Allocation
from workbench.precision.table import SensitivityTable
from workbench.runtime.tuning.store import Store, TuningFileWarning
from workbench.runtime.tuning.tune import tune
from workbench.sweeps.spec import read_spec
from workbench.sweeps.table import table

# Waiting for a FIFO, or reading a device to its end, would take for ever.
pytestmark = pytest.mark.timeout(30)
KINDS = ("FIFO", "socket", "device", "folder")


def put(kind: str, path: Path) -> Path:
    """Something that is no regular file, in the place of whatever is there."""
    path.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            here = os.getcwd()
            os.chdir(path.parent)  # the name of a socket must be short
            try:
                made.bind(path.name)
            finally:
                os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_regular_files_alone_are_opened(tmp_path, kind):
    path = put(kind, tmp_path / "x")
    for reading in (open_regular, is_regular, read_bytes, read_text):
        with pytest.raises(OSError, match=f"is a {kind}, not a regular file") as raised:
            reading(path)
        assert raised.value.filename == str(path)


def test_what_is_a_file_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"\xc3\xa9\r\n")
    (tmp_path / "link").symlink_to("x")
    assert read_text(tmp_path / "link") == "é\r\n" and is_regular(tmp_path / "link")
    assert not is_regular(tmp_path / "y") and not is_regular(tmp_path / "x" / "y")
    assert read_bytes(tmp_path / "x", 4) and os.get_blocking(0) is not None
    with pytest.raises(OSError, match="has 4 bytes, 3 are allowed"):
        read_bytes(tmp_path / "x", 3)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "y")
    with pytest.raises(OSError, match="null"):
        read_bytes(tmp_path / "a\0b")


READERS = {
    "text": load_text,
    "sweep": read_spec,
    "allocation": Allocation.load,
    "sensitivities": SensitivityTable.load,
    "baseline": StoredBaseline.load,
    "result": PerplexityResult.load,
    "baseline of the command": stored_baseline,
    "benchmark": read_record,
    "shape": lambda path: shape_config(str(path)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_of_a_file_refuses_at_once(tmp_path, reader, kind):
    if (reader, kind) == ("baseline of the command", "folder"):
        pytest.skip("a folder is a model's name there")
    with pytest.raises(WorkbenchError, match=f"is a {kind}, not a regular file"):
        READERS[reader](put(kind, tmp_path / "x.toml"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("special") / "checkpoint", num_hidden_layers=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "generation_config.json",
    ],
)
def test_every_file_of_a_checkpoint(checkpoint, tmp_path, name, kind):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    put(kind, folder / name)
    with pytest.raises(WorkbenchError, match=f"{name}: .*is a {kind}, not a regular file"):
        open_source(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_of_a_checkpoint(checkpoint, tmp_path, kind):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    weights = {"model.embed_tokens.weight": "a.safetensors", "model.norm.weight": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    put(kind, folder / "b.safetensors")
    with pytest.raises(WorkbenchError, match=f"b.safetensors: .*is a {kind}"):
        open_source(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["manifest.json", "model.wgpu", "tokenizer/tokenizer.json"])
def test_every_file_of_a_stored_model(tmp_path, name, kind):
    folder = write_model(tmp_path / "model", names=SMALL)
    put(kind, folder / name)
    with pytest.raises(FormatError, match=f"is a {kind}, not a regular file") as raised:
        open_source(folder)
    assert raised.value.file == str(folder / name)


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_optional_or_looked_for(tmp_path, kind):
    with pytest.raises(WorkbenchError):
        tune(put(kind, tmp_path / "config.json"))
    store = Store(tmp_path / "tuning", {"device": "x"})
    store.folder.mkdir()
    put(kind, store.path)
    with pytest.warns(TuningFileWarning, match=f"is a {kind}"):
        assert store.read() == {}
    (tmp_path / "runs" / "cells").mkdir(parents=True)
    put(kind, tmp_path / "runs" / "cells" / "x.json")
    with pytest.raises(WorkbenchError, match=r"x\.json"):
        table(tmp_path / "runs")
