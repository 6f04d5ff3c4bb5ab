"""Early exit: a token leaves the model after the layer that is sure of what comes next. What does that cost, and save?

    found = early_exits(model, [ids], [Rule("margin", 0.9), Rule("entropy", 0.3)])
    print(found)

After some depths the last norm and the LM head look at what the layers have come to (the logit lens). If that is sure
by a rule, its logits are the token's, and the layers that did not run take their keys and values from the same rows
(Schuster et al. 2022, "confident adaptive language modeling"). Every token of a text is fed alone, as when text is
generated, and what follows sees the caches that early exits have left. Figures are paired with the whole model's on the
same tokens.

Looks cost time themselves, an LM head each and a wait of the host, so that layers saved are not time saved: `tokens/s`
has both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.report import Tabular, finite, plus_minus, ppl_text
from eval.statistics import divergence, exp, log_softmax, mean_error, mean_nll
from workbench.errors import ProtocolError
from workbench.runtime.depths import Depths
from workbench.runtime.model import Model

RULES = ("margin", "entropy")


@dataclass(frozen=True)
class Rule:
    """When a depth is sure. margin: the likeliest token's probability is this much above the second one's; entropy:
    that of its distribution is no more than this, in nats."""

    kind: str
    threshold: float

    def __post_init__(self) -> None:
        if self.kind not in RULES:
            raise ProtocolError(f"a rule is one of {', '.join(RULES)}, not {self.kind!r}")
        if not self.threshold >= 0:
            raise ProtocolError(f"the threshold of {self.kind} is {self.threshold!r}; allowed: 0 or more")

    def __str__(self) -> str:
        return f"{self.kind} {'≥' if self.kind == 'margin' else '≤'} {self.threshold:g}"

    def sure(self, logits: np.ndarray) -> bool:
        """Of logits [vocab]."""
        log_p = log_softmax(logits)
        p = np.exp(log_p)
        if self.kind == "entropy":
            return bool(-(p[p > 0] * log_p[p > 0]).sum() <= self.threshold)
        second, first = np.partition(p, -2)[-2:]
        return bool(first - second >= self.threshold)


@dataclass(frozen=True, eq=False)
class Exits:
    """What a rule did, token by token. rule: None for the whole model; depth: layers that ran; nll: of what came next;
    kl: KL(whole || this), nats; same: whether both find the same token likeliest; seconds: for all of them."""

    rule: Rule | None
    depth: np.ndarray
    nll: np.ndarray
    kl: np.ndarray
    same: np.ndarray
    seconds: float


@dataclass(frozen=True, eq=False)
class EarlyExits(Tabular):
    """runs: the whole model first. depths: where a rule looks. spared, filled: as `early_exits` has them. text_index:
    of which text a token is, by which errors are clustered where that makes them larger."""

    runs: tuple[Exits, ...]
    depths: tuple[int, ...]
    layers: int
    backend: str
    spared: int
    filled: bool
    text_index: np.ndarray = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)

    @property
    def caption(self) -> str:
        looks = ", ".join(map(str, self.depths))
        how = f", the first {self.spared} of a text whole" if self.spared else ""
        how += "" if self.filled else ", caches of all layers computed"
        return (
            f"{len(self.runs[0].nll)} tokens, {self.layers} layers, looks after {looks}{how} ({self.backend})"
        )

    def rows(self) -> list[dict[str, Any]]:
        whole = self.runs[0].nll

        def with_error(values: np.ndarray, sign: str = "") -> str:
            return f"{values.mean():{sign}.4f}{plus_minus(mean_error(values, self.text_index), '.4f')}"

        return [
            {
                "exit": "none" if run.rule is None else str(run.rule),
                "layers run": f"{run.depth.mean() / self.layers:.1%}",
                "left early": f"{np.mean(run.depth < self.layers):.1%}",
                "tokens/s": len(run.nll) / run.seconds,
                "perplexity": ppl_text(exp(mean_nll(run.nll))),
                "change, nats": None if run.rule is None else with_error(run.nll - whole, "+"),
                "KL, nats": None if run.rule is None else with_error(run.kl),
                "same top": None if run.rule is None else f"{run.same.mean():.1%}",
            }
            for run in self.runs
        ]

    def to_json(self) -> dict[str, Any]:
        runs = [
            {
                "rule": None
                if run.rule is None
                else {"kind": run.rule.kind, "threshold": run.rule.threshold},
                "depth": run.depth.tolist(),
                "nll": run.nll.tolist(),
                "kl": run.kl.tolist(),
                "seconds": run.seconds,
            }
            for run in self.runs
        ]
        return finite(
            {
                "layers": self.layers,
                "depths": list(self.depths),
                "spared": self.spared,
                "filled": self.filled,
                "backend": self.backend,
                "provenance": self.provenance,
                "runs": runs,
            }
        )


def default_depths(layers: int) -> list[int]:
    """About four looks, from the middle of the model on."""
    step = max(1, layers // 8)
    return list(range(max(1, layers // 2), layers, step))[:4] or [1]


def early_exits(
    model: Model,
    texts: Sequence[Any],
    rules: Sequence[Rule],
    depths: Sequence[int] | None = None,
    *,
    spared: int = 0,
    filled: bool = True,
) -> EarlyExits:
    """Each of the texts, token ids [n] with n > 1, from an empty cache, by the whole model and by each rule.

    spared: so many first tokens of a text run all layers, as others look at them throughout (attention sinks, Xiao et
    al. 2023). filled: False to run all layers of a token that has left, for their caches alone: what a rule then costs
    are its own mistakes, and what it costs beyond are the caches that others have left.

    Raises `ProtocolError` for texts that are too short or too long and for a model of one layer, and as `Depths` does.
    """
    texts = [np.asarray(ids) for ids in texts]
    shortest, longest = min(map(len, texts), default=0), max(map(len, texts), default=0)
    if shortest < 2 or longest > model.max_tokens + 1:
        raise ProtocolError(
            f"texts have {shortest} to {longest} tokens; allowed: 2 to {model.max_tokens + 1}, of at least one text"
        )
    if model.config.layers < 2:
        raise ProtocolError("a model of one layer has nothing to leave out")
    depths = default_depths(model.config.layers) if depths is None else list(depths)
    with contextlib.closing(Depths(model, depths, longest - 1)) as at:
        for rule in (None, *_both_ends(rules)):  # what is compiled is not timed
            _run(at, texts[0][:2], rule)
        wholes = [_run(at, ids, None) for ids in texts]
        runs = [_joined(None, texts, wholes, wholes)]
        for rule in rules:
            left = [_run(at, ids, rule, spared, filled) for ids in texts]
            runs.append(_joined(rule, texts, left, wholes))
    index = np.repeat(np.arange(len(texts)), [len(ids) - 1 for ids in texts])
    how = {"backend": model.backend, "text_index": index, "provenance": model.describe_provenance()}
    return EarlyExits(tuple(runs), tuple(depths), at.layers, spared=spared, filled=filled, **how)


@dataclass(frozen=True, eq=False)
class _Said:
    logits: np.ndarray
    depth: np.ndarray
    seconds: float


def _both_ends(rules: Sequence[Rule]) -> Iterator[Rule]:
    """Rules that are never and always content, so that all parts have run."""
    if rules:
        yield Rule("margin", 2.0)
        yield Rule("margin", 0.0)


def _run(at: Depths, ids: np.ndarray, rule: Rule | None, spared: int = 0, filled: bool = True) -> _Said:
    """A text's tokens but the last, each until a rule is sure."""
    at.reset()
    logits, depth = [], []
    began = time.perf_counter()
    for place, token in enumerate(ids[:-1]):
        if rule is None or place < spared:
            logits.append(at.whole(int(token)))
            depth.append(at.layers)
            continue
        at.begin(int(token))
        while True:
            ran, found = at.deepen()
            if ran == at.layers or rule.sure(found):
                break
        logits.append(found)
        depth.append(ran)
        while not filled and ran < at.layers:
            ran, _ = at.deepen()
        at.leave()
    return _Said(np.stack(logits), np.array(depth), time.perf_counter() - began)


def _joined(
    rule: Rule | None, texts: Sequence[np.ndarray], said: Sequence[_Said], wholes: Sequence[_Said]
) -> Exits:
    both = [
        divergence(each.logits, whole.logits, ids[1:])
        for each, whole, ids in zip(said, wholes, texts, strict=True)
    ]
    return Exits(
        rule,
        np.concatenate([each.depth for each in said]),
        np.concatenate([each.nll for each in both]),
        np.concatenate([each.kl for each in both]),
        np.concatenate([each.top1 == each.top1_baseline for each in both]),
        sum(each.seconds for each in said),
    )
