"""The files of a Hugging Face checkpoint: config.json, the index, and the headers of safetensors."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from safetensors import SafetensorError, safe_open

from workbench.errors import CheckpointError
from workbench.files.reading import is_regular, open_regular, read_text, require_regular
from workbench.models.contents import Header
from workbench.models.hub import INDEX, WEIGHTS
from workbench.models.keys import shown


def sha256_of(path: Path, given_up: threading.Event | None) -> str:
    """Of a file, in hex. Raises InterruptedError once `given_up` is set."""
    digest, chunk = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open_regular(path) as stream:
        while count := stream.readinto(chunk):
            if given_up is not None and given_up.is_set():
                raise InterruptedError(f"hashing {path} was given up")
            digest.update(chunk[:count])
    return digest.hexdigest()


def read_header(path: Path) -> dict[str, Header]:
    """Shape and type of each tensor of a file, by name. Raises CheckpointError."""
    with open_file(path, "np") as opened:
        slices = ((name, opened.get_slice(name)) for name in opened.keys())  # noqa: SIM118 (no mapping)
        return {name: (tuple(each.get_shape()), each.get_dtype()) for name, each in slices}


def open_file(path: Path, framework: str):
    """A file of safetensors; framework: "np" or "pt". Raises CheckpointError for what is none."""
    try:
        return safe_open(str(require_regular(path)), framework=framework)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {str(error)[:300]}") from error


def is_file_name(name: object) -> TypeGuard[str]:
    """Whether what a checkpoint says is the name of a file of one folder, which any system can have and show.

    The names of today's file systems end at 255 bytes.
    """
    return (
        isinstance(name, str)
        and name.isprintable()
        and name not in ("", ".", "..")
        and Path(name).name == name
        and len(name.encode()) <= 255
    )


def is_there(path: Path) -> bool:
    """Whether a file is; a CheckpointError for a folder, a FIFO or a device in its place, which is no absence."""
    try:
        return is_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file of a checkpoint; raises CheckpointError naming the file for all that is none."""
    try:
        value = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: the file is missing; a checkpoint has config.json beside its weights"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def read_index(path: Path) -> dict[str, str]:
    """The file of each tensor, by the index of a folder. Raises CheckpointError for one that leads out of it."""
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path / INDEX}: field 'weight_map' must be a non-empty object of tensor: file name"
        )
    for name, file in weight_map.items():
        # Judged by the name alone: files in the hub's cache are links that lead elsewhere rightly.
        pure = PurePosixPath(
            file if isinstance(file, str) else "/"
        )  # what is not a name counts as one that leads out
        inside = all(map(is_file_name, pure.parts)) and "\\" not in file and ":" not in file
        if not inside or pure.suffix != ".safetensors":
            raise CheckpointError(
                f"{path / INDEX}: tensor {name!r} points to {shown(file)}; "
                f"allowed is a .safetensors file inside the folder"
            )
    return weight_map


def require_shards(path: Path, weight_map: dict[str, str]) -> None:
    """Raises CheckpointError naming a file of the index that is missing."""
    for name, file in weight_map.items():
        if not is_there(path / file):
            raise CheckpointError(
                f"{path / INDEX}: tensor {name!r} is in the shard {file!r}, which is missing"
            )


def why_no_weights(path: Path) -> str:
    """What to say of a folder without weights."""
    pickled = sorted(p.name for pattern in ("*.bin", "*.pth", "*.pt") for p in path.glob(pattern))
    if pickled:
        return (
            f"{path}: only pickled weights ({', '.join(pickled[:3])}), never loaded because a pickle "
            "can run code. Save them as safetensors where you trust them: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, safe_serialization=True)"
        )
    return f"{path}: no weights; expected {WEIGHTS}, or shards with {INDEX}"
