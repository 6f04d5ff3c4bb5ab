"""Tokens a second of a loaded model: prefill, greedy decoding in recorded runs, and decoding as a stream.

Every repetition starts from an empty cache: the prompt is fed (prefill), then tokens follow greedily (decode).
One repetition before the measured ones compiles what has to be compiled. Times are wall times that include the
readback of the result, so nothing is still running when the clock is read. The samples are kept; figures are
made of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from workbench.errors import WorkbenchError
from workbench.models.source import Source
from workbench.runtime.loading import load
from workbench.runtime.model import Model
from workbench.runtime.nvml import find_gpu

CLOCK = "wall (time.perf_counter), readback included"


@dataclass(frozen=True)
class Rate:
    """tokens of one repetition, and the seconds that each repetition took."""

    tokens: int
    seconds: tuple[float, ...]

    @property
    def samples(self) -> tuple[float, ...]:
        """Tokens a second of each repetition."""
        return tuple(self.tokens / s for s in self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The slowest and the fastest repetition, tokens a second."""
        return min(self.samples), max(self.samples)

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "repetitions": len(self.seconds),
            "tokens_per_second": self.median,
            "lowest": self.spread[0],
            "highest": self.spread[1],
            "seconds": list(self.seconds),
        }

    def __str__(self) -> str:
        low, high = self.spread
        return f"{self.median:.0f} ({low:.0f} to {high:.0f})"


@dataclass(frozen=True)
class SpeedRun:
    """What a model is run as while it is timed, as `workbench.load` takes it, and how much it does how often.

    The cache has room for prompt and tokens, also where a model was made for fewer positions: speed is all that counts.
    """

    backend: str | None
    dtype: str
    cache: str | None
    prompt_tokens: int
    decode_tokens: int
    repetitions: int

    def load(self, source: Source) -> Model:
        """Raises what loading raises."""
        room = self.prompt_tokens + self.decode_tokens
        return load(source, backend=self.backend, dtype=self.dtype, max_tokens=room, cache=self.cache)


@dataclass(frozen=True)
class Speed:
    """What `measure_speed` found. on_cpu: whether the device computes on the CPU, as software adapters and the
    references do. load_average: processes waiting for a CPU just before, 1-minute mean; None where unknown.
    cold_s: from a new session to the first token after the prompt, the first time: a model that has not run before
    compiles its kernels and uploads its weights then. joules: energy of one decoded token, the whole GPU's, None where
    nothing tells it."""

    prefill: Rate
    decode: Rate
    stream: Rate | None
    backend: str
    device: str
    on_cpu: bool
    load_average: float | None
    cold_s: float
    joules: float | None = None
    clock: str = CLOCK

    @property
    def label(self) -> str:
        """ "CPU" or "GPU", for a table's head."""
        return "CPU" if self.on_cpu else "GPU"

    @property
    def warm_s(self) -> float:
        """Seconds from the prompt to the first token after it, once everything is compiled: a prefill's median."""
        return statistics.median(self.prefill.seconds)

    @property
    def ms_per_token(self) -> float:
        """Of decoding: milliseconds from one token to the next, the median's."""
        return 1e3 / self.decode.median

    def to_json(self) -> dict[str, Any]:
        rates = ("prefill", "decode", "stream")
        values = {key: value for key, value in asdict(self).items() if key not in rates}
        found = {key: getattr(self, key) for key in rates}
        more = {"warm_s": self.warm_s, "ms_per_token": self.ms_per_token}
        return {**{key: rate.to_json() if rate else None for key, rate in found.items()}, **values, **more}


def measure_speed(
    model: Any,
    prompt: Sequence[int],
    *,
    decode_tokens: int = 32,
    stream_tokens: int = 0,
    repetitions: int = 5,
) -> Speed:
    """Prefill and decode rates of a loaded model.

    prompt: token ids, all fed at once. decode_tokens: greedy tokens after it, recorded in runs by the executor
    (the prompt's own next token is not among them, it belongs to the prefill). stream_tokens: tokens of a
    stream that hands out each as soon as it is there, timed from the first to the last; 0 for none. Raises
    WorkbenchError unless all of them fit into the cache.
    """
    if decode_tokens < 1 or repetitions < 1 or stream_tokens < 0:
        raise WorkbenchError("speed: decode_tokens and repetitions are at least 1, stream_tokens at least 0")
    needed = len(prompt) + max(decode_tokens, stream_tokens)
    if needed > model.max_tokens:
        raise WorkbenchError(
            f"speed: a prompt of {len(prompt)} and {needed - len(prompt)} tokens after it do not fit into a "
            f"cache of {model.max_tokens}"
        )
    load, energy = load_average(), _energy(model)
    prefill, decode, joules = [], [], []
    start = time.perf_counter()
    session = model.session()
    try:
        for _ in range(1 + repetitions):
            session.reset()
            begin = time.perf_counter()
            token = int(session.feed(prompt).argmax())
            fed, before = time.perf_counter(), energy()
            if not prefill:
                cold = fed - start
            session.greedy_after(token, decode_tokens)
            prefill.append(fed - begin)
            decode.append(time.perf_counter() - fed)
            joules.append((before, energy()))
    finally:
        session.close()
    streamed = (
        [_stream(model, prompt, stream_tokens) for _ in range(1 + repetitions)] if stream_tokens else []
    )
    return Speed(
        Rate(len(prompt), tuple(prefill[1:])),
        Rate(decode_tokens, tuple(decode[1:])),
        Rate(stream_tokens, tuple(streamed[1:])) if stream_tokens else None,
        model.backend,
        model.device_name,
        computes_on_cpu(model),
        load,
        cold,
        _joules(joules[1:], decode_tokens),
    )


def _energy(model: Any) -> Callable[[], float | None]:
    """Reads the joules that the model's GPU has taken so far; None where nothing tells."""
    device = getattr(model.executor, "device", None)
    gpu = None if device is None else find_gpu(device.info["device"])
    return (lambda: None) if gpu is None else gpu.joules


def _joules(readings: Sequence[tuple[float | None, float | None]], tokens: int) -> float | None:
    """Of one token, from what the meter said before and after each repetition; None where it has not moved."""
    spent = [after - before for before, after in readings if before is not None and after is not None]
    if len(spent) < len(readings):
        return None
    taken = sum(spent)
    return taken / (tokens * len(readings)) if taken > 0 else None


def _stream(model: Any, prompt: Sequence[int], count: int) -> float:
    """Seconds between the first token of a stream and the `count`-th after it."""
    tokens = model.generate_ids(prompt, count + 1)
    next(tokens)
    begin = time.perf_counter()
    got = sum(1 for _ in tokens)
    seconds = time.perf_counter() - begin
    if got != count:
        raise WorkbenchError(f"speed: the stream gave {got} tokens instead of {count}")
    return seconds


def computes_on_cpu(model: Any) -> bool:
    """Whether a model's times are a CPU's: the references, or a software adapter."""
    adapter = model.describe_provenance().get("adapter")
    return adapter is None or adapter["adapter_type"] == "CPU"


def load_average() -> float | None:
    """The 1-minute load average, None where the system has none."""
    import os

    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
