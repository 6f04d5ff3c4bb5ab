"""Rules of rewriting: both compositions of each compute the same, and each says what it replaces."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import pytest
import torch

from wgsl_kernels import library
from wgsl_kernels.attention.attention_reduce_a8 import reduce_in_int8
from wgsl_kernels.attention.rope import inverse_frequencies
from wgsl_kernels.composition import Rule, form_of, record
from wgsl_kernels.fusions import RULES
from wgsl_kernels.layout import INT8_BLOCK
from wgsl_kernels.linear.norm_linear_a8 import norm_gate_up_a8, norm_gate_up_gelu_a8
from wgsl_kernels.linear.shared_norm import SHARED_NORM
from wgsl_kernels.lora.low_rank import NONE, slices_of
from wgsl_kernels.numerics import random_tensor
from wgsl_kernels.quantized.gated_mul_a8 import gelu_mul_in_int8, silu_mul_in_int8
from wgsl_kernels.quantized.quantize_activations import quantize_activations
from wgsl_kernels.quantized.rms_norm_a8 import norm_in_int8
from wgsl_kernels.state import make_state

# Rows of A x have two slices.
TOKENS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, WIDTH, CAPACITY = 3, 4, 2, 16, 288, 96, 40
#: Parameters that compositions have, and what where-conditions would give.
PARAMS = {
    "eps": 1e-5,
    "scale": HEAD_DIM**-0.5,
    "k": 5,
    "factor": 0.22,
    "splits": 3,
    "group": 16,
    "kv_heads": KV_HEADS,
    "parts": 3,
    "window": 6,
    "chunk": 4,
    "softcap": 3.0,
    "passed": 0,
    "head_dim": HEAD_DIM,
    "chosen": 2,
    "expert_rows": 12,
    "count": 4,
    "ring": True,
    "sinks": 2,
}
#: Of products to which adapters add: ranks, adapters that are loaded.
RANK, ADAPTERS = 4, 2
#: Rules whose results are words of INT8.
IN_WORDS = {
    rule.name
    for rule in (
        reduce_in_int8,
        norm_in_int8,
        silu_mul_in_int8,
        gelu_mul_in_int8,
        norm_gate_up_a8,
        norm_gate_up_gelu_a8,
        SHARED_NORM[1],
    )
} | {f"{op}_gate_up{gelu}_a8_adapted" for op in ("norm", "sliced") for gelu in ("", "_gelu")}
ROWS = {"q": HEADS * HEAD_DIM, "k": KV_HEADS * HEAD_DIM, "v": KV_HEADS * HEAD_DIM, "gate": WIDTH, "up": WIDTH}


def values_for(rule: Rule, inputs: tuple[str, ...], seed: int) -> dict:
    """f64 tensors for the operands of a composition, matrices dequantized."""
    if rule.name == "sample_in_parts":
        return {name: library().get("sample").inputs(seed=seed)[name] for name in inputs}
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return random_tensor(generator, shape).double()

    # In f64: one in f32 is no rotation to 12 digits, and some rules hold for rotations alone.
    angles = (
        torch.arange(CAPACITY)[:, None] * torch.from_numpy(inverse_frequencies(HEAD_DIM, 10000.0)).double()
    )
    table = torch.cat([angles.cos(), angles.sin()], dim=1)
    made = {
        "x": normal(TOKENS, HIDDEN),
        "norm": 1 + normal(HIDDEN) / 4,
        "weight": normal(WIDTH, HIDDEN) / 8,
        "bias": normal(WIDTH),
        "residual": normal(TOKENS, WIDTH),
        "table": table,
        "state": with_adapters(make_state(5, TOKENS)),
        "lora_x": normal(TOKENS, slices_of(HIDDEN) * RANK * max(1, len(rule.stack))),
        "lora_b": normal(ADAPTERS * rows_of(rule) * RANK) / 8,
        "lora_a": normal(ADAPTERS * RANK * max(1, len(rule.stack)), HIDDEN) / 8,
        "kv": normal(1, 2, KV_HEADS, CAPACITY, HEAD_DIM),
        "sums": normal(TOKENS, HEADS, 3, HEAD_DIM),
        "stats": normal(TOKENS, HEADS, 3, 2).abs() + 0.5,
    }
    for name in ("q_bias", "k_bias", "v_bias"):
        made[name] = normal(ROWS[name[0]])
    for name in ("q_norm", "k_norm"):
        made[name] = 1 + normal(HEAD_DIM) / 4
    for name in rule.stack:
        made[name] = normal(ROWS[name], HIDDEN) / 8
    if rule.name == "norm_in_int8":
        made["weight"] = made["norm"]
    if inputs[0] == "q" and "kv" in inputs and not rule.stack:
        made |= {name: normal(TOKENS, HEADS * HEAD_DIM) for name in ("q", "q_sinks")}
    if rule.name == "head_norm_rope":
        made |= {"x": normal(TOKENS, HEADS * HEAD_DIM), "weight": 1 + normal(HEAD_DIM) / 4}
    if rule.name.startswith("expert_"):  # four experts of 12 rows, two a token
        made |= {name: normal(48, HIDDEN) / 8 for name in ("weight", "gate", "up")}
        width = HIDDEN if rule.stack else 2 * (HIDDEN if "weight" in inputs else 12)
        made |= {"x": normal(TOKENS, width), "residual": normal(TOKENS, 12)}
        made |= {"experts": torch.tensor([[0, 3], [2, 1], [1, 0]]), "scores": normal(TOKENS, 2).abs()}
    if rule.name.startswith("lora_between"):
        made |= {"norm": 1 + normal(WIDTH) / 4, "next_a": normal(ADAPTERS * 2 * RANK, WIDTH) / 8}
    if rule.name == "only_row":
        made |= {"x": normal(1, HIDDEN), "rows": torch.tensor([0])}
    return {name: made[name] for name in inputs}


def rows_of(rule: Rule) -> int:
    """Of the matrices that a rule is about."""
    return sum(ROWS[name] for name in rule.stack) or WIDTH


def with_adapters(state: torch.Tensor) -> torch.Tensor:
    """The first row has no adapter, those behind it the first and second."""
    state[:, 1] = 1 + torch.arange(len(state))
    return state


def lora_params(rule: Rule) -> dict[str, int]:
    parts = [ROWS[name] for name in rule.stack]
    starts = dict(zip(("lora_second", "lora_third"), accumulate(parts[:-1]), strict=False))
    place = {"lora_first": 0, "lora_part": 0, "lora_second": NONE, "lora_third": NONE}
    return {
        **place,
        "lora_slices": slices_of(HIDDEN),
        "lora_rank": RANK,
        "lora_rows": rows_of(rule),
        "ranks": RANK * max(1, len(parts)),
        "next_ranks": 2 * RANK,
        "stride": 1,
        "columns": HIDDEN,
        **starts,
    }


def run(composition, values: Mapping, rule: Rule, *, stacked: bool) -> tuple:
    given, known = {name: value.clone() for name, value in values.items()}, {**PARAMS, **lora_params(rule)}
    given |= {name: known[name] for name in composition.params}
    if stacked and rule.stack:
        given["+".join(rule.stack)] = torch.cat([values[name] for name in rule.stack])
    return composition.run(given)


@pytest.mark.parametrize("rule", [r for r in RULES if r.name not in IN_WORDS], ids=lambda rule: rule.name)
@pytest.mark.parametrize("seed", range(3))
def test_after_computes_what_before_does(rule, seed):
    for before, after in rule.forms():
        values = values_for(rule, before.inputs, seed)
        sides = run(before, values, rule, stacked=False), run(after, values, rule, stacked=True)
        for one, other in zip(*sides, strict=True):
            if one.dtype.is_floating_point:
                torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)
            else:
                assert torch.equal(other.long(), one.long())


@pytest.mark.parametrize(
    ("op", "sizes"),
    [("attention_reduce", {"head_dim": 32}), ("silu_mul", {"width": 52}), ("gelu_mul", {"width": 52})],
)
def test_what_is_quantized_where_it_is_made(op, sizes):
    """Pairs whose result is INT8 give the words of the quantization that they replace."""
    pair, plain = library().get(f"{op}[a8]"), library().get(op)
    arguments = pair.inputs(seed=4, stride=2, **sizes)
    words, scales = pair.run_reference(arguments).values()
    whole = plain.run_reference({name: arguments[name] for name in plain.reads})["y"]
    expected = quantize_activations.reference(whole, INT8_BLOCK, stride=2)
    assert torch.equal(words, expected[0]) and torch.equal(scales, expected[1])


def test_a_composition_prints_as_its_calls():
    text = str(record(next(rule for rule in RULES if rule.name == "norm_gate_up").before))
    assert text.splitlines()[0] == "rms_norm.0.y = rms_norm(x=x, weight=norm, eps=eps)"
    assert text.splitlines()[-1] == "return silu_mul.3.y"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rules_say_what_they_are_of_and_end_in_ops_that_are_there(rule):
    assert rule.summary.endswith(".")
    for before, after in rule.forms():
        assert len(before.results) == len(after.results)
        assert all(form_of(node.op) for node in (*before.nodes, *after.nodes))
        made = {symbol for node in after.nodes for symbol in node.outputs.values()}
        assert set(after.results) <= made | set(after.inputs)
