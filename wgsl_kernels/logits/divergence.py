"""What a comparison of two models, or of one with a stored baseline, keeps of rows of logits.

`divergence` takes the rows of both. For a baseline that is to be stored, `top_k` finds the likeliest tokens,
`tail_priorities` (with `top_k` behind it) draws a sample of the others, and `log_probabilities` gives what both have,
in the baseline and later in a model. So rows of the size of a vocabulary stay where they were computed.
"""

from __future__ import annotations

import torch

from ..numerics import EPS32, by_rows, random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel
from .logits import ROWS, row_variant, total_error

PICKED = ("tokens", "k")
EACH = ("tokens",)


def _kl(x: torch.Tensor, baseline: torch.Tensor, column: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    log_q, log_p = x.double().log_softmax(-1), baseline.double().log_softmax(-1)
    p = log_p.exp()
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1).clamp(min=0.0)
    return kl, (log_q.gather(-1, column) - log_p.gather(-1, column)).squeeze(-1)


def _inputs(seed=0, tokens=3, width=64, apart=0.5, x_dtype="f32", y_dtype="f32") -> dict:
    """apart: RMS of the difference of the two rows."""
    generator = torch.Generator().manual_seed(seed)
    baseline = 4 * torch.randn((tokens, width), generator=generator)
    x = baseline + apart * torch.randn((tokens, width), generator=generator) + 1.0
    dtype = torch.float16 if x_dtype == "f16" else torch.float32
    targets = torch.randint(0, width, (tokens,), generator=generator).to(torch.int32)
    return {"x": x.to(dtype), "baseline": baseline.to(dtype), "targets": targets}


def _tolerance(arguments, expected) -> dict:
    """An error e of a token's ln p - ln q changes KL by (p - q) e; that of a sum of positive terms is relative."""
    x, baseline = arguments["x"].double(), arguments["baseline"].double()
    column = arguments["targets"].long().unsqueeze(-1)
    apart = (baseline - x).abs().clamp(max=1e4)
    log_q, log_p = x.log_softmax(-1), baseline.log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    totals = (total_error(x) + total_error(baseline)).squeeze(-1)
    shift = (baseline.amax(-1) - x.amax(-1)).abs() + 8.0
    each = EPS32 * (3 * apart + 4 * shift.unsqueeze(-1))
    moved = ((p - q).abs() * each).sum(-1)
    # beyond |d| = 1 the normalisers of p and q do not cancel
    beyond = ((log_p - log_q).abs() >= 1.0) * (p * (log_p - log_q).abs().clamp(max=1e4) + q)
    kl = moved + (EPS32 * 32 + totals) * (expected["kl"].double() + beyond.sum(-1)) + 8 * totals**2
    change = totals + EPS32 * (3 * apart.gather(-1, column).squeeze(-1) + 4 * shift)
    return {"kl": kl + 1e-30, "change": change}


@kernel(
    reads={"x": Port(ROWS), "baseline": Port(ROWS), "targets": Port(EACH, "u32")},
    writes={"kl": Port(EACH, "f32"), "change": Port(EACH, "f32")},
    variants=row_variant("logits/divergence", passes=3),
    make_inputs=_inputs,
    tolerance=_tolerance,
    cost=lambda s: Cost(8 * s["tokens"] * s["width"], 8 * s["tokens"], 60 * s["tokens"] * s["width"]),
)
def divergence(x, baseline, targets):
    """kl = sum p (ln p - ln q) of p = softmax(baseline), q = softmax(x), in nats, and change = ln q - ln p of the
    target.

    x, baseline [tokens, width], targets [tokens]; kl, change [tokens]. In f64 whatever the logits are.
    """
    return by_rows(_kl, x, baseline, targets.long().unsqueeze(-1))


def _picked_inputs(seed=0, tokens=3, width=64, k=8, counted=4, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = 4 * random_tensor(generator, (tokens, width), x_dtype)
    ids = torch.stack([torch.randperm(width, generator=generator)[: min(k, width)] for _ in range(tokens)])
    return {"x": x, "ids": ids.to(torch.int32), "counted": min(counted, k, width)}


def _picked_tolerance(arguments, expected) -> dict:
    x, y = arguments["x"].double(), expected["y"].double()
    total = total_error(x)
    below = x.amax(-1, keepdim=True) - x.gather(-1, arguments["ids"].long())
    beyond = expected["beyond"].double()
    far = EPS32 * (x.amax(-1) - x.amin(-1)).clamp(max=87.0)  # all that is left may be far below the largest
    return {
        "y": total + 3 * EPS32 * (below + y.abs()),
        "beyond": (2 * total.squeeze(-1) + far) * beyond + 1e-30,
    }


@kernel(
    reads={"x": Port(ROWS), "ids": Port(PICKED, "u32")},
    writes={"y": Port(PICKED, "f32"), "beyond": Port(EACH, "f32")},
    params={"counted": int},
    variants=row_variant("logits/log_probabilities", passes=3),
    make_inputs=_picked_inputs,
    tolerance=_picked_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["width"], 4 * s["tokens"] * (s["k"] + 1), s["tokens"] * s["width"]
    ),
)
def log_probabilities(x, ids, counted):
    """y = log softmax(x)[ids], and beyond: the probability of all tokens but ids[:, :counted].

    x [tokens, width], ids [tokens, k] without repetition; y [tokens, k], beyond [tokens]. In f64 whatever x is.
    """

    def piece(x, ids):
        log_p = x.double().log_softmax(-1)
        y = log_p.gather(-1, ids)
        return y, log_p.scatter(-1, ids[:, :counted], -torch.inf).exp().sum(-1)

    return by_rows(piece, x, ids.long())


