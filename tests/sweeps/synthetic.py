"""Folders of sweeps as a run would leave them, written here: hundreds of cells in every state, without the work.

`test_follow.py` holds them against what a real run writes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from workbench.files.writing import write_json
from workbench.sweeps.cells import Cell, TextSource
from workbench.sweeps.identity import key
from workbench.sweeps.journal import Journal
from workbench.sweeps.state import CellState, Facts, SweepState
from workbench.sweeps.store import CELL_KIND, Store

FORMATS = ("int8/128", "int4/32", "int4/64", "int4/128", "int2/64", "int2/128", "int2/256")
QUANTIZERS = ("rtn", "grid", "hqq", "gptq")
BITS = {"int8": 8.19, "int4": 4.25, "int2": 2.2}


class Synthetic(SweepState):
    """A sweep of `count` cells that its owner moves by hand: change `cells`, call `finish`, `tell`, `end`."""

    def __init__(
        self, folder: str | Path, count: int, model: str = "a-model", text: str = "prose.txt"
    ) -> None:
        super().__init__(Store(folder), "synthetic")
        self.cells = tuple(self._cells(count, model, text))
        self.slots, self.running, self.began = 2, True, time.time()
        self.store.folder.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(self, 0)

    @staticmethod
    def _cells(count: int, model: str, text: str):
        source = TextSource(text)
        for index in range(count):
            baseline = index == 0
            options = None
            if not baseline:
                form, method = FORMATS[index % 7], QUANTIZERS[index // 7 % 4]
                options = {"format": form, "quantizer": method} if method != "gptq" else {"format": form}
            name = model if index < 28 else f"{model}-{index // 28}"
            cell = Cell(f"models/{name}", "disjoint-512", source, options, name=name)
            identity = {"cell": index, "backend": "torch", "max_windows": None}
            yield CellState(cell, Facts.of(cell), key(identity), identity)

    def finish(self, index: int, seconds: float = 2.0) -> None:
        """Write a result."""
        state = self.cells[index]
        record = result(state, index, seconds)
        write_json(self.store.cell(state.key), record)
        state.take(record)

    def fail(self, index: int, error: str) -> None:
        state = self.cells[index]
        state.wait()
        state.status, state.error = "failed", error

    def score(self, index: int, progress: float, worker: str = "process 4711") -> None:
        state = self.cells[index]
        state.status, state.stage, state.progress, state.worker = "running", "scoring", progress, worker
        state.began = state.began or time.time()

    def tell(self) -> None:
        """Write the state now."""
        self.journal.close()

    def end(self) -> None:
        self.running, self.ended = False, time.time()
        self.journal.close()


def result(state: CellState, index: int, seconds: float) -> dict[str, Any]:
    """A cell's record; the figures are made up and different in each."""
    form = state.facts.format
    bits = BITS.get(form.partition("/")[0], 16.0)
    ppl = 7.36 + (10 / bits) ** 2 / 10 + index / 1000
    paired = {"ln_ratio": 0.01 + index / 1e4, "ln_ratio_se": 0.001, "kl_mean": 0.02 / bits + index / 1e5}
    paired |= {"kl_se": 1e-4, "same_top1": 0.97, "same_top1_se": 0.002}
    found = {
        "protocol": state.facts.protocol,
        "ppl": ppl,
        "ppl_se": 0.16,
        "ppl_se_clustered": 0.2,
        "text": {"name": state.facts.text, "sha256": "ab" * 32},
        "tokens_sha256": "cd" * 32,
        "tokenizer_sha256": "ef" * 32,
        "separator": None,
        "bos_policy": "none",
        "tokens_scored": 2044,
        "backend": "torch",
        "provenance": {"device": "a CPU", "activations": "f32", "source": {}},
        "baseline": paired if state.cell.options else None,
    }
    return {
        "kind": CELL_KIND,
        "version": 1,
        "key": state.key,
        "identity": state.identity,
        "model": state.facts.model,
        "format": form,
        "quantizer": state.facts.quantizer,
        "label": state.label,
        "bits_per_weight": bits,
        "file_bytes": int(1e6 * bits),
        "formats": None,
        "quantize_seconds": None,
        "result": json.loads(json.dumps(found)),
        "speed": None,
        "seconds": seconds,
        "host": {},
        "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
    }


def four_hundred(folder: str | Path, count: int = 400) -> Synthetic:
    """Most cells done, two running, some failed, the rest waiting."""
    sweep = Synthetic(folder, count)
    for index in range(count):
        if index % 40 == 7:
            sweep.fail(index, f"quantizing: layer {index} has a weight that is not finite")
        elif index < count * 3 // 4:
            sweep.finish(index)
    running = [index for index, state in enumerate(sweep.cells) if state.status == "waiting"][:2]
    for index in running:
        sweep.score(index, 0.25, f"process {4000 + index}")
    sweep.tell()
    return sweep
