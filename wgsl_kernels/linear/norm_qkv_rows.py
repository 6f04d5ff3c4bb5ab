"""`norm_qkv` and `norm_qkv_a8` in front of an INT8 cache, a weight format each.

    norm_qkv_rows     rms_norm, linear (q), linear (k), linear (v), rope (q), rope (k)
    norm_qkv_rows_a8  rms_norm, quantize_activations, linear_a8 (q, k, v), rope (q), rope (k)

They leave keys and values side by side in f32, and the append stays a call of its own, `kv_append_rows`: a scale needs
the largest number of a whole head, whose rows several workgroups compute (one workgroup a head would leave most of a
GPU idle), and with zero-points the two planes of the cache would make nine storage buffers, where browsers promise
eight.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..composition import Facts, Match, Rule, Where, rule
from ..layout import KV8
from ..makers import handing_on
from ..pair import Context, Kernel, Port, register
from ..state import NO_RING, RING, make_state, slot_file
from .norm_linear import behind_a_norm
from .norm_linear_a8 import NORM_QKV_A8, norm_qkv_a8, quantized_behind_a_norm
from .norm_qkv import NORM_QKV, norm_qkv


def norm_qkv_rows(whole: Kernel, op: str) -> Kernel:
    """The pair `whole`, a `norm_qkv` of some format, but for where keys and values go."""
    gemv = whole.variants["gemv"]

    def reference(x, table, state, kv_heads, passed=0, **given):
        """q [tokens, heads * head_dim] and rows [tokens, 2 * kv_heads * head_dim]: a token's keys, then its values.

        As the pair with the append gives them into a cache with room for the step; q and keys are turned.
        """
        tokens, positions = torch.arange(len(x)), state[:, 0].long()
        alone = make_state(tokens=len(x))  # a sequence a token, so that none takes another's place
        alone[:, 0], alone[:, 1], alone[:, 2] = positions, state[:, 1].clamp(min=1), tokens
        capacity = int(positions.max()) + 1
        cache = torch.zeros(len(x), 2, kv_heads, capacity, table.shape[1] + passed, dtype=x.dtype)
        given |= {"x": x, "table": table, "state": alone, "passed": passed}
        q, cache = whole.reference(**given, kv=cache)
        return q, cache[tokens, :, :, positions].flatten(1)

    def library(context: Context) -> tuple[str, ...]:
        placed = replace(context, sizes={**context.sizes, **NO_RING})
        files = {"append/cache": "append/rows"}
        return tuple(files.get(f, f) for f in gemv.library(placed) if f != slot_file(placed))

    def make_inputs(kv_heads=1, **options) -> dict:
        arguments = whole.inputs(kv_heads=kv_heads, **options)
        kept = {name: value for name, value in arguments.items() if name not in ("kv", *RING)}
        return {**kept, "kv_heads": kv_heads}

    def tolerance(arguments, expected) -> dict:
        tokens = arguments["x"].shape[0]
        head_dim = arguments["table"].shape[1] + arguments.get("passed", 0)
        given = {name: value for name, value in arguments.items() if name != "kv_heads"}
        cache = torch.zeros(1, 2, arguments["kv_heads"], tokens, head_dim)
        state = make_state(0, tokens)
        state[:, 1] = arguments["state"][:, 1].clamp(min=1)
        bounds = whole.tolerance({**given, "kv": cache, "state": state}, expected)
        return {"q": bounds["q"], "rows": bounds["kv"][0].permute(2, 0, 1, 3).flatten(1)}

    def derive(sizes) -> dict:
        found = dict(whole.derive(sizes))
        if "kv_heads" in sizes and "head_dim" in found:
            found["both"] = 2 * sizes["kv_heads"] * found["head_dim"]
        return found

    return register(
        replace(
            whole,
            op=op,
            reference=reference,
            reads={name: port for name, port in whole.reads.items() if name != "kv"},
            writes={"q": whole.writes["q"], "rows": Port(("tokens", "both"), "f32", binding=5)},
            updates={},
            params={**{n: kind for n, kind in whole.params.items() if n not in RING}, "kv_heads": int},
            defaults={name: value for name, value in whole.defaults.items() if name not in NO_RING},
            variants={"gemv": replace(gemv, library=library)},
            make_inputs=handing_on(make_inputs, whole.make_inputs, without=tuple(RING)),
            tolerance=tolerance,
            derive=derive,
        )
    )


for _whole in NORM_QKV.values():
    norm_qkv_rows(_whole, "norm_qkv_rows")
for _whole in NORM_QKV_A8.values():
    norm_qkv_rows(_whole, "norm_qkv_rows_a8")


def _over_int8(where: Where) -> Where:
    """Where a `norm_qkv` could stand but for its cache, which is INT8."""

    def holds(facts: Facts, match: Match) -> bool | dict[str, int]:
        if match.label("kv") != KV8 or not where(facts, match):
            return False
        return {"kv_heads": match.shape("kv")[2]}

    return holds


def _rule(whole: Rule, op: str, where: Where) -> Rule:
    def rows_and_append(
        p, x, norm, q, k, v, table, kv, state, *, eps, passed, ring, sinks, kv_heads
    ):  # many parameters: the operands and parameters of the op
        """The product gives rows of keys and values, which their append quantizes head by head."""
        weight = "+".join((q, k, v))
        queries, rows = getattr(p, op)(
            x=x,
            norm=norm,
            weight=weight,
            table=table,
            state=state,
            eps=eps,
            passed=passed,
            kv_heads=kv_heads,
        )
        return queries, p.kv_append_rows(rows=rows, kv=kv, state=state, ring=ring, sinks=sinks)

    return rule(whole.before, rows_and_append, name=op, stack=whole.stack, where=_over_int8(where))


QKV_ROWS = (
    _rule(norm_qkv, "norm_qkv_rows", behind_a_norm),
    _rule(norm_qkv_a8, "norm_qkv_rows_a8", quantized_behind_a_norm),
)
