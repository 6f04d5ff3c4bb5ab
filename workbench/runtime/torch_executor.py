"""Runs a plan through the kernels' PyTorch references: the oracle, and the fallback where there is no adapter.

Numbers follow the plan's element types: each output is rounded to its buffer's type, arithmetic is f32, or f64
without any rounding for an oracle (`compute=torch.float64`). Dequantized weights are kept, so that a step costs what
a dense model costs.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from wgsl_kernels.numerics import TORCH_TYPES
from workbench.dtypes import NUMPY
from workbench.errors import NonFiniteError
from workbench.known import known
from workbench.models.architecture import Architecture
from workbench.models.blocks import cache_type
from workbench.models.source import Source
from workbench.plan.bind import kernel_of
from workbench.plan.plan import RING_ROWS, Buffer, Call, Plan, Ring, resolve, step_sizes

from .cache import Cache
from .copies import copy_tensors, planes_of
from .edits import Edits, check_edits, refuse_inside, replacement, stops
from .executor import Sequential
from .host_memory import out_of_memory
from .plans import Plans
from .rows import HostRows
from .sampling import Drawn
from .step import Step
from .weights import matrix_parts, vector

#: Tokens of one step at most.
PREFILL, COMPACT_PREFILL = 512, 128


class TorchCache(Cache):
    """Keys and values of some sequences, a tensor a layer. Without rings each layer has a slot for every position."""

    def __init__(self, capacity: int, sequences: int = 1, rings: Sequence[Ring] = (), adapter: int = 0):
        super().__init__(capacity, sequences, rings, adapter)
        self.tensors: dict[str, torch.Tensor] = {}


class TorchExecutor(Sequential):
    """Executes plans of one model on the CPU."""

    backend = "torch"
    chunks: tuple[int, ...] = (1,)  # nothing is compiled: any number of rows is as good as one

    def __init__(
        self,
        source: Source,
        config: Architecture,
        *,
        activations: str = "f32",
        cache: str | None = None,
        ring: Ring | None = None,
        compute=torch.float32,
        compact: bool = False,
        instead: Mapping[str, Callable[..., torch.Tensor]] | None = None,
    ):
        """compact: float matrices stay in memory as they are stored, and are widened anew for each call, which is half
        the memory of a model in 16 bits, and steps are shorter. For a few long sequences among several models.
        instead: of ops, by name, functions of the same arguments that take their references' place, for studies."""
        self.compact, self.instead = compact, dict(instead or {})
        self.source, self.config, self.activations, self.compute = source, config, activations, compute
        self.cache = cache or cache_type(activations)
        self.plan = Plans(source, config, activations, self.cache, ring)
        self._weights: dict[tuple, torch.Tensor] = {}
        self._constants: dict[tuple[str, int], torch.Tensor] = {}
        self._called: dict[int, tuple] = {}

    @property
    def device_name(self) -> str:
        return f"PyTorch {torch.__version__} on the CPU, {torch.get_num_threads()} threads"

    def with_ring(self, ring: Ring | None) -> TorchExecutor:
        """See `Executor.with_ring`."""
        other = copy.copy(self)
        other.plan = Plans(self.source, self.config, self.activations, self.cache, ring)
        other._constants, other._called = {}, {}
        return other

    def new_cache(self, capacity: int, sequences: int = 1) -> TorchCache:
        return TorchCache(capacity, sequences, self.plan("all").rings, self.config.adapter())

    def free_cache(self, cache: TorchCache) -> None:
        """Give a cache's memory back; it cannot be used afterwards."""
        cache.freed = True
        cache.tensors.clear()

    def copy_sequence(self, cache: TorchCache, source: int, target: int, count: int) -> None:
        """See `Executor.copy_sequence`."""
        with torch.inference_mode():
            copy_tensors(cache.tensors, planes_of(self.plan("all"), cache), source, target, count)

    def chunk(self, remaining: int, cache: TorchCache | None = None) -> int:
        """How many of the remaining tokens the next step takes."""
        most = COMPACT_PREFILL if self.compact else PREFILL
        return min(remaining, most, RING_ROWS if self.plan("all").rings else most)

    def run_step(
        self,
        head: str,
        step: Step,
        cache: TorchCache,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, np.ndarray | HostRows]:
        """One step. Returns the plan's results and `keep`.

        edit: functions that change activations in flight (`workbench.runtime.edits`); raises `EditError`,
        `CacheFullError` and `OutOfMemoryError`. hold: activations that are handed out as rows for kernels.
        """
        refuse_inside(self)
        cache.take(step)
        with out_of_memory(f"a step of {len(step)} tokens with a cache of {cache.capacity} positions"):
            return self._run(self.plan(head), step, cache, targets, keep, edit, hold)

    def _run(
        self,
        plan: Plan,
        step: Step,
        cache: TorchCache,
        targets: np.ndarray | None,
        keep: Iterable[str],
        edit: Edits | None,
        hold: Iterable[str],
    ) -> dict[str, np.ndarray | HostRows]:
        keep, hold = plan.check_names(keep), plan.check_names(hold)
        results = {*plan.results, *keep}
        wanted = {*results, *hold}
        env = self.inputs(step, cache.adapters)
        if targets is not None:
            env["targets"] = torch.as_tensor(np.asarray(targets, dtype=np.int32))
        start, edits = 0, check_edits(plan, edit)
        for stop, name in stops([call.outputs.values() for call in plan.calls], edits):
            self.advance(plan, env, cache, range(start, stop), keep=wanted)
            x = env[name].numpy()
            storage = x.dtype if self.compute == torch.float64 else NUMPY[plan.buffers[name].dtype]
            rows = step.results if plan.buffers[name].shape[0] == "results" else slice(None)
            new = replacement(self, name, edits, x, step.places(rows), storage)
            env[name] = torch.from_numpy(new).to(self.compute)
            start = stop
        self.advance(plan, env, cache, range(start, len(plan.calls)), keep=wanted)
        found = {name: env[name].numpy().copy() for name in results}
        return found | {name: HostRows(env[name]) for name in hold}

    def holding(self) -> contextlib.AbstractContextManager:
        """Nothing overwrites rows in memory."""
        return contextlib.nullcontext()

    def inputs(self, step: Step, adapters: np.ndarray) -> dict[str, torch.Tensor]:
        """What a step starts with: buffer name -> tensor. adapters: which each sequence has (`Cache.adapters`)."""
        return {
            "ids": torch.from_numpy(step.ids.astype(np.int32)),
            "state": torch.from_numpy(step.state(len(step), adapters).view(np.int32)),
            "result_rows": torch.from_numpy(step.results.astype(np.int32)),
        }

    def advance(
        self,
        plan: Plan,
        env: dict[str, torch.Tensor],
        cache: TorchCache,
        calls: range,
        *,
        keep: Iterable[str] = (),
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Run some of the plan's calls, in order; `env` (buffer name -> tensor) is changed in place.

        It loses what no later call of the plan reads, but for `keep`, and never changes a tensor: a shallow copy of
        it is a state to come back to. The cache's tensors are changed, its position is not. weights: matrices
        [rows, columns] by their name in the plan, in place of the source's. Raises `OutOfMemoryError`.
        """
        last_use = {name: i for i, call in enumerate(plan.calls) for name in call.inputs.values()}
        with torch.inference_mode(), out_of_memory("weights and activations of a step"):
            for index in calls:
                call = plan.calls[index]
                self._execute(plan, call, env, cache, weights or {})
                for name in call.inputs.values():
                    if last_use[name] == index:
                        for plane, _, _ in plan.buffers[name].planes().values():
                            if plane not in keep:
                                env.pop(plane, None)

    def greedy_rows(self, step: Step, count: int, cache: TorchCache) -> np.ndarray:
        """Tokens [count, rows]: what follows each row, greedily."""
        found = np.zeros((count, len(step)), np.int64)
        for n in range(count):
            found[n] = np.asarray(self.run_step("all", step, cache)["logits"]).argmax(-1)
            step = Step(found[n], step.positions + 1, step.sequences)
        return found

    def stream(
        self,
        head: str,
        first: int,
        count: int,
        cache: TorchCache,
        options=None,
        seen=None,
        *,
        ahead: bool = True,
    ) -> Iterator[list[Drawn]]:
        """The `count` tokens that follow token `first`, which is the next input, one at a time.

        As `workbench.runtime.streaming.stream`: the cache's position stays where it is. Nothing runs ahead here.
        """
        cache.require(count)
        plan, token, start = self.plan(head), first, cache.position
        made = {b.name: b for b in plan.of_kind("input")}
        marks = None if seen is None else torch.from_numpy(seen.view(np.int32))
        for position in range(start, start + count):
            refuse_inside(self)
            cache.reach(position, 1)
            env = self.inputs(Step.following(np.array([token]), position), cache.adapters) | {
                "options": options,
                "seen": marks,
            }
            for name in {"history", "told", "told_ids"} & set(made):
                env[name] = torch.zeros(
                    made[name].resolved(step_sizes(1, cache.capacity)), dtype=TORCH_TYPES[made[name].dtype]
                )
            self.advance(plan, env, cache, range(len(plan.calls)), keep=plan.results)
            token = int(env["history"][0, 0])
            if marks is not None and marks[-1]:
                raise NonFiniteError(f"sampling: the logits are not finite at position {position + 1}")
            if head == "told":
                log_p, *likely = env["told"][0].tolist()
                ids = env["told_ids"][0].tolist()
                yield [Drawn(token, log_p, tuple(zip(ids, likely, strict=True)))]
            else:
                yield [Drawn(token)]

    def _execute(
        self, plan: Plan, call: Call, env: dict, cache: TorchCache, weights: Mapping[str, torch.Tensor]
    ) -> None:
        kernel, planes, params = self._as_called(plan, call)
        arguments = dict(params)
        for port, (name, plane) in planes.items():
            kind = plan.buffers[name].kind
            if kind == "weight":
                if port not in kernel.prepared_ports:
                    arguments[port] = self._vector(plan.buffers[name])
            elif kind == "cache":
                arguments[port] = self._cache_tensor(plan, name, plane, cache)
            elif kind == "constant":
                arguments[port] = self._constant(plan.buffers[name], cache.capacity)
            else:
                arguments[port] = env[plane]
        if kernel.prepare is not None:
            matrix = plan.buffers[call.inputs["weight"]]
            given = weights.get(matrix.name)
            arguments["weight"] = self._prepared(kernel, params, matrix) if given is None else given
        result = known(self.instead.get(call.op, kernel.reference))(**arguments)
        outputs = iter(result if isinstance(result, tuple) else (result,))
        for name in call.outputs.values():
            buffer = plan.buffers[name]
            for plane, _, dtype in buffer.planes().values():
                tensor = next(outputs)
                if buffer.kind == "cache":
                    cache.tensors[plane] = tensor
                elif name in plan.results and tensor.dtype == torch.float64:
                    env[plane] = (
                        tensor  # a sum over a vocabulary, which no kernel reads: f32 would only lose digits
                    )
                else:
                    env[plane] = self._round(tensor, dtype)

    def _as_called(self, plan: Plan, call: Call):
        """Kernel, port -> (buffer, its plane) of what it reads, and parameters; found once a call."""
        key = id(call)
        if key not in self._called:
            kernel = kernel_of(plan, call)
            operands, planes, params = kernel.operands(), {}, {}
            for operand, name in {**call.outputs, **call.inputs}.items():
                buffer = plan.buffers[name]
                params |= kernel.params_of(operand, buffer.type.params(buffer.shape))
                if operand in call.inputs:
                    for plane, (own, _, _) in buffer.planes().items():
                        planes[operands[operand][plane]] = (name, own)
            self._called[key] = (call, (kernel, planes, {**params, **call.params}))
        return self._called[key][1]

    def _round(self, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
        """Round to the storage type and come back to the computing type."""
        if not tensor.dtype.is_floating_point:
            return tensor
        if self.compute == torch.float64:
            return tensor.double()
        return tensor.to(TORCH_TYPES[dtype]).to(self.compute)

    def _cache_tensor(self, plan: Plan, name: str, plane: str, cache: TorchCache) -> torch.Tensor:
        if plane not in cache.tensors:
            sizes = step_sizes(1, cache.capacity, sequences=cache.sequences)
            sizes |= {str(ring): cache.capacity for ring in plan.rings if ring not in cache.rings}
            for own, shape, element in plan.buffers[name].planes().values():
                dtype = TORCH_TYPES[element]
                if self.compute == torch.float64 and dtype.is_floating_point:
                    dtype = self.compute
                cache.tensors[own] = torch.zeros(resolve(shape, sizes), dtype=dtype)
        return cache.tensors[plane]

    def _constant(self, buffer: Buffer, capacity: int) -> torch.Tensor:
        key = buffer.name, capacity  # as two threads may work on caches of two sizes
        if key not in self._constants:
            values = known(buffer.initial).values(buffer.resolved(step_sizes(1, capacity)))
            self._constants[key] = torch.from_numpy(values).to(self.compute)
        return self._constants[key]

    def _vector(self, buffer: Buffer) -> torch.Tensor:
        name = buffer.tensor
        if (name,) not in self._weights:
            self._weights[(name,)] = torch.from_numpy(vector(self.source, buffer)).to(self.compute)
        return self._weights[(name,)]

    def _prepared(self, kernel, params: Mapping, matrix: Buffer) -> torch.Tensor:
        """A dequantized matrix, computed once."""
        key = (matrix.name, "dense")
        if key not in self._weights:
            given = {n: v for n, v in params.items() if n in kernel.params}
            parts = []
            for _, planes in matrix_parts(self.source, matrix.tensor):
                tensors = {
                    plane: self._plane(plane, array, matrix.format.dtype) for plane, array in planes.items()
                }
                parts.append(kernel.prepare(**tensors, **given))
            dense = parts[0] if len(parts) == 1 else torch.cat(parts)
            kept = self.compute
            if self.compact and not matrix.format.is_quantized:
                kept = TORCH_TYPES.get(matrix.format.dtype, torch.bfloat16)
            self._weights[key] = dense[:, : matrix.shape[1]].to(kept).contiguous()
        return self._weights[key].to(self.compute)

    def _plane(self, plane: str, array: np.ndarray, dtype: str) -> torch.Tensor:
        array = np.array(array)  # a private, writable copy of the memory map
        if plane == "quants":
            return torch.from_numpy(array.view(np.int32))
        if plane == "values" and dtype == "bf16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(self.compute)
        tensor = torch.from_numpy(array)
        return tensor if plane == "zeros" else tensor.to(self.compute)
