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
from functools import partial
from pathlib import Path

import numpy as np
import torch

from workbench.runtime.timing import CPU_WARM, GPU_PASS, GPU_WARM

from ..child import Child, ChildError, ChildTimeoutError
from . import Offer, PeerCandidate, PeerUnsupportedError
from .layer import Layer, turns
from .onnx_chain import NUMPY, Chain, dense_chain, nbits_chain

PROCESS = Path(__file__).with_name("onnxruntime_process.py")
#: Seconds that opening the sessions and one request to them may take.
OPENING, RUNNING = 180.0, 60.0
PROVIDER = "WebGpuExecutionProvider"
CLOCK = "wall, a chain's time less that of a single call"
#: The block size of MatMulNBits that has the tuned kernels.
TUNED_BLOCK = 32
#: About how fast it may be (byte/s) and what a dispatch takes, to choose a chain's length; and the longest chain.
BYTES_A_SECOND, DISPATCH, MOST_CALLS, SOFTWARE_CALLS = 2e12, 4e-6, 1000, 5
GRAPH_CAPTURE = ("commands captured and replayed", {"enableGraphCapture": "1"})
RECORDED = ("commands recorded each time", {})


def offers(layer: Layer, software: bool) -> Iterator[Offer]:
    """Candidates in f16 and f32; integer weights in blocks of 32, and in their own where that differs."""
    require()
    if layer.format in ("int8", "int4", "int2"):
        for block in dict.fromkeys((TUNED_BLOCK, layer.block)):
            for dtype in ("f16", "f32"):
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
    if layer.columns % layer.block or layer.block % block:
        raise PeerUnsupportedError(
            f"{layer.columns} columns in blocks of {layer.block} are not blocks of {block}"
        )
    return _candidate(layer, partial(nbits_chain, layer, block, dtype), dtype, software)


def _dense(layer: Layer, operator: str, software: bool) -> PeerCandidate:
    if operator == "MatMul" and (layer.rows != layer.columns or layer.tokens != 1):
        raise PeerUnsupportedError("chained MatMuls need a square matrix and one token")
    return _candidate(layer, partial(dense_chain, layer, operator, layer.format), layer.format, software)


def _candidate(layer: Layer, make, dtype: str, software: bool) -> PeerCandidate:
    probe: Chain = make(calls=1, copies=1, folder=None)
    copies = turns(probe.weight_bytes, software)
    calls = SOFTWARE_CALLS
    if not software:
        once = probe.weight_bytes / BYTES_A_SECOND + DISPATCH
        once += 2 * layer.tokens * layer.rows * layer.columns / 50e12
        calls = 1 + max(copies, min(MOST_CALLS, math.ceil(GPU_PASS / once)))
    reasons: list[str] = []
    for how, options in (GRAPH_CAPTURE, RECORDED):
        try:
            return _Sessions(make, calls, copies, dtype, layer, options, software)._described(how, reasons)
        except ChildTimeoutError:
            raise
        except ChildError as error:
            reasons.append(f"{how}: {error}")
    raise PeerUnsupportedError("; ".join(reasons))


class _Sessions(PeerCandidate):
    """A session with a single operator and one with a chain, over the same file of weights, in a process of its own."""

    clock = CLOCK

    def __init__(
        self, make, calls: int, copies: int, dtype: str, layer: Layer, options: dict, software: bool
    ):
        self.warm = CPU_WARM if software else GPU_WARM
        self.calls, self.copies = calls - 1, copies
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-onnx-")
        # Without it the Vulkan loader complains.
        self._child = Child(
            PROCESS, {"XDG_RUNTIME_DIR": os.environ.get("XDG_RUNTIME_DIR", tempfile.gettempdir())}
        )
        try:
            folder = Path(self._folder.name)
            np.save(folder / "x.npy", layer.x.numpy().astype(NUMPY[dtype]))
            chain = make(calls=calls, copies=copies, folder=folder)
            single = make(calls=1, copies=copies, folder=folder)
            models = {
                name: {"file": m.file, "output": m.output}
                for name, m in (("chain", chain), ("single", single))
            }
            self.version = self._child.ask(
                OPENING, do="open", folder=str(folder), provider=PROVIDER, options=options, **models
            )
            self.span = sum(self._child.ask(RUNNING, do="sample"))
        except BaseException:
            self.close()
            raise
        element = np.dtype(NUMPY[dtype]).itemsize
        self.bytes = chain.weight_bytes + element * layer.tokens * (layer.columns + layer.rows)

    def _described(self, how: str, reasons: list[str]) -> PeerCandidate:
        failed = f" ({'; '.join(reasons)})" if reasons else ""
        self.detail = (
            f"onnxruntime {self.version}, accuracy_level 4, chain of {self.calls + 1}, {self.copies} copies of the "
            f"weights in turns, {how}{failed}"
        )
        return self

    def busy(self, seconds: float) -> None:
        self._child.ask(RUNNING + seconds, do="busy", seconds=seconds)

    def sample(self) -> float:
        long, short = self._child.ask(RUNNING, do="sample")
        if long <= short:
            raise ChildError(f"a chain of {self.calls + 1} took {long:.2e} s, a single call {short:.2e} s")
        return (long - short) / self.calls

    def result(self) -> torch.Tensor:
        return torch.from_numpy(np.load(self._child.ask(RUNNING, do="result")).astype(np.float32))

    def close(self) -> None:
        self._child.close()
        self._folder.cleanup()
