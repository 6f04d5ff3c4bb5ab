"""A sweep's texts, tokenized once for all workers: a worker that finds them needs no tokenizer.

Loading a tokenizer takes seconds, which is longer than a small cell.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from eval.perplexity import perplexities, perplexity
from eval.protocols import protocol
from eval.result import PerplexityResult
from eval.texts import Tokens, encode
from workbench.errors import SweepError
from workbench.files.reading import open_regular
from workbench.files.writing import written_whole

from .cells import Cell
from .identity import digest
from .store import Store

#: What reading a file raises that was cut short or altered: no archive, no array in it, no such fields.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def tokens_key(identity: dict[str, Any]) -> str:
    """What decides the tokens, from a cell's identity."""
    code = {name: identity["code"][name] for name in ("workbench", "tokenizers")}
    kind = protocol(identity["protocol"]).kind
    return digest({"source": identity["source"], "text": identity["text"], "kind": kind, "code": code})[:24]


def tokens_of(cell: Cell, identity: dict[str, Any], store: Store, model: Any) -> Tokens:
    """The cell's text as its model reads it, from the sweep's folder or else made and left there; what cannot be read
    there is made again.

    Raises SweepError if the text has changed since its hash was taken.
    """
    path = store.tokens(tokens_key(identity))
    if path.is_file():
        with contextlib.suppress(*_UNREADABLE):
            return _load(path)
    text = cell.text.load()
    if text.sha256 != identity["text"]["sha256"]:
        raise SweepError(f"text {cell.text.location}: has changed since the sweep was started")
    tokens = encode(model.tokenizer, text, cell.protocol, separator=cell.text.separator)
    _save(path, tokens)
    return tokens


def _save(path: Path, tokens: Tokens) -> None:
    values = {field.name: getattr(tokens, field.name) for field in dataclasses.fields(tokens)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in values.items() if name not in arrays}
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, plain=json.dumps(plain), **arrays)


def _load(path: Path) -> Tokens:
    with open_regular(path) as file, np.load(file, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "plain"}
        return Tokens(**arrays, **json.loads(str(stored["plain"])))


def score(
    models: dict[str, Any],
    tokens: Tokens,
    cell: Cell,
    progress: Any,
    *,
    baseline: PerplexityResult | None = None,
) -> PerplexityResult:
    """The result of "model" of `models`: alone, against "baseline" of `models`, or against an earlier result.

    Evaluation compares the tokenizers of models and tokens by loading them. Here they are the same by the hash of the
    files that they come from, so the comparison is left out and the hash put into the result.
    """
    bare = dataclasses.replace(tokens, tokenizer_sha256=None)
    common = {"max_windows": cell.max_windows, "progress": progress}
    if baseline is not None:
        baseline = dataclasses.replace(baseline, tokenizer_sha256=None)
        result = perplexity(models["model"], bare, cell.protocol, baseline=baseline, **common)
    else:
        name = "baseline" if "baseline" in models else None
        result = perplexities(models, bare, cell.protocol, baseline=name, **common)["model"]
    return dataclasses.replace(result, tokenizer_sha256=tokens.tokenizer_sha256)
