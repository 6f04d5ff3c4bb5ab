"""AWQ (Lin et al. 2023): input channels that matter get finer steps, and ranges are clipped where that helps.

**Scales.** A layer's output is W x = (W * t) (x / t) for any t > 0 per input channel. W * t is what gets
quantized; 1 / t is folded into what makes x (the norm before q/k/v and gate/up, the up projection before
down). Channels of large inputs get a large t, hence small errors:

    t = a^alpha / sqrt(max(a^alpha) * min(a^alpha)),   a = mean |x|,   alpha in 0, 0.05, ... 0.95
    keep the alpha of least  sum over W of  || X (W - Q(W * t) / t)^T ||^2

All W that read one x share one t. alpha = 0 is t = 1, so that the scales never make it worse. Q is round to
nearest.

**Clipping.** The range of a block, [min w, max w], is shrunk by p in 1.00, 0.95, ... 0.25; kept is the p of
least || X_b (W_b - Q(W_b))^T ||^2 over the inputs X_b of that block's columns, again never worse than p = 1.

For both, sum (d x)^2 over the tokens is d G d^T with G = X^T X, which is computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.formats.spec import WeightFormat
from workbench.quantizers import rtn
from workbench.quantizers.blocks import Quantized, checked_weights, in_blocks, quantize_with, row_chunks
from workbench.quantizers.measure import centred

if TYPE_CHECKING:
    import torch

CLIP = np.arange(20, 4, -1) / 20
# Channels of smaller mean |x|, relative to the largest, count as if they had it: a^alpha must not be 0.
FLOOR = 1e-4
# Weights in a chunk of rows on the device: a few float32 temporaries of this size.
_CHUNK = 1 << 24


def checked_inputs(inputs: np.ndarray, columns: int) -> np.ndarray:
    """`inputs` as float32 [n, columns]; `ValueError` for another shape, no rows, or a non-finite entry."""
    inputs = np.asarray(inputs, np.float32)
    if inputs.ndim != 2 or inputs.shape[1] != columns or len(inputs) == 0:
        raise ValueError(
            f"inputs are {list(inputs.shape)}, but must be [at least 1, {columns}], as the weights"
        )
    if not np.isfinite(inputs).all():
        row, column = np.argwhere(~np.isfinite(inputs))[0]
        raise ValueError(f"inputs[{row}, {column}] is {inputs[row, column]}: all entries must be finite")
    return inputs


def _blocks(chunk: np.ndarray, format: WeightFormat, device: str) -> torch.Tensor:
    """[rows, columns] -> [blocks, rows, block] on the device, zeros in the padding."""
    import torch

    return torch.tensor(in_blocks(chunk, format), device=device).transpose(0, 1).contiguous()


def _lost(w: torch.Tensor, scales: np.ndarray, zeros: np.ndarray, format: WeightFormat) -> torch.Tensor:
    """W - Q(W) of w [blocks, rows, block]; scales and zeros are [rows, blocks] or [1, 1]."""
    import torch

    s, z = (torch.from_numpy(each).to(w.device).T[:, :, None] for each in (scales, zeros))
    return w - s * centred(torch, w / s, z, format)


def search_scale(
    weights: Sequence[np.ndarray],
    format: WeightFormat,
    *,
    inputs: np.ndarray,
    mean_abs: np.ndarray | None = None,
    grid: int = 20,
    device: str = "cpu",
) -> np.ndarray:
    """The scale t [K] (float32, positive) of each input channel, shared by all `weights`.

    weights   matrices [N_i, K] that read the same input: q, k and v; gate and up; or one alone
    inputs    some of its tokens [n, K]; mean_abs [K] their mean |x|, if known from more of them
    grid      so many values of alpha, 0, 1 / grid, ... below 1

    Raises `ValueError` for non-finite weights or inputs and for shapes that do not fit.
    """
    import torch

    weights = [checked_weights(each, format) for each in weights]
    if len({each.shape[1] for each in weights}) != 1:
        raise ValueError(
            f"weights that share an input have {', '.join(str(list(each.shape)) for each in weights)}, "
            "but must have the same number of columns, and there must be at least one"
        )
    columns = weights[0].shape[1]
    inputs = checked_inputs(inputs, columns)
    mean = np.abs(inputs).mean(0, dtype=np.float64) if mean_abs is None else np.asarray(mean_abs, np.float64)
    if mean.shape != (columns,) or not (np.isfinite(mean) & (mean >= 0)).all():
        raise ValueError(f"mean_abs must be {columns} finite numbers, none negative")
    if mean.max() == 0:
        return np.ones(columns, np.float32)
    mean = np.maximum(mean, FLOOR * mean.max())
    x = torch.tensor(inputs, device=device)
    gram = x.T @ x if len(x) > columns else None

    def error(t: np.ndarray) -> float:
        total, back = 0.0, 1 / torch.from_numpy(t).to(device)
        for each in weights:
            scaled = each * t
            parameters = rtn.parameters(*rtn.ranges(scaled, format), format)
            for part in row_chunks(len(each), columns, _CHUNK):
                scales, zeros = _rows(parameters, part)
                d = _lost(_blocks(scaled[part], format, device), scales, zeros, format)
                d = d.transpose(0, 1).reshape(d.shape[1], -1)[:, :columns] * back
                product = d @ gram * d if gram is not None else (x @ d.T).square_()
                total += float(product.sum(dtype=torch.float64))
        return total

    best, least = np.ones(columns, np.float32), error(np.ones(columns, np.float32))
    for alpha in np.arange(1, grid) / grid:
        t = mean**alpha
        t = (t / np.sqrt(t.max() * t.min())).astype(np.float32)
        if (loss := error(t)) < least:
            best, least = t, loss
    return best


def _rows(parameters: tuple[np.ndarray, np.ndarray], part: slice) -> Iterator[np.ndarray]:
    """Scales and zeros of some rows; of all rows if they share one."""
    return (each if len(each) == 1 else each[part] for each in parameters)


def search_clip(
    weights: np.ndarray, format: WeightFormat, *, inputs: np.ndarray, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The range (lo, hi) of each block, float32 of `format.scale_shape`: lo <= 0 <= hi, and so for
    `rtn.parameters`.

    inputs [n, K]: some tokens. Raises `ValueError` as `quantize` does.
    """
    import torch

    weights = checked_weights(weights, format)
    rows, columns = weights.shape
    x = _blocks(checked_inputs(inputs, columns), format, device)
    gram = x.transpose(1, 2) @ x  # [blocks, block, block]
    lo, hi = rtn.ranges(weights, format)
    least, best = np.full(lo.shape, np.inf), np.ones(lo.shape, np.float32)
    chunks = list(row_chunks(rows, columns, _CHUNK))
    # One chunk stays where it is; several take turns.
    kept = _blocks(weights, format, device) if len(chunks) == 1 else None
    for p in CLIP.astype(np.float32):
        parameters = rtn.parameters(p * lo, p * hi, format)
        errors = np.empty((rows, format.blocks(columns)))
        for part in chunks:
            w = _blocks(weights[part], format, device) if kept is None else kept
            scales, zeros = _rows(parameters, part)
            d = _lost(w, scales, zeros, format)
            errors[part] = (d @ gram * d).sum(2, dtype=torch.float64).T.cpu().numpy()
        if format.granularity == "tensor":
            errors = errors.sum(keepdims=True)
        better = errors < least
        least[better], best[better] = errors[better], p
    return best * lo, best * hi


def quantize(
    weights: np.ndarray,
    format: WeightFormat,
    importance: np.ndarray | None = None,
    *,
    inputs: np.ndarray,
    device: str = "cpu",
) -> Quantized:
    """Quantizes weights [N, K], already multiplied by the scales of their input channels, in clipped ranges.

    inputs [n, K]: some tokens, already divided by those scales; `importance` does not matter here. Raises
    `ValueError` for non-finite weights or inputs, shapes that do not fit, and scales beyond the scale dtype.
    """
    weights = checked_weights(weights, format)
    lo, hi = search_clip(weights, format, inputs=inputs, device=device)
    return quantize_with(weights, format, *rtn.parameters(lo, hi, format))
