"""What a model says of a sequence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .host_memory import out_of_memory


@dataclass(frozen=True)
class Forward:
    """logits: f32 [tokens, vocab]. kept: named activations, rows of the same tokens."""

    logits: np.ndarray
    kept: dict[str, np.ndarray]


@dataclass(frozen=True)
class Scores:
    """Of a sequence of n ids. nll: f64 [n - 1], -ln p(ids[i + 1] | ids[: i + 1]). top1: int64 [n - 1], the argmax
    at each place. logits: f32 [n - 1, vocab] if asked for. kept: named activations, rows of ids[:-1]."""

    nll: np.ndarray
    top1: np.ndarray
    logits: np.ndarray | None = None
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def joined(cls, steps: Sequence[Mapping[str, np.ndarray]], keep: Iterable[str] = ()) -> Scores:
        """From the results of the steps of a sequence. keep: names of `kept`."""
        found = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
        nll, top1 = -found["log_likelihood"].astype(np.float64), found["top1"].astype(np.int64)
        return cls(nll, top1, found.get("logits"), {name: found[name] for name in keep})


def as_one(steps: Iterable[dict], names: Sequence[str], tokens: int) -> dict[str, np.ndarray]:
    """Results of all steps, one array a name."""
    with out_of_memory(f"{', '.join(names)} of {tokens} tokens"):
        found = list(steps)
        if len(found) == 1:  # logits of a real vocabulary are not copied for nothing
            return {name: found[0][name] for name in names}
        return {name: np.concatenate([step[name] for step in found]) for name in names}
