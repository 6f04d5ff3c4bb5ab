"""Causal attention with grouped queries over the key/value cache, for prefill and decode."""

from __future__ import annotations

import torch

from .kv_append import CACHE
from .numerics import EPS32, random_tensor
from .pair import Context, Cost, Port, Variant, ceil_div, kernel
from .reduce import eight_lanes_only, lanes_default, reduction
from .rope import STATE, make_state


def _make_inputs(
    seed=0,
    tokens=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    capacity=32,
    position=5,
    sequences=2,
    sequence=1,
    x_dtype="f32",
    y_dtype="f32",
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "q": random_tensor(generator, (tokens, heads * head_dim), x_dtype),
        "kv": random_tensor(generator, (sequences, 2, kv_heads, capacity, head_dim), x_dtype),
        "state": make_state(position, tokens, sequence),
        "scale": head_dim**-0.5,
    }


def _tolerance(arguments, expected) -> dict:
    """Scores carry eps * sum |q||k|, which the exponential turns into a relative error of the weights."""
    q, kv = arguments["q"].double(), arguments["kv"].double()
    head_dim = kv.shape[-1]
    score = q.abs().max() * kv.abs().max() * head_dim * arguments["scale"]
    return {
        "y": (8 + 2 * score) * EPS32 * kv.abs().max() * torch.ones_like(expected["y"], dtype=torch.float64)
    }


def _cost(s) -> Cost:
    tokens, width = s["tokens"], s["width"]
    seen = s.get("seen", s["capacity"])  # positions attended to on average; the cache's size unless known
    cache = 2 * s["kv_heads"] * s["head_dim"] * seen * 4
    return Cost(4 * tokens * width + cache, 4 * tokens * width, 4 * tokens * width * seen)


def _prefer(context: Context) -> tuple[str, str]:
    if context["tokens"] >= 8 and context.adapter.is_cpu and not eight_lanes_only(context):
        return "broadcast", "a software adapter with 8 lanes a subgroup: loads and barriers are what costs"
    return "online", "a workgroup for each token and head"


@kernel(
    reads={"q": Port(("tokens", "width")), "kv": CACHE, "state": STATE},
    writes={"y": Port(("tokens", "width"))},
    params={"scale": float},
    variants={
        "online": Variant(
            "attention",
            grid=lambda c: (c["width"] // c["head_dim"], c["tokens"], 1),
            tunables={"workgroup": (64, 8, 16, 32, 128)},
            defaults=lanes_default,
            library=lambda c: ("state", reduction(c)),
            why="any number of tokens: a workgroup a token and head",
        ),
        "broadcast": Variant(
            "attention_broadcast",
            grid=lambda c: (
                c["width"] // c["head_dim"] * ceil_div(c["head_dim"], 32),
                ceil_div(c["tokens"], 8),
                1,
            ),
            library=lambda c: ("state", "outer_4x8"),
            refuse=eight_lanes_only,
            why="many tokens on an adapter with 8 lanes a subgroup: no barrier, few loads",
        ),
    },
    prefer=_prefer,
    make_inputs=_make_inputs,
    tolerance=_tolerance,
    cost=_cost,
)
def attention(q, kv, state, scale):
    """softmax(scale q k^T) v for q [tokens, heads * head_dim]; token t sees positions 0 .. state[0] + t.

    kv [sequences, 2, kv_heads, capacity, head_dim] holds keys and values; head h reads cache head
    h // (heads / kv_heads).
    """
    tokens, width = q.shape
    _, _, kv_heads, capacity, head_dim = kv.shape
    position, _, sequence, _ = state.tolist()
    count = min(position + tokens, capacity)
    keys, values = kv[sequence].to(q.dtype)[:, :, :count]
    groups = width // head_dim // kv_heads
    queries = q.view(tokens, kv_heads, groups, head_dim).permute(1, 2, 0, 3)
    scores = torch.einsum("hgtd,hpd->hgtp", queries, keys) * scale
    visible = torch.arange(count) <= (position + torch.arange(tokens)).clamp(max=capacity - 1).unsqueeze(-1)
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("hgtp,hpd->thgd", weights, values).reshape(tokens, width)
