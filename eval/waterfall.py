"""An error waterfall of one matrix: how much each cause adds to the error of its weights and of its output.

    waterfall = weight_waterfall(weights, WeightFormat("int4"), inputs=x, activations="int8")
    print(waterfall)

The causes are those of `eval.weight_stages`, then the rounding of the activations, then the kernel's arithmetic (WGSL
against exact arithmetic on the same packed bytes). Each is switched on in turn on top of those before it, and what it
adds is the difference of two errors: these add up to the whole, but since errors are not orthogonal a cause may also
take some away. For a whole model, in nats: `eval.model_waterfall`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.report import Tabular, finite
from eval.weight_stages import Quantizer, stage_weights, stages, stored
from workbench.errors import ProtocolError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.known import known

ACTIVATIONS = ("f32", "f16", "int8")


@dataclass(frozen=True)
class Cause:
    """Errors with all causes up to this one. mse: mean squared error of a weight; sqnr_db: 10 log10(sum w^2 / sum of
    squared errors); output_error: sum of squared errors of the layer's output over its sum of squares, None without
    inputs. `adds_`: the same minus that of the cause before."""

    name: str
    mse: float
    sqnr_db: float
    adds_mse: float
    output_error: float | None
    adds_output_error: float | None


@dataclass(frozen=True, eq=False)
class WeightWaterfall(Tabular):
    """Of one matrix. signal: mean squared weight. notes: causes that were left out, and why."""

    name: str
    format: WeightFormat
    quantizer: str
    activations: str
    shape: tuple[int, int]
    signal: float
    causes: tuple[Cause, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def caption(self) -> str:
        return f"{self.name} {list(self.shape)} as {self.format} ({self.quantizer})"

    def __getitem__(self, name: str) -> Cause:
        return next(cause for cause in self.causes if cause.name == name)

    def rows(self) -> list[dict[str, Any]]:
        rows = [
            {
                "cause": cause.name,
                "adds, MSE": cause.adds_mse,
                "MSE": cause.mse,
                "SQNR, dB": cause.sqnr_db,
                "adds, output": cause.adds_output_error,
                "output error": cause.output_error,
            }
            for cause in self.causes
        ]
        if self.causes[0].output_error is None:
            rows = [{key: row[key] for key in list(row)[:4]} for row in rows]
        return rows

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "name": self.name,
                "format": str(self.format),
                "quantizer": self.quantizer,
                "activations": self.activations,
                "shape": list(self.shape),
                "signal": self.signal,
                "causes": [vars(cause) for cause in self.causes],
                "notes": list(self.notes),
            }
        )

    def plot(self, axes: Any = None) -> Any:
        """What each cause adds to the output's error (to the weights' without inputs), as a waterfall."""
        by_output = self.causes[0].output_error is not None
        what = "relative squared error of the output" if by_output else "mean squared error of a weight"
        adds = [known(cause.adds_output_error) if by_output else cause.adds_mse for cause in self.causes]
        axes = bars([cause.name for cause in self.causes], adds, axes=axes)
        axes.set(ylabel=what, title=self.caption)
        return axes


def bars(names: list[str], adds: list[float], errors: list[float] | None = None, axes: Any = None) -> Any:
    """A waterfall chart: each bar begins where the one before ended; the last is the sum. Returns the axes."""
    from matplotlib import pyplot

    axes = axes or pyplot.subplots(figsize=(7, 3.5), layout="constrained")[1]
    ends = np.cumsum(adds)
    colors = ["C3" if each > 0 else "C2" for each in adds]
    axes.bar([*names, "total"], [*adds, ends[-1]], bottom=[0, *ends[:-1], 0], color=[*colors, "C0"])
    if errors is not None:
        axes.errorbar(range(len(names)), ends, yerr=errors, fmt="none", ecolor="black", capsize=3)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.tick_params(axis="x", rotation=20)
    return axes


def weight_waterfall(
    weights: np.ndarray,
    format: WeightFormat,
    *,
    quantizer: Quantizer = "rtn",
    inputs: np.ndarray | None = None,
    activations: str = "f32",
    kernel: bool | None = None,
    name: str = "weights",
) -> WeightWaterfall:
    """The waterfall of weights [rows, columns] in a block format.

    quantizer: a name, or a function (see `eval.weight_stages`). inputs: the layer's inputs [n, columns]; without
    them only the weights' errors are known. activations: "f32", or what the inputs are rounded to, "f16" or "int8"
    in blocks of 32. kernel: whether to run the WGSL kernel too; None where there is an adapter. Raises
    ProtocolError for what does not fit, NoAdapterError if a kernel is asked for and cannot run.
    """
    weights = np.asarray(weights, np.float32)
    if activations not in ACTIVATIONS:
        raise ProtocolError(f"activations are one of {', '.join(ACTIVATIONS)}, not {activations!r}")
    if weights.ndim != 2 or (inputs is not None and np.shape(inputs)[1:] != weights.shape[1:]):
        shapes = f"{list(weights.shape)} and {None if inputs is None else list(np.shape(inputs))}"
        raise ProtocolError(f"weights [rows, columns] and inputs [n, columns] are needed, not {shapes}")
    if inputs is None and (activations != "f32" or kernel):
        raise ProtocolError("activations and kernels show in the layer's output: give its inputs")
    exact = weights.astype(np.float64)
    x = None if inputs is None else np.asarray(inputs, np.float64)
    wanted = None if x is None else x @ exact.T
    found: list[Cause] = []

    def add(cause: str, approximate: np.ndarray, output: np.ndarray | None) -> None:
        before = found[-1] if found else Cause("", 0.0, np.inf, 0.0, 0.0, 0.0)
        mse = float(np.mean((approximate - exact) ** 2))
        error = (
            None
            if wanted is None or output is None
            else float(((output - wanted) ** 2).sum() / (wanted**2).sum())
        )
        with np.errstate(divide="ignore"):
            decibels = float(10 * np.log10(np.mean(exact**2) / np.float64(mse)))
        adds = None if error is None else error - known(before.output_error)
        found.append(Cause(cause, mse, decibels, mse - before.mse, error, adds))

    for stage in stages(format):
        approximate = stage_weights(weights, format, stage, quantizer).astype(np.float64)
        label = f"{format.scale_dtype} scale" if stage == "scale" else stage
        add(label, approximate, None if x is None else x @ approximate.T)
    notes = []
    if x is not None:
        tensor = stored(weights, format, quantizer)
        rounded = round_inputs(np.asarray(inputs, np.float32), activations, format)
        if activations != "f32":
            add(f"{activations} activations", approximate, rounded.astype(np.float64) @ approximate.T)
        missing = kernel_missing(activations)
        if kernel and missing:
            from workbench.errors import NoAdapterError

            raise NoAdapterError(missing)
        if kernel is not False and missing:
            notes.append(f"kernel: {missing}")
        elif kernel is not False:
            y = run_linear(tensor, np.asarray(inputs, np.float32), activations)
            add("kernel", approximate, y.astype(np.float64))
    label = quantizer if isinstance(quantizer, str) else getattr(quantizer, "__name__", "function")
    signal = float(np.mean(exact**2))
    return WeightWaterfall(
        name, format, label, activations, weights.shape, signal, tuple(found), tuple(notes)
    )


def layer_waterfall(
    model: Any, weight: str, ids: Any, format: WeightFormat, **options: Any
) -> WeightWaterfall:
    """The waterfall of one matrix of a loaded unquantized model, such as `layers.3.mlp.down_proj`, with the inputs
    that the layer sees when `ids` run. options: as in `weight_waterfall`. Raises ProtocolError for an unknown name."""
    plan = model.plan("all")
    if weight not in plan.weights:
        raise ProtocolError(f"the plan has no matrix {weight!r}; it has {', '.join(plan.weights)}")
    call = next(
        (
            c
            for c in plan.calls
            if c.op == "linear"
            and c.inputs["weight"] == weight
            and not plan.buffers[weight].format.is_quantized
        ),
        None,
    )
    if call is None:
        raise ProtocolError(f"{weight} is not an unquantized linear layer of this model")
    x = model.forward(ids, keep=[call.inputs["x"]]).kept[call.inputs["x"]]
    values = model.source.tensor(plan.weights[weight].tensor).dequantize()
    return weight_waterfall(values, format, inputs=x, name=weight, **options)


def round_inputs(x: np.ndarray, activations: str, format: WeightFormat) -> np.ndarray:
    """Inputs f32 [n, columns] as the activations' type holds them."""
    if activations == "f32":
        return x
    if activations == "f16":
        return x.astype(np.float16).astype(np.float32)
    from wgsl_kernels.linear.linear_a8 import dequantize_activations

    words, scales = _int8(x, format)
    return dequantize_activations(format.dtype, words, scales, x.shape[1]).numpy()


