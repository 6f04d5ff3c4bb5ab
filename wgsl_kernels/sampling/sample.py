"""Drawing a token from a row of logits: repetition penalty, temperature, top-k, top-p, min-p, then one random number.

The order of the filters is that of transformers' `GenerationMixin`, each on what the one before left. Tokens with the
same penalised score stay or go together; the token with the best score always stays. `drawing` says how it is computed
so that the WGSL and the references draw the same token from the same logits, whatever the adapter.

    sample                                                      one workgroup: small vocabularies
    sample_first, 7 sample_tally, sample_sums, sample_draw      the same in parts of the row: large ones
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from ..composition import Facts, Match, rule
from ..layout import make_seen, parts_of_row
from ..makers import handing_on
from ..numerics import random_tensor
from ..pair import Cost, Port, Variant, kernel
from ..reduce import lanes_default
from ..state import STATE, make_state
from . import drawing
from .drawing import OPTIONS, WORD, Options, make_options

ROW = Port((1, "width"), "f32")
SEEN = Port(("seen_words",), "u32")
TOKEN = Port((1,), "u32")
BEST = Port(("parts",), "u32")
#: Sums for each value of a digit: low words, then high words.
BIN_WORDS = 512
BINS = Port(("parts", BIN_WORDS), "u32")
#: The search so far: prefix, what is wanted of the keys that begin so (low and high word), lowest key, round.
CUT = Port((5,), "u32")
#: Rounds of the search after which the sums are complete: four digits for top-k, four for top-p.
ROUNDS = 8


def _variants(file: str, *, in_parts: bool) -> dict[str, Variant]:
    return {
        "radix": Variant(
            file,
            grid=lambda c: (c["parts"] if in_parts else 1, 1, 1),
            tunables={"workgroup": (256, 8, 16, 32, 64, 128)},
            defaults=lanes_default,
        )
    }


def _inputs(  # many parameters: one for each option of `Kernel.inputs`
    seed=0,
    width=200,
    position=7,
    step=0.0,
    seen=3,
    masked=0,
    temperature=0.8,
    top_k=50,
    top_p=0.9,
    min_p=0.0,
    repetition_penalty=1.0,
    y_dtype="f32",
) -> dict:
    """step: of a grid that logits are rounded to, so that many are equal. masked: logits of -3e38."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * random_tensor(generator, (1, width))
    if step:
        x = torch.round(x / step) * step
    if masked:
        x[0, torch.randint(0, width, (masked,), generator=generator)] = -3e38
    ids = torch.randint(0, width, (seen,), generator=generator).numpy()
    return {
        "x": x,
        "seen": torch.from_numpy(make_seen(width, ids).view(np.int32)),
        "options": make_options(temperature, top_k, top_p, min_p, repetition_penalty, seed),
        "state": make_state(position),
    }


def _exact(arguments, expected) -> dict:
    return {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in expected.items()}


def _cost(times: int, s) -> Cost:
    return Cost(4 * s["width"] + 4 * s["seen_words"], 4, 40 * times * s["width"])


def _words(values) -> torch.Tensor:
    """Integers from 0 to 2^32 - 1 as the int32 tensors that stand for u32."""
    values = torch.as_tensor(values, dtype=torch.int64)
    return torch.where(values > 0x7FFFFFFF, values - 2**32, values).to(torch.int32)


def _plain(words: torch.Tensor) -> torch.Tensor:
    return words.long() & WORD


