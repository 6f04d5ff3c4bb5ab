"""What is done with rows of logits: softmax, argmax, log-likelihood of a target."""

from __future__ import annotations

import torch

from ..numerics import EPS32, by_rows, random_tensor
from ..pair import Cost, Port, Variant, kernel
from ..reduce import lanes_within, reduction, too_many_iterations

ROWS = ("tokens", "width")


def row_variant(file: str, *, passes: int = 2) -> dict[str, Variant]:
    """A workgroup takes one row. passes: how often it goes over a row."""

    def iterations(context, threads: int) -> float:
        return 1.05 * passes * context["width"] / threads

    allowed = (128, 8, 16, 32, 64, 256)
    return {
        "row": Variant(
            file,
            grid=lambda c: (c["tokens"], 1, 1),
            tunables={"workgroup": allowed},
            defaults=lanes_within(iterations, allowed),
            refuse=too_many_iterations(iterations),
            library=lambda c: (reduction(c),),
        )
    }


def _make_inputs(seed=0, tokens=3, width=64, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {"x": 4 * random_tensor(generator, (tokens, width), x_dtype)}


def _make_target_inputs(seed=0, tokens=3, width=64, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed + 1)
    targets = torch.randint(0, width, (tokens,), generator=generator).to(torch.int32)
    return {**_make_inputs(seed, tokens, width, x_dtype), "targets": targets}


def total_error(x: torch.Tensor) -> torch.Tensor:
    """Bound of the relative error of sum(exp(x - max)) of each row of x [tokens, width], [tokens, 1].

    Of each term 4 roundings and that of x - max, which is EPS32 |x - max|; of the sum those of runs of 64 within bins,
    which are random (3 times their RMS), and of the few additions that put it together.
    """
    x = x.double()
    below = x.amax(-1, keepdim=True) - x
    weights = (-below).softmax(-1)
    return EPS32 * (24 + (weights * below.clamp(max=200.0)).sum(-1, keepdim=True))


def _softmax_tolerance(arguments, expected) -> dict:
    x = arguments["x"].double()
    below = (x.amax(-1, keepdim=True) - x).clamp(max=200.0)
    return {"y": (total_error(x) + EPS32 * (4 + below)) * expected["y"].double() + 1e-30}


def _target_tolerance(arguments, expected) -> dict:
    x = arguments["x"].double()
    target = x.gather(-1, arguments["targets"].long().unsqueeze(-1))
    size = x.amax(-1, keepdim=True) - target + expected["y"].double().abs().unsqueeze(-1)
    return {"y": (total_error(x) + 3 * EPS32 * size).squeeze(-1)}


def _cost(s) -> Cost:
    count = s["tokens"] * s["width"]
    return Cost(4 * count, 4 * s["tokens"], 3 * count)


@kernel(
    reads={"x": Port(ROWS)},
    writes={"y": Port(ROWS)},
    variants=row_variant("logits/softmax", passes=3),
    make_inputs=_make_inputs,
    tolerance=_softmax_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["width"], 4 * s["tokens"] * s["width"], 4 * s["tokens"] * s["width"]
    ),
)
def softmax(x):
    """y = exp(x - max) / sum(exp(x - max)), row by row; x [tokens, width]."""
    return x.double().softmax(-1).to(x.dtype)


@kernel(
    reads={"x": Port(ROWS)},
    writes={"index": Port(("tokens",), "u32")},
    variants=row_variant("logits/argmax", passes=1),
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
    variants=row_variant("logits/target_log_likelihood"),
    make_inputs=_make_target_inputs,
    tolerance=_target_tolerance,
    cost=_cost,
)
def target_log_likelihood(x, targets):
    """log softmax(x)[targets], one number a row; x [tokens, width], targets [tokens].

    In f64 whatever x is: in f32 a sum over a vocabulary is too small by 1e-5, always to one side.
    """
    return by_rows(
        lambda x, column: (x.double().log_softmax(-1).gather(-1, column).squeeze(-1),),
        x,
        targets.long().unsqueeze(-1),
    )[0]
