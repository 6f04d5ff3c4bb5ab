"""Calibration text: its windows of tokens, and the record by which they can be known again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.named_texts import EMBEDDED, embedded_text
from eval.overlap import fingerprint
from eval.texts import Text, Tokens, encode, load_text
from workbench.assets import demo_model_path
from workbench.errors import WorkbenchError
from workbench.models.tokenizer import tokenizer_hash

#: Runs of so many tokens are told apart; a text with a smaller share of different ones says the same over and over.
RUN, MONOTONOUS = 8, 0.1
#: Tokens of a text that are looked at for that.
LOOKED_AT = 1 << 18
#: Tokens to judge a calibrated conversion by, at most.
CHECK_TOKENS = 512


@dataclass(frozen=True)
class CalibrationOptions:
    """Which tokens calibrate a conversion. Checked when made; raises WorkbenchError.

    text        "calibration" or "evaluation" (embedded stories), or a UTF-8 file
    windows     so many windows, drawn from the disjoint ones of the text without repetition
    length      tokens a window; clipped to the model's context and to the text
    separator   what stands between documents of the text, each of which then begins with BOS
    seed        of the draw
    """

    text: str = "calibration"
    windows: int = 128
    length: int = 2048
    separator: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("windows", 1), ("length", 2), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise WorkbenchError(
                    f"calibration: {name} = {value!r}; allowed: an integer of at least {least}"
                )

    def read(self) -> Text:
        """The text; raises eval's ProtocolError for a file that cannot be read, or is empty or not UTF-8."""
        if self.text in EMBEDDED:
            text = embedded_text(self.text)
        elif not Path(self.text).is_file():
            raise WorkbenchError(
                f"calibration: {self.text!r} is neither a file nor an embedded text; allowed: a file, "
                f"{', '.join(EMBEDDED)}"
            )
        else:
            text = load_text(self.text)
        return text if self.separator is None else replace(text, separator=self.separator)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Windows of token ids int64 [n, T], with what identifies them as JSON values.

    check: a few more int64 [m, T'], of windows that were not drawn where there are any, to judge the outcome by.
    """

    ids: np.ndarray = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()
    check: np.ndarray | None = field(default=None, repr=False)


def load_calibration(options: CalibrationOptions, tokenizer: Any, context_length: int) -> Calibration:
    """Read, tokenize and cut the text for a model.

    The record holds text, sha256 of text and of the windows' tokens, the draw, notes, and the fingerprint by
    which evaluation finds shared passages. Raises WorkbenchError for texts that are missing or too short.
    """
    text = options.read()
    notes = []
    length = min(options.length, context_length)
    if length < options.length:
        notes.append(f"windows of {length} tokens, the model's context, in place of {options.length}")
    tokens = encode(tokenizer, text, f"disjoint-{length}")
    if len(tokens) < length:
        notes.append(f"windows of {len(tokens)} tokens, the whole text, in place of {length}")
        length = len(tokens)
    if length < 2:
        raise WorkbenchError(f"calibration: {text.name} has {length} tokens; at least 2 are needed")
    available = len(tokens) // length
    count = min(options.windows, available)
    if count < options.windows:
        notes.append(f"{count} windows, all of the text, in place of {options.windows}")
    order = np.random.default_rng(options.seed).permutation(available)
    every = tokens.ids[: available * length].reshape(available, length)
    ids = every[np.sort(order[:count])]
    spare = order[count:] if count < available else order
    check = every[spare[: max(1, CHECK_TOKENS // length)], :CHECK_TOKENS]
    notes += _monotony(tokens.ids[:LOOKED_AT], tokens.bos)
    record = {
        "text": text.to_json(),
        "separator": tokens.separator,
        "tokenizer_sha256": tokens.tokenizer_sha256,
        "windows": count,
        "windows_available": available,
        "length": length,
        "seed": options.seed,
        "tokens_sha256": Tokens(ids.reshape(-1)).sha256,
        "notes": notes,
        "fingerprint": fingerprint(ids),
    }
    return Calibration(ids, record, tuple(notes), check)


def of_other_words(options: CalibrationOptions, tokenizer_path: str | Path) -> str | None:
    """What is to be said where embedded stories calibrate another model than the embedded one, by its tokenizer."""
    if options.text not in EMBEDDED or tokenizer_hash(tokenizer_path) == tokenizer_hash(demo_model_path()):
        return None
    return (
        f"calibration on the embedded text {options.text!r}, children's stories as the embedded model writes them: a "
        "model of other texts keeps more where it learns from such as it is for (calibration, --calibration FILE)"
    )


def _monotony(ids: np.ndarray, bos: int | None) -> list[str]:
    """A note if the tokens ids [T] say the same over and over. A BOS apart, they may even be all alike."""
    rest = ids[ids != bos] if bos is not None else ids
    if not rest.size:
        said = f"all {ids.size:,} tokens are BOS"
    elif (rest == rest[0]).all():
        said = f"all {rest.size:,} tokens are alike (id {int(rest[0])})"
    else:
        runs = np.lib.stride_tricks.sliding_window_view(ids, min(RUN, len(ids)))
        weights = np.random.default_rng(0).integers(1, 1 << 62, runs.shape[1], np.int64)
        hashes = runs @ weights  # wraps around, which is as good
        distinct = len(np.unique(hashes))
        if distinct >= MONOTONOUS * hashes.size:
            return []
        said = f"its tokens repeat themselves ({distinct:,} different runs of {runs.shape[1]} among {hashes.size:,})"
    return [f"calibration text: {said}; what a quantizer learns from it holds for no other text"]
