"""What makes a figure doubtful, said so that a reader learns what to do about it.

Results keep what holds of them (`PerplexityResult.warnings`) and show it; here are the words, and `advise`, which says
them as Python warnings of one class, `WorkbenchWarning`, each once.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from eval.report import count_text
from eval.statistics import tokens_to_tell
from workbench.errors import WorkbenchWarning

if TYPE_CHECKING:
    from eval.result import PerplexityResult

#: What texts have between documents; a tokenizer that knows one as a token of its own is fed no characters of it.
MARKS = ("<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "</s>", "<s>", "<eos>", "<bos>")
#: A difference of so many standard errors is told apart from none.
TOLD = 2.0


def left_marks(content: str, tokenizer: Any) -> str | None:
    """Of a text that is read without a separator: which marks between documents would be scored as characters."""
    own = getattr(tokenizer, "get_added_vocab", dict)()
    found = {mark: content.count(mark) for mark in MARKS if mark not in own and mark in content}
    if not found:
        return None
    said = ", ".join(f"{mark} {count} time{'s' if count > 1 else ''}" for mark, count in found.items())
    mark = next(iter(found))
    return (
        f"the text holds {said}, which the tokenizer reads as characters like any others; give it as the separator "
        f"(separator={mark!r}, --separator '{mark}'), or take it out"
    )


def other_precision(own: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Of the provenance of a model and of its baseline: that they ran in different precisions; None where unknown."""
    ways = [[each.get("activations"), each.get("cache")] for each in (own, other)]
    if None in (*ways[0], *ways[1]) or ways[0] == ways[1]:
        return None
    mine, others = (f"{activations} activations and {cache} cache" for activations, cache in ways)
    return (
        f"the model ran with {mine}, its baseline with {others}: what is paired is the cost of the format and of the "
        "precision together (baseline_dtype and baseline_cache, --baseline-dtype and --baseline-cache, give the "
        "baseline the same)"
    )


def few_tokens(result: PerplexityResult) -> str | None:
    """Of a result with a baseline: that its change cannot be told from none, and how many tokens it would take.

    By the larger of the plain and the clustered error of ln(PPL / PPL of the baseline); a change of less than `TOLD` of
    them. None where the change is told, or where there is none at all.
    """
    found = result.baseline
    if found is None:
        return None
    se = found.ln_ratio_error
    if not abs(found.ln_ratio) < TOLD * se:  # told, or without an error
        return None
    change, error = 100 * math.expm1(found.ln_ratio), 100 * math.exp(found.ln_ratio) * se
    digits = max(0, 1 - math.floor(math.log10(error)))
    needed = tokens_to_tell(result.tokens_scored, found.ln_ratio, se, TOLD)
    whole = result.windows == result.windows_available
    how = "a longer text" if whole else "more windows"
    more = "" if needed is None else f"; about {count_text(needed)} would ({how})"
    return (
        f"{result.tokens_scored:,} tokens are too few to tell the change of the perplexity, "
        f"{change:+.{digits}f} ± {error:.{digits}f} %, from none{more}"
    )


def advise(messages: Iterable[str], *, shown: bool = False) -> None:
    """Say each message once, as a WorkbenchWarning where `workbench` was called from.

    shown: the result that they are of shows them, so that a notebook need not have them twice.
    """
    if shown and _in_notebook():
        return
    for message in dict.fromkeys(messages):
        warnings.warn(message, WorkbenchWarning, stacklevel=_outside())


def _outside() -> int:
    """How far up the first frame is that is neither ours nor `eval`'s, counted from `advise`; a `with` has a frame of
    contextlib between two of ours."""
    ours = ("eval", "workbench", "contextlib")
    frame, level = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ours:
        frame, level = frame.f_back, level + 1
    return level


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
