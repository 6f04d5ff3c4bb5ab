"""onnxruntime's WebGPU provider (Dawn): MatMulNBits for integer weights, Gemm and MatMul for f16 ones.

A session's call costs far more than a kernel, so two models are timed, one with a single operator and one with a chain
of them, and the difference is divided by the difference of their lengths. In the chain each product is the bias of the
next, so that it waits; copies of the weights take turns. Commands are captured once and replayed where the provider
can (`enableGraphCapture`), and inputs and outputs stay bound, so that nothing is copied between the calls.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from wgsl_kernels.weights import is_quantized
from workbench.runtime.rotation import turns
from workbench.runtime.timing import CPU_WARM, GPU_PASS, GPU_WARM

from ..child import Child, ChildError, ChildTimeoutError
from . import Offer, PeerCandidate, PeerUnsupportedError
from .layer import Layer
from .onnx_chain import Operator

PROCESS = Path(__file__).with_name("onnxruntime_process.py")
#: Seconds that opening the sessions and one request to them may take.
OPENING, RUNNING = 180.0, 60.0
PROVIDER = "WebGpuExecutionProvider"
CLOCK = "wall, a chain's time less that of a single call"
#: The block size of MatMulNBits that has the tuned kernels.
TUNED_BLOCK = 32
#: About how fast it may be and what a dispatch takes, to choose a chain's length; the longest chain.
BYTES_A_SECOND, OPERATIONS_A_SECOND, DISPATCH = 2e12, 5e13, 4e-6
MOST_CALLS, SOFTWARE_CALLS = 1000, 5
GRAPH_CAPTURE = ("commands captured and replayed", {"enableGraphCapture": "1"})
RECORDED = ("commands recorded each time", {})


def offers(layer: Layer, software: bool) -> Iterator[Offer]:
    """Integer weights in blocks of 32 with f16 and with f32 activations, and in their own blocks where those differ."""
    require()
    if is_quantized(layer.format):
        kinds = [(TUNED_BLOCK, "f16"), (TUNED_BLOCK, "f32")]
        if layer.block != TUNED_BLOCK:
            kinds.append((layer.block, "f32" if software else "f16"))
        for block, dtype in kinds:
            name = f"onnxruntime MatMulNBits {layer.bits} bit, block {block}, {dtype}"
            yield Offer(name, partial(_nbits, layer, block, dtype, software))
    elif layer.format in ("f16", "f32"):
        for operator in ("Gemm", "MatMul"):
            name = f"onnxruntime {operator} {layer.format}"
            yield Offer(name, partial(_dense, layer, operator, software))
    else:
        raise PeerUnsupportedError(f"onnxruntime's WebGPU provider takes no {layer.format} weights")


def require() -> None:
    """Raises PeerUnsupportedError where the packages or the provider are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise PeerUnsupportedError(f"{error}; pip install 'webgpu-quant-workbench[peers]'") from error
    if PROVIDER not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise PeerUnsupportedError(
            f"onnxruntime {onnxruntime.__version__} has {have}, not {PROVIDER}: install onnxruntime-webgpu alone"
        )


def _nbits(layer: Layer, block: int, dtype: str, software: bool) -> PeerCandidate:
    if layer.fractional_zeros:
        raise PeerUnsupportedError("MatMulNBits takes zero-points that are whole numbers")
    if layer.offsets is not None:
        raise PeerUnsupportedError("MatMulNBits takes zero-points, not offsets")
    if layer.columns % layer.block or layer.block % block:
        raise PeerUnsupportedError(
            f"{layer.columns} columns in blocks of {layer.block} are not blocks of {block}"
        )
    return _candidate(Operator(layer, "MatMulNBits", dtype, block), software)


def _dense(layer: Layer, operator: str, software: bool) -> PeerCandidate:
    if operator == "MatMul" and (layer.rows != layer.columns or layer.tokens != 1):
        raise PeerUnsupportedError("chained MatMuls need a square matrix and one token")
    return _candidate(Operator(layer, operator, layer.format), software)


def _candidate(operator: Operator, software: bool) -> PeerCandidate:
    layer, copies = operator.layer, turns(operator.weight_bytes, software)
    calls = SOFTWARE_CALLS
    if not software:
        once = DISPATCH + operator.weight_bytes / BYTES_A_SECOND
        once += 2 * layer.tokens * layer.rows * layer.columns / OPERATIONS_A_SECOND
        calls = 1 + max(copies, min(MOST_CALLS, math.ceil(GPU_PASS / once)))
    reasons: list[str] = []
    for how, options in (GRAPH_CAPTURE, RECORDED):
        try:
            return _Sessions(operator, calls, copies, options, software, "; ".join([how, *reasons]))
        except ChildTimeoutError:
            raise
        except ChildError as error:
            reasons.append(f"{how}: {error}")
    raise PeerUnsupportedError("; ".join(reasons))


class _Sessions(PeerCandidate):
    """A session with a single operator and one with a chain, over the same file of weights, in a process of its own."""

    clock = CLOCK

    def __init__(
        self,
        operator: Operator,
        calls: int,
        copies: int,
        options: dict[str, str],
        software: bool,
        how: str,
    ):
        self.warm = CPU_WARM if software else GPU_WARM
        self.calls = calls - 1
        self._shape = tuple(operator.layer.expected.shape)
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-onnx-")
        # Without this folder's name the Vulkan loader complains.
        runtime = os.environ.get("XDG_RUNTIME_DIR", tempfile.gettempdir())
        self._child = Child(PROCESS, {"XDG_RUNTIME_DIR": runtime})
        try:
            folder = Path(self._folder.name)
            np.save(folder / "x.npy", operator.x)
            weights = operator.write_weights(folder, copies)
            models = {
                name: asdict(operator.write_model(folder, weights, copies, count))
                for name, count in (("chain", calls), ("single", 1))
            }
            version = self._child.ask(
                OPENING, do="open", folder=str(folder), provider=PROVIDER, options=options, **models
            )
            self.span = sum(self._child.ask(RUNNING, do="sample"))
        except BaseException:
            self.close()
            raise
        ends = operator.layer.tokens * (operator.layer.columns + operator.layer.rows)
        self.bytes = operator.weight_bytes + ends * operator.x.itemsize
        level = ", accuracy_level 4" if operator.name == "MatMulNBits" else ""
        self.detail = (
            f"onnxruntime {version}{level}, chain of {calls}, {copies} copies of the weights in turns, {how}"
        )

    def busy(self, seconds: float) -> None:
        self._child.ask(RUNNING + seconds, do="busy", seconds=seconds)

    def sample(self) -> float:
        long, short = self._child.ask(RUNNING, do="sample")
        if long <= short:
            raise ChildError(f"a chain of {self.calls + 1} took {long:.2e} s, a single call {short:.2e} s")
        return (long - short) / self.calls

    def result(self) -> torch.Tensor:
        y = np.load(self._child.ask(RUNNING, do="result"))
        return torch.from_numpy(y.astype(np.float32)).reshape(self._shape)

    def close(self) -> None:
        self._child.close()
        self._folder.cleanup()
