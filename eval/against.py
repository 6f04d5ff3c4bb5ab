"""Many models against one baseline on the same tokens, in memory: KL alone, and what depends on the baseline once.

    baseline = Against(logits)                     # [n, vocabulary], a tensor of the references
    baseline.kl(other_logits).sum()                # KL(baseline || other) of each token, in f64

With p of the baseline and y, the model's logits, KL = sum p ln p - sum p y + ln sum exp(y): of each model there is one
exponential to take of each logit, a fifth of what `eval.statistics.divergence` does, on all of PyTorch's threads. The
rounding of p to f32 changes KL by about 1e-7 / sqrt(KL) of its size.
"""

from __future__ import annotations

import numpy as np
import torch

#: Numbers of a piece of rows: in f64 it stays in the cache of a core.
PIECE = 1 << 17


class Against:
    """The distributions of a baseline, from its finite logits [n, vocabulary] of any float type; kept in f32."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._rows = max(1, PIECE // logits.shape[1])
        self._p = torch.empty(logits.shape)
        self._entropy, self._mass = torch.empty(2, len(logits), dtype=torch.float64)
        for part in self._parts():
            log_p = logits[part].double().log_softmax(-1)
            self._p[part] = log_p.exp()
            p = self._p[part].double()  # as rounded: the sums below then belong to one distribution
            self._entropy[part], self._mass[part] = torch.linalg.vecdot(p, log_p), p.sum(-1)

    def _parts(self) -> list[slice]:
        return [slice(at, at + self._rows) for at in range(0, len(self._p), self._rows)]

    @torch.inference_mode()
    def kl(self, logits: torch.Tensor) -> np.ndarray:
        """KL(baseline || model) in nats, f64 [n], of finite logits [n, vocabulary]; ValueError for another shape."""
        if logits.shape != self._p.shape:
            raise ValueError(f"logits are {list(logits.shape)}, but must be {list(self._p.shape)}")
        found = torch.empty(len(logits), dtype=torch.float64)
        for part in self._parts():
            y = logits[part].double()
            y -= y.amax(-1, keepdim=True)
            inner = torch.linalg.vecdot(self._p[part].double(), y)
            found[part] = self._entropy[part] - inner + self._mass[part] * y.exp_().sum(-1).log()
        return found.clamp_(min=0.0).numpy()
