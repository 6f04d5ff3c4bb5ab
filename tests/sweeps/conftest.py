"""A small random checkpoint with a tokenizer and a text, made here, so that a cell takes a second or two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.eval.conftest import byte_tokenizer
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from tests.support.threads import one_torch_thread

TINY = CONFIG | {"vocab_size": 259}
WINDOW = 32


@dataclass(frozen=True)
class Materials:
    """model: a checkpoint's folder. text: a file of about 9,000 bytes."""

    model: Path
    text: Path

    def spec(self, folder: Path, **changes: str) -> Path:
        """A sweep of five formats and one protocol: six cells with the baseline."""
        parts = {
            "sweep": "max_windows = 100",
            "texts": f"[texts.prose]\nfile = {json.dumps(str(self.text))}",
            "model": json.dumps(str(self.model)),
            "format": '["int8", "int4"]',
            "block_size": '[32, "channel"]',
            "quantizer": '"rtn"',
            "protocol": json.dumps(f"disjoint-{WINDOW}"),
            "rest": '[[include]]\nmodel = "tiny"\nformat = "int2/32"\nprotocol = "disjoint-32"',
        } | changes
        parts["rest"] = parts["rest"].replace('"tiny"', parts["model"])
        axes = "\n".join(
            f"{axis} = {parts[axis]}" for axis in ("model", "format", "block_size", "quantizer", "protocol")
        )
        path = folder / "blocks.toml"
        path.write_text(f"[sweep]\n{parts['sweep']}\n{parts['texts']}\n[grid]\n{axes}\n{parts['rest']}\n")
        return path


@pytest.fixture(scope="session")
def materials(tmp_path_factory) -> Materials:
    folder = tmp_path_factory.mktemp("materials")
    model = write_checkpoint(folder / "tiny", random_state(TINY), TINY)
    byte_tokenizer().save_pretrained(model)
    words = ["a", "river", "stone", "and", "the", "small", "garden", "owl", "sang"]
    text = folder / "prose.txt"
    text.write_text(" ".join(np.random.default_rng(5).choice(words, 1800)))
    return Materials(model, text)


@pytest.fixture(scope="session")
def one_thread():
    """Of each worker and of this process: small models gain nothing from more, and two workers share two cores."""
    with pytest.MonkeyPatch.context() as patch, one_torch_thread():
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def workers(one_thread):
    """Two local workers that serve one sweep after another: what takes long is their start."""
    from workbench.sweeps.local import LocalProcesses

    executor = LocalProcesses(2)
    yield executor
    executor.close()


def figures(folder: Path) -> dict[str, dict]:
    """File name -> what a result says, without times and names of the run."""
    found = {}
    for path in sorted((folder / "cells").iterdir()):
        record = json.loads(path.read_text(encoding="utf-8"))
        for key in ("seconds", "quantize_seconds", "created"):
            record.pop(key)
        record["result"].pop("seconds")
        both = (record["result"], record["result"]["baseline"])
        for provenance in (each["provenance"] for each in both if each):
            for key in ("source", "commit", "dirty"):  # somebody may commit meanwhile
                provenance.pop(key, None)
        found[path.name] = record
    return found


@pytest.fixture(scope="session")
def undisturbed(materials, workers, tmp_path_factory):
    """The sweep of `Materials.spec`, run to its end in two processes."""
    from workbench.sweeps.sweep import Sweep

    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = Sweep.read(materials.spec(folder), output=folder / "out")
    sweep.run(executor=workers)
    return sweep
