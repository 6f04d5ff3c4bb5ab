"""Layer by layer: how far two executions of a model differ, activation by activation.

    found = compare_layers(workbench.load(path, backend="wgpu"), workbench.load(path, backend="torch"), ids)
    print(found)
    found.first_beyond(1e-3)

Both models run the same tokens from an empty cache, and every activation that both plans name is compared: the
kernels with the references, one format with another, f16 with f32. Beside the differences stands the largest value of
each activation, and how far it is from 65504, the largest that f16 can hold; beside those of activations in INT8 the
share of quants that are another. What differs in one layer is read by the next: `eval.kernel_checks` tells the
kernels' own errors from what they were given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from eval.report import Tabular, finite
from workbench.errors import ProtocolError
from workbench.models.blocks import cache_type
from workbench.plan.types import Int8Rows
from workbench.runtime.activations import float_activations, passes

F16_MAX = 65504.0
#: Activations of one forward pass at most, in bytes as f32; more are read in several passes.
PASS_BYTES = 256 << 20
INT8 = "int8"


@dataclass(frozen=True)
class LayerDifference:
    """One activation of both models. max_abs: largest |d|, d = model - reference; rms: of d; relative:
    ||d|| / ||reference||; cosine: of the two, flattened; largest: largest |value| of either; headroom: 65504 /
    largest, below 1 where f16 would overflow; worst: (token, column) of the largest |d|. dtype: in the model's plan;
    of `int8` the quants are compared, without their scales, and differing is the share of those that are another.
    """

    name: str
    dtype: str
    max_abs: float
    rms: float
    relative: float
    cosine: float
    largest: float
    headroom: float
    worst: tuple[int, ...]
    differing: float | None = None

    @classmethod
    def of(cls, name: str, dtype: str, values: np.ndarray, reference: np.ndarray) -> LayerDifference:
        """From two arrays [tokens, width]. NaN where a value is not a number."""
        if values.shape != reference.shape:
            raise ProtocolError(f"{name} has the shapes {list(values.shape)} and {list(reference.shape)}")
        x, y = values.astype(np.float64), reference.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            d = np.abs(x - y)
            norm = np.sqrt((x**2).sum()), np.sqrt((y**2).sum())
            error = np.sqrt((d**2).sum())
            largest = float(np.maximum(np.abs(x).max(), np.abs(y).max()))
            equal = error == 0
            return cls(
                name=name,
                dtype=dtype,
                max_abs=float(d.max()),
                rms=float(np.sqrt(np.mean(d**2))),
                relative=0.0 if equal else float(error / norm[1]),
                cosine=1.0 if equal else float((x * y).sum() / (norm[0] * norm[1])),
                largest=largest,
                headroom=math.inf if largest == 0 else F16_MAX / largest,
                # argmax finds the first NaN, which is worse than any number
                worst=tuple(int(i) for i in np.unravel_index(d.argmax(), d.shape)),
                differing=float(np.mean(d > 0)) if dtype == INT8 else None,
            )


@dataclass(frozen=True, eq=False)
class LayerDifferences(Tabular):
    """Activations in the order in which the plan computes them. model, reference: what ran, in words."""

    layers: tuple[LayerDifference, ...]
    model: str
    reference: str
    tokens: int
    provenance: dict[str, Any] = field(repr=False)

    @property
    def caption(self) -> str:
        return f"{self.model} against {self.reference}, {self.tokens} tokens"

    def __getitem__(self, name: str) -> LayerDifference:
        return next(layer for layer in self.layers if layer.name == name)

    def first_beyond(self, relative: float) -> LayerDifference | None:
        """The first activation whose relative difference exceeds a tolerance, or is not a number; None if none does."""
        return next((layer for layer in self.layers if not layer.relative <= relative), None)

    def beyond_f16(self) -> list[LayerDifference]:
        """Activations that f16 cannot hold."""
        return [layer for layer in self.layers if not layer.headroom >= 1]

    def rows(self) -> list[dict[str, Any]]:
        quants = any(layer.differing is not None for layer in self.layers)
        return [
            {
                "activation": layer.name,
                "dtype": layer.dtype,
                "max |d|": layer.max_abs,
                "RMS d": layer.rms,
                "relative": layer.relative,
                "cosine": f"{layer.cosine:.8f}",
                "largest": layer.largest,
                "65504 / largest": layer.headroom,
                **({"quants that differ": layer.differing} if quants else {}),
            }
            for layer in self.layers
        ]

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "model": self.model,
                "reference": self.reference,
                "tokens": self.tokens,
                "provenance": self.provenance,
                "layers": [asdict(layer) for layer in self.layers],
            }
        )

    def plot(self, axes: Any = None) -> Any:
        """Relative differences and largest values along the plan, on two logarithmic axes; returns the first."""
        from matplotlib import pyplot

        axes = axes or pyplot.subplots(figsize=(9, 3.5), layout="constrained")[1]
        place = np.arange(len(self.layers))
        relative = np.array([layer.relative for layer in self.layers])
        axes.semilogy(place, np.where(relative > 0, relative, np.nan), ".-", label="relative difference")
        axes.set(xlabel="activation, in the plan's order", ylabel="||d|| / ||reference||", title=self.caption)
        other = axes.twinx()
        other.semilogy(
            place, [layer.largest for layer in self.layers], ".-", color="C1", label="largest |value|"
        )
        other.axhline(F16_MAX, color="C1", linestyle=":", linewidth=1)
        other.set_ylabel("largest |value| (dotted: f16's largest)")
        lines = [*axes.get_lines(), other.get_lines()[0]]
        axes.legend(lines, [line.get_label() for line in lines], loc="best", fontsize="small")
        return axes


def common_activations(model: Any, reference: Any) -> dict[str, tuple[str, int]]:
    """Activations that both models' plans name, in the order of the calls: name -> (dtype, width)."""
    first, second = (float_activations(each.plan("all")) for each in (model, reference))
    return {name: found for name, found in first.items() if name in second}


