"""Stages of a model's plan as functions of its weights, in torch: run for calibration, differentiated in training.

Any architecture's plan will do. Windows are run side by side, and from the beginning: attention, which elsewhere reads
a cache, is torch's own here, over the window; everything else is the references of the kernel library. Weights are
f32 tensors by their names in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from wgsl_kernels.attention.attention import capped, first_seen
from wgsl_kernels.attention.position_scale import position_factor
from wgsl_kernels.attention.rope import joined, pairs_of
from wgsl_kernels.composition import form_of
from workbench.known import known
from workbench.models.architecture import Architecture
from workbench.models.specs import Describe
from workbench.plan.plan import Call
from workbench.plan.stages import Stage, stages
from workbench.plan.types import number

Weights = Mapping[str, torch.Tensor]
#: Ops that multiply activations with a matrix of the checkpoint.
PRODUCTS = ("linear", "expert_linear")


@dataclass(frozen=True)
class Routed:
    """Which of so many experts a token goes to, and what their products are multiplied by: chosen and scores [n, T, k],
    scores None where they are not."""

    chosen: torch.Tensor
    scores: torch.Tensor | None
    experts: int


#: Called as tap(name, x, routed) with what linear layers read, once each: the activation's name and x [n, T, K]. What
#: experts read comes with `routed`, x [n, T, k * K] where each has an input of its own; of linear layers that is None.
Tap = Callable[[str, torch.Tensor, Routed | None], None]
#: What a call makes of the buffers so far: the values of its outputs, by name.
_Env = dict[str, Any]  # of a cache keys and values


class Decoder:
    """Runs stages of a model on windows of at most `length` tokens that begin at position 0."""

    def __init__(
        self,
        architecture: Architecture,
        describe: Describe,
        length: int,
        device: str | torch.device = "cpu",
    ):
        self.plan = architecture.build(describe)
        self.architecture = architecture
        self.first, *self.layers, self.last = stages(self.plan)
        self._constants = {
            b.name: torch.from_numpy(known(b.initial).values(b.resolved({"capacity": length}))).to(device)
            for b in self.plan.of_kind("constant")
        }
        head = self.plan.buffers
        self._head = next(
            index
            for index, call in enumerate(self.last.calls)
            if call.op == "linear" and head[call.inputs["weight"]].tensors == (architecture.lm_head,)
        )

    @property
    def head_input(self) -> str:
        """The activation that the LM head reads."""
        return self.last.calls[self._head].inputs["x"]

    def embedded(self, weights: Weights, rows: torch.Tensor) -> torch.Tensor:
        """What the first layer reads. rows [n, T, hidden]: those of the embedding that the tokens look up."""
        lookup, *calls = self.first.calls
        return self._run(calls, weights, {lookup.outputs["y"]: rows}, None)[self.first.writes]

    def layer(
        self, index: int, weights: Weights, hidden: torch.Tensor, tap: Tap | None = None
    ) -> torch.Tensor:
        """The residual stream [n, T, hidden] behind a layer."""
        stage: Stage = self.layers[index]
        return self._run(stage.calls, weights, {known(stage.reads): hidden}, tap)[stage.writes]

    def final(self, weights: Weights, hidden: torch.Tensor) -> torch.Tensor:
        """What the LM head reads, [n, T, hidden]."""
        calls = self.last.calls[: self._head]
        return self._run(calls, weights, {known(self.last.reads): hidden}, None)[self.head_input]

    def logits(self, products: torch.Tensor) -> torch.Tensor:
        """Logits from products [n, T, rows] of the head's inputs with some rows of the LM head."""
        head, *calls = self.last.calls[self._head :]
        return self._run(calls, {}, {head.outputs["y"]: products}, None)[self.last.writes]

    def final_tensors(self) -> list[str]:
        """Vectors and matrices that `final` reads."""
        read = [name for call in self.last.calls[: self._head] for name in call.inputs.values()]
        return [tensor for name in read for tensor in self.plan.buffers[name].tensors]

    # ---- calls -------------------------------------------------------------------------------------------------

    def _run(self, calls, weights: Weights, env: _Env, tap: Tap | None) -> _Env:
        tapped: set[tuple[str, str]] = set()
        for call in calls:
            read = (call.op, call.inputs.get("x", ""))
            if tap is not None and call.op in PRODUCTS and read not in tapped:
                tapped.add(read)
                tap(read[1], env[read[1]], self._routed(call, env))
            self._execute(call, weights, env)
        return env

    def _routed(self, call: Call, env: _Env) -> Routed | None:
        if call.op == "linear":
            return None
        experts = self.plan.buffers[call.inputs["weight"]].rows // int(call.params["expert_rows"])
        scores = env[call.inputs["scores"]] if "scores" in call.inputs else None
        return Routed(env[call.inputs["experts"]], scores, experts)

    def _value(self, name: str, weights: Weights, env: _Env) -> Any:
        if name in env:
            return env[name]
        if name in self._constants:
            return self._constants[name]
        buffer = self.plan.buffers[name]
        value = weights[buffer.tensor]
        return value + buffer.offset if buffer.offset else value

    def _execute(self, call: Call, weights: Weights, env: _Env) -> None:
        if call.op == "kv_append":  # the window itself is the cache
            env[call.outputs["kv"]] = env[call.inputs["k"]], env[call.inputs["v"]]
            return
        given = {
            operand: self._value(name, weights, env)
            for operand, name in call.inputs.items()
            if operand != "state"
        }
        output, params = next(iter(call.outputs.values())), dict[str, Any](call.params)
        if call.op == "linear":
            env[output] = F.linear(given["x"], given["weight"], given.get("bias"))
        elif call.op == "rope":
            env[output] = _rotated(**given, **params)
        elif call.op == "attention":
            kv_heads = number(self.plan.buffers[call.inputs["kv"]].shape[2])
            k, v = given["kv"]
            env[output] = _attended(given["q"], k, v, kv_heads, **params)
        elif call.op == "position_scale":
            x = given["x"]
            positions = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
            env[output] = x * position_factor(positions, **params)[:, None]
        elif "state" in call.inputs:
            raise NotImplementedError(f"{call.op} depends on positions, and is not known for windows")
        else:
            env |= zip(call.outputs.values(), _by_rows(call, given), strict=True)


