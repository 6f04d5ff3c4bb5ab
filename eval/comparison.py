"""A model against a baseline, token by token on the same targets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import statistics
from eval.report import errors_note, plus_minus, ppl_text, ran
from workbench.errors import ProtocolError

if TYPE_CHECKING:
    from eval.result import PerplexityResult

#: What `Comparison.to_json` adds, which follows from the fields.
_DERIVED = ("kl_mean", "ln_ratio_error", "same_top1_error", "kl_error")


@dataclass(frozen=True)
class Comparison:
    """A model against a baseline on the same targets. ln_ratio = ln(PPL / PPL_baseline), like its errors.

    kl: mean, median, p90, p99, p99.9 and max over tokens of KL(baseline || model) in nats, None where no
    logits of the baseline were at hand. kl_truncation: None where all logits were; else
    (`StoredBaseline.truncation`) how many were, what error that adds to the KL, and a lower bound of it. delta_p: the
    change of the target's probability; its quantiles p0.1 to p99.9 (None in older records). Errors `_se` take tokens
    as independent (binomial for same_top1), `_se_clustered` windows; the larger of the two is the one to give
    (`_error`). Intervals are 95 % window bootstraps. backend, provenance: the baseline's. noise_floor: what the same
    figures are for the baseline against itself on another path (`noise`), where it was run.
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
    same_top1_se_clustered: float
    same_top1_interval95: tuple[float, float]
    kl: dict[str, float] | None
    kl_se: float | None
    kl_se_clustered: float | None
    kl_interval95: tuple[float, float] | None
    backend: str
    provenance: dict[str, Any] = field(repr=False)
    kl_truncation: dict[str, Any] | None = None
    noise_floor: dict[str, Any] | None = None
    delta_p_quantiles: dict[str, float] | None = None

    @classmethod
    def of(  # many parameters: the arrays of both sides, and their records
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
        kl_truncation: dict[str, Any] | None = None,
    ) -> Comparison:
        """From arrays over the scored tokens, all [n]."""
        pair = statistics.paired(nll, baseline, window_index)
        delta_p = np.exp(-nll) - np.exp(-baseline)
        same = (top1 == baseline_top1).astype(np.float64)
        share = float(same.mean())
        return cls(
            ppl=statistics.exp(statistics.mean_nll(baseline)),
            ln_ratio=pair.mean,
            ln_ratio_se=pair.se,
            ln_ratio_se_clustered=pair.se_clustered,
            ln_ratio_interval95=pair.interval,
            difference_rms=pair.rms,
            delta_p_mean=float(delta_p.mean()),
            delta_p_rms=float(np.sqrt(np.mean(delta_p**2))),
            same_top1=share,
            same_top1_se=statistics.binomial_se(share, len(nll)),
            same_top1_se_clustered=statistics.clustered_se(same, window_index),
            same_top1_interval95=statistics.bootstrap_interval(same, window_index),
            kl=None if kl is None else statistics.spread(kl),
            kl_se=None if kl is None else statistics.mean_se(kl),
            kl_se_clustered=None if kl is None else statistics.clustered_se(kl, window_index),
            kl_interval95=None if kl is None else statistics.bootstrap_interval(kl, window_index),
            backend=backend,
            provenance=provenance,
            kl_truncation=kl_truncation,
            delta_p_quantiles=statistics.quantiles(delta_p, statistics.BOTH_TAILS),
        )

    @property
    def ln_ratio_error(self) -> float:
        """The error to give, as the next two: the larger of the plain and the clustered one."""
        return statistics.larger_se(self.ln_ratio_se, self.ln_ratio_se_clustered)

    @property
    def same_top1_error(self) -> float:
        return statistics.larger_se(self.same_top1_se, self.same_top1_se_clustered)

    @property
    def kl_error(self) -> float:
        """NaN where there is no KL."""
        return statistics.larger_se(self.kl_se, self.kl_se_clustered)

    @property
    def kl_mean(self) -> float | None:
        return None if self.kl is None else self.kl["mean"]

    @property
    def errors(self) -> list[tuple[float | None, float | None]]:
        """(plain, clustered) of each figure that has one."""
        pairs: list[tuple[float | None, float | None]] = [
            (self.ln_ratio_se, self.ln_ratio_se_clustered),
            (self.same_top1_se, self.same_top1_se_clustered),
        ]
        return pairs if self.kl is None else [*pairs, (self.kl_se, self.kl_se_clustered)]

    def with_noise_floor(self, other: PerplexityResult) -> Comparison:
        """With the figures of the baseline's other path beside its own. `other` was compared with the baseline."""
        against = other.baseline
        if against is None:
            raise ProtocolError("a noise floor is a result that was compared with the baseline")
        names = ("kl", "kl_se", "difference_rms", "ln_ratio", "ln_ratio_se", "same_top1", "same_top1_se")
        figures = {name: getattr(against, name) for name in names}
        floor = {"backend": other.backend, "provenance": other.provenance, **figures}
        return dataclasses.replace(self, noise_floor=floor)

    def to_json(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {"ppl": values.pop("ppl"), **values, **{name: getattr(self, name) for name in _DERIVED}}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Comparison:
        """The inverse of `to_json` (and of `dataclasses.asdict`). Raises TypeError for other fields."""
        values = {key: value for key, value in values.items() if key not in _DERIVED}
        for name in ("ln_ratio_interval95", "same_top1_interval95", "kl_interval95"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)

    def rows(self) -> list[tuple[str, str]]:
        """(name, figure) to print."""
        ratio = f"ln ratio {self.ln_ratio:+.3e}{plus_minus(self.ln_ratio_error, '.1e')}"
        same = f"same top-1 {self.same_top1:.2%}{plus_minus(100 * self.same_top1_error, '.2f')} %"
        rows = [("baseline", f"{ppl_text(self.ppl)} ({ran(self.backend, self.provenance)}), {ratio}, {same}")]
        if self.kl:
            quantiles = f"median {self.kl['median']:.3e}, p99 {self.kl['p99']:.3e}"
            about = "about " if self.kl_truncation else ""
            mean = f"mean {about}{self.kl['mean']:.3e}{plus_minus(self.kl_error, '.1e')}"
            rows.append(("KL", f"{mean}, {quantiles} nats"))
        if self.kl_truncation:
            cut = self.kl_truncation
            kept = f"the {cut['top_k']} likeliest tokens and {cut['samples']} drawn of the others"
            error = f"which adds ± {cut['estimated_se']:.0e} to the mean"
            bound = f"by the likeliest alone at least {cut['bound_mean']:.3e} nats"
            rows.append(("KL from", f"{kept}, {error}; {bound}"))
        rows.append(("errors", errors_note(self.errors)))
        if self.noise_floor:
            floor = self.noise_floor
            size = f"RMS of d {floor['difference_rms']:.1e}, same top-1 {floor['same_top1']:.2%}"
            kl = f"KL mean {floor['kl']['mean']:.1e}, " if floor["kl"] else ""
            rows.append(
                (
                    "noise floor",
                    f"{kl}{size} (the baseline through {ran(floor['backend'], floor['provenance'])})",
                )
            )
        return rows


def compare(
    result: PerplexityResult,
    baseline: PerplexityResult,
    *,
    kl: np.ndarray | None = None,
    kl_truncation: dict[str, Any] | None = None,
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
        kl_truncation=kl_truncation,
    )


def require_same_targets(one: PerplexityResult, other: PerplexityResult) -> None:
    """Raise ProtocolError, naming what differs, unless two results score the same targets in context."""
    for name in ("protocol", "tokenizer_sha256", "tokens_sha256", "windows"):
        if getattr(one, name) != getattr(other, name):
            raise ProtocolError(
                f"results cannot be paired: {name} is {getattr(one, name)} and {getattr(other, name)}"
            )