# ---- a sample of what the likeliest tokens leave -----------------------------------------------------------------


def _mixed(value: torch.Tensor) -> torch.Tensor:
    """The finaliser of MurmurHash3 on numbers below 2^32, held as int64."""
    word = 0xFFFFFFFF
    value = ((value ^ (value >> 16)) * 0x85EBCA6B) & word
    value = ((value ^ (value >> 13)) * 0xC2B2AE35) & word
    return value ^ (value >> 16)


def _uniform(width: int, seeds: torch.Tensor) -> torch.Tensor:
    """u [tokens, width] in (0, 1], of 24 bits, f32: one for each seed [tokens, 1] and token."""
    places = _mixed(torch.arange(width, dtype=torch.int64))
    drawn = _mixed(places ^ (seeds.long() & 0xFFFFFFFF))
    return ((drawn >> 8).float() + 0.5) * 2.0**-24


def _tail_inputs(seed=0, tokens=3, width=64, k=4, strata=4, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = 4 * random_tensor(generator, (tokens, width), x_dtype)
    values, indices = torch.sort(x.float(), dim=-1, descending=True, stable=True)
    k = min(k, width)
    seeds = torch.randint(-(2**31), 2**31, (tokens,), generator=generator).to(torch.int32)
    last = {"last_value": values[:, k - 1], "last_index": indices[:, k - 1].to(torch.int32)}
    return {
        "x": x,
        **last,
        "seeds": seeds,
        "strata": strata,
        "places": strata * (ceil_div(width, strata) + 1),
    }


def _tail_tolerance(arguments, expected) -> dict:
    """Of -ln u, which is at most 25 ln 2, four roundings, and that of the sum."""
    y = expected["y"].double()
    return {"y": torch.where(y < -1e38, 0.0, EPS32 * (4 * 17.4 + 2 * y.abs()))}


@kernel(
    reads={
        "x": Port(ROWS),
        "last_value": Port(EACH, "f32"),
        "last_index": Port(EACH, "u32"),
        "seeds": Port(EACH, "u32"),
    },
    writes={"y": Port(("tokens", "places"), "f32")},
    params={"strata": int, "places": int},
    variants={
        "elements": Variant(
            "logits/tail_priorities",
            grid=lambda c: (ceil_div(c["places"], 64), c["tokens"], 1),
        )
    },
    make_inputs=_tail_inputs,
    tolerance=_tail_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["width"], 4 * s["tokens"] * s["places"], 30 * s["tokens"] * s["width"]
    ),
)
def tail_priorities(x, last_value, last_index, seeds, strata, places):
    """x - ln(u), u uniform in (0, 1] by seed and token: token t stands in stratum t % strata at place t // strata, and
    the strata lie one after another in y [tokens, places], each of places / strata numbers.

    The lowest f32 stands where there is no token, and for those of a top-k that ends with last_value and last_index, of
    equals the first first. x [tokens, width]; the others [tokens]. The m largest y of a stratum are the tokens with the
    m largest p / u: a priority sample (Duffield, Lund and Thorup 2007), in which a token stands with probability
    min(1, p / s) for the (m + 1)-th largest s, so that sums over a sample with weights max(p, s) / p are unbiased.
    """
    width, lowest = x.shape[1], torch.finfo(torch.float32).min
    ids = torch.arange(width)

    def piece(x, value, index, seeds):
        y = x - _uniform(width, seeds).to(torch.promote_types(x.dtype, torch.float32)).log()
        filled = torch.full((len(x), places), lowest, dtype=y.dtype)
        filled[:, :width] = y.masked_fill((x > value) | ((x == value) & (ids <= index)), lowest)
        return (filled.view(len(x), -1, strata).transpose(1, 2).reshape(len(x), places),)

    return by_rows(piece, x, *(each.unsqueeze(-1) for each in (last_value, last_index, seeds)))[0]
