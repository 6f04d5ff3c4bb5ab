"""What allocations really cost: all groups quantized at once, against the float model, token by token.

Predictions add up what groups cost alone. Errors of two groups may cancel or feed each other, so no allocation is
to be believed before this has been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from eval import statistics
from eval.protocols import Protocol, Window, protocol
from eval.texts import Tokens
from workbench.convert.suited import suited
from workbench.formats.spec import WeightFormat
from workbench.model_bench.measure import reference_threads
from workbench.models.families import architecture_of
from workbench.plan.plan import Plan
from workbench.precision.against import Baseline
from workbench.precision.allocation import Allocation
from workbench.precision.branches import ONE_THREAD
from workbench.precision.meter import Progress
from workbench.precision.requantized import Requantized
from workbench.precision.sensitivity import checked_windows
from workbench.runtime.step import Step
from workbench.runtime.torch_executor import TorchCache, TorchExecutor


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


def measure_joint(  # many parameters: the options of a measurement, each of its own
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
    config = architecture_of(source.config)
    windows = checked_windows(scheme.windows(tokens.ids, bos=tokens.bos)[:max_windows], config.vocab_size)
    made = {} if made is None else made
    executor = TorchExecutor(source, config)
    plan = executor.plan("all")
    loaded = {
        name: _Restored(plan, _requantized(source, each, quantizer, made)) for name, each in models.items()
    }
    small = all(w.rows * w.columns <= ONE_THREAD for w in plan.weights.values())
    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {name: [] for name in models}
    with reference_threads(threads or (1 if small else None)):
        for done, window in enumerate(windows, 1):
            rows = slice(window.first_scored - 1, None)
            baseline = Baseline(_logits(executor, plan, window, {})[rows], window.targets)
            for name, weights in loaded.items():
                found = baseline.compare(_logits(executor, plan, window, weights)[rows])
                parts[name].append((*found, baseline.nll))
            if progress:
                progress(done, len(windows))
    index = np.repeat(np.arange(len(windows)), [window.scored for window in windows])
    return {
        name: Joint(
            *(np.concatenate(each) for each in zip(*found, strict=True)),
            window_index=index,
        )
        for name, found in parts.items()
    }


def _requantized(
    source, model: Allocation | Mapping[str, WeightFormat], quantizer: str, made: dict
) -> Requantized:
    if isinstance(model, Allocation):
        return Requantized(source, model.formats, model.quantizer, made)
    formats = {name: each.format for name, each in suited(source, model).items()}
    return Requantized(source, formats, quantizer, made)


class _Restored:
    """The matrices of a requantized source by the plan's names, dequantized when they are read and not kept: beside the
    float model only one of them is in memory as f32."""

    def __init__(self, plan: Plan, source: Requantized) -> None:
        self._source = source
        self._tensors = {
            weight.name: weight.tensor for weight in plan.weights.values() if weight.tensor in source.formats
        }

    def get(self, name: str | None) -> torch.Tensor | None:
        if name not in self._tensors:
            return None
        return torch.from_numpy(self._source.tensor(self._tensors[name]).dequantize())


def _logits(executor: TorchExecutor, plan: Plan, window: Window, weights) -> torch.Tensor:
    """f32 [n - 1, vocabulary]: of every token of a window but the last, with a cache of just its size."""
    ids = window.ids[:-1]
    cache = TorchCache(len(ids))
    env = executor.inputs(Step.following(ids, cache.position), cache.adapters)
    executor.advance(plan, env, cache, range(len(plan.calls)), keep={"logits"}, weights=weights)
    return env["logits"]
