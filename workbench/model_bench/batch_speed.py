"""Tokens a second of several sequences together: their prompts in shared steps, then one step for a token of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from workbench.models.source import Source
from workbench.runtime.model import Model
from workbench.runtime.provenance import provenance
from workbench.show.table import Table

from .speed import CLOCK, Rate, SpeedRun

HEAD = ["model", "activations", "cache", "sequences", "prefill, tokens/s", "decode, tokens/s", "of each"]


@dataclass(frozen=True)
class BatchRow:
    """prefill, decode: tokens of all sequences together. record: provenance."""

    model: str
    dtype: str
    cache: str
    sequences: int
    prefill: Rate
    decode: Rate
    device: str
    record: dict[str, Any]

    def cells(self) -> list[str]:
        each = self.decode.median / self.sequences
        figures = [str(self.sequences), str(self.prefill), str(self.decode), f"{each:.1f}"]
        return [self.model, self.dtype, self.cache, *figures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"prefill": self.prefill.to_json(), "decode": self.decode.to_json()}


def measured_batches(source: Source, sequences: Sequence[int], run: SpeedRun) -> list[BatchRow]:
    """A row for each number of sequences. Each is fed its own random tokens, and goes on greedily; adapters that the
    source has beside its weights they have in turn. Raises what loading raises, and `OutOfMemoryError` for more
    sequences than a binding holds."""
    model = run.load(source)
    rows = []
    for count in sequences:
        prefill, decode = _times(model, count, run)
        rows.append(
            BatchRow(
                source.path.name,
                model.executor.activations,
                model.executor.cache,
                count,
                Rate(count * run.prompt_tokens, tuple(prefill)),
                Rate(count * run.decode_tokens, tuple(decode)),
                model.device_name,
                provenance(model),
            )
        )
    return rows


def _times(model: Model, count: int, run: SpeedRun) -> tuple[list[float], list[float]]:
    """Seconds of prefills and decodes; what compiles is not among them."""
    prompts = np.random.default_rng(0).integers(0, model.vocab_size, (count, run.prompt_tokens))
    prefill, decode = [], []
    with closing(model.batch(count)) as batch:
        for _ in range(1 + run.repetitions):
            for sequence in range(count):
                names = model.adapters
                batch.reset(sequence, names[sequence % len(names)] if names else None)
            began = time.perf_counter()
            logits = batch.feed(dict(enumerate(prompts)))
            first = {sequence: int(row.argmax()) for sequence, row in logits.items()}
            fed = time.perf_counter()
            batch.greedy_after(first, run.decode_tokens)
            prefill.append(fed - began)
            decode.append(time.perf_counter() - fed)
    return prefill[1:], decode[1:]


def table(rows: Sequence[BatchRow]) -> str:
    """Rates as median and range, with what they were measured on."""
    first = rows[0]
    note = (
        f"{first.device}; {CLOCK}; median (lowest to highest) of {len(first.decode.seconds)}, "
        f"{first.prefill.tokens // first.sequences} tokens fed to each sequence, "
        f"{first.decode.tokens // first.sequences} decoded"
    )
    return Table(HEAD, [row.cells() for row in rows], "lllr", caption=note).text()
