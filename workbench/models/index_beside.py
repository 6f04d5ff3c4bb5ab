"""An index of shards beside a `model.safetensors`: two checkpoints in one folder.

transformers reads the single file, other programs the shards. Where both hold the same it does not matter; where they
differ, one of them is a leftover and nobody can say which is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from workbench.errors import CheckpointError
from workbench.models.contents import Header, some
from workbench.models.hub import INDEX, WEIGHTS


def compare_index(
    path: Path,
    single: Mapping[str, Header],
    weight_map: Mapping[str, str],
    read_header: Callable[[Path], dict[str, Header]],
) -> list[str]:
    """Notes on an index that stands beside `model.safetensors`, whose headers are `single`; nothing of it is used.

    Raises CheckpointError if its shards are there and differ from the single file.
    """
    files = sorted(set(weight_map.values()) - {WEIGHTS})
    missing = [file for file in files if not (path / file).is_file()]
    if missing:
        return [f"read from {WEIGHTS}: the index beside it names {some(missing)}, which are not there"]
    headers = {file: read_header(path / file) for file in files}
    for name in sorted(set(single) ^ set(weight_map)):
        _refuse(path, f"only {'the single file' if name in single else 'the index'} has {name!r}")
    for name, file in weight_map.items():
        if file == WEIGHTS:
            continue
        if headers[file].get(name) != single[name]:
            _refuse(path, f"shape or dtype of {name!r} differ")
        if not _same_bytes(path, file, name):
            _refuse(path, f"the values of {name!r} differ")
    return []


def _same_bytes(path: Path, file: str, name: str) -> bool:
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with (
            safe_open(str(path / WEIGHTS), framework="pt") as one,
            safe_open(str(path / file), framework="pt") as other,
        ):
            pair = [opened.get_tensor(name).contiguous().reshape(-1) for opened in (one, other)]
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: tensor {name!r} cannot be read: {error}") from error
    return torch.equal(*(each.view(torch.uint8) for each in pair))


def _refuse(path: Path, what: str) -> None:
    raise CheckpointError(
        f"{path}: {WEIGHTS} and the shards of {INDEX} are two different checkpoints "
        f"({what}); transformers reads {WEIGHTS}. Remove the one that is not meant"
    )
