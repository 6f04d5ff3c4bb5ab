"""The knapsack against all combinations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.precision.knapsack import pareto_front

OPTION = st.tuples(st.integers(0, 12), st.integers(0, 12))  # small, so that sums collide
PROBLEM = st.lists(st.lists(OPTION, min_size=1, max_size=4), min_size=1, max_size=6)


def brute_force(problem) -> list[tuple[int, int]]:
    return [
        (sum(size for size, _ in chosen), sum(cost for _, cost in chosen))
        for chosen in itertools.product(*problem)
    ]


def solve(problem):
    sizes, costs = ([[option[i] for option in group] for group in problem] for i in (0, 1))
    return pareto_front(sizes, costs)


@given(PROBLEM)
def test_the_front_is_what_no_combination_beats(problem):
    everything = set(brute_force(problem))
    best = {
        point
        for point in everything
        if not any(o != point and o[0] <= point[0] and o[1] <= point[1] for o in everything)
    }
    front = solve(problem)
    assert set(zip(front.nbytes.tolist(), front.cost.tolist(), strict=True)) == best
    assert np.all(np.diff(front.nbytes) > 0) and np.all(np.diff(front.cost) < 0)
    for point in range(len(front)):
        chosen = [group[option] for group, option in zip(problem, front.choices(point), strict=True)]
        assert (sum(s for s, _ in chosen), sum(c for _, c in chosen)) == (
            front.nbytes[point],
            front.cost[point],
        )


@given(PROBLEM, st.integers(-1, 80))
def test_a_budget_or_a_bound_gets_the_optimum(problem, limit):
    front, everything = solve(problem), brute_force(problem)
    within_bytes, within_cost = front.within_bytes(limit), front.within_cost(limit)
    best_cost = min((cost for size, cost in everything if size <= limit), default=None)
    best_size = min((size for size, cost in everything if cost <= limit), default=None)
    assert (None if within_bytes is None else front.cost[within_bytes]) == best_cost
    assert (None if within_cost is None else front.nbytes[within_cost]) == best_size


def test_the_shape_of_an_8b_llama_is_solved_in_seconds():
    generator = np.random.default_rng(0)
    matrices = [128256 * 4096] * 2 + [(4096 + 2048) * 4096, 4096 * 4096, 28672 * 4096, 14336 * 4096] * 32
    bits = np.array([16, 8.1875, 4.75, 4.1875, 2.75, 2.09375])
    nbytes = [(size * bits / 8).astype(np.int64) for size in matrices]
    costs = np.exp(-1.4 * bits) * generator.lognormal(0, 1, (len(matrices), 1))
    front = pareto_front(nbytes, costs)
    assert 1_000 < len(front) < 200_000
    half = front.within_bytes(int(front.nbytes[-1] / 3))
    assert sum(nbytes[g][o] for g, o in enumerate(front.choices(half))) == front.nbytes[half]


@pytest.mark.parametrize(
    ("sizes", "costs"), [([[]], [[]]), ([[1, 2]], [[1.0]]), ([[1]], [[np.nan]]), ([[1]], [[np.inf]])]
)
def test_what_is_no_problem_is_refused(sizes, costs):
    with pytest.raises(ValueError, match="group 0: needs options"):
        pareto_front(sizes, costs)