def run_linear(tensor: WeightTensor, x: np.ndarray, activations: str) -> np.ndarray:
    """y f32 [n, rows] of the WGSL kernel that a plan would call, on the packed bytes of a quantized tensor."""
    import torch

    from wgsl_kernels import library
    from wgsl_kernels.layout import A8
    from workbench.runtime.launch import run_kernel
    from workbench.runtime.weights import device_planes

    form, (_, columns) = tensor.format, tensor.shape
    planes = {name: torch.from_numpy(_words(plane)) for name, plane in device_planes(tensor).items()}
    arguments = {
        **planes,
        "block": form.block(columns),
        "scale_stride": 0 if form.granularity == "tensor" else form.blocks(columns),
        "zero_unit": 2.0**-form.zero_frac_bits,
    }
    if activations == "int8":
        words, scales = _int8(x, form)
        arguments |= {"x": words, "x_scales": scales, "columns": columns}
        return run_kernel(library().kernel("linear", {"weight": form.dtype, "x": A8}), arguments)["y"].numpy()
    arguments["x"] = torch.from_numpy(np.array(x, np.float16 if activations == "f16" else np.float32))
    return run_kernel(library().kernel("linear", {"weight": form.dtype}), arguments)["y"].numpy()


def _int8(x: np.ndarray, format: WeightFormat) -> tuple[Any, Any]:
    import torch

    from wgsl_kernels.layout import INT8_BLOCK, INT8_STRIDES
    from wgsl_kernels.quantized.quantize_activations import quantize_activations

    return quantize_activations.reference(
        torch.from_numpy(np.array(x, np.float32)), block=INT8_BLOCK, stride=INT8_STRIDES[format.dtype]
    )


def _words(plane: np.ndarray) -> np.ndarray:
    """A private copy; packed words as int32, which is how torch holds them."""
    plane = np.array(plane)
    return plane.view(np.int32) if plane.dtype == np.uint32 else plane


def kernel_missing(activations: str) -> str | None:
    """Why a kernel with such activations cannot run here, or None."""
    from workbench.runtime.device import adapter_missing, open_device

    missing = adapter_missing()
    if missing is None and activations == "f16" and not open_device().adapter.f16:
        return "the adapter has no shader-f16"
    return missing
