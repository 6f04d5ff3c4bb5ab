"""A bar over the windows of a run, on a terminal or in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from eval.perplexity import RunProgress


def window_bar(
    what: str, *, leave: bool = True, finished: Callable[[Mapping[str, str]], None] = lambda found: None
) -> RunProgress:
    """A function for `perplexities` to call: the bar shows each model's perplexity so far.

    leave: the bar stays when it is full. finished: called then, with the perplexities by model.
    """
    from tqdm.auto import tqdm

    bar = tqdm(desc=what, unit="window", leave=leave)
    found: dict[str, str] = {}

    def told(done: int, total: int, name: str, nll: float) -> None:
        bar.total = total
        found[name] = f"{np.exp(nll):.3f}"
        bar.set_postfix(found, refresh=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()
            finished(found)

    return told