def _by_rows(call: Call, given: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """What the reference of an op gives that takes rows [tokens, ...], on [n, T, ...]."""
    rows = {name: each.flatten(0, 1) if each.ndim == 3 else each for name, each in given.items()}
    found = form_of(call.op).reference(**rows, **call.params)
    n, length, _ = next(each for each in given.values() if each.ndim == 3).shape
    for each in found if isinstance(found, tuple) else (found,):
        yield each.view(n, length, *each.shape[1:])


def _rotated(
    x: torch.Tensor, table: torch.Tensor, passed: int = 0, interleaved: bool = False
) -> torch.Tensor:
    """`wgsl_kernels.attention.rope` of x [n, T, width]."""
    n, length, width = x.shape
    rotated = table.shape[1]
    cos, sin = table[:length, None].chunk(2, dim=-1)  # [T, 1, rotated / 2]
    turned, rest = x.view(n, length, -1, rotated + passed).split([rotated, passed], dim=-1)
    a, b = pairs_of(turned, interleaved)
    turned = joined(a * cos - b * sin, b * cos + a * sin, interleaved)
    return torch.cat([turned, rest], dim=-1).view(n, length, width)


def _attended(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_heads: int,
    *,
    scale: float,
    window: int = 0,
    chunk: int = 0,
    softcap: float = 0.0,
) -> torch.Tensor:
    """`wgsl_kernels.attention.attention` over windows: q [n, T, width], k and v [n, T, kv_heads * head_dim]."""
    n, length, width = q.shape
    head_dim = k.shape[-1] // kv_heads
    heads = width // head_dim
    q, k, v = (each.view(n, length, -1, head_dim).transpose(1, 2) for each in (q, k, v))
    mask = None
    if window or chunk or softcap:
        at = torch.arange(length, device=q.device)
        mask = (at <= at[:, None]) & (at >= first_seen(at, window, chunk)[:, None])
    if softcap and mask is not None:
        k, v = (each.repeat_interleave(heads // kv_heads, 1) for each in (k, v))
        scores = capped(scale * q @ k.transpose(-1, -2), softcap)
        context = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
    else:
        with _repeatable(q):
            context = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=heads != kv_heads
            )
    return context.transpose(1, 2).reshape(n, length, width)


def _repeatable(x: torch.Tensor):
    """Attention whose gradients are the same in every run: on CUDA the fused kernels add them in any order."""
    if not (x.is_cuda and torch.is_grad_enabled()):
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