def common_quants(model: Any, reference: Any) -> dict[str, tuple[int, int]]:
    """INT8 activations that both models' plans name: name -> (numbers a token, stride of their words)."""
    found = []
    for each in (model, reference):
        plan = each.plan("all")
        rows = [buffer for buffer in plan.of_kind("activation") if isinstance(buffer.type, Int8Rows)]
        words = {buffer.planes()["quants"][0]: buffer for buffer in rows}
        found.append({n: (4 * b.planes()["quants"][1][1], b.type.stride) for n, b in words.items()})
    return {name: one for name, one in found[0].items() if found[1].get(name) == one}


def compare_layers(
    model: Any, reference: Any, ids: Sequence[int], names: Iterable[str] | None = None
) -> LayerDifferences:
    """Run `ids` through two loaded models and compare their activations.

    names: which (default: every activation that both plans have). A kept activation is never fused away, so what
    runs is the unfused plan where all are asked for; few names leave the rest as it runs otherwise. Raises
    PlanError for a name that a plan does not have, ProtocolError if the models share no activation.
    """
    quants = common_quants(model, reference)
    common = common_activations(model, reference) | {name: (INT8, q[0]) for name, q in quants.items()}
    if names is not None:
        wanted = model.plan("all").check_names(names)
        reference.plan("all").check_names(wanted)
        common = {name: common[name] for name in common if name in set(wanted)}
    if not common:
        raise ProtocolError("the two models have no activation of one name")
    layers: list[LayerDifference] = []
    for group in passes(common, len(ids), PASS_BYTES):
        kept = [each.forward(ids, keep=group, finite=False).kept for each in (model, reference)]
        for name in group:
            values = (_numbers(each[name], quants.get(name)) for each in kept)
            layers.append(LayerDifference.of(name, common[name][0], *values))
    written = list(model.plan("all").arrays)
    layers.sort(key=lambda layer: written.index(layer.name))
    return LayerDifferences(
        tuple(layers),
        _label(model),
        _label(reference),
        len(ids),
        {"model": model.describe_provenance(), "reference": reference.describe_provenance()},
    )


def _numbers(kept: np.ndarray, quants: tuple[int, int] | None) -> np.ndarray:
    """What was kept, as numbers [tokens, width]; words of four quants are unpacked."""
    if quants is None:
        return kept
    import torch

    from wgsl_kernels.quantized.quantize_activations import unpack_activations

    return unpack_activations(torch.from_numpy(kept.view(np.int32)), quants[1]).numpy()


def _label(model: Any) -> str:
    executor = model.executor
    own = executor.cache != cache_type(executor.activations)
    return f"{model.backend} {executor.activations}" + (f", {executor.cache} cache" if own else "")
