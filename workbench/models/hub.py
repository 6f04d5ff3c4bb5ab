"""Where a model lives: a folder on this machine, the cache of fetched models, or a repository of the Hugging Face hub.

A name that exists as a folder is that folder. A name of the catalogue is the model that `workbench fetch` put into the
cache. `owner/name` and `owner/name@revision` are otherwise looked up
on the hub, and only what a model needs is downloaded: first the JSON and tokenizer files and `model.safetensors`,
then, where there is no such file, exactly the weight files that they name. Pickled weights are never asked for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from workbench.errors import CheckpointError
from workbench.models.catalogue import catalogue, fetched
from workbench.models.paths import expanded

HUB_ID = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w./-]+))?")

WEIGHTS = "model.safetensors"
#: Endings of files that are models by themselves.
FILES = (".gguf", ".onnx")
INDEX = "model.safetensors.index.json"
DESCRIPTIONS = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "tokenizer/*"]


def is_model_path(path: Path) -> bool:
    """Whether a path is what a model may be here: a folder, or a file that is a model by itself."""
    return path.is_dir() or (path.suffix in FILES and path.exists())


def resolve(path_or_hub_id: str | Path) -> Path:
    """The folder of a model: the given one, that of a fetched one, or a downloaded snapshot of a hub repository; or the
    given GGUF or ONNX file.

    Raises CheckpointError if there is no such folder and the name is neither of the catalogue nor a hub id, the model
    was not fetched, or the hub does not give it.
    """
    text = str(path_or_hub_id)
    folder = expanded(text)
    if text and is_model_path(folder):
        return folder
    if text and folder.exists():
        raise CheckpointError(
            f"{folder} is a file; a model is a folder (with config.json or manifest.json), a .gguf or .onnx file or a "
            "hub id"
        )
    match = HUB_ID.fullmatch(text)
    if not isinstance(path_or_hub_id, Path):
        if text in catalogue():
            return fetched(text)
        if match:
            return download(match["repo"], match["revision"])
    raise CheckpointError(
        f"no folder {text!r}, and it is not a hub id either (allowed: owner/name, owner/name@revision, or a name that "
        "`workbench models` lists)"
    )


def download(repo: str, revision: str | None, into: Path | None = None) -> Path:
    """The folder of a repository's files that a model needs: in the cache of the hub's library, or `into`.

    Raises CheckpointError where the hub does not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    def fetch(patterns: list[str]) -> Path:
        try:
            return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_dir=into))
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            first = reason(repo, error)
            at = f" at revision {revision!r}" if revision else ""
            raise CheckpointError(
                f"no folder {repo!r} here, and the hub does not give the repository {repo!r}{at}: {first}"
            ) from error

    folder = fetch([*DESCRIPTIONS, WEIGHTS])
    more = weight_patterns(folder)
    return fetch([*DESCRIPTIONS, *more]) if more else folder


def reason(repo: str, error: Exception) -> str:
    """Why the hub does not give a repository, in one line."""
    from huggingface_hub.errors import GatedRepoError

    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, GatedRepoError):
        first += f"; accept its licence at https://huggingface.co/{repo}, then: hf auth login"
    return first


def weight_patterns(folder: Path) -> list[str]:
    """Names (or patterns) of the weight files that the descriptions in `folder` ask for, and that are not there."""
    if (folder / "manifest.json").is_file():
        return ["*.wgpu"]
    index = folder / INDEX
    if (folder / WEIGHTS).is_file() or not index.is_file():  # the single file goes first, as in transformers
        return []
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ["model*.safetensors"]  # Checkpoint.open says what is wrong with the index
