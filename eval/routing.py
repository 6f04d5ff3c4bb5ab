"""Where the tokens of a mixture of experts go, and which go elsewhere in another version of the model.

    found = routing({"f16": model, "int4": other}, text, "disjoint-512", baseline="f16")
    print(found)
    found.plot()

Routers stay f32 in a quantized model, but what they read is computed with quantized weights, and a router decides: by
how little its input changes does not say how much its choice does. A token *flips* in a layer where the set of its
experts is another one than the baseline's. Both models read the same tokens, so a flip is a paired figure: the
variance between tokens that are easy and hard to place is in neither the share nor its error, which is clustered by
window. Every backend hands its choices out (`keep`), so that two backends are compared in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from eval import inputs, statistics
from eval.protocols import Protocol, Window, protocol
from eval.report import finite, plus_minus
from eval.texts import Text, Tokens
from workbench.errors import ProtocolError
from workbench.plan.plan import Plan
from workbench.runtime.model import Model
from workbench.show.figures import COLOURS, Picture
from workbench.show.progress import RunProgress
from workbench.show.table import Figure, Table

#: Row of a table that counts a token once, in however many layers it flips.
ANY = "any layer"
#: Equal shares of all choices, by how clear they were, in the second panel of a plot.
CLASSES = 8


@dataclass(frozen=True)
class Router:
    """A router of a plan: layer, such as `layers.3`; chosen, logits: names of activations, u32 [tokens, k] and f32
    [tokens, experts]."""

    layer: str
    chosen: str
    logits: str
    k: int
    experts: int


def routers(plan: Plan) -> tuple[Router, ...]:
    """The routers of a plan, in its order; none for a model without experts."""
    return tuple(
        Router(
            call.outputs["experts"].removesuffix(".mlp.chosen"),
            call.outputs["experts"],
            call.inputs["x"],
            int(call.params["k"]),
            int(plan.buffers[call.inputs["x"]].shape[1]),
        )
        for call in plan.calls
        if call.op == "route"
    )


@dataclass(frozen=True)
class Share:
    """A share of the tokens, with its standard error clustered by window (NaN for one window)."""

    share: float
    se: float

    @classmethod
    def of(cls, values: np.ndarray, window_index: np.ndarray) -> Share:
        """The mean of values [n], one a token."""
        values = np.asarray(values, np.float64)
        return cls(float(values.mean()), statistics.clustered_se(values, window_index))

    def __str__(self) -> str:
        return f"{self.share:.2%}{plus_minus(100 * self.se, '.2f')}"


@dataclass(frozen=True, eq=False)
class Routing:
    """The choices of several models on the same n tokens: those behind which a target is scored.

    chosen: model -> int32 [layers, n, k], the experts of each token, largest score first. margin: f32 [layers, n], how
    far the baseline's k-th logit is from the next one, infinite where a token goes to all experts. nll: model -> f64
    [n], of the token that follows. ids, window_index: int64 [n], the tokens themselves and their windows.
    """

    routers: tuple[Router, ...]
    baseline: str
    chosen: Mapping[str, np.ndarray] = field(repr=False)
    margin: np.ndarray = field(repr=False)
    nll: Mapping[str, np.ndarray] = field(repr=False)
    ids: np.ndarray = field(repr=False)
    window_index: np.ndarray = field(repr=False)
    caption: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def layers(self) -> list[str]:
        return [router.layer for router in self.routers]

    @property
    def versions(self) -> list[str]:
        """The models that are compared with the baseline."""
        return [name for name in self.chosen if name != self.baseline]

    def _known(self, name: str) -> str:
        if name not in self.chosen:
            raise ProtocolError(f"{name!r} is none of the models; allowed: {', '.join(self.chosen)}")
        return name

    @cached_property
    def _sets(self) -> dict[str, np.ndarray]:
        """Of each model bool [layers, n, experts], whether a token goes to an expert."""
        experts = max(router.experts for router in self.routers)
        return {name: _as_sets(chosen, experts) for name, chosen in self.chosen.items()}

    def flipped(self, name: str) -> np.ndarray:
        """bool [layers, n]: whether a token's set of experts is another one than the baseline's. Raises ProtocolError
        for an unknown model, as all that take a name."""
        return (self._sets[self._known(name)] != self._sets[self.baseline]).any(-1)

    def exchanged(self, name: str) -> np.ndarray:
        """f64 [layers, n]: the share of the baseline's choices of a token that are not among the model's."""
        left = self._sets[self.baseline] & ~self._sets[self._known(name)]
        return left.sum(-1) / self.chosen[self.baseline].shape[-1]

    def flips(self, name: str) -> dict[str, Share]:
        """The share of tokens that flip, by layer, and in any layer."""
        found = self.flipped(name)
        rows = {**dict(zip(self.layers, found, strict=True)), ANY: found.any(0)}
        return {layer: Share.of(row, self.window_index) for layer, row in rows.items()}

    def against(self, name: str, other: str) -> dict[str, Share]:
        """By how much more tokens flip in one model than in another, by layer, paired token by token."""
        one, two = self.flipped(name), self.flipped(other)
        rows = {
            **dict(zip(self.layers, zip(one, two, strict=True), strict=True)),
            ANY: (one.any(0), two.any(0)),
        }
        return {
            layer: Share.of(a.astype(np.float64) - b, self.window_index) for layer, (a, b) in rows.items()
        }

    def traffic(self, name: str) -> np.ndarray:
        """f64 [layers, experts]: the share of a layer's tokens that go to each expert; rows add up to k."""
        return self._sets[self._known(name)].mean(1)

    def table(self) -> Table:
        """A row a layer, a column a model: the share of tokens that flip ± its error, in per cent."""
        found = {name: self.flips(name) for name in self.versions}
        rows = [
            [layer, *(_per_cent(shares[layer]) for shares in found.values())] for layer in [*self.layers, ANY]
        ]
        notes = [
            f"{name}: {self.exchanged(name).mean():.2%} of all choices are other ones"
            for name in self.versions
        ]
        if len(np.unique(self.window_index)) < 2:
            notes.append("one window has no clustered error")
        head = ["flips, %", *self.versions]
        return Table(head, rows, caption=self.caption, notes=notes)

    def data(self) -> Any:
        """A pandas DataFrame, one row a layer and model: flips, se, exchanged, and the median margin (logits) of the
        choices that flipped and of the others."""
        import pandas

        rows = []
        for name in self.versions:
            flipped, exchanged, shares = self.flipped(name), self.exchanged(name), self.flips(name)
            for index, layer in enumerate(self.layers):
                margins = [_median(self.margin[index][which]) for which in (flipped[index], ~flipped[index])]
                rows.append(
                    {
                        "layer": layer,
                        "model": name,
                        "flips": shares[layer].share,
                        "se": shares[layer].se,
                        "exchanged": float(exchanged[index].mean()),
                        "margin_flipped": margins[0],
                        "margin_kept": margins[1],
                    }
                )
        return pandas.DataFrame(rows)

    def by_margin(self, name: str, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
        """The share of choices that flip, by how clear they were to the baseline: median margin and share of each of
        so many classes of equal size, both f64 [classes]."""
        margin, flipped = self.margin.ravel(), self.flipped(name).ravel()
        parts = np.array_split(np.argsort(margin, kind="stable"), min(classes, len(margin)))
        margins, shares = (
            np.array([take(values[part]) for part in parts])
            for take, values in ((np.median, margin), (np.mean, flipped))
        )
        return margins, shares

    def plot(self) -> Picture:
        """Flips by layer with clustered errors, and by the baseline's margin."""
        picture = Picture(8.6, 3.5, columns=2)
        by_layer, by_margin = picture.axes
        for name, colour in zip(self.versions, COLOURS * len(self.versions), strict=False):
            found = [share for layer, share in self.flips(name).items() if layer != ANY]
            shares, errors = ([100 * getattr(each, what) for each in found] for what in ("share", "se"))
            style = {"fmt": "o-", "ms": 4, "lw": 1.3, "capsize": 3, "color": colour, "label": name}
            by_layer.errorbar(range(len(found)), shares, yerr=np.nan_to_num(errors), **style)
            if np.isfinite(self.margin).all():
                margins, share = self.by_margin(name)
                by_margin.plot(margins, 100 * share, "o-", ms=4, lw=1.3, color=colour)
        by_layer.set_xticks(range(len(self.layers)), [layer.rpartition(".")[2] for layer in self.layers])
        by_layer.set(xlabel="layer", ylabel="tokens that flip, %", ylim=(0, None))
        by_layer.legend(fontsize=8, frameon=False)
        by_margin.set(xlabel="margin of the choice in the baseline, logits", ylim=(0, None))
        by_margin.set_ylabel("of these choices flip, %")
        picture.figure.suptitle(self.caption, fontsize=8)
        return picture

    def to_json(self) -> dict[str, Any]:
        """Figures and provenance as JSON values, without the arrays."""
        return finite(
            {
                "baseline": self.baseline,
                "conditions": self.caption,
                "tokens": len(self.ids),
                "windows": len(np.unique(self.window_index)),
                "flips": {
                    name: {layer: vars(share) for layer, share in self.flips(name).items()}
                    for name in self.versions
                },
                "exchanged": {
                    name: dict(zip(self.layers, self.exchanged(name).mean(1).tolist(), strict=True))
                    for name in self.versions
                },
                "traffic": {name: self.traffic(name).tolist() for name in self.chosen},
                "provenance": dict(self.provenance),
            }
        )

    def __str__(self) -> str:
        return self.table().text()

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {self.flips(name)[ANY].share:.2%}" for name in self.versions)
        return f"<routing against {self.baseline}, {len(self.ids):,} tokens: {shares} flip>"

    def _repr_html_(self) -> str:
        return self.table().html()


def routing(
    models: Mapping[str, Model],
    text: str | Text | Tokens | Sequence[int] | np.ndarray,
    scheme: str | Protocol,
    *,
    baseline: str,
    separator: str | None = None,
    max_windows: int | None = None,
    progress: RunProgress | None = None,
) -> Routing:
    """Run `models`, loaded and by name, on the windows of a text and compare where their tokens go.

    baseline: the name of the model that the others are compared with. Text, protocol, separator and max_windows as in
    `eval.perplexity.perplexities`. progress: called as progress(runs done, runs, model, mean nll so far).

    Raises ProtocolError for an unknown baseline, a model without experts, models whose routers are not alike, and where
    text, protocol and models do not fit together.
    """
    if baseline not in models:
        raise ProtocolError(f"baseline {baseline!r} is none of the models; allowed: {', '.join(models)}")
    if max_windows is not None and max_windows < 1:
        raise ProtocolError(f"max_windows is {max_windows}; it must be at least 1, or None for all")
    shared = alike(models)
    scheme = inputs.fitting(protocol(scheme), models)
    tokens = inputs.tokens(models[baseline], text, scheme, separator)
    for name in models:
        inputs.same_vocabulary(models, baseline, name, tokens)
    starts = (0,) if tokens.starts is None else tokens.starts
    windows = scheme.windows(tokens.ids, bos=tokens.bos, starts=starts)[:max_windows]
    inputs.known_ids(windows, models[baseline].vocab_size)
    found: dict[str, list[_Window]] = {name: [] for name in models}
    for index, window in enumerate(windows):
        for at, (name, model) in enumerate(models.items()):
            found[name].append(_window(model, window, shared, name == baseline))
            if progress:
                mean = statistics.mean_nll(np.concatenate([part.nll for part in found[name]]))
                progress(index * len(models) + at + 1, len(windows) * len(models), name, mean)
    first = found[baseline]
    scored = [window.scored for window in windows]
    source = tokens.text["name"] if tokens.text else "bare tokens"
    return Routing(
        shared,
        baseline,
        {name: np.concatenate([part.chosen for part in parts], 1) for name, parts in found.items()},
        np.concatenate([part.margin for part in first if part.margin is not None], 1),
        {name: np.concatenate([part.nll for part in parts]) for name, parts in found.items()},
        np.concatenate([window.ids[window.first_scored - 1 : -1] for window in windows]),
        np.repeat(np.arange(len(windows)), scored),
        f"{scheme.name} on {source}, {sum(scored):,} tokens, against {baseline}",
        {name: model.describe_provenance() for name, model in models.items()},
    )


@dataclass(frozen=True, eq=False)
class _Window:
    """Of one model and window, as in `Routing`. margin: of the baseline alone."""

    chosen: np.ndarray
    nll: np.ndarray
    margin: np.ndarray | None


def _window(model: Model, window: Window, shared: Sequence[Router], margins: bool) -> _Window:
    keep = [router.chosen for router in shared]
    wanted = [*keep, *(router.logits for router in shared)] if margins else keep
    scores = model.score(window.ids, keep=wanted)
    rows = slice(window.first_scored - 1, None)
    chosen = np.stack([scores.kept[name][rows].astype(np.int32) for name in keep])
    margin = np.stack([_margin(scores.kept[r.logits][rows], r.k) for r in shared]) if margins else None
    return _Window(chosen, scores.nll[rows], margin)


def _margin(logits: np.ndarray, k: int) -> np.ndarray:
    """f32 [n]: the k-th largest of logits [n, experts] less the next."""
    if k == logits.shape[1]:
        return np.full(len(logits), np.inf, np.float32)
    ordered = -np.partition(-logits, (k - 1, k), axis=1)
    return ordered[:, k - 1] - ordered[:, k]


def _as_sets(chosen: np.ndarray, experts: int) -> np.ndarray:
    """bool [layers, n, experts] of chosen [layers, n, k]."""
    found = np.zeros((*chosen.shape[:2], experts), bool)
    np.put_along_axis(found, chosen, True, -1)
    return found


def alike(models: Mapping[str, Model]) -> tuple[Router, ...]:
    """The routers that all models have. Raises ProtocolError for none, and for others."""
    found = {name: routers(model.plan("score")) for name, model in models.items()}
    first, shared = next(iter(found.items()))
    for name, own in found.items():
        if not own:
            raise ProtocolError(f"the {inputs.label(name)} has no experts: its plan routes no tokens")
        if own != shared:
            raise ProtocolError(f"{inputs.label(first)} and {inputs.label(name)} have different routers")
    return shared


def _per_cent(share: Share) -> Figure:
    error = f"{100 * share.se:.2f}" if np.isfinite(share.se) else ""
    return Figure(f"{100 * share.share:.2f}", error)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
