"""Lines on stderr that stand apart from progress bars; tqdm is touched only where something else has loaded it."""

from __future__ import annotations

import sys


def line(text: str) -> None:
    """A line on stderr of its own: above a bar that is open, not behind it."""
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)


def end_bars() -> None:
    """Close the bars that a failure has left open, so that what says why begins a line."""
    if tqdm := sys.modules.get("tqdm"):
        for bar in list(tqdm.tqdm._instances):
            bar.close()
