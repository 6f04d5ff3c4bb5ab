"""How long windows of tokens take to score, alone and against a baseline: what a perplexity of a whole text will cost.

Tokens are random, since only their number counts; models may be random too (`synthetic`). A window before the measured
ones compiles what has to be compiled, so that loading and compiling are not in the figures.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.perplexity import perplexity
from workbench.known import known
from workbench.models.source import Source
from workbench.runtime.loading import load
from workbench.runtime.provenance import provenance


@dataclass(frozen=True)
class ScoringSpeed:
    """seconds: of all windows, model and baseline together. alone: of the same windows through the model only.
    model_seconds, baseline_seconds: each one's part of `seconds`, the comparison with the model's."""

    model: str
    baseline: str
    dtype: str
    device: str
    windows: int
    tokens: int
    seconds: float
    alone: float
    model_seconds: float
    baseline_seconds: float
    kl: float
    record: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"{self.device}; {self.windows} windows of {self.tokens:,} random tokens, {self.model} against "
            f"{self.baseline}, activations {self.dtype}: {self.seconds:.2f} s, {self.seconds / self.windows:.3f} a "
            f"window (baseline {self.baseline_seconds:.2f} s, model and comparison {self.model_seconds:.2f} s); the "
            f"model alone {self.alone:.2f} s"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_scoring(
    source: Source,
    baseline: Any,
    *,
    backend: str | None,
    dtype: str,
    cache: str | None = None,
    windows: int = 8,
    tokens: int = 2048,
) -> ScoringSpeed:
    """Score `windows` windows of `tokens` with a source against another as its baseline, which runs in f32.

    Raises what loading raises, and ProtocolError for windows longer than a context.
    """
    model = load(source, backend=backend, dtype=dtype, max_tokens=tokens, cache=cache)
    against = load(baseline, backend=backend, max_tokens=tokens)
    ids = np.random.default_rng(0).integers(0, model.vocab_size, windows * tokens)
    scheme = f"disjoint-{tokens}"
    perplexity(model, ids, scheme, baseline=against, max_windows=1)
    began = time.perf_counter()
    found = perplexity(model, ids, scheme, baseline=against)
    seconds = time.perf_counter() - began
    perplexity(model, ids, scheme, max_windows=1)
    began = time.perf_counter()
    perplexity(model, ids, scheme)
    return ScoringSpeed(
        model=str(source.path.name),
        baseline=str(baseline.path.name),
        dtype=dtype,
        device=model.device_name,
        windows=windows,
        tokens=tokens,
        seconds=seconds,
        alone=time.perf_counter() - began,
        model_seconds=found.seconds,
        baseline_seconds=seconds - found.seconds,
        kl=float(known(known(found.baseline).kl_mean)),
        record=provenance(model),
    )
