"""Runs a plan through the kernels' PyTorch references: the oracle, and the fallback where there is no adapter.

Numbers follow the plan's element types: each output is rounded to its buffer's type, arithmetic is f32, or f64
without any rounding for an oracle (`compute=torch.float64`). Dequantized weights are kept, so that a step costs what
a dense model costs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch

import wgsl_kernels
from wgsl_kernels.numerics import TORCH_TYPES
from wgsl_kernels.rope import inverse_frequencies, make_state, rope_table
from workbench.models.llama import cache_type
from workbench.models.llama_config import LlamaConfig
from workbench.plan.plan import Call, Plan

from .edits import Edits, check_edits, refuse_inside, replacement, stops
from .plans import Plans
from .rows import HostRows
from .stacks import weight_name
from .weights import matrix_parts, vector

PREFILL = 512  # tokens of one step at most
NUMPY = {"f32": np.float32, "f16": np.float16}


class TorchCache:
    """Keys and values of one sequence: capacity, position, and a tensor a layer."""

    def __init__(self, capacity: int):
        self.capacity, self.position = capacity, 0
        self.tensors: dict[str, torch.Tensor] = {}


class TorchExecutor:
    """Executes plans of one model on the CPU."""

    backend = "torch"

    def __init__(
        self,
        source,
        config: LlamaConfig,
        *,
        activations: str = "f32",
        cache: str | None = None,
        compute=torch.float32,
    ):
        self.source, self.config, self.activations, self.compute = source, config, activations, compute
        self.cache = cache or cache_type(activations)
        self.plan = Plans(source, config, activations, self.cache)
        self._weights: dict[tuple, torch.Tensor] = {}
        self._tables: dict[int, torch.Tensor] = {}

    @property
    def device_name(self) -> str:
        return f"PyTorch {torch.__version__} on the CPU, {torch.get_num_threads()} threads"

    def new_cache(self, capacity: int) -> TorchCache:
        return TorchCache(capacity)

    def chunk(self, remaining: int) -> int:
        """How many of the remaining tokens the next step takes."""
        return min(remaining, PREFILL)

    def run(
        self,
        head: str,
        ids: np.ndarray,
        cache: TorchCache,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, np.ndarray | HostRows]:
        """One step over `ids` at the cache's position, which moves on. Returns the plan's results and `keep`.

        edit: functions that change activations in flight (`workbench.runtime.edits`); raises `EditError`, with the
        position as it was. hold: activations that are handed out as rows for kernels.
        """
        refuse_inside(self)
        plan = self.plan(head)
        keep, hold = plan.check_names(keep), plan.check_names(hold)
        results = {*plan.results, *keep}
        wanted = {*results, *hold}
        env = self.inputs(ids, cache)
        if targets is not None:
            env["targets"] = torch.as_tensor(np.asarray(targets, dtype=np.int32))
        start = 0
        for stop, name in stops(plan.calls, check_edits(plan, edit)):
            self.advance(plan, env, cache, range(start, stop), keep=wanted)
            x = env[name].numpy()
            storage = x.dtype if self.compute == torch.float64 else NUMPY[plan.buffers[name].dtype]
            new = replacement(self, name, edit, x, cache.position + len(ids) - len(x), storage)
            env[name] = torch.from_numpy(new).to(self.compute)
            start = stop
        self.advance(plan, env, cache, range(start, len(plan.calls)), keep=wanted)
        cache.position += len(ids)
        found = {name: env[name].numpy().copy() for name in results}
        return found | {name: HostRows(env[name]) for name in hold}

    def holding(self) -> contextlib.AbstractContextManager:
        """Nothing overwrites rows in memory."""
        return contextlib.nullcontext()

    def inputs(self, ids: np.ndarray, cache: TorchCache) -> dict[str, torch.Tensor]:
        """What a step over `ids` at the cache's position starts with: buffer name -> tensor."""
        return {
            "ids": torch.as_tensor(np.asarray(ids, dtype=np.int32)),
            "state": make_state(cache.position, len(ids)),
            "rope_table": self._rope_table(cache.capacity),
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
        [rows, columns] by their name in the plan, in place of the source's.
        """
        last_use = {name: i for i, call in enumerate(plan.calls) for name in call.inputs.values()}
        with torch.inference_mode():
            for index in calls:
                call = plan.calls[index]
                self._execute(plan, call, env, cache, weights or {})
                for name in call.inputs.values():
                    if last_use[name] == index and name not in keep:
                        env.pop(name, None)

    def greedy(self, first: int, count: int, cache: TorchCache) -> np.ndarray:
        """The `count` greedy successors of token `first`, which is the next input."""
        tokens = [first]
        for _ in range(count):
            tokens.append(int(self.run("last", np.array(tokens[-1:]), cache)["logits"][0].argmax()))
        return np.array(tokens[1:])

    def _execute(
        self, plan: Plan, call: Call, env: dict, cache: TorchCache, weights: Mapping[str, torch.Tensor]
    ) -> None:
        kernel = wgsl_kernels.get(call.kernel)
        arguments = dict(call.params)
        for port, name in call.inputs.items():
            if plan.buffers[name].kind == "weight":
                if port not in kernel.prepared_ports:
                    arguments[port] = self._vector(name)
            elif plan.buffers[name].kind == "cache":
                arguments[port] = self._cache_tensor(plan, name, cache)
            else:
                arguments[port] = env[name]
        if kernel.prepare is not None:
            name = weight_name(call)
            given = weights.get(name)
            arguments["weight"] = self._prepared(plan, kernel, call, name) if given is None else given
        result = kernel.reference(**arguments)
        outputs = result if isinstance(result, tuple) else (result,)
        for name, tensor in zip(call.outputs.values(), outputs, strict=True):
            buffer = plan.buffers[name]
            if buffer.kind == "cache":
                cache.tensors[name] = tensor
            elif name in plan.results and tensor.dtype == torch.float64:
                env[name] = (
                    tensor  # a sum over a vocabulary, which no kernel reads: f32 would only lose digits
                )
            else:
                env[name] = self._round(tensor, buffer.dtype)

    def _round(self, tensor: torch.Tensor, dtype: str) -> torch.Tensor:
        """Round to the storage type and come back to the computing type."""
        if not tensor.dtype.is_floating_point:
            return tensor
        if self.compute == torch.float64:
            return tensor.double()
        return tensor.to(TORCH_TYPES[dtype]).to(self.compute)

    def _cache_tensor(self, plan: Plan, name: str, cache: TorchCache) -> torch.Tensor:
        if name not in cache.tensors:
            buffer = plan.buffers[name]
            dtype = TORCH_TYPES[buffer.dtype]
            if self.compute == torch.float64 and dtype.is_floating_point:
                dtype = self.compute
            cache.tensors[name] = torch.zeros(
                buffer.resolved({"sequences": 1, "capacity": cache.capacity}), dtype=dtype
            )
        return cache.tensors[name]

    def _rope_table(self, positions: int) -> torch.Tensor:
        if positions not in self._tables:  # by positions, as two threads may work on caches of two sizes
            c = self.config
            table = rope_table(inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling), positions)
            self._tables[positions] = torch.from_numpy(table).to(self.compute)
        return self._tables[positions]

    def _vector(self, name: str) -> torch.Tensor:
        if (name,) not in self._weights:
            self._weights[(name,)] = torch.from_numpy(vector(self.source, name)).to(self.compute)
        return self._weights[(name,)]

    def _prepared(self, plan: Plan, kernel, call: Call, name: str) -> torch.Tensor:
        """The dequantized matrix `name` of a call, computed once."""
        if (name, "dense") not in self._weights:
            weight = plan.weights[name]
            params = {n: v for n, v in call.params.items() if n in kernel.params}
            parts = []
            for _, planes in matrix_parts(self.source, weight.tensor):
                tensors = {
                    plane: self._plane(plane, array, weight.format.dtype) for plane, array in planes.items()
                }
                parts.append(kernel.prepare(**tensors, **params))
            dense = parts[0] if len(parts) == 1 else torch.cat(parts)
            self._weights[(name, "dense")] = dense[:, : weight.shape[1]].to(self.compute).contiguous()
        return self._weights[(name, "dense")]

    def _plane(self, plane: str, array: np.ndarray, dtype: str) -> torch.Tensor:
        array = np.array(array)  # a private, writable copy of the memory map
        if plane == "quants":
            return torch.from_numpy(array.view(np.int32))
        if plane == "values" and dtype == "bf16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(self.compute)
        tensor = torch.from_numpy(array)
        return tensor if plane == "zeros" else tensor.to(self.compute)
