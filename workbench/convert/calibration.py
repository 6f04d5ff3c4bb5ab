"""Calibration text: its windows of tokens, and the record by which they can be known again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.overlap import fingerprint
from eval.texts import Text, Tokens, encode, load_text
from workbench.assets import STORY_SEPARATOR, calibration_text, evaluation_text
from workbench.errors import WorkbenchError

#: A text of which one token makes up so much teaches a quantizer little of any other text.
MONOTONOUS = 0.9
#: Texts that come with the project, by the names that users type.
EMBEDDED = {"calibration": calibration_text, "evaluation": evaluation_text}


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
            text = replace(load_text(EMBEDDED[self.text]()), separator=STORY_SEPARATOR)
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
    """Windows of token ids int64 [n, T], with what identifies them as JSON values."""

    ids: np.ndarray = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()


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
    drawn = np.sort(np.random.default_rng(options.seed).permutation(available)[:count])
    ids = tokens.ids[: available * length].reshape(available, length)[drawn]
    notes += _monotony(ids, tokens.bos)
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
    return Calibration(ids, record, tuple(notes))


def _monotony(ids: np.ndarray, bos: int | None) -> list[str]:
    """A note if almost all tokens are one and the same, those apart that begin documents."""
    rest = ids[ids != bos] if bos is not None else ids.reshape(-1)
    found, counts = np.unique(rest, return_counts=True)
    if not found.size:
        return [f"all {ids.size:,} tokens of the calibration text are BOS: nothing can be learned from them"]
    share = counts.max() / rest.size
    if share < MONOTONOUS:
        return []
    which = f"token {int(found[counts.argmax()])}"
    said = f"all {rest.size:,} tokens are {which}" if share == 1 else f"{share:.0%} of the tokens are {which}"
    return [f"{said}: what a quantizer learns from such a calibration text holds for no other text"]