def _marked(seen: torch.Tensor, token: int, unusable: bool) -> torch.Tensor:
    """The seen tokens with one more; the last word counts rows of logits with which nothing can be done."""
    words = _plain(seen)
    words[token // 32] |= 1 << token % 32
    words[-1] += unusable
    seen.copy_(_words(words))
    return seen


@kernel(
    reads={"x": ROW, "seen": SEEN, "options": OPTIONS, "state": STATE},
    writes={"token": TOKEN, "seen": SEEN},
    updates={"seen": "seen"},
    variants=_variants("sampling/sample", in_parts=False),
    make_inputs=_inputs,
    tolerance=_exact,
    cost=partial(_cost, 10),
)
def sample(x, seen, options, state):
    """The token [1] drawn from logits x [1, width], which joins the `seen` ones.

    options: the words of `drawing.make_options`. seen: `layout.make_seen`. state [1, 4]: of the token before it.
    """
    chosen = Options(options)
    mass = drawing.survivors(x[0], seen, chosen)
    word = 0 if chosen.greedy else drawing.random_word(chosen.seed, int(state[0, 0]) + 1)
    token = drawing.choose(mass, word)
    bad = drawing.unusable(int(drawing.keys(x[0], seen, chosen).max()))
    return _words([token]), _marked(seen, token, bad)


# ---- in parts ----------------------------------------------------------------------------------------------------


def _part_of(width: int, parts: int) -> torch.Tensor:
    """The part that each place of a row is in."""
    return torch.arange(width) // -(-width // parts)


def _binned(digits: torch.Tensor, mass: torch.Tensor, part: torch.Tensor, parts: int) -> torch.Tensor:
    """Sums of weights by part and digit, [parts, BIN_WORDS]."""
    sums = torch.zeros(parts * 256, dtype=torch.int64).index_add_(0, part * 256 + digits, mass)
    sums = sums.view(parts, 256)
    return _words(torch.cat([sums & WORD, sums >> 32], 1))


def _is_on(number: int, options: Options, width: int) -> bool:
    if options.greedy:
        return False
    return 0 < options.top_k < width if number < 4 else options.nucleus


def _search_on(bins: torch.Tensor, cut: torch.Tensor, options: Options, width: int) -> list[int]:
    """[prefix, wanted, lowest, round]: one digit more than the last round has left."""
    prefix, below, above, lowest, before = _plain(cut).tolist()
    wanted = below | above << 32
    if not _is_on(before, options, width):
        return [prefix, wanted, lowest, before + 1]
    low, high = _plain(bins).sum(0).view(2, 256)
    sums = (low + (high << 32)).tolist()
    if before == 4:
        wanted = max(1, sum(sums) * options.top_p >> 32)
    digit = 255
    while digit > 0 and sums[digit] < wanted:
        wanted -= sums[digit]
        digit -= 1
    prefix |= digit << 24 - 8 * (before % 4)
    if before % 4 == 3:
        prefix, lowest = 0, prefix
    return [prefix, wanted, lowest, before + 1]


def _as_cut(prefix: int, wanted: int, lowest: int, number: int) -> torch.Tensor:
    return _words([prefix, wanted & WORD, wanted >> 32, lowest, number])


def _without_state(**rest) -> dict:
    return {name: value for name, value in _inputs(**rest).items() if name != "state"}


@kernel(
    reads={"x": ROW, "seen": SEEN, "options": OPTIONS},
    writes={"best": BEST, "bins_after": BINS, "cut": CUT},
    params={"parts": int},
    variants=_variants("sampling/sample_first", in_parts=True),
    make_inputs=handing_on(
        lambda parts=3, **rest: {**_without_state(**rest), "parts": parts}, _inputs, without=("position",)
    ),
    tolerance=_exact,
    cost=partial(_cost, 1),
)
def sample_first(x, seen, options, parts):
    """The best key of each part, how many keys begin with each digit, and where the search for thresholds starts."""
    chosen = Options(options)
    found, part = drawing.keys(x[0], seen, chosen), _part_of(x.shape[1], parts)
    best = torch.zeros(parts, dtype=torch.int64).scatter_reduce_(0, part, found, "amax")
    counted = torch.full_like(found, int(_is_on(0, chosen, len(found))))
    return (
        _words(best),
        _binned(found >> 24, counted, part, parts),
        _as_cut(0, chosen.top_k, 0, 0),
    )


def _tally_inputs(parts=3, round=5, **rest) -> dict:
    """What the rounds before this one leave."""
    given = _without_state(**rest)
    best, bins, cut = sample_first.reference(**given, parts=parts)
    for _ in range(1, round):
        bins, cut = sample_tally.reference(**given, best=best, bins_before=bins, cut=cut)
    return {**given, "best": best, "bins_before": bins, "cut": cut}


@kernel(
    reads={"x": ROW, "seen": SEEN, "options": OPTIONS, "best": BEST, "bins_before": BINS, "cut": CUT},
    writes={"bins_after": BINS, "cut_after": CUT},
    variants=_variants("sampling/sample_tally", in_parts=True),
    make_inputs=handing_on(_tally_inputs, _inputs, without=("position",)),
    tolerance=_exact,
    cost=partial(_cost, 1),
)
def sample_tally(x, seen, options, best, bins_before, cut):
    """Counts (rounds 1 to 3) or weights (4 to 7) by the next digit, of keys that have the digits found so far."""
    chosen, width = Options(options), x.shape[1]
    prefix, wanted, lowest, number = _search_on(bins_before, cut, chosen, width)
    found = drawing.keys(x[0], seen, chosen)
    shift = 24 - 8 * (number % 4)
    inside = (found >= lowest) & (found >> shift + 8 == prefix >> shift + 8)
    mass = torch.ones_like(found)
    if number >= 4:
        mass = drawing.weights(drawing.halvings(found, chosen, int(_plain(best).max())))
    mass = torch.where(inside, mass, 0) if _is_on(number, chosen, width) else torch.zeros_like(mass)
    part = _part_of(width, len(best))
    return _binned(found >> shift & 255, mass, part, len(best)), _as_cut(prefix, wanted, lowest, number)


@kernel(
    reads={"x": ROW, "seen": SEEN, "options": OPTIONS, "best": BEST, "bins_before": BINS, "cut": CUT},
    writes={"sums": Port(("parts", 2), "u32"), "lowest": Port((1,), "u32")},
    variants=_variants("sampling/sample_sums", in_parts=True),
    make_inputs=handing_on(partial(_tally_inputs, round=ROUNDS), _inputs, without=("position", "round")),
    tolerance=_exact,
    cost=partial(_cost, 1),
)
def sample_sums(x, seen, options, best, bins_before, cut):
    """Of each part the weights that all filters leave, summed (low and high words), and the lowest key that stays."""
    chosen = Options(options)
    _, _, lowest, _ = _search_on(bins_before, cut, chosen, x.shape[1])
    mass = _left(x, seen, chosen, best, lowest)
    sums = torch.zeros(len(best), dtype=torch.int64).index_add_(0, _part_of(x.shape[1], len(best)), mass)
    return _words(torch.stack([sums & WORD, sums >> 32], 1)), _words([lowest])


def _left(x, seen, options: Options, best: torch.Tensor, lowest: int) -> torch.Tensor:
    found = drawing.keys(x[0], seen, options)
    halved = drawing.halvings(found, options, int(_plain(best).max()))
    return torch.where((found >= lowest) & (halved <= options.farthest), drawing.weights(halved), 0)


def _draw_inputs(parts=3, position=7, **rest) -> dict:
    given = _tally_inputs(parts=parts, round=ROUNDS, **rest)
    sums, lowest = sample_sums.reference(**given)
    del given["bins_before"], given["cut"]
    return {**given, "state": make_state(position), "sums": sums, "lowest": lowest}


@kernel(
    reads={
        "x": ROW,
        "seen": SEEN,
        "options": OPTIONS,
        "state": STATE,
        "best": BEST,
        "sums": Port(("parts", 2), "u32"),
        "lowest": Port((1,), "u32"),
    },
    writes={"token": TOKEN, "seen": SEEN},
    updates={"seen": "seen"},
    variants=_variants("sampling/sample_draw", in_parts=False),
    make_inputs=handing_on(_draw_inputs, _inputs),
    tolerance=_exact,
    cost=partial(_cost, 0),
)
def sample_draw(x, seen, options, state, best, sums, lowest):
    """The token [1] at a random share of the mass, which joins the `seen` ones, as `sample` gives it."""
    chosen = Options(options)
    mass = _left(x, seen, chosen, best, int(_plain(lowest)[0]))
    word = 0 if chosen.greedy else drawing.random_word(chosen.seed, int(state[0, 0]) + 1)
    token = drawing.choose(mass, word)
    return _words([token]), _marked(seen, token, drawing.unusable(int(_plain(best).max())))


#: A single workgroup is as fast for so many parts.
FEW_PARTS = 2


def _at_once(p, x, seen, options, state):
    """A token drawn from a row that one workgroup would take long for."""
    return p.sample(x=x, seen=seen, options=options, state=state)


def _in_parts(p, x, seen, options, state, *, parts):
    row = {"x": x, "seen": seen, "options": options}
    best, bins, cut = p.sample_first(**row, parts=parts)
    for _ in range(1, ROUNDS):
        bins, cut = p.sample_tally(**row, best=best, bins_before=bins, cut=cut)
    sums, lowest = p.sample_sums(**row, best=best, bins_before=bins, cut=cut)
    return p.sample_draw(**row, state=state, best=best, sums=sums, lowest=lowest)


def _several_parts(facts: Facts, match: Match) -> bool | dict[str, int]:
    parts = parts_of_row(match.shape("x")[1])
    return parts > 1 and {"parts": parts}


def _many_parts(facts: Facts, match: Match) -> bool:
    return parts_of_row(match.shape("x")[1]) > FEW_PARTS


SAMPLE_IN_PARTS = rule(_at_once, _in_parts, name="sample_in_parts", where=_several_parts, usual=_many_parts)
