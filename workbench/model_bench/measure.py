"""Models measured against an unquantized baseline, through the WGSL kernels and through the references.

Every model runs over the same windows, the baseline once a window and backend. A `Row` is what the table shows of
one model; kernels and references are paired on the same packed bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import workbench
from eval.losses import Loss, format_loss, kernel_loss
from eval.perplexity import perplexities
from eval.report import finite
from eval.result import PerplexityResult
from eval.texts import Tokens
from workbench.models.source import Source
from workbench.show.progress import Progress

from .speed import Speed, measure_speed

#: Largest |d| in nats between WGSL and references, in f32, before a row counts as wrong: logits agree within 1e-5
#: of the largest, which is below 50 in trained models, and a log-likelihood takes twice that.
AGREEMENT = 1e-3


@dataclass(frozen=True)
class Settings:
    """What a measurement is asked for. windows: None for all of the text. Speeds as in `measure_speed`.

    reference_threads: of the references while they are scored; None leaves PyTorch's own choice. Small matrices
    gain nothing from more than one, and on a busy machine threads that wait for each other cost several times
    the arithmetic.
    """

    scheme: str = "disjoint-512"
    windows: int | None = None
    prompt_tokens: int = 256
    decode_tokens: int = 32
    stream_tokens: int = 0
    repetitions: int = 5
    reference_threads: int | None = 1

    def to_json(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


@dataclass(frozen=True, eq=False)
class Row:
    """One model's figures. `results` by backend: "wgpu" (absent without an adapter) and "torch".

    format_loss: dequantized against unquantized weights, references; None for the baseline. kernel_loss: WGSL
    against references; None without an adapter. speed: None where kernels and references disagree; `note` then
    says why.
    """

    name: str
    bits_per_weight: float
    file_bytes: int
    model_sha256: dict[str, str]
    results: Mapping[str, PerplexityResult] = field(repr=False)
    format_loss: Loss | None
    kernel_loss: Loss | None
    speed: Speed | None
    note: str = ""

    @property
    def result(self) -> PerplexityResult:
        """Through WGSL where there is an adapter, else through the references."""
        return self.results.get("wgpu") or self.results["torch"]

    @property
    def change(self) -> tuple[float, float] | None:
        """As `change_percent`."""
        return change_percent(self.result)

    @property
    def errors(self) -> list[tuple[float | None, float | None]]:
        """(plain, clustered) of each figure of `result` that a table shows."""
        found = self.result.baseline
        return [(self.result.ppl_se, self.result.ppl_se_clustered), *(found.errors if found else ())]

    @property
    def same_top1(self) -> tuple[float, float] | None:
        found = self.result.baseline
        return None if found is None else (found.same_top1, found.same_top1_error)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.name,
            "bits_per_weight": self.bits_per_weight,
            "file_bytes": self.file_bytes,
            "model_sha256": self.model_sha256,
            "perplexity": {backend: result.to_json() for backend, result in self.results.items()},
            "change_percent": _change_record(self.result),
            "format_loss": self.format_loss.to_json() if self.format_loss else None,
            "kernel_loss": self.kernel_loss.to_json() if self.kernel_loss else None,
            "speed": self.speed.to_json() if self.speed else None,
            "note": self.note,
        }


@dataclass(frozen=True, eq=False)
class Measurement:
    """Rows in the order asked for, the baseline among them. no_adapter: why there is none, or None."""

    rows: tuple[Row, ...]
    baseline: str
    settings: Settings
    no_adapter: str | None

    @property
    def errors(self) -> list[tuple[float | None, float | None]]:
        """(plain, clustered) of each figure that a table shows."""
        return [pair for row in self.rows for pair in row.errors]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


def change_percent(result: PerplexityResult) -> tuple[float, float] | None:
    """(change of the perplexity against the baseline's in %, the larger of its paired standard errors), None without
    one."""
    found = result.baseline
    if found is None:
        return None
    ratio = float(np.exp(found.ln_ratio))
    return 100 * (ratio - 1), 100 * ratio * found.ln_ratio_error


def _change_record(result: PerplexityResult) -> dict[str, float | None] | None:
    """The change in % with both its errors and the larger one."""
    found, change = result.baseline, change_percent(result)
    if found is None or change is None:
        return None
    plain, clustered = ((100 + change[0]) * se for se in (found.ln_ratio_se, found.ln_ratio_se_clustered))
    return finite({"mean": change[0], "se": plain, "se_clustered": clustered, "error": change[1]})


def measure(
    models: Mapping[str, Path],
    baseline: str,
    tokens: Tokens,
    settings: Settings,
    *,
    progress: Progress | None = None,
    load: Callable[..., Any] = workbench.load,
) -> Measurement:
    """Measure models (folders by name, the baseline one of them) on `tokens`.

    Without an adapter only the references run. Raises what loading and scoring raise.
    """
    from workbench.runtime.device import adapter_missing

    progress = progress or Progress()
    no_adapter = adapter_missing()
    backends = ("torch",) if no_adapter else ("wgpu", "torch")
    prompt = [int(t) for t in tokens.ids[: settings.prompt_tokens]]
    results: dict[str, dict[str, PerplexityResult]] = {}
    speeds: dict[str, Speed] = {}
    facts: dict[str, tuple[float, int, dict[str, str]]] = {}
    for backend in backends:
        loaded = {name: load(path, backend=backend) for name, path in models.items()}
        if not facts:
            progress.say("tokens a second")
            for name, model in loaded.items():
                facts[name] = (
                    bits_per_weight(model.source),
                    weight_bytes(model.source),
                    file_hashes(model.source),
                )
                speeds[name] = measure_speed(
                    model,
                    prompt,
                    decode_tokens=settings.decode_tokens,
                    stream_tokens=settings.stream_tokens,
                    repetitions=settings.repetitions,
                )
        what = "WGSL kernels" if backend == "wgpu" else "PyTorch references"
        progress.say(f"perplexity through the {what}")
        with reference_threads(settings.reference_threads):
            results[backend] = perplexities(
                loaded,
                tokens,
                settings.scheme,
                baseline=baseline,
                max_windows=settings.windows,
                progress=progress.runs(what),
            )
        loaded.clear()
    rows = []
    for name in models:
        found = {backend: results[backend][name] for backend in backends}
        kernel = None if no_adapter else kernel_loss(found["wgpu"], found["torch"])
        apart = 0.0 if kernel is None else kernel.max_abs
        wrong = apart > AGREEMENT
        rows.append(
            Row(
                name,
                *facts[name],
                results=found,
                format_loss=None
                if name == baseline
                else format_loss(found["torch"], results["torch"][baseline]),
                kernel_loss=kernel,
                speed=None if wrong else speeds[name],
                note=f"no times: WGSL and references differ by up to {apart:.1e} nats, more than "
                f"{AGREEMENT:g}"
                if wrong
                else "",
            )
        )
    return Measurement(tuple(rows), baseline, settings, no_adapter)


@contextmanager
def reference_threads(count: int | None) -> Iterator[None]:
    """PyTorch on so many threads meanwhile; None changes nothing."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bits_per_weight(source: Source) -> float:
    """Bits stored of all tensors (scales, zero-points and padding included) over their weights."""
    bits = weights = 0
    for name in source.names():
        tensor = source.tensor(name)
        bits += 8 * tensor.nbytes
        weights += int(np.prod(tensor.shape))
    return bits / weights


def weight_bytes(source: Source) -> int:
    """Bytes of a model's weight files."""
    return sum(path.stat().st_size for path in source.weight_files())


def file_hashes(source: Source) -> dict[str, str]:
    """The sha256 of a model's weight files, and of its manifest or configuration, by name."""
    weights = source.weight_files()
    described = [path for name in ("manifest.json", "config.json") if (path := source.path / name).is_file()]
    hashes = {}
    for path in [*weights, *described]:
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
