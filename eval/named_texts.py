"""Texts by what a user calls them: a file, a dataset's short name, or a text that comes with the project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eval.texts import DATASETS, Text, Tokens, load_dataset_text, load_text
from workbench.assets import STORY_SEPARATOR, calibration_text, evaluation_text
from workbench.errors import ProtocolError

#: Texts that come with the project, by the names that users type.
EMBEDDED = {"calibration": calibration_text, "evaluation": evaluation_text}


def embedded_text(name: str) -> Text:
    """One of `EMBEDDED`, which knows what stands between its stories."""
    return replace(load_text(EMBEDDED[name]()), separator=STORY_SEPARATOR)


def named_text(text: str | Path | Text | Tokens) -> Text | Tokens:
    """The text that is meant: a UTF-8 file by its path, a dataset by its name (`eval.texts.DATASETS`), one of
    `EMBEDDED`; Text and Tokens come back as they are.

    A file goes before a name. Raises ProtocolError for a string that is none of these (a text itself is given as
    `Text("...")`), and for what cannot be read.
    """
    if isinstance(text, Text | Tokens):
        return text
    if isinstance(text, Path) or Path(text).is_file():
        return load_text(text)
    if text in EMBEDDED:
        return embedded_text(text)
    if text in DATASETS:
        return load_dataset_text(text)
    names = ", ".join([*EMBEDDED, *DATASETS])
    shown = text if len(text) <= 60 else text[:57] + "..."
    raise ProtocolError(
        f"text {shown!r} is neither a file nor a known text; allowed: a file's path, {names}, or the text itself as "
        "eval.texts.Text(...)"
    )
