"""The arithmetic of drawing a token, in integers, so that every backend draws the same one.

A logit becomes a *key*: a 32-bit integer in the order of the penalised scores, which are computed with single
multiplications of f32 (each correctly rounded, in WGSL as in PyTorch; a quotient would not be). A key becomes a
*weight*: 2^41 exp((score - best) / temperature) as an integer, from the rounded difference, one multiplication, and a
polynomial in 32-bit fixed point. Sums of weights are exact, hence the same in any order. `lib/draw` is the same
arithmetic in WGSL.

The random number is a function of a seed and a position alone (Philox4x32-10, Salmon et al. 2011).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ..layout import OPTION_WORDS
from ..pair import Port

OPTIONS = Port((OPTION_WORDS,), "u32", uniform=True)
GREEDY, NUCLEUS = 1, 2

#: Bits of the weight of the best token.
WEIGHT_BITS = 41
#: From so many halvings on a weight is 0.
HALVINGS = WEIGHT_BITS + 1
#: Below it no f32 is certain to be divided by: the smallest normal number.
SMALLEST = 2.0**-126
LARGEST = float(np.finfo(np.float32).max)

#: 2^-x = c0 - x (c1 - x (c2 - ...)) on [0, 1) to 3e-11: interpolation in Chebyshev nodes; times 2^31, rounded.
POWER = (2147483648, 1488522228, 515882323, 119192779, 20649271, 2851416, 316243, 23239)

ROUNDS = 10
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def random_word(seed: int, position: int) -> int:
    """The first word of Philox4x32-10 with the seed's 64 bits as key and the position as counter."""
    key, counter = [seed & WORD, seed >> 32 & WORD], [position & WORD, 0, 0, 0]
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * counter[0], MULTIPLIERS[1] * counter[2]
        counter = [
            second >> 32 ^ counter[1] ^ key[0],
            second & WORD,
            first >> 32 ^ counter[3] ^ key[1],
            first & WORD,
        ]
        key = [(word + step) & WORD for word, step in zip(key, WEYL, strict=True)]
    return counter[0]


def normal(value: float) -> float:
    """A number >= 0 as f32 that no device flushes: 0 below the smallest normal one, the largest above that."""
    if value < SMALLEST:
        return 0.0
    return float(np.float32(min(value, LARGEST)))


def is_greedy(temperature: float) -> bool:
    """Whether a temperature takes the best token: 0, or what f32 cannot divide by."""
    return temperature < SMALLEST


def make_options(
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int = 0,
) -> torch.Tensor:
    """The options as words, int32 [OPTION_WORDS]."""
    greedy = is_greedy(temperature)
    scale = 0.0 if greedy else normal(math.log2(math.e) / temperature)
    # no product overflows below it, and every weight above it is 0
    cutoff = SMALLEST if greedy else normal((HALVINGS + 1) / scale if scale else LARGEST)
    farthest = -math.log2(min_p) if min_p > 0 else LARGEST
    flags = (GREEDY if greedy else 0) | (NUCLEUS if top_p < 1 else 0)
    integers = (seed & WORD, seed >> 32 & WORD, flags, min(top_k, WORD), min(round(top_p * 2**32), WORD))
    floats = (scale, cutoff, farthest, repetition_penalty, 1 / repetition_penalty)
    words = np.zeros(OPTION_WORDS, np.uint32)
    words[:5] = integers
    words[5:10] = np.array(floats, np.float32).view(np.uint32)
    return torch.from_numpy(words.view(np.int32))


class Options:
    """The words, taken apart again."""

    def __init__(self, words: torch.Tensor):
        plain = words.to(torch.int32).numpy()
        integers, floats = plain.view(np.uint32), plain.view(np.float32)
        self.seed = int(integers[0]) | int(integers[1]) << 32
        self.greedy, self.nucleus = bool(integers[2] & GREEDY), bool(integers[2] & NUCLEUS)
        self.top_k, self.top_p = int(integers[3]), int(integers[4])
        self.scale, self.cutoff, self.farthest, self.penalty, self.inverse = (float(v) for v in floats[5:10])


