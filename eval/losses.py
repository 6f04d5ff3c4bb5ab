"""Where a quantized model loses: three paired differences of per-token negative log-likelihoods.

- format loss: dequantized weights against the unquantized ones, both through the references in f32;
- precision loss: the f16 references against the f32 ones, same weights;
- kernel loss: the packed bytes through WGSL against the references at the same precision, same weights.

Where a model rounds activations or its cache to INT8, two backends differ by more than their kernels do (see
`eval.report.int8_noise`): that difference is a noise floor, and kernels are compared on equal inputs
(`eval.kernel_checks`).

Each is d = l - l_reference over the same targets; its mean is a difference of ln PPL. A signed mean hides
symmetric noise, so the RMS of d stands beside it. Along a chain of runs the d's add up token by token, hence
also their means.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval import statistics
from eval.comparison import require_same_targets
from eval.report import finite, int8_noise, plus_minus, ran
from eval.result import PerplexityResult
from workbench.errors import ProtocolError


@dataclass(frozen=True)
class Loss:
    """One paired difference in nats a token: mean, its standard error (plain and clustered by window), RMS,
    the largest absolute difference, and the 95 % window-bootstrap interval of the mean."""

    kind: str
    mean: float
    se: float
    se_clustered: float
    rms: float
    max_abs: float
    interval95: tuple[float, float]
    tokens: int
    windows: int

    @property
    def error(self) -> float:
        """The error to give: the larger of `se` and `se_clustered`."""
        return statistics.larger_se(self.se, self.se_clustered)

    def to_json(self) -> dict[str, Any]:
        return finite(asdict(self))

    def __str__(self) -> str:
        size = f"RMS {self.rms:.2e} ({self.tokens:,} tokens)"
        what = self.kind if "noise floor" in self.kind else f"{self.kind} loss"
        return f"{what} {self.mean:+.3e}{plus_minus(self.error, '.1e')} nats a token, {size}"


Scores = PerplexityResult | np.ndarray


def paired_loss(kind: str, scores: Scores, reference: Scores, window_index: np.ndarray | None = None) -> Loss:
    """The loss of `scores` against `reference`: two results of the same windows, or two nll arrays [n] with
    the window_index [n] of their tokens. Raises ProtocolError if they do not score the same targets."""
    if isinstance(scores, PerplexityResult) and isinstance(reference, PerplexityResult):
        require_same_targets(scores, reference)
        window_index, scores, reference = scores.window_index, scores.token_nll, reference.token_nll
    elif isinstance(scores, PerplexityResult) or isinstance(reference, PerplexityResult):
        raise ProtocolError(f"{kind} loss: give two results or two arrays, not one of each")
    scores, reference = np.asarray(scores, np.float64), np.asarray(reference, np.float64)
    if window_index is None or not scores.shape == reference.shape == np.shape(window_index):
        shapes = [
            list(scores.shape),
            list(reference.shape),
            None if window_index is None else list(np.shape(window_index)),
        ]
        raise ProtocolError(
            f"{kind} loss: nll, reference and window_index must have one shape [n], not {shapes}"
        )
    pair = statistics.paired(scores, reference, window_index)
    return Loss(
        kind,
        pair.mean,
        pair.se,
        pair.se_clustered,
        pair.rms,
        float(np.abs(scores - reference).max()),
        pair.interval,
        pair.tokens,
        pair.windows,
    )


def format_loss(quantized: Scores, unquantized: Scores, window_index: np.ndarray | None = None) -> Loss:
    """Dequantized weights against unquantized ones, both through the references in f32."""
    return paired_loss("format", quantized, unquantized, window_index)


def precision_loss(f16: Scores, f32: Scores, window_index: np.ndarray | None = None) -> Loss:
    """The f16 references against the f32 ones, on the same weights."""
    return paired_loss("precision", f16, f32, window_index)


def kernel_loss(kernels: Scores, references: Scores, window_index: np.ndarray | None = None) -> Loss:
    """The packed bytes through WGSL against the references at the same precision.

    Raises ProtocolError for a model that rounds to INT8 while it runs, whose difference is a `noise_floor`.
    """
    if isinstance(kernels, PerplexityResult) and (noise := int8_noise(kernels.provenance)):
        raise ProtocolError(
            f"with {ran(kernels.backend, kernels.provenance)} the difference of two backends is the {noise} "
            "(eval.losses.noise_floor), no kernel loss; eval.kernel_checks compares kernels on equal inputs"
        )
    return paired_loss("kernel", kernels, references, window_index)


def noise_floor(result: PerplexityResult, other: PerplexityResult) -> Loss:
    """One model on two paths, such as two backends, whatever its precision: what figures of it cannot resolve."""
    return paired_loss(int8_noise(result.provenance) or "noise floor", result, other)


def split_losses(
    unquantized: Scores,
    quantized: Scores,
    kernels: Scores,
    *,
    quantized_f16: Scores | None = None,
    window_index: np.ndarray | None = None,
) -> dict[str, Loss]:
    """All losses of a model that runs through kernels, by kind, and their total.

    unquantized, quantized: through the references in f32; kernels: through WGSL, at f16 if quantized_f16 (the
    f16 references) is given, else at f32 without a precision loss. The means add up to the total's.
    """
    losses = {"format": format_loss(quantized, unquantized, window_index)}
    same_precision = quantized
    if quantized_f16 is not None:
        losses["precision"] = precision_loss(quantized_f16, quantized, window_index)
        same_precision = quantized_f16
    losses["kernel"] = kernel_loss(kernels, same_precision, window_index)
    losses["total"] = paired_loss("total", kernels, unquantized, window_index)
    return losses
