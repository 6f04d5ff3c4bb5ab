"""Attention that stops early: parts of the cache are not read whose share of the softmax is bounded below a threshold.

    found = bounded_attention(model, [ids], thresholds=[1e-3, 1e-2])
    print(found)

Positions stand in blocks of `BLOCK`. Of each block and head the least and the largest number of the keys in each
dimension are known, so that no score in it can exceed sum_d max(q_d min_d, q_d max_d) (Tang et al. 2024, "Quest").
Blocks are read in the order of these bounds, behind the first and the newest one, until what is left cannot have more
than the threshold's share of the softmax; it is then taken to have none. Unlike a fixed number of blocks this bounds
the error: weights of a share s that are left out move an output by at most 2 s max |v|.

The references compute it, since the kernels have no such variant: it says what could be saved, and at what price. Query
heads that share keys and values read what any of them needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from eval.report import Tabular, finite, plus_minus, ppl_text
from eval.statistics import divergence, exp, mean_error, mean_nll
from wgsl_kernels.state import runs
from workbench.errors import ProtocolError
from workbench.runtime.model import Model
from workbench.runtime.torch_executor import TorchExecutor

BLOCK = 16


@dataclass
class Reading:
    """How attention reads at a threshold, and what it has read.

    scores_known: whether blocks are chosen by what they hold, which nobody knows without reading them, in place of what
    they could hold at most. blocks, read: of all tokens, layers and heads of the cache, those that were seen, and those
    that were read; needed: those that whoever knew all scores would have read for the same threshold. skipped: the
    largest share of a softmax that was left out; bound: the largest that it could have been.
    """

    threshold: float
    block: int = BLOCK
    scores_known: bool = False
    blocks: int = 0
    read: int = 0
    needed: int = 0
    skipped: float = 0.0
    bound: float = 0.0

    @property
    def share(self) -> float:
        """Of keys and values that were seen those that were read, with the two rows of bounds of each block, where it
        takes bounds."""
        return self.read / self.blocks + (0 if self.scores_known else 1 / self.block)

    def __call__(  # many parameters: the operands and parameters of the op
        self, q, kv, state, scale, q_sinks=None, window=0, chunk=0, sinks=0, softcap=0.0
    ) -> torch.Tensor:
        """`wgsl_kernels.attention.attention` of a layer without bounds of its own."""
        y = torch.empty_like(q)
        _, _, kv_heads, _, head_dim = kv.shape
        groups = q.shape[1] // head_dim // kv_heads
        for sequence, rows, positions in runs(state):
            keys, values = kv[sequence, :, :, : int(positions.max()) + 1].to(q.dtype)
            asked = q[rows].view(len(rows), kv_heads, groups, head_dim).permute(1, 2, 0, 3)
            context = self._read(asked, keys, values, positions, scale)
            y[rows] = context.permute(2, 0, 1, 3).reshape(len(rows), -1)
        return y

    def _read(self, q, keys, values, positions, scale: float) -> torch.Tensor:
        """q [heads, groups, rows, head_dim]; keys, values [heads, seen, head_dim]; contexts as q."""
        seen = keys.shape[1]
        blocks, own = -(-seen // self.block), positions.long().view(-1, 1)
        scores = torch.einsum("hgtd,hpd->hgtp", q, keys) * scale
        visible = torch.arange(seen) <= own
        scores = scores.masked_fill(~visible, float("-inf"))
        first = torch.arange(blocks) * self.block
        counts = (own + 1 - first).clamp(0, self.block)  # [rows, blocks]
        bounds = self._bounds(q, keys, own, scale)
        top = scores.amax(-1, keepdim=True)
        mass = self._by_block(torch.exp(scores - top), blocks)
        bounds = counts * torch.exp(torch.where(counts > 0, bounds - top, 0.0))
        # the first block and the token's own come first, then by what they could hold at most
        always = (first == 0) | (first == own // self.block * self.block)
        read, could = self._chosen(mass if self.scores_known else bounds, mass, always)
        self.blocks += int((counts > 0).sum()) * len(keys)
        self.read += int((read & (counts > 0)).any(1).sum())
        self.needed += int((self._chosen(mass, mass, always)[0] & (counts > 0)).any(1).sum())
        self.bound = max(self.bound, float(could.max()))
        out = (mass * ~read).sum(-1) / mass.sum(-1)
        self.skipped = max(self.skipped, float(out.max()))
        held = read.repeat_interleave(self.block, -1)[..., :seen]
        weights = scores.masked_fill(~held, float("-inf")).softmax(-1)
        return torch.einsum("hgtp,hpd->hgtd", weights, values)

    def _chosen(self, bounds, mass, always) -> tuple[torch.Tensor, torch.Tensor]:
        """Which blocks are read [heads, groups, rows, blocks], and what share those behind them could have [.., 1]."""
        blocks = bounds.shape[-1]
        order = torch.where(always, float("inf"), bounds).argsort(-1, descending=True)
        so_far = mass.gather(-1, order).cumsum(-1)
        left = bounds.gather(-1, order).flip(-1).cumsum(-1).flip(-1)
        left = torch.cat([left[..., 1:], torch.zeros_like(left[..., :1])], -1)  # behind each
        could = left / (so_far + left)
        enough = (could <= self.threshold) & (torch.arange(blocks) >= always.sum(-1, keepdim=True) - 1)
        last = enough.to(torch.int8).argmax(-1, keepdim=True)  # the first place that is enough
        read = torch.zeros_like(enough)
        read.scatter_(-1, order, (torch.arange(blocks) <= last).expand_as(order))
        return read, could.gather(-1, last)

    def _bounds(self, q, keys, own, scale: float) -> torch.Tensor:
        """The largest that a score can be, of each block [heads, groups, rows, blocks]. A token's own block is always
        read, so that what later tokens have put there does not matter."""
        rest = -keys.shape[1] % self.block
        padded = torch.cat([keys, keys[:, -1:].expand(-1, rest, -1)], 1)
        split = padded.unflatten(1, (-1, self.block))
        least, largest = split.amin(2), split.amax(2)
        positive, negative = q.clamp(min=0), q.clamp(max=0)
        return (
            torch.einsum("hgtd,hbd->hgtb", positive, largest)
            + torch.einsum("hgtd,hbd->hgtb", negative, least)
        ) * scale

    def _by_block(self, x: torch.Tensor, blocks: int) -> torch.Tensor:
        rest = blocks * self.block - x.shape[-1]
        return torch.nn.functional.pad(x, (0, rest)).unflatten(-1, (blocks, self.block)).sum(-1)


@dataclass(frozen=True, eq=False)
class Bounded:
    """Of a threshold: what was read, and token by token the nll, KL(whole || this) and whether both find the same
    token likeliest."""

    reading: Reading
    nll: np.ndarray
    kl: np.ndarray
    same: np.ndarray


@dataclass(frozen=True, eq=False)
class BoundedAttention(Tabular):
    """runs: by threshold; nll: of attention to all. text_index: of which text a token is, by which errors are clustered
    where that makes them larger."""

    runs: tuple[Bounded, ...]
    nll: np.ndarray
    longest: int
    text_index: np.ndarray = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @property
    def caption(self) -> str:
        return f"{len(self.nll)} tokens of texts of up to {self.longest}, blocks of {BLOCK} (references)"

    def rows(self) -> list[dict[str, Any]]:
        head = {
            "share left out, at most": "all is read",
            "cache read": f"{1:.1%}",
            "were scores known": None,
            "largest share left out": None,
            "perplexity": ppl_text(exp(mean_nll(self.nll))),
            "change, nats": None,
            "KL, nats": None,
            "same top": None,
        }
        return [head, *map(self._row, self.runs)]

    def _row(self, run: Bounded) -> dict[str, Any]:
        change = run.nll - self.nll
        return {
            "share left out, at most": f"{run.reading.threshold:g}",
            "cache read": f"{run.reading.share:.1%}",
            "were scores known": f"{run.reading.needed / run.reading.blocks:.1%}",
            "largest share left out": f"{run.reading.skipped:.2g}",
            "perplexity": ppl_text(exp(mean_nll(run.nll))),
            "change, nats": f"{change.mean():+.5f}{plus_minus(mean_error(change, self.text_index), '.5f')}",
            "KL, nats": f"{run.kl.mean():.2e}{plus_minus(mean_error(run.kl, self.text_index), '.1e')}",
            "same top": f"{run.same.mean():.1%}",
        }

    def to_json(self) -> dict[str, Any]:
        runs = [
            {
                "threshold": run.reading.threshold,
                "share": run.reading.share,
                "needed": run.reading.needed / run.reading.blocks,
                "skipped": run.reading.skipped,
                "nll": run.nll.tolist(),
                "kl": run.kl.tolist(),
            }
            for run in self.runs
        ]
        return finite({"block": BLOCK, "nll": self.nll.tolist(), "provenance": self.provenance, "runs": runs})


def bounded_attention(
    model: Model, texts: Sequence[Any], thresholds: Sequence[float], *, scores_known: bool = False
) -> BoundedAttention:
    """Each of the texts, token ids [n] with n > 1, from an empty cache, at each threshold.

    scores_known: choose by what blocks hold, as nobody could without reading them: what could be saved at most, and
    what that would cost.

    Runs through the references whatever `model` runs through, with its types of activations and cache. Raises
    `ProtocolError` for thresholds that are no shares, texts that are too short, an INT8 cache, and layers with bounds
    of their own.
    """
    texts = [np.asarray(ids) for ids in texts]
    if not texts or min(map(len, texts)) < 2:
        raise ProtocolError("attention is compared on texts of at least two tokens, of at least one text")
    for threshold in thresholds:
        if not 0 <= threshold < 1:
            raise ProtocolError(
                f"a threshold is {threshold!r}; allowed: a share of the softmax, from 0 up to below 1"
            )
    _check(model)
    longest = max(map(len, texts))
    whole = [_with(model, None, longest).forward(ids[:-1]).logits for ids in texts]
    nll = [divergence(logits, logits, ids[1:]).nll for logits, ids in zip(whole, texts, strict=True)]
    found = []
    for threshold in thresholds:
        reading = Reading(threshold, scores_known=scores_known)
        other = _with(model, reading, longest)
        both = [
            divergence(other.forward(ids[:-1]).logits, logits, ids[1:])
            for ids, logits in zip(texts, whole, strict=True)
        ]
        found.append(
            Bounded(
                reading,
                np.concatenate([each.nll for each in both]),
                np.concatenate([each.kl for each in both]),
                np.concatenate([each.top1 == each.top1_baseline for each in both]),
            )
        )
    index = np.repeat(np.arange(len(texts)), [len(each) for each in nll])
    return BoundedAttention(tuple(found), np.concatenate(nll), longest, index, model.describe_provenance())


def _check(model: Model) -> None:
    if model.executor.cache == "int8":
        raise ProtocolError(
            "bounds are of keys in f32 or f16; allowed: a model that is loaded with another cache than int8"
        )
    for call in model.plan("all").calls:
        if call.op == "attention" and any(
            call.params.get(name) for name in ("window", "chunk", "sinks", "softcap")
        ):
            raise ProtocolError(
                f"{call.outputs['y']} has a window, chunks, sinks or a cap; allowed: models whose layers see all"
            )


def _with(model: Model, reading: Reading | None, longest: int) -> Model:
    """The references of a model, with another attention if one is given."""

    def make() -> TorchExecutor:
        executor = model.executor
        instead = {} if reading is None else {"attention": reading}
        return TorchExecutor(
            model.source,
            model.config,
            activations=executor.activations,
            cache=executor.cache,
            instead=instead,
        )

    return Model(model.source, model.config, make, [("backend", "torch", "bounded attention")], longest)
