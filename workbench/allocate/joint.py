"""What allocations really cost: all groups quantized at once, against the float model, token by token.

Predictions add up what groups cost alone. Errors of two groups may cancel or feed each other, so no allocation is
to be believed before this has been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from eval import statistics
from eval.protocols import Protocol, protocol
from eval.texts import Tokens
from workbench.allocate.allocation import Allocation
from workbench.allocate.requantized import Requantized, reference_model
from workbench.allocate.sensitivity import ONE_THREAD, Progress
from workbench.bench.measure import reference_threads
from workbench.formats.spec import WeightFormat


@dataclass(frozen=True, eq=False)
class Joint:
    """Scored tokens of one model against the float one, f64 [n]: kl, nll, nll_float; window_index int64 [n]."""

    kl: np.ndarray = field(repr=False)
    nll: np.ndarray = field(repr=False)
    nll_float: np.ndarray = field(repr=False)
    window_index: np.ndarray = field(repr=False)

    @property
    def ppl(self) -> float:
        return float(np.exp(self.nll.mean()))

    def figures(self) -> dict[str, float]:
        """kl, kl_se (clustered by window), ln_ratio = ln(PPL / PPL of the float model) and its clustered error."""
        pair = statistics.paired(self.nll, self.nll_float, self.window_index)
        return {
            "kl": float(self.kl.mean()),
            "kl_se": statistics.clustered_se(self.kl, self.window_index),
            "ln_ratio": pair.mean,
            "ln_ratio_se": pair.se_clustered,
            "ppl": self.ppl,
            "tokens": pair.tokens,
            "windows": pair.windows,
        }

    def kl_against(self, other: Joint) -> statistics.Paired:
        """KL of this less KL of the other, paired token by token."""
        return statistics.paired(self.kl, other.kl, self.window_index)

    def nll_against(self, other: Joint) -> statistics.Paired:
        """ln(PPL / the other's PPL), paired token by token."""
        return statistics.paired(self.nll, other.nll, self.window_index)


def measure_joint(
    source,
    models: Mapping[str, Allocation | Mapping[str, WeightFormat]],
    tokens: Tokens,
    scheme: str | Protocol,
    *,
    quantizer: str = "rtn",
    max_windows: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    made: dict | None = None,
) -> dict[str, Joint]:
    """Score a text with each of `models` (an Allocation, or formats by checkpoint name) and with the float model.

    source: the opened unquantized checkpoint. quantizer: of plain formats; an Allocation has its own. made: where the
    packed matrices are kept (as in `Requantized`), for those who need them afterwards. Errors as in `sensitivity`.
    """
    scheme = protocol(scheme)
    windows = scheme.windows(tokens.ids, bos=tokens.bos)[:max_windows]
    context = scheme.length
    made = {} if made is None else made
    sources = {
        name: Requantized(source, each.formats, each.quantizer, made)
        if isinstance(each, Allocation)
        else Requantized(source, each, quantizer, made)
        for name, each in models.items()
    }
    base = reference_model(source, context)
    loaded = {name: reference_model(each, context) for name, each in sources.items()}
    small = all(w.shape[0] * w.shape[1] <= ONE_THREAD for w in base.plan().weights.values())
    parts: dict[str, list[statistics.Divergence]] = {name: [] for name in models}
    with reference_threads(threads or (1 if small else None)):
        for done, window in enumerate(windows, 1):
            rows = slice(window.first_scored - 1, None)
            baseline = base.forward(window.ids[:-1]).logits[rows]
            for name, model in loaded.items():
                logits = model.forward(window.ids[:-1]).logits[rows]
                parts[name].append(statistics.divergence(logits, baseline, window.targets))
            if progress:
                progress(done, len(windows))
    index = np.repeat(np.arange(len(windows)), [window.scored for window in windows])
    return {
        name: Joint(
            kl=np.concatenate([part.kl for part in found]),
            nll=np.concatenate([part.nll for part in found]),
            nll_float=np.concatenate([part.nll_baseline for part in found]),
            window_index=index,
        )
        for name, found in parts.items()
    }