def _is_seen(seen: torch.Tensor, width: int) -> torch.Tensor:
    places = torch.arange(width)
    return (seen.long()[places // 32] >> (places % 32) & 1).bool()


def _bits(values: torch.Tensor) -> torch.Tensor:
    """The bits of f32 numbers as integers from 0 to 2^32 - 1, of zeros and subnormal numbers 0."""
    bits = values.view(torch.int32).long() & WORD
    return torch.where(bits & 0x7F800000 == 0, 0, bits)


def _floats(bits: torch.Tensor) -> torch.Tensor:
    return torch.where(bits > 0x7FFFFFFF, bits - 2**32, bits).to(torch.int32).view(torch.float32)


def keys(x: torch.Tensor, seen: torch.Tensor, options: Options) -> torch.Tensor:
    """Keys [width], int64, of logits x [width]: larger is better, NaN best of all."""
    bits = _bits(x.float().contiguous())
    nan = bits & 0x7FFFFFFF > 0x7F800000
    if options.penalty != 1:
        score = _floats(bits)
        factor = torch.where(score < 0, options.penalty, options.inverse).float()
        bits = torch.where(_is_seen(seen, len(x)), _bits(score * factor), bits)
    ordered = torch.where(bits > 0x7FFFFFFF, WORD - bits, bits | 0x80000000)
    return torch.where(nan, WORD, ordered)


def unusable(best: int) -> bool:
    """Whether the best of the keys is that of NaN or an infinity."""
    return best >= 0xFF800000 or best <= 0x007FFFFF


def scores(found: torch.Tensor) -> torch.Tensor:
    """The penalised scores, f32, that keys stand for."""
    return _floats(torch.where(found >= 0x80000000, found & 0x7FFFFFFF, WORD - found))


def halvings(found: torch.Tensor, options: Options, best: int | None = None) -> torch.Tensor:
    """How often the best token's probability is to be halved for each key, f32 [width].

    best: its key, by default the best of these. In greedy choice infinite for all but the best.
    """
    best = int(found.max()) if best is None else best
    distance = _floats(_bits(scores(torch.tensor([best])) - scores(found)))
    if options.greedy:
        return torch.where(distance == 0, 0.0, torch.inf)
    return distance * torch.tensor(options.scale, dtype=torch.float32)


def weights(halved: torch.Tensor) -> torch.Tensor:
    """2^(41 - halved) as integers, int64; 0 beyond `HALVINGS`."""
    nothing = ~(halved < HALVINGS)
    fixed = (torch.where(nothing, 0, halved) * 2.0**26).long()
    x = (fixed & 2**26 - 1) << 6
    power = torch.full_like(x, POWER[-1])
    for coefficient in POWER[-2::-1]:
        power = coefficient - (x * power >> 32)
    return torch.where(nothing, 0, power << WEIGHT_BITS - 31 >> (fixed >> 26))


def top_k_floor(found: torch.Tensor, top_k: int) -> int:
    """The lowest key that top-k leaves: that of the k-th best, with all its equals; 0 where it is off."""
    if not 0 < top_k < len(found):
        return 0
    return int(found.topk(top_k).values[-1])


def top_p_floor(found: torch.Tensor, mass: torch.Tensor, top_p: int) -> int:
    """The lowest key that top-p leaves: of the last one above which less than top_p / 2^32 of the mass lies.

    Equals stay or go together, and the best stay.
    """
    order = torch.argsort(found, descending=True)
    ordered, total = found[order], mass[order].cumsum(0)
    wanted = max(1, int(total[-1]) * top_p >> 32)
    return int(ordered[int((total >= wanted).int().argmax())])


def stay(x: torch.Tensor, seen: torch.Tensor, options: Options) -> torch.Tensor:
    """Which of the logits x [width] all filters leave, bool [width]; with the best its equals."""
    return _filtered(x, seen, options)[0]


def survivors(x: torch.Tensor, seen: torch.Tensor, options: Options) -> torch.Tensor:
    """Weights [width], int64, of logits x [width] after all filters: 0 for what they remove."""
    stays, mass = _filtered(x, seen, options)
    return torch.where(stays, mass, 0)


def _filtered(x, seen, options: Options) -> tuple[torch.Tensor, torch.Tensor]:
    found = keys(x, seen, options)
    halved = halvings(found, options)
    mass = weights(halved)
    lowest = 0
    if not options.greedy:
        lowest = top_k_floor(found, options.top_k)
        if options.nucleus:
            lowest = top_p_floor(found, torch.where(found >= lowest, mass, 0), options.top_p)
    return (found >= lowest) & (halved <= options.farthest), mass


def choose(mass: torch.Tensor, word: int) -> int:
    """The token at a share word / 2^32 of the mass, in the order of ids."""
    total = mass.cumsum(0)
    return int((total > (int(total[-1]) * word >> 32)).int().argmax())
