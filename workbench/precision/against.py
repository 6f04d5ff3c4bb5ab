"""What changes of a model's predictions, against one baseline: KL and losses of many models on the same tokens.

For logits x of a model and b of the baseline, p = softmax(b) and d = x - b less its mean under p,

    ln sum exp x - ln sum exp b = mean + ln(1 + s),   s = sum p (exp(d) - 1 - d)
    KL(baseline || model)       = ln(1 + s)

since sum p d = 0. So p is made once for all models, one exponential a logit is left for each, and as d is small where
the models are alike, f32 keeps the relative accuracy of a KL that the difference of two logarithms would lose. Sums are
f64.
"""

from __future__ import annotations

import numpy as np
import torch

from eval.statistics import divergence, log_softmax, row_chunks

#: Logits in a piece: its temporaries stay in the second-level cache.
_PIECE = 1 << 18


class Baseline:
    """The baseline's predictions on one window. logits: f32 [n, vocabulary]; targets: int [n].

    nll: f64 [n], -ln p(target).
    """

    def __init__(self, logits: torch.Tensor, targets: np.ndarray) -> None:
        self._logits, self._targets = logits, np.asarray(targets)
        self._p = torch.empty_like(logits)
        rows = np.arange(len(logits))
        self.nll = np.empty(len(logits))
        for part in row_chunks(*logits.shape):
            log_p = log_softmax(logits[part].numpy())
            self.nll[part] = -log_p[rows[: len(log_p)], self._targets[part]]
            self._p[part] = torch.from_numpy(np.exp(log_p, out=log_p))

    def compare(self, logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(KL(baseline || model) in nats, -ln p(target)) of a model's logits f32 [n, vocabulary]; both f64 [n]."""
        count, vocabulary = logits.shape
        kl, shift = np.empty(count), np.empty(count)
        step = max(1, _PIECE // vocabulary)
        d, e = torch.empty(step, vocabulary), torch.empty(step, vocabulary)
        far = torch.zeros(count, dtype=torch.bool)  # beyond what exp reaches in f32
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            x, b, p = logits[part], self._logits[part], self._p[part]
            d, e = d[: len(x)], e[: len(x)]
            torch.sub(x, b, out=d)
            mean = torch.mul(p, d, out=e).sum(1, keepdim=True, dtype=torch.float64)
            d -= mean.float()
            torch.expm1(d, out=e)
            e -= d
            e *= p
            s = e.sum(1, dtype=torch.float64)
            far[part] = ~torch.isfinite(s)
            kl[part] = torch.log1p(s).numpy()
            shift[part] = mean[:, 0].numpy() + kl[part]
        rows = np.arange(count)
        moved = (logits[rows, self._targets] - self._logits[rows, self._targets]).double().numpy()
        nll = self.nll + shift - moved
        if far.any():
            at = far.numpy()
            exact = divergence(logits[far].numpy(), self._logits[far].numpy(), self._targets[at])
            kl[at], nll[at] = exact.kl, exact.nll
        return np.maximum(kl, 0.0), nll
