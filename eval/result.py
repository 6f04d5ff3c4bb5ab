"""What a perplexity run found: per-token scores, figures made of them, and what makes them comparable."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eval import statistics
from eval.protocols import Protocol, protocol
from eval.texts import WIKITEXT2_JOINED_SHA256
from workbench.errors import ProtocolError

_ARRAYS = ("token_nll", "top1", "targets", "window_index", "window_start", "window_first_scored")


@dataclass(frozen=True)
class Comparison:
    """A model against a baseline on the same targets. ln_ratio = ln(PPL / PPL_baseline), like its errors.

    kl: mean, median, p90, p99, p99.9 and max over tokens of KL(baseline || model) in nats, None where no
    logits of the baseline were at hand. delta_p: the change of the target's probability. backend, provenance:
    the baseline's.
    """

    ppl: float
    ln_ratio: float
    ln_ratio_se: float
    ln_ratio_se_clustered: float
    ln_ratio_interval95: tuple[float, float]
    difference_rms: float
    delta_p_mean: float
    delta_p_rms: float
    same_top1: float
    same_top1_se: float
    kl: dict[str, float] | None
    kl_se: float | None
    kl_se_clustered: float | None
    backend: str
    provenance: dict[str, Any] = field(repr=False)

    @classmethod
    def of(
        cls,
        nll: np.ndarray,
        baseline: np.ndarray,
        window_index: np.ndarray,
        top1: np.ndarray,
        baseline_top1: np.ndarray,
        *,
        kl: np.ndarray | None,
        backend: str,
        provenance: dict[str, Any],
    ) -> Comparison:
        """From arrays over the scored tokens, all [n]."""
        pair = statistics.paired(nll, baseline, window_index)
        delta_p = np.exp(-nll) - np.exp(-baseline)
        same = float(np.mean(top1 == baseline_top1))
        return cls(
            ppl=_exp(statistics.mean_nll(baseline)),
            ln_ratio=pair.mean,
            ln_ratio_se=pair.se,
            ln_ratio_se_clustered=pair.se_clustered,
            ln_ratio_interval95=pair.interval,
            difference_rms=pair.rms,
            delta_p_mean=float(delta_p.mean()),
            delta_p_rms=float(np.sqrt(np.mean(delta_p**2))),
            same_top1=same,
            same_top1_se=statistics.binomial_se(same, len(nll)),
            kl=None if kl is None else statistics.spread(kl),
            kl_se=None if kl is None else statistics.mean_se(kl),
            kl_se_clustered=None if kl is None else statistics.clustered_se(kl, window_index),
            backend=backend,
            provenance=provenance,
        )

    @property
    def kl_mean(self) -> float | None:
        return None if self.kl is None else self.kl["mean"]

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {"ppl": values.pop("ppl"), "kl_mean": self.kl_mean, **values}


@dataclass(frozen=True, eq=False)
class PerplexityResult:
    """Scores of a text under a protocol. Arrays over the scored tokens, in order, all [n]:

    token_nll f64 (nats), top1 int64 (most likely token there), targets int64, window_index int64 (0-based).
    Arrays over windows [W]: window_start (index in the token stream) and window_first_scored. seconds: wall
    time of scoring. text: name, dataset, revision, split, sha256, bytes; None for bare tokens, like the
    hashes and policies that follow from it. warnings: what makes the figure doubtful, such as a text that the
    model was calibrated on (`eval.overlap`).
    """

    protocol: Protocol
    backend: str
    token_nll: np.ndarray = field(repr=False)
    top1: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    window_index: np.ndarray = field(repr=False)
    window_start: np.ndarray = field(repr=False)
    window_first_scored: np.ndarray = field(repr=False)
    windows_available: int
    tokens_available: int
    scored_bytes: int | None
    tokens_sha256: str
    tokenizer_sha256: str | None
    text: dict[str, Any] | None
    bos_policy: str | None
    separator: str | None
    documents: int | None
    context_length: int
    provenance: dict[str, Any] = field(repr=False)
    seconds: float
    baseline: Comparison | None = None
    warnings: tuple[str, ...] = ()

    @cached_property
    def nll(self) -> float:
        """Mean negative log-likelihood a scored token, nats."""
        return statistics.mean_nll(self.token_nll)

    @property
    def ppl(self) -> float:
        return _exp(self.nll)

    @cached_property
    def ppl_se(self) -> float:
        """PPL * SE(ln PPL), tokens taken as independent."""
        return self.ppl * statistics.ln_ppl_se(self.token_nll)

    @cached_property
    def ppl_se_clustered(self) -> float:
        """PPL * SE(ln PPL), clustered by window."""
        return self.ppl * statistics.clustered_se(self.token_nll, self.window_index)

    @cached_property
    def ppl_interval95(self) -> tuple[float, float]:
        """Percentile interval of the perplexity from 10,000 resamples of the windows, seed 0."""
        low, high = statistics.bootstrap_interval(self.token_nll, self.window_index)
        return _exp(low), _exp(high)

    @property
    def tokens_scored(self) -> int:
        return len(self.token_nll)

    @property
    def windows(self) -> int:
        return len(self.window_start)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of the scored tokens over the UTF-8 bytes that they stand for (not over the whole text's)."""
        return float(self.token_nll.sum() / math.log(2) / self.scored_bytes) if self.scored_bytes else None

    @property
    def top1_accuracy(self) -> float:
        return float(np.mean(self.top1 == self.targets))

    @property
    def ppl_hf_loop(self) -> float | None:
        """What the loop printed in the documentation of `transformers` gives; None outside `hf-strided-L-S`.

        That loop weights each window's mean by its targets less one, as if the internal shift dropped a
        target from every window; it drops one only where the window's first token is among them. So later
        windows weigh one too little.
        """
        if self.protocol.kind != "hf-strided":
            return None
        sums, counts = statistics.window_sums(self.token_nll, self.window_index)
        overlap = self.protocol.stride < self.protocol.length
        weights = counts - (overlap & (np.arange(len(counts)) > 0))
        return _exp(float(np.sum(sums / counts * weights) / weights.sum())) if weights.sum() else None

    @property
    def unrecorded(self) -> tuple[str, ...]:
        """What is not known of this row and would be needed to compare it with rows of other origin."""
        text = self.text or {}
        missing = [key for key in ("dataset", "revision", "split", "sha256") if text.get(key) is None]
        missing = [f"text {key}" for key in missing]
        if self.protocol.joins_rows and text.get("sha256") != WIKITEXT2_JOINED_SHA256:
            missing.append("that the text is WikiText-2's test split (its hash is another)")
        if self.tokenizer_sha256 is None:
            missing.append("tokenizer")
        if self.bos_policy is None:
            missing.append("BOS policy")
        return tuple(missing)

    def with_baseline(self, comparison: Comparison) -> PerplexityResult:
        return dataclasses.replace(self, baseline=comparison)

    def to_json(self) -> dict[str, Any]:
        """Figures and provenance, without the per-token arrays. Numbers that do not exist are null."""
        return _finite(
            {
                "protocol": self.protocol.name,
                "backend": self.backend,
                "tokens_scored": self.tokens_scored,
                "windows": self.windows,
                "ppl": self.ppl,
                "ppl_se": self.ppl_se,
                "ppl_se_clustered": self.ppl_se_clustered,
                "ppl_interval95": self.ppl_interval95,
                **({"ppl_hf_loop": self.ppl_hf_loop} if self.protocol.kind == "hf-strided" else {}),
                "nll": self.nll,
                "bits_per_byte": self.bits_per_byte,
                "top1_accuracy": self.top1_accuracy,
                "baseline": self.baseline.to_json() if self.baseline else None,
                "provenance": self.provenance,
                "text": self.text,
                "tokens_sha256": self.tokens_sha256,
                "tokenizer_sha256": self.tokenizer_sha256,
                "bos_policy": self.bos_policy,
                "separator": self.separator,
                "documents": self.documents,
                "window_length": self.protocol.length,
                "stride": self.protocol.stride,
                "context_length": self.context_length,
                "windows_available": self.windows_available,
                "tokens_available": self.tokens_available,
                "scored_bytes": self.scored_bytes,
                "normalisation": "per token of the model's tokenizer, natural logarithm",
                "unrecorded": self.unrecorded,
                "warnings": self.warnings,
                "seconds": self.seconds,
            }
        )

    def save(self, path: str | Path) -> None:
        """Figures, provenance and per-token arrays in one .npz, for comparisons later; see `load`."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _ARRAYS}
        plain["protocol"] = self.protocol.name
        plain["baseline"] = dataclasses.asdict(self.baseline) if self.baseline else None
        with Path(path).open("wb") as file:
            np.savez_compressed(
                file, meta=json.dumps(plain), **{name: getattr(self, name) for name in _ARRAYS}
            )

    @classmethod
    def load(cls, path: str | Path) -> PerplexityResult:
        """Read what `save` wrote. Raises ProtocolError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                plain = json.loads(str(stored["meta"]))
                arrays = {name: stored[name] for name in _ARRAYS}
            plain["protocol"] = protocol(plain["protocol"])
            plain["warnings"] = tuple(plain["warnings"])
            if plain["baseline"] is not None:
                compared = plain["baseline"]
                compared["ln_ratio_interval95"] = tuple(compared["ln_ratio_interval95"])
                plain["baseline"] = Comparison(**compared)
            return cls(**plain, **arrays)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise ProtocolError(f"{path}: not a stored perplexity result ({error})") from error

    def summary(self) -> str:
        """A few lines to print."""
        return "\n".join(f"{key}: {value}" for key, value in self._rows())

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        cells = "".join(
            f"<tr><th {left}>{html.escape(key)}</th><td {left}>{html.escape(value)}</td></tr>"
            for key, value in self._rows()
        )
        return f"<table><tbody>{cells}</tbody></table>"

    def _rows(self) -> list[tuple[str, str]]:
        part = "" if self.windows == self.windows_available else f", the first of {self.windows_available}"
        source = self.text["name"] if self.text else "bare tokens"
        size = f"{self.tokens_scored:,} tokens in {self.windows} windows{part}"
        error = f"± {self.ppl_se:.4f}, clustered by window ± {self.ppl_se_clustered:.4f}"
        rows = [
            ("perplexity", f"{self.ppl:.4f} ({error})"),
            ("protocol", f"{self.protocol.name} on {source}, {size}"),
            ("backend", self.backend),
        ]
        if self.baseline:
            b = self.baseline
            ratio = f"ln ratio {b.ln_ratio:+.3e} ± {b.ln_ratio_se:.1e}"
            rows.append(("baseline", f"{b.ppl:.4f} ({b.backend}), {ratio}, same top-1 {b.same_top1:.2%}"))
            if b.kl:
                quantiles = f"median {b.kl['median']:.3e}, p99 {b.kl['p99']:.3e}"
                rows.append(("KL", f"mean {b.kl['mean']:.3e}, {quantiles} nats"))
        if self.unrecorded:
            rows.append(("unrecorded", ", ".join(self.unrecorded)))
        if self.warnings:
            rows.append(("warning", "; ".join(self.warnings)))
        return rows


def compare(
    result: PerplexityResult, baseline: PerplexityResult, *, kl: np.ndarray | None = None
) -> Comparison:
    """Pair two results of the same windows, token by token.

    kl: KL(baseline || model) of each token [n], from whoever had the logits; results hold none. Raises
    ProtocolError unless protocol, windows and targets are the same.
    """
    require_same_targets(result, baseline)
    return Comparison.of(
        result.token_nll,
        baseline.token_nll,
        result.window_index,
        result.top1,
        baseline.top1,
        kl=kl,
        backend=baseline.backend,
        provenance=baseline.provenance,
    )


def require_same_targets(one: PerplexityResult, other: PerplexityResult) -> None:
    """Raise ProtocolError, naming what differs, unless two results score the same targets in context."""
    for name in ("protocol", "tokenizer_sha256", "tokens_sha256", "windows"):
        if getattr(one, name) != getattr(other, name):
            raise ProtocolError(
                f"results cannot be paired: {name} is {getattr(one, name)} and {getattr(other, name)}"
            )


def _exp(value: float) -> float:
    """exp that overflows to infinity instead of raising."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def _finite(value: Any) -> Any:
    """The same, with numbers that JSON has no word for replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
