"""The tokenizer that belongs to a model, through transformers; always from local files, whose code is never run."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError
from workbench.models.checkpoint_files import read_json
from workbench.models.keys import Key, read_keys
from workbench.models.pretrained_keys import TOKEN_IDS

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


#: What transformers reads a `tokenizer.model` with: package -> the module that is looked for.
SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}

#: Keys that say which ids end a text, in config.json and in generation_config.json.
_ENDS = (Key("eos_token_id", TOKEN_IDS, None),)


def load_tokenizer(path: str | Path) -> Any:
    """The transformers tokenizer of the files in `path`; raises CheckpointError if there is none.

    Code that comes with the files (`auto_map`) is not run, whatever a user answers: a tokenizer that needs it is
    refused.
    """
    path = Path(path)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise CheckpointError(f"{path}: no tokenizer files; expected tokenizer.json or tokenizer.model")
    if (path / "tokenizer.model").is_file() and not (path / "tokenizer.json").is_file():
        _require_sentencepiece(path)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        tokenizer("a")  # some that load cannot encode
    except BaseException as error:  # transformers raises anything here, and a panic in Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{path}: the tokenizer cannot be loaded: tokenizer_config.json asks for code of its own (auto_map), "
                "which is never run here; a tokenizer.json that needs none is"
            ) from error
        raise CheckpointError(
            f"{path}: the tokenizer cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return tokenizer


def _require_sentencepiece(path: Path) -> None:
    missing = []
    for package, module in SENTENCEPIECE.items():
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise CheckpointError(
            f"{path}: tokenizer.model alone is read with {' and '.join(SENTENCEPIECE)}; missing: "
            f"{', '.join(missing)} (pip install {' '.join(missing)}). A tokenizer.json needs neither"
        )


def prepends_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself puts its BOS token in front of a text."""
    if tokenizer.bos_token_id is None:
        return False
    return list(tokenizer("a").input_ids)[:1] == [tokenizer.bos_token_id]


def end_of_text_ids(path: str | Path, config: dict[str, Any], tokenizer: Any | None = None) -> frozenset[int]:
    """Ids that end a text: of generation_config.json, else the configuration, else the tokenizer.

    Llama 3 chat models end turns with other ids than the tokenizer's EOS, and only generation_config.json
    says so. Raises CheckpointError or UnsupportedModelError naming the file for what is no id or list of ids.
    """
    file = Path(path) / "generation_config.json"
    found: Any = None
    if file.is_file():
        found = read_keys(read_json(file), _ENDS, str(file))[0]["eos_token_id"]
    if found is None:
        found = read_keys(config, _ENDS, "config.json")[0]["eos_token_id"]
    if found is None and tokenizer is not None:
        found = tokenizer.eos_token_id
    return frozenset([] if found is None else found if isinstance(found, list) else [found])


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
