"""The tokenizer that belongs to a model, through transformers; always from local files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError

# What decides how text becomes ids; chat templates and generation settings do not.
DEFINING_FILES = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)


def load_tokenizer(path: str | Path) -> Any:
    """The transformers tokenizer of the files in `path`; raises CheckpointError if there is none."""
    path = Path(path)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(f"{path}: no tokenizer files; expected tokenizer.json or tokenizer.model")
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # transformers raises anything here, from KeyError to a Rust panic's Exception
        raise CheckpointError(
            f"{path}: the tokenizer cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def prepends_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts its BOS token in front of a text."""
    if tokenizer.bos_token_id is None:
        return False
    return list(tokenizer("a").input_ids)[:1] == [tokenizer.bos_token_id]


def end_of_text_ids(path: str | Path, config: dict[str, Any], tokenizer: Any | None = None) -> frozenset[int]:
    """Ids that end a text: of generation_config.json, else the configuration, else the tokenizer.

    Llama 3 chat models end turns with other ids than the tokenizer's EOS, and only generation_config.json
    says so.
    """
    file = Path(path) / "generation_config.json"
    found: Any = None
    if file.is_file():
        try:
            found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{file}: not readable as a JSON object: {error}") from error
    if found is None:
        found = config.get("eos_token_id")
    if found is None and tokenizer is not None:
        found = tokenizer.eos_token_id
    ids = [] if found is None else found if isinstance(found, list) else [found]
    return frozenset(int(i) for i in ids)


def tokenizer_hash(path: str | Path) -> str:
    """SHA-256 over the names and bytes of the files that define the tokenization, in order of name."""
    digest = hashlib.sha256()
    for name in DEFINING_FILES:
        file = Path(path) / name
        if file.is_file():
            data = file.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()
