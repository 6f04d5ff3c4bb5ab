"""Results of any kind as rows of one table: cells of sweeps, benchmarks' results.json, what `workbench compare-models
--json` wrote, `workbench perplexity --json`.

A row knows the conditions under which it was measured. Rows of different conditions do not belong into one table:
their perplexities are not comparable.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.advice import TOLD
from eval.report import count_text, int8_noise
from eval.statistics import larger_se, tokens_to_tell
from workbench.errors import SweepError
from workbench.formats.errors import FormatError

from .cells import UNCONVERTED
from .store import CELL_KIND, read_json

RESULTS_KIND = "workbench-results"
COMPARISON_KIND = "workbench-comparison"
#: Overrides of formats that a row names one by one.
_NAMED = 3
#: What rows have beside their fields: the errors that tables show.
ERRORS = ("ppl_error", "change_error", "kl_error", "same_top1_error")


@dataclass(frozen=True)
class Conditions:
    """What two rows must share. None: unknown, and then equal only to unknown."""

    protocol: str
    text_sha256: str | None
    tokens_sha256: str | None
    tokenizer_sha256: str | None
    separator: str | None
    bos_policy: str | None
    tokens_scored: int
    text_name: str | None = dataclasses.field(default=None, compare=False)
    windows: int | None = dataclasses.field(default=None, compare=False)
    windows_available: int | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        text = self.text_name or "bare tokens"
        digest = self.text_sha256 or self.tokens_sha256
        sha = f" (sha256 {digest[:12]})" if digest else ""
        tokenizer = f", tokenizer {self.tokenizer_sha256[:12]}" if self.tokenizer_sha256 else ""
        part = ""
        if self.windows and self.windows_available and self.windows < self.windows_available:
            part = f" in the first {self.windows:,} of {self.windows_available:,} windows"
        return f"{self.protocol} on {text}{sha}{tokenizer}, {self.tokens_scored:,} tokens scored{part}"

    def difference(self, other: Conditions) -> str:
        """`protocol disjoint-512 and disjoint-256`: the first field that differs, with both values."""
        for field in dataclasses.fields(self):
            one, two = getattr(self, field.name), getattr(other, field.name)
            if field.compare and one != two:
                return f"{field.name.replace('_', ' ')} {one} and {two}"
        return ""


@dataclass(frozen=True)
class Row:
    """One result. change: of the perplexity against the baseline, in %, paired. kl: mean, nats a token. same_top1: a
    share. Errors `_se` take tokens as independent, `_se_clustered` windows, and `_error` is the larger of the two,
    which tables show. kl_quantiles: median to p99.9, and max.
    delta_p: mean, rms and quantiles of the change of the target's probability. last_word: accuracy, se and the paired
    change and change_se, shares, of the passages that `passages` describes. activations, cache: the types that the
    model ran with, and its baseline. noise_rms: RMS difference of two backends, nats a token. Rates in tokens a
    second, median; on_cpu: whether they are a CPU's. None where unknown. source: the file. note: what a reader must
    know of the model."""

    model: str
    format: str
    quantizer: str
    bits_per_weight: float | None
    file_bytes: int | None
    ppl: float | None
    ppl_se: float | None
    ppl_se_clustered: float | None
    change: float | None
    change_se: float | None
    change_se_clustered: float | None
    kl: float | None
    kl_se: float | None
    kl_se_clustered: float | None
    same_top1: float | None
    same_top1_se: float | None
    same_top1_se_clustered: float | None
    kl_quantiles: Mapping[str, float] | None
    delta_p: Mapping[str, float] | None
    last_word: Mapping[str, float | None] | None
    passages: str | None
    quantize_seconds: float | None
    prefill: float | None
    decode: float | None
    on_cpu: bool | None
    backend: str
    device: str | None
    activations: str | None
    cache: str | None
    baseline_activations: str | None
    baseline_cache: str | None
    noise_rms: float | None
    source: str
    note: str
    conditions: Conditions

    @property
    def is_baseline(self) -> bool:
        return self.format == UNCONVERTED

    @property
    def noise(self) -> str | None:
        """What is to be said of the noise floor of a model that rounds to INT8 while it runs."""
        name = int8_noise({"activations": self.activations, "cache": self.cache})
        if name is None:
            return None
        known = "not measured" if self.noise_rms is None else f"RMS {self.noise_rms:.1e} nats a token"
        return f"{name}: {known}"

    @property
    def in_f32(self) -> bool:
        """Whether the model, and its baseline if it has one, ran in f32, as far as is known."""
        known = (self.activations, self.cache, self.baseline_activations, self.baseline_cache)
        return set(known) <= {None, "f32"}

    @property
    def is_untold(self) -> bool:
        """Whether the paired change cannot be told from none, by the larger of its errors."""
        error = self.change_error
        return self.change is not None and error is not None and abs(self.change) < TOLD * error

    @property
    def tokens_to_tell(self) -> int | None:
        """How many scored tokens would tell the change from none, if it and the spread stay as they are."""
        if self.change is None or self.change_error is None:
            return None
        return tokens_to_tell(self.conditions.tokens_scored, self.change, self.change_error, TOLD)

    @property
    def ppl_error(self) -> float | None:
        return _larger(self.ppl_se, self.ppl_se_clustered)

    @property
    def change_error(self) -> float | None:
        return _larger(self.change_se, self.change_se_clustered)

    @property
    def kl_error(self) -> float | None:
        return _larger(self.kl_se, self.kl_se_clustered)

    @property
    def same_top1_error(self) -> float | None:
        return _larger(self.same_top1_se, self.same_top1_se_clustered)

    @property
    def errors(self) -> list[tuple[float | None, float | None]]:
        """(plain, clustered) of each figure that has an error by window."""
        pairs = [
            (self.ppl_se, self.ppl_se_clustered),
            (self.change_se, self.change_se_clustered),
            (self.kl_se, self.kl_se_clustered),
            (self.same_top1_se, self.same_top1_se_clustered),
        ]
        return [pair for pair in pairs if pair != (None, None)]

    @property
    def doubts(self) -> list[str]:
        """What makes the figures doubtful, a sentence each."""
        said = [self.note] if self.note else []
        if self.is_untold:
            needed = self.tokens_to_tell
            more = f"; about {count_text(needed)} would" if needed else ""
            said.append(
                f"{self.conditions.tokens_scored:,} tokens are too few to tell its change from none{more}"
            )
        return said

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in ERRORS}


def _larger(plain: float | None, clustered: float | None) -> float | None:
    found = larger_se(plain, clustered)
    return found if math.isfinite(found) else None


def files(runs: Iterable[str | Path]) -> list[Path]:
    """The result files that are meant: a folder means its cells, its results.json, or all its JSON files."""
    found = []
    for run in map(Path, runs):
        if run.is_file():
            found.append(run)
        elif (run / "cells").is_dir():
            found += sorted((run / "cells").glob("*.json"))
        elif (run / "results.json").is_file():
            found.append(run / "results.json")
        elif run.is_dir():
            found += sorted(run.glob("*.json"))
        else:
            raise SweepError(
                f"{run}: there is no such file or folder; allowed: a sweep's folder or a result file"
            )
    if not found:
        raise SweepError("there is no result yet: the folders hold no cells and no JSON files")
    return found


def read_rows(path: Path) -> list[Row]:
    """The rows of one result file; SweepError for anything else."""
    values = read_json(path)
    if values is None:
        raise SweepError(f"{path}: is no JSON object")
    return rows_of(path, values)


def rows_of(path: Path, values: Mapping[str, Any]) -> list[Row]:
    """The rows of what a result file holds; SweepError, naming it, for anything that is no result."""
    try:
        if values.get("kind") == CELL_KIND:
            facts = {
                key: values[key] for key in ("model", "format", "quantizer", "bits_per_weight", "file_bytes")
            }
            facts["quantize_seconds"] = values["quantize_seconds"]
            return [_row(path, values["result"], facts, values["speed"])]
        if values.get("kind") == RESULTS_KIND:
            return [_benchmark(path, row) for row in values["rows"]]
        if values.get("kind") == COMPARISON_KIND:
            return [_compared(path, row) for row in values["models"]]
        if {"protocol", "ppl", "tokens_scored", "provenance"} <= values.keys():
            return [_row(path, values, _described(values), None)]
    except (KeyError, TypeError, ValueError, FormatError, AttributeError) as error:
        raise SweepError(f"{path}: is a damaged result ({type(error).__name__}: {error})") from error
    raise SweepError(
        f"{path}: is not a result; allowed: cells of a sweep, results.json of a benchmark, what "
        "`workbench compare-models --json` wrote or `workbench perplexity --json` printed"
    )


def _row(
    path: Path,
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    speed: Mapping | None,
    last_words: Mapping[str, Any] | None = None,
    note: str = "",
) -> Row:
    baseline = result["baseline"] or {}
    ratio = math.exp(baseline["ln_ratio"]) if baseline.get("ln_ratio") is not None else None
    against = baseline.get("provenance") or {}
    text = result["text"] or {}
    errors = [baseline.get(name) for name in ("ln_ratio_se", "ln_ratio_se_clustered")]
    change_se, clustered = (None if ratio is None or se is None else 100 * ratio * se for se in errors)
    return Row(
        **facts,
        ppl=result["ppl"],
        ppl_se=result["ppl_se"],
        ppl_se_clustered=result["ppl_se_clustered"],
        change=None if ratio is None else 100 * (ratio - 1),
        change_se=change_se,
        change_se_clustered=clustered,
        kl=baseline.get("kl_mean"),
        kl_se=baseline.get("kl_se"),
        kl_se_clustered=baseline.get("kl_se_clustered"),
        same_top1=baseline.get("same_top1"),
        same_top1_se=baseline.get("same_top1_se"),
        same_top1_se_clustered=baseline.get("same_top1_se_clustered"),
        kl_quantiles=baseline.get("kl"),
        delta_p=_delta_p(baseline),
        last_word=last_words and _last_word(last_words),
        passages=last_words["passages"]["described"] if last_words else None,
        prefill=speed["prefill"]["tokens_per_second"] if speed else None,
        decode=speed["decode"]["tokens_per_second"] if speed else None,
        on_cpu=speed.get("on_cpu") if speed else None,
        backend=result["backend"],
        device=result["provenance"].get("device"),
        activations=result["provenance"].get("activations"),
        cache=result["provenance"].get("cache"),
        baseline_activations=against.get("activations"),
        baseline_cache=against.get("cache"),
        noise_rms=(result.get("noise_floor") or {}).get("rms"),
        source=str(path),
        note="; ".join(each for each in (note, *result.get("warnings", ())) if each),
        conditions=Conditions(
            protocol=result["protocol"],
            text_sha256=text.get("sha256"),
            tokens_sha256=result["tokens_sha256"],
            tokenizer_sha256=result["tokenizer_sha256"],
            separator=result["separator"],
            bos_policy=result["bos_policy"],
            tokens_scored=result["tokens_scored"],
            text_name=text.get("name"),
            windows=result.get("windows"),
            windows_available=result.get("windows_available"),
        ),
    )


def _benchmark(path: Path, row: Mapping[str, Any]) -> Row:
    """A row of results.json: through the kernels where they ran, else the references."""
    found = row["perplexity"].get("wgpu") or row["perplexity"]["torch"]
    source = found["provenance"].get("source", {})
    quantized = row["format_loss"] is not None
    facts = {
        "model": source.get("source", {}).get("name") or found["provenance"]["model"],
        "format": row["format"] if quantized else UNCONVERTED,
        "quantizer": _quantizer(source) if quantized else "",
        "bits_per_weight": row["bits_per_weight"],
        "file_bytes": row["file_bytes"],
        "quantize_seconds": None,
    }
    return _row(path, found, facts, row["speed"], note=row.get("note", ""))


def _compared(path: Path, row: Mapping[str, Any]) -> Row:
    """A model of a comparison, under the name that it has there."""
    own = {"model": row["name"], "bits_per_weight": row["bits_per_weight"], "file_bytes": row["file_bytes"]}
    facts = _described(row["perplexity"]) | own
    return _row(path, row["perplexity"], facts, row["speed"], row["last_words"], row["note"])


def _delta_p(baseline: Mapping[str, Any]) -> dict[str, float] | None:
    if baseline.get("delta_p_mean") is None:
        return None
    found = {"mean": baseline["delta_p_mean"], "rms": baseline["delta_p_rms"]}
    return found | (baseline.get("delta_p_quantiles") or {})


def _last_word(found: Mapping[str, Any]) -> dict[str, float | None]:
    paired = found["baseline"] or {}
    change = {"change": paired.get("difference"), "change_se": paired.get("se")}
    return {"accuracy": found["accuracy"], "se": found["se"], **change}


def _described(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a bare perplexity says of its model: the provenance of a converted one names format and quantizer."""
    from workbench.formats.spec import WeightFormat

    provenance = result["provenance"]
    source = provenance.get("source", {})
    options = source.get("options")
    return {
        "model": source.get("source", {}).get("name") or provenance["model"],
        "format": str(WeightFormat.from_json(options["format"])) if options else UNCONVERTED,
        "quantizer": _quantizer(source) if options else "",
        "bits_per_weight": None,
        "file_bytes": None,
        "quantize_seconds": None,
    }


def _quantizer(source: Mapping[str, Any]) -> str:
    """The method, and what is stored in another format than the rest, as sweeps say it: `gptq embedding=f16`."""
    from workbench.formats.spec import WeightFormat

    def form(values: dict[str, Any]) -> str:
        return str(WeightFormat.from_json(values))

    options = source.get("options") or {}
    said = [f"{each}={form(options[each])}" for each in ("embedding", "lm_head") if options.get(each)]
    others = [f"{pattern}={form(each)}" for pattern, each in (options.get("overrides") or {}).items()]
    if others:
        named = ", ".join(others) if len(others) <= _NAMED else f"{len(others)} patterns"
        said.append(f"overrides={{{named}}}")
    return " ".join([source.get("quantizer", ""), *said]).strip()
