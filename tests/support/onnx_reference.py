"""onnxruntime's own operators of a decoder in numpy, for the evaluator of the package onnx: written from their
descriptions, a value at a time where that says more, so that graphs are run where onnxruntime is missing."""

from __future__ import annotations

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def _integers(packed: np.ndarray, bits: int) -> np.ndarray:
    """[n, values] of bytes [n, ...], the first value in the lowest bits."""
    lines = packed.reshape(len(packed), -1)
    values = [(lines >> bits * at) & (2**bits - 1) for at in range(8 // bits)]
    return np.stack(values, -1).reshape(len(lines), -1)


def _weights(
    quants: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, bits: int, block: int
) -> np.ndarray:
    """f32 [rows, padded columns] of the inputs of both quantized operators."""
    q, scales = _integers(quants, bits), scales.reshape(len(quants), -1)
    if zeros is None:
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    elif zeros.dtype == np.uint8:
        zeros = _integers(zeros.reshape(len(quants), -1), bits)[:, : scales.shape[1]]
    of = np.arange(q.shape[1]) // block
    return ((q - zeros[:, of].astype(np.float32)) * scales[:, of]).astype(np.float32)


class MatMulNBits(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, quants, scales, zeros=None, *, K, N, bits, block_size, accuracy_level):
        weights = _weights(quants, scales, zeros, bits, block_size)
        assert quants.shape == (N, -(-K // block_size), block_size * bits // 8) and accuracy_level == 1
        return (x @ weights[:, :K].T,)


class GatherBlockQuantized(OpRun):
    op_domain = "com.microsoft"

    def _run(self, table, ids, scales, zeros=None, *, bits, block_size, gather_axis, quantize_axis):
        assert (gather_axis, quantize_axis) == (0, 1)
        assert -(-(table.shape[1] * 8 // bits) // block_size) == scales.shape[1]
        return (_weights(table, scales, zeros, bits, block_size)[ids],)


def _rms(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True, dtype=np.float64) + epsilon).astype(x.dtype) * weight


class SimplifiedLayerNormalization(OpRun):
    op_domain = ""

    def _run(self, x, weight, *, epsilon, axis, stash_type):
        assert (axis, stash_type) == (-1, 1)
        return (_rms(x, weight, epsilon),)


class SkipSimplifiedLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x, skip, weight, *, epsilon):
        unused = np.empty(0, np.float32)  # statistics, which nothing reads
        found = _rms(x + skip, weight, epsilon), unused, unused, x + skip
        return found[: len(self.onnx_node.output)]


class GroupQueryAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(self, q, k, v, past_k, past_v, before_last, total, cos, sin, *, num_heads, kv_num_heads, scale,
             local_window_size, do_rotary, rotary_interleaved):  # fmt: skip
        total = int(total.item())
        assert do_rotary and not rotary_interleaved and (before_last == total - 1).all()
        size, past = past_k.shape[3], past_k.shape[2]
        q, k, v = (each.reshape(*each.shape[:2], -1, size).swapaxes(1, 2) for each in (q, k, v))
        assert (q.shape[1], k.shape[1]) == (num_heads, kv_num_heads)
        at = np.arange(past, total)
        q, k = (self._turned(each, cos[at], sin[at]) for each in (q, k))
        keys, values = np.concatenate([past_k, k], 2), np.concatenate([past_v, v], 2)
        share = num_heads // kv_num_heads
        scores = scale * q @ np.repeat(keys, share, 1).swapaxes(2, 3)
        distance = at[:, None] - np.arange(total)
        window = local_window_size if local_window_size > 0 else total
        scores = np.where((distance >= 0) & (distance < window), scores, -np.inf)
        likely = np.exp(scores - scores.max(-1, keepdims=True))
        y = likely / likely.sum(-1, keepdims=True) @ np.repeat(values, share, 1)
        return y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1).astype(np.float32), keys, values

    @staticmethod
    def _turned(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


OPS = [
    MatMulNBits,
    GatherBlockQuantized,
    SimplifiedLayerNormalization,
    SkipSimplifiedLayerNormalization,
    GroupQueryAttention,
]


def evaluator(path: str) -> ReferenceEvaluator:
    """What runs a file; `run(None, inputs)` gives its outputs in order."""
    return ReferenceEvaluator(path, new_ops=OPS)
