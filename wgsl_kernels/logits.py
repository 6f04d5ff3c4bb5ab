"""What is done with rows of logits: softmax, argmax, log-likelihood of a target."""

from __future__ import annotations

import torch

from .numerics import EPS32, random_tensor
from .pair import Cost, Port, Variant, kernel
from .reduce import lanes_default, reduction

ROWS = ("tokens", "width")


def _variant(file: str) -> dict[str, Variant]:
    return {
        "row": Variant(
            file,
            grid=lambda c: (c["tokens"], 1, 1),
            tunables={"workgroup": (128, 8, 16, 32, 64, 256)},
            defaults=lanes_default,
            library=lambda c: (reduction(c),),
        )
    }


def _make_inputs(seed=0, tokens=3, width=64, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {"x": 4 * random_tensor(generator, (tokens, width), x_dtype)}


def _make_target_inputs(seed=0, tokens=3, width=64, **types) -> dict:
    generator = torch.Generator().manual_seed(seed + 1)
    targets = torch.randint(0, width, (tokens,), generator=generator).to(torch.int32)
    return {**_make_inputs(seed, tokens, width, **types), "targets": targets}


def _softmax_tolerance(arguments, expected) -> dict:
    span = (arguments["x"].double().max() - arguments["x"].double().min()).item()
    return {"y": (16 + 4 * span) * EPS32 * expected["y"].double() + 1e-30}


def _target_tolerance(arguments, expected) -> dict:
    x = arguments["x"].double()
    size = x.abs().max() + expected["y"].double().abs()
    return {"y": (16 + 4 * (x.max() - x.min())) * EPS32 + 4 * EPS32 * size}


def _cost(s) -> Cost:
    count = s["tokens"] * s["width"]
    return Cost(4 * count, 4 * s["tokens"], 3 * count)


@kernel(
    reads={"x": Port(ROWS)},
    writes={"y": Port(ROWS)},
    variants=_variant("softmax"),
    make_inputs=_make_inputs,
    tolerance=_softmax_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["width"], 4 * s["tokens"] * s["width"], 4 * s["tokens"] * s["width"]
    ),
)
def softmax(x):
    """y = exp(x - max) / sum(exp(x - max)), row by row; x [tokens, width]."""
    return x.softmax(-1)


@kernel(
    reads={"x": Port(ROWS)},
    writes={"index": Port(("tokens",), "u32")},
    variants=_variant("argmax"),
    make_inputs=_make_inputs,
    tolerance=lambda arguments, expected: {
        "index": torch.zeros(expected["index"].shape, dtype=torch.float64)
    },
    cost=_cost,
)
def argmax(x):
    """Index of the largest number of each row of x [tokens, width], the first of equals; width below 2^24."""
    return (x == x.max(-1, keepdim=True).values).to(torch.int32).argmax(-1).to(torch.int32)


@kernel(
    reads={"x": Port(ROWS), "targets": Port(("tokens",), "u32")},
    writes={"y": Port(("tokens",), "f32")},
    variants=_variant("target_log_likelihood"),
    make_inputs=_make_target_inputs,
    tolerance=_target_tolerance,
    cost=_cost,
)
def target_log_likelihood(x, targets):
    """log softmax(x)[targets], one number a row; x [tokens, width], targets [tokens]."""
    return x.log_softmax(-1).gather(-1, targets.long().unsqueeze(-1)).squeeze(-1)
