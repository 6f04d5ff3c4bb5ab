"""Results that are not finite: an error that names the activation where NaN or an infinity appears first.

Only what a step hands out anyway is looked at. Where that is not finite, the step is run once more from the same
position and its activations are kept, group by group, in the order of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workbench.errors import NonFiniteError

from .activations import float_activations, passes
from .edits import Edits
from .executor import Executor

#: Activations of one more run of a step at most, bytes as f32; more are read in several runs.
PASS_BYTES = 64 << 20
#: The token that an argmax on the device makes of logits that are all NaN.
TOKEN_OF_NAN = 0
F16_MAX = 65504.0


def is_finite(values: np.ndarray) -> bool:
    """Whether a plan's result is made of finite numbers; integers are."""
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def require_finite(
    executor: Executor,
    head: str,
    results: Mapping[str, np.ndarray],
    ids: np.ndarray,
    cache,
    targets,
    edit: Edits | None,
) -> None:
    """Raises `NonFiniteError` unless the results of the step that has just run over `ids` are finite; the cache's
    position is then what it was before the step."""
    plan = executor.plan(head)
    wrong = next((name for name in plan.results if not is_finite(results[name])), None)
    if wrong is None:
        return
    start = cache.position = cache.position - len(ids)
    try:
        found = _first(executor, head, ids, cache, targets, edit)
    finally:
        cache.position = start
    where = f"{wrong.replace('_', ' ')} of tokens {start} to {start + len(ids) - 1} are not finite"
    if found is None:
        raise NonFiniteError(f"{where}, though every activation by itself is; the cache holds what is not")
    name, row, column, value = found
    said = f"{where}; the first activation that is not is {name}: {value} at token {row}, column {column}"
    if plan.buffers[name].dtype == "f16" and np.isinf(value):
        said += f" (f16 ends at {F16_MAX:.0f}; dtype='f32' reaches further)"
    raise NonFiniteError(said)


def _first(
    executor: Executor, head: str, ids: np.ndarray, cache, targets, edit: Edits | None
) -> tuple[str, int, int, float] | None:
    """(name, token, column, value) of the first activation that is not finite, in the order of the plan's calls."""
    plan, start = executor.plan(head), cache.position
    for group in passes(float_activations(plan), len(ids), PASS_BYTES):
        cache.position = start
        kept = executor.run(head, ids, cache, targets, keep=group, edit=edit)
        for name in group:
            rows = kept[name].reshape(len(kept[name]), -1)
            off = ~np.isfinite(rows)
            if off.any():
                row, column = np.argwhere(off)[0]
                return name, start + len(ids) - len(rows) + int(row), int(column), float(rows[row, column])
    return None
