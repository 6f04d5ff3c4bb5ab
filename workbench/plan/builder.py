"""Building a plan call by call: buffers come into being as the outputs of calls, weights as sets of planes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wgsl_kernels.layout import FLOAT_GROUP, INT8_BLOCK, INT8_STRIDES
from workbench.formats.spec import WeightFormat

from .plan import Buffer, Call, Plan, PlanError, Weight


class PlanBuilder:
    """Collects buffers and calls; `finish` checks and freezes them."""

    def __init__(self) -> None:
        self._buffers: dict[str, Buffer] = {}
        self._calls: list[Call] = []
        self._weights: dict[str, Weight] = {}

    def buffer(self, name: str, shape: tuple[int | str, ...], dtype: str, kind: str) -> str:
        """Declare a buffer; declaring it again with other properties is a `PlanError`."""
        new = Buffer(name, tuple(shape), dtype, kind)
        if self._buffers.setdefault(name, new) != new:
            raise PlanError(f"buffer {name!r} is declared twice: {self._buffers[name]} and {new}")
        return name

    def weight(self, name: str, tensor: str, shape: tuple[int, int], fmt: WeightFormat) -> str:
        """Declare a matrix [rows, columns] of the checkpoint and its planes."""
        rows, columns = shape
        fmt = fmt.fitted(columns)
        self._weights[name] = Weight(name, tensor, (rows, columns), fmt)
        if fmt.is_quantized:
            words = fmt.padded_columns(columns) * fmt.bits // 32
            self.buffer(f"{name}.quants", (rows, words), "u32", "weight")
            self.buffer(f"{name}.scales", fmt.scale_shape(rows, columns), fmt.scale_dtype, "weight")
            if not fmt.symmetric:
                self.buffer(f"{name}.zeros", fmt.scale_shape(rows, columns), "i8", "weight")
        else:
            padded = -(-columns // FLOAT_GROUP) * FLOAT_GROUP
            self.buffer(f"{name}.values", (rows, padded), fmt.dtype, "weight")
        return name

    def vector(self, name: str, length: int) -> str:
        """Declare a one-dimensional f32 weight (a norm, a bias)."""
        return self.buffer(name, (length,), "f32", "weight")

    def call(self, kernel: str, inputs: dict[str, str], outputs: dict[str, str], **params) -> None:
        """Append a call over declared buffers."""
        for name in (*inputs.values(), *outputs.values()):
            if name not in self._buffers:
                raise PlanError(f"{kernel} uses {name!r}, which no one declared")
        self._calls.append(Call(kernel, dict(inputs), dict(outputs), params))

    def call_with_weight(
        self, operation: str, weight: str, inputs: dict[str, str], outputs: dict[str, str], **params
    ) -> None:
        """Append `<operation>_<format>` reading the planes of `weight`."""
        matrix = self._weights[weight]
        fmt = matrix.format
        if fmt.is_quantized:
            planes = ["quants", "scales"] + ([] if fmt.symmetric else ["zeros"])
            blocks = 0 if fmt.granularity == "tensor" else fmt.blocks(matrix.shape[1])
            params |= {
                "block": fmt.block(matrix.shape[1]),
                "scale_stride": blocks,
                "zero_unit": 2.0**-fmt.zero_frac_bits,
            }
        else:
            planes = ["values"]
        bound = {plane: f"{weight}.{plane}" for plane in planes}
        self.call(f"{operation}_{fmt.dtype}", {**inputs, **bound}, outputs, **params)

    def format(self, weight: str) -> WeightFormat:
        return self._weights[weight].format

    def call_with_integer_input(
        self, operation: str, weight: str, x: str, inputs: Mapping[str, str], outputs: dict[str, str]
    ) -> None:
        """Append `<operation>_<format>` with x as INT8 in blocks of 32; x is quantized once for each word order."""
        fmt, (rows, columns) = self.format(weight), self._buffers[x].shape
        stride, groups = INT8_STRIDES[fmt.dtype], -(-columns // INT8_BLOCK)
        quants, scales = f"{x}.int8_{stride}", f"{x}.int8_{stride}_scales"
        if quants not in self._buffers:
            self.buffer(quants, (rows, groups * INT8_BLOCK // 4), "u32", "activation")
            self.buffer(scales, (rows, groups), "f32", "activation")
            made = {"quants": quants, "scales": scales}
            self.call("quantize_activations", {"x": x}, made, block=INT8_BLOCK, stride=stride)
        self.call_with_weight(
            operation, weight, {"x": quants, "x_scales": scales, **inputs}, outputs, columns=columns
        )

    def finish(self, results: Iterable[str]) -> Plan:
        """The plan; raises `PlanError` if a call reads an activation that nothing wrote before."""
        plan = Plan(dict(self._buffers), tuple(self._calls), dict(self._weights), tuple(results))
        plan.check()
        return plan
