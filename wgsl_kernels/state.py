"""What a step knows of its rows: where each stands in which sequence of the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .pair import Context, Port

#: Words of each row, in the order of `lib/state.wgsl`: position; 0 for padding, 1 if it is real, and 2 + n if its
#: sequence has the n-th of the adapters that are loaded; sequence; and how many tokens were generated before it.
STATE = Port(("tokens", 4), "u32", uniform=True)

#: How a cache takes more positions than it has slots, and how many of the first of them stay (`slots_of`).
RING = {"ring": bool, "sinks": int}
NO_RING = {"ring": False, "sinks": 0}


def slot_file(context: Context) -> str:
    """The library file that says where in the cache a position lies."""
    return "slot/ring" if context["ring"] else "slot/position"


def make_state(
    position: int = 0, tokens: int = 1, sequence: int = 0, steps: int = 0, valid: int | None = None
) -> torch.Tensor:
    """The state of `tokens` rows that follow each other in one sequence, int32 [tokens, 4]; the first `valid` are real,
    by default all."""
    state = torch.zeros(tokens, 4, dtype=torch.int32)
    state[:, 0] = position + torch.arange(tokens)
    state[:, 1] = torch.arange(tokens) < (tokens if valid is None else valid)
    state[:, 2], state[:, 3] = sequence, steps
    return state


def runs(state: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(sequence, which rows are its, their positions), a sequence at a time."""
    for sequence in state[:, 2].unique().tolist():
        rows = (state[:, 2] == sequence).nonzero()[:, 0]
        yield sequence, rows, state[rows, 0].long()


def slots_of(positions: torch.Tensor, capacity: int, ring: bool = False, sinks: int = 0) -> torch.Tensor:
    """Where in a cache of `capacity` slots a sequence's positions lie: slot = position.

    In a ring the first `sinks` stay there, and the others go round behind them: slot = sinks + (position - sinks) mod
    (capacity - sinks).
    """
    if not ring:
        return positions
    return torch.where(positions < sinks, positions, sinks + (positions - sinks) % (capacity - sinks))


def appended(
    state: torch.Tensor, capacity: int, ring: bool = False, sinks: int = 0
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(sequence, rows, slots) of the rows whose keys and values go into the cache: those that are real and have room,
    which in a ring all have."""
    for sequence, rows, positions in runs(state):
        kept = (state[rows, 1] != 0) & (ring | (positions < capacity))
        yield sequence, rows[kept], slots_of(positions[kept], capacity, ring, sinks)


def rows_state(
    seed: int,
    tokens: int,
    *,
    capacity: int,
    position: int = 0,
    sequences: int = 1,
    sequence: int = 0,
    valid: int | None = None,
    scattered: bool = False,
) -> torch.Tensor:
    """The state of random inputs: a run of one sequence (`make_state`) or, scattered, rows of several sequences in any
    order, no two at one place, every third one padding; where there are more than places, some stand behind the
    capacity."""
    if not scattered:
        return make_state(position, tokens, sequence, valid=valid)
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(max(sequences * capacity, tokens), generator=generator)[:tokens]
    state = make_state(0, tokens)
    state[:, 2] = (places // capacity).clamp(max=sequences - 1)
    state[:, 0] = places - state[:, 2] * capacity
    state[:, 1] = torch.arange(tokens) % 3 != 2
    return state
