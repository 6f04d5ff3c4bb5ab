"""How fast one model runs with different activations: rates, what a token reads, and the record of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from eval.texts import Text
from workbench.errors import WorkbenchError
from workbench.models.source import Source
from workbench.plan.count import step_cost
from workbench.plan.plan import step_sizes
from workbench.runtime.host_memory import peak_bytes, reset_peak
from workbench.runtime.lowering import lower
from workbench.runtime.model import Model
from workbench.runtime.provenance import provenance
from workbench.runtime.wgpu_executor import STEPS
from workbench.show.table import Table

from .speed import Speed, SpeedRun, measure_speed
from .step_profile import StepProfile, profile_step

#: Characters that are enough for a token, of whatever tokenizer.
MOST_CHARACTERS = 64
COSTS = [
    "model",
    "activations",
    "cache",
    "load, s",
    "first token, cold, s",
    "warm, ms",
    "ms a token",
    "device, MB",
    "host, MB",
    "J a token",
]
HEAD = [
    "model",
    "activations",
    "cache",
    "prefill, tokens/s",
    "decode, tokens/s",
    "dispatches",
    "weights, MB",
    "GB/s",
]


@dataclass(frozen=True)
class SpeedRow:
    """dtype: of activations; cache: of keys and values. speed: as measured. weight_bytes: read for one token.
    dispatches: of a decode step. load_s: seconds to load the model, before anything is uploaded or compiled.
    device_bytes: of buffers on the device at most, None where nothing is on one. host_bytes: resident in this process
    at most, None where the system does not say. prompt: what was fed, in words. record: provenance. profile: of a
    decode step behind the prompt, if asked for."""

    model: str
    dtype: str
    cache: str
    speed: Speed
    weight_bytes: float
    dispatches: int
    load_s: float
    device_bytes: int | None
    host_bytes: int | None
    prompt: str
    record: dict[str, Any]
    profile: StepProfile | None = field(default=None, repr=False)

    @property
    def gb_per_s(self) -> float:
        """10^9 bytes of weights that decoding reads a second."""
        return self.weight_bytes * self.speed.decode.median / 1e9

    def cells(self) -> list[str]:
        return [
            self.model,
            self.dtype,
            self.cache,
            str(self.speed.prefill),
            str(self.speed.decode),
            str(self.dispatches or "–"),
            f"{self.weight_bytes / 1e6:.1f}",
            f"{self.gb_per_s:.1f}",
        ]

    def costs(self) -> list[str]:
        """The second table's row: what loading, the first token and each further one cost."""
        speed = self.speed
        return [
            self.model,
            self.dtype,
            self.cache,
            f"{self.load_s:.2f}",
            f"{speed.cold_s:.2f}",
            f"{1e3 * speed.warm_s:.1f}",
            f"{speed.ms_per_token:.2f}",
            _megabytes(self.device_bytes),
            _megabytes(self.host_bytes),
            "–" if speed.joules is None else f"{speed.joules:.3g}",
        ]

    def to_json(self) -> dict[str, Any]:
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "profile"}
        return values | {"speed": self.speed.to_json(), "gb_per_s": self.gb_per_s}


def measured(source: Source, run: SpeedRun, *, text: Text | None = None, profiled: bool = False) -> SpeedRow:
    """Load a source as asked, and time it. Raises what loading raises.

    text: what the prompt is made of, by default random ids. profiled: profile a decode step too; raises
    `WorkbenchError` for the torch backend then.
    """
    reset_peak()
    begin = time.perf_counter()
    model = run.load(source)
    loaded = time.perf_counter() - begin
    prompt, words = _prompt(model, run.prompt_tokens, text)
    device = getattr(model.executor, "device", None)
    others = 0 if device is None else device.allocated
    if device is not None:
        device.reset_peak()
    speed = measure_speed(model, prompt, decode_tokens=run.decode_tokens, repetitions=run.repetitions)
    return SpeedRow(
        model=str(source.path.name),
        dtype=model.executor.activations,
        cache=model.executor.cache,
        speed=speed,
        weight_bytes=_weight_bytes(model),
        dispatches=_dispatches(model),
        load_s=loaded,
        device_bytes=None if device is None else device.peak - others,
        host_bytes=peak_bytes(),
        prompt=words,
        record=provenance(model),
        profile=profile_step(model, position=len(prompt)) if profiled else None,
    )


def _prompt(model: Model, count: int, text: Text | None) -> tuple[list[int], str]:
    """Token ids to feed, and what they are in words: of the text's beginning, all of it where it is shorter."""
    if text is None:
        ids = np.random.default_rng(0).integers(0, model.vocab_size, count)
        return [int(each) for each in ids], "random ids"
    # A token is at least a byte or, of a strange tokenizer, a few characters: the whole of a long text is not needed.
    beginning = text.content[: MOST_CHARACTERS * count]
    ids = list(model.tokenizer(beginning, verbose=False)["input_ids"])[:count]
    if not ids:
        raise WorkbenchError(f"{text.name} gives no token to feed")
    return ids, f"{text.name}, its first {len(ids)} tokens"


def _megabytes(nbytes: int | None) -> str:
    return "–" if nbytes is None else f"{nbytes / 1e6:.1f}"


def _weight_bytes(model: Model) -> float:
    """Of all weights that a decode step reads, the embedding's row left out."""
    sizes = step_sizes(1, model.max_tokens, steps=STEPS)
    return step_cost(model.plan("greedy"), sizes).weight_bytes


def _dispatches(model: Model) -> int:
    """Of a decode step; 0 where nothing is dispatched."""
    device = getattr(model.executor, "device", None)
    if device is None:
        return 0
    sizes = step_sizes(1, model.max_tokens, steps=STEPS)
    limits, tuned = (device.adapter, device.binding_bytes), getattr(model.executor, "tuned", None)
    return len(lower(model.plan("greedy"), sizes, *limits, tuned=tuned).steps)


def table(rows: Sequence[SpeedRow]) -> str:
    """Rates as median and range, with what they were measured on."""
    first = rows[0].speed
    return "\n".join(
        [
            f"{first.device}; {first.label}, {first.clock}; median (lowest to highest) of "
            f"{len(first.decode.seconds)}, {first.prefill.tokens} tokens fed, {first.decode.tokens} decoded",
            Table(HEAD, [row.cells() for row in rows], "llr").text(),
            "",
            Table(COSTS, [row.costs() for row in rows], "llr").text(),
            "cold: a new session, with compiling and uploading; device: buffers at most; host: resident at most; "
            "J a token: of the whole GPU while decoding, by NVML",
            f"prompt: {rows[0].prompt}",
        ]
    )
