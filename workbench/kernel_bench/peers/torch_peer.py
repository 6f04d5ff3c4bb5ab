"""PyTorch's kernels: matrix products in bf16 (f16 beside f16 weights) and int4 tinygemm; on CUDA, else on the CPU.

On CUDA a chain of calls is captured in a graph and timed by events, so that launching costs nothing; calls of a stream
wait for each other. Copies of the weights take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from wgsl_kernels.weights import unpack
from workbench.known import known
from workbench.runtime.rotation import turns
from workbench.runtime.timing import CPU_PASS, CPU_WARM, GPU_PASS, GPU_WARM, WALL

from . import Offer, PeerCandidate, PeerUnsupportedError
from .layer import Layer

CUDA_EVENTS = "CUDA events around a graph"
MOST_CALLS = 2000
#: Tiles of 16 columns that tinygemm's packing on CUDA interleaves; any of 2, 4, 8 gives the same numbers.
INNER_TILES = 8


def offers(layer: Layer, software: bool) -> Iterator[Offer]:
    """software: only small work is wanted; it changes nothing about which device PyTorch uses."""
    cuda = torch.cuda.is_available() and not software
    place = "cuda" if cuda else "cpu"
    yield Offer(f"torch bf16 ({place})", partial(_dense, layer, torch.bfloat16, cuda))
    if layer.format == "f16":
        yield Offer(f"torch f16 ({place})", partial(_dense, layer, torch.float16, cuda))
    if layer.format == "int4":
        yield Offer(f"torch int4 tinygemm ({place})", partial(_tinygemm, layer, cuda))


def _dense(layer: Layer, dtype: torch.dtype, cuda: bool) -> PeerCandidate:
    place = "cuda" if cuda else "cpu"
    x, weight = layer.x.to(place, dtype), layer.weight.to(place, dtype)
    copies = turns(weight.nbytes, not cuda)
    weights = [weight, *(weight.clone() for _ in range(copies - 1))]
    return _Chain([partial(F.linear, x, each) for each in weights], weight.nbytes + _ends(layer), cuda)


def _tinygemm(layer: Layer, cuda: bool) -> PeerCandidate:
    """w = (q - 8) scale + zero, with one scale and zero in bf16 a group; ours: scale (q - z) or scale q + offset."""
    if layer.columns % layer.block:
        raise PeerUnsupportedError(f"{layer.columns} columns are not whole blocks of {layer.block}")
    scales = known(layer.scales)
    if layer.offsets is None:
        zeros = scales * (8.0 - (8.0 if layer.zeros is None else layer.zeros))
    else:
        zeros = 8.0 * scales + layer.offsets
    pairs = torch.stack([scales, zeros], -1)  # [rows, blocks, 2]
    pairs = pairs.transpose(0, 1).contiguous().to("cuda" if cuda else "cpu", torch.bfloat16)
    quants = unpack(known(layer.words), 4)[:, : layer.columns].to(torch.int32)
    if cuda:
        bytes_ = (quants[:, ::2] << 4 | quants[:, 1::2]).to(torch.uint8).cuda()
        packed = torch.ops.aten._convert_weight_to_int4pack(bytes_, INNER_TILES)
        multiply = torch.ops.aten._weight_int4pack_mm
    else:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(quants, 1)
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    x = layer.x.to(packed.device, torch.bfloat16)
    size = packed.nbytes + pairs.nbytes
    weights = [(packed, pairs)]
    weights += [(packed.clone(), pairs.clone()) for _ in range(turns(size, not cuda) - 1)]
    steps = [partial(multiply, x, p, layer.block, s) for p, s in weights]
    return _Chain(steps, size + _ends(layer), cuda)


def _ends(layer: Layer) -> int:
    """Bytes of activations and results in 16 bits."""
    return 2 * layer.tokens * (layer.columns + layer.rows)


class _Chain(PeerCandidate):
    """Calls that take turns, one a copy of the weights, repeated until they last long enough for the clock."""

    def __init__(self, steps: Sequence[Callable[[], torch.Tensor]], nbytes: float, cuda: bool):
        self._steps, self._cuda = list(steps), cuda
        self.bytes = nbytes
        self.warm, wanted = (GPU_WARM, GPU_PASS) if cuda else (CPU_WARM, CPU_PASS)
        self.clock = CUDA_EVENTS if cuda else WALL
        where = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
        self.detail = (
            f"PyTorch {torch.__version__} on {where}, {len(self._steps)} copies of the weights in turns"
        )
        self._graph = None
        self.calls = len(self._steps)
        self._run()
        if cuda:
            self._capture()
        once = self._pass_seconds() / self.calls
        rounds = round(wanted / max(once, 1e-9) / len(self._steps))
        self.calls = len(self._steps) * max(1, min(rounds, MOST_CALLS // len(self._steps)))
        if cuda:
            self._capture()
        self.span = self._pass_seconds()

    def _run(self) -> None:
        for at in range(self.calls):
            self._steps[at % len(self._steps)]()
        if self._cuda:
            torch.cuda.synchronize()

    def _capture(self) -> None:
        """Record the calls as a CUDA graph; raises what PyTorch raises where an operation cannot be captured."""
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            for at in range(self.calls):
                self._steps[at % len(self._steps)]()
        self._graph.replay()
        torch.cuda.synchronize()

    def _pass_seconds(self) -> float:
        if self._graph is None:
            began = time.perf_counter()
            self._run()
            return time.perf_counter() - began
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        self._graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    def busy(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while True:
            self._pass_seconds()
            if time.perf_counter() >= until:
                return

    def sample(self) -> float:
        return self._pass_seconds() / self.calls

    def result(self) -> torch.Tensor:
        return self._steps[0]()

    def close(self) -> None:
        self._graph, self._steps = None, []
        if self._cuda:
            torch.cuda.empty_cache()
