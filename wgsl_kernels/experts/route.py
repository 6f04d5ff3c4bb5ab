"""Which experts a token goes to, and with what weights: the largest logits of its router."""

from __future__ import annotations

import torch

from ..logits.top_k import top_k
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Port, Variant, ceil_div, kernel
from ..reduce import lanes_default, reduction

CHOSEN = ("tokens", "k")


def _make_inputs(
    seed=0, tokens=3, width=16, k=2, sigmoid=False, normalised=False, x_dtype="f32", y_dtype="f32"
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = 3 * random_tensor(generator, (tokens, width), x_dtype)
    return {"x": x, "k": min(k, width), "sigmoid": sigmoid, "normalised": normalised}


def _tolerance(arguments, expected) -> dict:
    # exp has a relative error of (3 + 2 |v|) ulp by the WGSL specification; a sum adds one rounding a term
    x = arguments["x"].double()
    size = 2 * x.abs().amax(-1, keepdim=True) + x.shape[-1]
    experts = torch.zeros(expected["experts"].shape, dtype=torch.float64)
    return {"experts": experts, "scores": EPS32 * (32 + 4 * size) * expected["scores"].double() + 1e-30}


def _defaults(context: Context) -> dict[str, int]:
    """No more threads than experts, in whole subgroups."""
    if found := lanes_default(context):
        return found
    return {"workgroup": next(n for n in (32, 64, 128, 256) if n >= min(context["width"], 256))}


@kernel(
    reads={"x": Port(("tokens", "width"))},
    writes={"experts": Port(CHOSEN, "u32"), "scores": Port(CHOSEN, "f32")},
    params={"k": int, "sigmoid": bool, "normalised": bool},
    defaults={"sigmoid": False, "normalised": False},
    variants={
        "row": Variant(
            "experts/route",
            grid=lambda c: (c["tokens"], 1, 1),
            tunables={"workgroup": (32, 8, 16, 64, 128, 256)},
            defaults=_defaults,
            refuse=lambda c: (
                f"{c['width']} experts are more than 32 for each of {c['workgroup']} threads"
                if "workgroup" in c.sizes and ceil_div(c["width"], c["workgroup"]) > 32
                else None
            ),
            library=lambda c: (reduction(c),),
        )
    },
    make_inputs=_make_inputs,
    tolerance=_tolerance,
    cost=lambda s: Cost(4 * s["tokens"] * s["width"], 8 * s["tokens"] * s["k"], 4 * s["tokens"] * s["width"]),
)
def route(x, k, sigmoid=False, normalised=False):
    """The k experts of each row of logits x [tokens, width], largest first, and their scores; [tokens, k] each.

    scores: softmax over all experts (Qwen3-MoE); with `normalised` divided by their sum, which is the softmax over the
    chosen alone (Mixtral; Jiang et al. 2024, section 2.1); with `sigmoid` the sigmoid of each logit (Llama 4).
    """
    chosen, experts = top_k.reference(x, k)
    scores = chosen.sigmoid() if sigmoid else (chosen - x.logsumexp(-1, keepdim=True)).exp()
    return experts, scores / scores.sum(-1, keepdim=True) if normalised else scores
