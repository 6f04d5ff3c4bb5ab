"""`workbench.depth_errors`: how the error of quantized models grows from layer to layer, and where it arises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.layers import LayerDifferences, compare_layers
from workbench.errors import WorkbenchError
from workbench.runtime.loading import load
from workbench.runtime.model import Model
from workbench.show.figures import Picture
from workbench.show.table import Table

from . import plots

#: What of a layer is read beside what it adds to the residual stream.
PARTS = {"queries": "attn.q", "values": "attn.v", "attention's output": "attn.out", "MLP's output": "mlp.out"}
STREAM, KERNELS = "the stream itself", "WGSL against PyTorch"


@dataclass(frozen=True, eq=False)
class DepthErrors:
    """Made by `depth_errors`; shows itself in a notebook as its table.

    places: where the residual stream was read, "embedded" and then after each layer. stream: label -> RMS of an element
    there, f64 [places]: of "the stream itself", and of what each model differs by from the baseline. parts: model ->
    part of a layer -> relative error ||d|| / ||baseline|| in each layer, f64 [layers].
    """

    baseline: str
    tokens: int
    places: tuple[str, ...]
    stream: Mapping[str, np.ndarray] = field(repr=False)
    parts: Mapping[str, Mapping[str, np.ndarray]] = field(repr=False)

    @property
    def relative(self) -> dict[str, np.ndarray]:
        """The errors over the stream itself: label -> [places]."""
        whole = self.stream[STREAM]
        return {label: values / whole for label, values in self.stream.items() if label != STREAM}

    @property
    def caption(self) -> str:
        return f"relative error of the residual stream, {self.tokens} tokens"

    def table(self) -> Table:
        """The relative error of each model behind the embedding, the first, a middle and the last layer."""
        last = len(self.places) - 1
        at = sorted({0, min(1, last), (last + 1) // 2, last})
        names = ["embedding" if place == 0 else f"layer {place - 1}" for place in at]
        rows = [[label, *(f"{values[place]:.2g}" for place in at)] for label, values in self.relative.items()]
        return Table(["", *names], rows, caption=self.caption)

    def data(self) -> Any:
        """A pandas DataFrame of the stream, one row a place, one column a label: RMS of an element."""
        import pandas

        return pandas.DataFrame(self.stream, index=pandas.Index(self.places, name="after"))

    def plot(self, model: str | None = None) -> Picture:
        """Left the stream and its errors, right the parts of the layers of one model (default: the first). Raises
        WorkbenchError for a model that was not compared."""
        model = next(iter(self.parts)) if model is None else model
        if model not in self.parts:
            raise WorkbenchError(f"{model!r} was not compared; allowed: {', '.join(self.parts)}")
        ticks = ["emb.", *map(str, range(len(self.places) - 1))]
        stream = {label: list(values) for label, values in self.stream.items()}
        parts = {label: list(values) for label, values in self.parts[model].items()}
        return plots.depth(stream, ticks, parts, f"{model} against {self.baseline}")

    def __repr__(self) -> str:
        found = ", ".join(f"{label} {values[-1]:.2g}" for label, values in self.relative.items())
        return f"<{self.caption}, after the last layer: {found}>"

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def depth_errors(models: Mapping[str, Any], ids: Sequence[int], *, baseline: str) -> DepthErrors:
    """Where in a model the error is: the residual stream after each layer, and parts of the layers, against a baseline.

        models = {"f16": "DIR", "int4": workbench.quantize("DIR", "int4", progress=False)}
        ids = workbench.load("DIR").encode_prompt("Once upon a time there was a little girl")
        found = workbench.depth_errors(models, ids, baseline="f16")
        found.relative["int4 against f16"], found.plot("int4")

    models: by name what `workbench.load` takes, or a loaded Model, of one architecture; at least one beside the
    baseline. ids: token ids [tokens], which every model reads from an empty cache. A baseline that runs through WGSL is
    also compared with itself through the references: what the kernels do. Figures are of activations in f32: RMS in
    their own unit, relative errors without one.

    Raises WorkbenchError for a baseline that is none of the models and for nothing beside it, PromptTooLongError for
    more tokens than a cache holds, ProtocolError for models whose layers have other widths, and what loading raises.
    """
    if baseline not in models or len(models) < 2:
        raise WorkbenchError(
            f"baseline {baseline!r} with nothing beside it, or none of the models: {', '.join(models)}"
        )
    loaded = {name: each if isinstance(each, Model) else load(each) for name, each in models.items()}
    base = loaded[baseline]
    layers = range(base.config.layers)
    stream = ["embedded", *(f"layers.{i}.out" for i in layers)]
    computed = set(base.plan("all").arrays)
    inside = {
        label: [f"layers.{i}.{part}" for i in layers]
        for label, part in PARTS.items()
        if all(f"layers.{i}.{part}" in computed for i in layers)
    }
    names = [*stream, *(name for each in inside.values() for name in each)]
    found = {
        name: compare_layers(model, base, ids, names) for name, model in loaded.items() if name != baseline
    }
    kept = base.forward(ids, keep=stream).kept
    whole = np.array([np.sqrt(np.mean(kept[name].astype(np.float64) ** 2)) for name in stream])
    errors = {STREAM: whole}
    errors |= {f"{name} against {baseline}": _field(each, stream, "rms") for name, each in found.items()}
    if base.backend == "wgpu":
        references = load(base.source, backend="torch")
        errors[f"{baseline}, {KERNELS}"] = _field(
            compare_layers(base, references, ids, stream), stream, "rms"
        )
    parts = {
        name: {label: _field(each, of, "relative") for label, of in inside.items()}
        for name, each in found.items()
    }
    return DepthErrors(baseline, len(ids), tuple(stream), errors, parts)


def _field(found: LayerDifferences, names: Sequence[str], name: str) -> np.ndarray:
    """One figure of each of these activations, f64 [names]."""
    by_name = {each.name: getattr(each, name) for each in found.layers}
    return np.array([by_name[each] for each in names], np.float64)
