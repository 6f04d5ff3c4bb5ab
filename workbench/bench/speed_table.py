"""How fast one model runs with different activations: rates, what a token reads, and the record of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from workbench.plan.count import step_cost
from workbench.runtime.lowering import lower
from workbench.runtime.model import Model, load
from workbench.runtime.provenance import provenance
from workbench.runtime.wgpu_executor import STEPS

from .comparison import align
from .speed import Speed, measure_speed

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
    dispatches: of a decode step. record: provenance."""

    model: str
    dtype: str
    cache: str
    speed: Speed
    weight_bytes: float
    dispatches: int
    record: dict[str, Any]

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

    def to_json(self) -> dict[str, Any]:
        values = asdict(self) | {"speed": self.speed.to_json()}
        return values | {"gb_per_s": self.gb_per_s}


def measured(
    source: Any,
    *,
    backend: str | None,
    dtype: str,
    prompt_tokens: int,
    decode_tokens: int,
    repetitions: int,
    cache: str | None = None,
) -> SpeedRow:
    """Load a source with activations and a cache of a type, and time it. Raises what loading raises.

    The cache has room for prompt and tokens, also where a model was made for fewer positions: speed is all that counts.
    """
    room = prompt_tokens + decode_tokens
    model = load(source, backend=backend, dtype=dtype, max_tokens=room, cache=cache)
    prompt = np.random.default_rng(0).integers(0, model.vocab_size, prompt_tokens)
    speed = measure_speed(
        model, [int(t) for t in prompt], decode_tokens=decode_tokens, repetitions=repetitions
    )
    return SpeedRow(
        model=str(source.path.name),
        dtype=dtype,
        cache=model.executor.cache,
        speed=speed,
        weight_bytes=_weight_bytes(model),
        dispatches=_dispatches(model),
        record=provenance(model),
    )


def _weight_bytes(model: Model) -> float:
    """Of all weights that a decode step reads, the embedding's row left out."""
    sizes = {"tokens": 1, "capacity": model.max_tokens, "sequences": 1, "steps": STEPS}
    return step_cost(model.plan("greedy"), sizes).weight_bytes


def _dispatches(model: Model) -> int:
    """Of a decode step; 0 where nothing is dispatched."""
    device = getattr(model.executor, "device", None)
    if device is None:
        return 0
    sizes = {"tokens": 1, "capacity": model.max_tokens, "sequences": 1, "steps": STEPS}
    return len(lower(model.plan("greedy"), sizes, device.adapter, device.binding_bytes).steps)


def table(rows: Sequence[SpeedRow]) -> str:
    """Rates as median and range, with what they were measured on."""
    first = rows[0].speed
    return "\n".join(
        [
            f"{first.device}; {first.label}, {first.clock}; median (lowest to highest) of "
            f"{len(first.decode.seconds)}, {first.prefill.tokens} tokens fed, {first.decode.tokens} decoded",
            align([HEAD, *(row.cells() for row in rows)], left=2),
        ]
    )
