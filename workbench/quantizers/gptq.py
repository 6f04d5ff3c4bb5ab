"""GPTQ (Frantar et al. 2022): column after column is rounded, and what is lost is made up by those to come.

What is minimised is the error of the layer's output over the calibration tokens, row by row of W,

    tr((W - W_q) H (W - W_q)^T),   H = E[x x^T]

    scales and zero-points of every block by grid search on W itself, importance diag(H)   (static groups)
    columns by descending diag(H)                                                        (act-order)
    U upper triangular, U^T U = (H + damping * mean(diag H) * I)^-1
    for j in columns:  q_j = round to nearest of W_j;  e = (W_j - W_q_j) / U_jj;  W_k -= e * U_jk for k > j

Since the groups are static, the order of the columns leaves no trace in what is stored. Updates beyond a
batch of 128 columns are gathered into one product. Three things differ from the published program:

- U comes from one Cholesky factor and one triangular inverse: with the rows and columns of H in reverse, H =
  V V^T for an upper triangular V, and U = V^-1. All in float64; H is never inverted itself.
- A column whose input was always 0 says nothing about its weights: they are rounded, not set to 0.
- The greedy order promises nothing for a single row. A row that plain rounding with the same scales leaves
  nearer keeps that, so that no row is worse than plain rounding.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from workbench.dtypes import NUMPY
from workbench.errors import WorkbenchWarning
from workbench.formats.spec import WeightFormat
from workbench.quantizers import grid
from workbench.quantizers.blocks import Quantized, checked_weights, stored_zero
from workbench.quantizers.measure import centred

if TYPE_CHECKING:
    import torch

BATCH = 128
MOST_DAMPING = 1.0


class DampingWarning(WorkbenchWarning):
    """A Hessian needed more damping than asked for; the message says how much."""


def checked_hessian(hessian: np.ndarray, columns: int) -> np.ndarray:
    """`hessian` as an array [columns, columns]; `ValueError` if its shape is wrong, an entry is not finite, or
    the diagonal has a negative one.
    """
    hessian = np.asarray(hessian)
    if hessian.shape != (columns, columns):
        raise ValueError(f"hessian has shape {list(hessian.shape)}, but the weights have {columns} columns")
    if not np.isfinite(hessian).all():
        row, column = np.argwhere(~np.isfinite(hessian))[0]
        raise ValueError(f"hessian[{row}, {column}] is {hessian[row, column]}: all entries must be finite")
    diagonal = np.diagonal(hessian)
    if (diagonal < 0).any():
        at = int(np.argmax(diagonal < 0))
        raise ValueError(f"hessian[{at}, {at}] is {diagonal[at]}: E[x^2] cannot be negative")
    return hessian


def inverse_factor(hessian: torch.Tensor, damping: float) -> tuple[torch.Tensor, float]:
    """(U, the damping used): U upper triangular with U^T U = (H + damping * mean(diag H) * I)^-1.

    hessian float64 [K, K] with a positive diagonal. Where the Cholesky factorisation fails, the damping
    becomes 10 times as large (from 0: 1e-4), up to 1; `ValueError` if it fails even so: then H is no sum of x x^T.
    """
    import torch

    mean = hessian.diagonal().mean()
    while True:
        reversed_ = hessian.flip(0, 1)
        reversed_.diagonal().add_(damping * mean)
        factor, failed = torch.linalg.cholesky_ex(reversed_)
        if not failed:
            break
        if damping >= MOST_DAMPING:
            raise ValueError(
                f"hessian has no Cholesky factor even with its mean diagonal {float(mean):.3g} added to the "
                "diagonal: it is not positive semidefinite, as E[x x^T] must be"
            )
        damping = min(MOST_DAMPING, damping * 10 or 1e-4)
    del reversed_
    upper = factor.flip(0, 1)
    identity = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(upper, identity, upper=True), damping


def _compensate(
    w: torch.Tensor,
    u: torch.Tensor,
    s: torch.Tensor,
    z: torch.Tensor,
    block: torch.Tensor,
    format: WeightFormat,
) -> torch.Tensor:
    """c = q - z [K, N] of weights [K, N], columns of W in the order of u; w is lost.

    s, z [blocks, N or 1]; block [K] says where each column finds its own.
    """
    import torch

    result = torch.empty_like(w)
    steps = 1 / u.diagonal()
    for start in range(0, len(w), BATCH):
        part = slice(start, min(start + BATCH, len(w)))
        here, e = w[part], torch.empty_like(w[part])
        scale, zero, inner = s[block[part]], z[block[part]], u[part, part]
        for j in range(len(here)):
            c = centred(torch, here[j] / scale[j], zero[j], format)
            result[start + j] = c
            torch.mul(here[j] - scale[j] * c, steps[start + j], out=e[j])
            here[j + 1 :].addr_(inner[j, j + 1 :], e[j], alpha=-1)
        w[part.stop :].addmm_(u[part, part.stop :].T, e, alpha=-1)
    return result


def _row_errors(d: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """d_n H d_n^T of each row, for d [K, N]; float64 [N]."""
    return (d * (hessian @ d)).double().sum(0)


def quantize(
    weights: np.ndarray,
    format: WeightFormat,
    importance: np.ndarray | None = None,
    *,
    hessian: np.ndarray,
    act_order: bool = True,
    damping: float = 0.01,
    device: str = "cpu",
) -> Quantized:
    """Quantizes weights [N, K] so that W x keeps what it is on the calibration tokens.

    hessian     E[x x^T] [K, K], float32 or float64; only the ratios of its entries count
    importance  of each input channel [K], for the search of scales and zero-points; by default the damped
                diagonal of the hessian
    act_order   columns by descending E[x^2], rather than from left to right
    damping     part of the mean of diag(H) added to the diagonal; a `DampingWarning` says if it took more
    device      as torch names it: "cpu", "cuda", "cuda:1"

    Raises `ValueError` for non-finite weights, scales beyond the scale dtype, an unsuitable hessian or
    importance, and a negative damping.
    """
    import torch

    weights = checked_weights(weights, format)
    rows, columns = weights.shape
    hessian = checked_hessian(hessian, columns)
    if not damping >= 0:
        raise ValueError(f"damping is {damping}, but must not be negative")
    diagonal = np.diagonal(hessian).astype(np.float64)
    if importance is None:
        importance = diagonal + damping * diagonal.mean()
    scales, zeros = grid.parameters(weights, format, importance, device)

    dead = diagonal == 0
    # Stable: equal columns keep their order, on every machine.
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(columns)
    at = torch.from_numpy(order).to(device)
    h = torch.tensor(hessian, device=device, dtype=torch.float64)
    h.diagonal()[torch.from_numpy(dead).to(device)] = diagonal[~dead].mean() if not dead.all() else 1.0
    h = h[at][:, at]
    u, used = inverse_factor(h, damping)
    if used != damping:
        warnings.warn(
            f"gptq: the Hessian [{columns}, {columns}] needed a damping of {used:g} instead of {damping:g}",
            DampingWarning,
            stacklevel=2,
        )
    u, h = u.float(), h.float()

    w = torch.tensor(weights, device=device)[:, at].T.contiguous()
    s, z = (torch.from_numpy(each).to(device).T.contiguous() for each in (scales, zeros))
    block = at // format.block(columns) if format.granularity == "block" else at * 0
    plain = centred(torch, w / s[block], z[block], format)
    plain_error = _row_errors(w - s[block] * plain, h)
    c = _compensate(w.clone(), u, s, z, block, format)
    worse = _row_errors(w - s[block] * c, h) > plain_error
    c[:, worse] = plain[:, worse]

    low, high = format.q_range
    padded = format.padded_columns(columns)
    kind = np.int8 if format.dtype == "int8" else np.uint8
    q = np.empty((rows, padded), kind)
    q[:, order] = (c + z[block]).T.cpu().numpy().astype(kind)
    q[:, columns:] = np.clip(np.rint(zeros[:, -1:]), low, high)
    return Quantized(q, scales.astype(NUMPY[format.scale_dtype]), stored_zero(zeros, format))
