"""One file of named arrays with a checked header: what results and baselines are kept in.

A safetensors file whose metadata holds a JSON record (`kind`, `version`, whatever the caller adds) and a sha256 over
that record and every array. It is written whole or not at all, and read whole or not at all: a file that was
truncated, altered or made for something else is refused with a ProtocolError that says so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import ProtocolError
from workbench.files.reading import open_regular, read_bytes
from workbench.files.writing import write_bytes

VERSION = 1
_RECORD, _CHECKSUM = "workbench.record", "workbench.sha256"


def write_arrays(
    path: str | Path, kind: str, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write a file of this kind, replacing an older one only when it is complete.

    record: JSON values; non-finite numbers are kept. Raises StorageError where it cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps({"kind": kind, "version": VERSION, **record})
    write_bytes(path, save(arrays, {_RECORD: text, _CHECKSUM: _digest(text, arrays)}))


def read_arrays(
    path: str | Path, kind: str, wanted: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(record, arrays) of a file that `write_arrays` made for this kind.

    wanted: array name -> dtypes it may have, such as "int64" or "uint16 uint32". Raises ProtocolError for anything
    else: a missing, cut, altered or foreign file, another kind or version, missing arrays or other dtypes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    try:
        data = read_bytes(path)
        arrays = load(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
        text = metadata[_RECORD]
        record = json.loads(text)
    except OSError as error:
        raise ProtocolError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise ProtocolError(f"{path}: not a stored {kind}, or cut short ({error})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{path}: not a stored {kind} (it has no such record)") from error
    if metadata.get(_CHECKSUM) != _digest(text, arrays):
        raise ProtocolError(f"{path}: its checksum does not match; the file was altered after it was written")
    found = (
        (record.pop("kind", None), record.pop("version", None)) if isinstance(record, dict) else (None, None)
    )
    if found != (kind, VERSION):
        raise ProtocolError(
            f"{path}: holds a {found[0]!r} of version {found[1]!r}; allowed here: a {kind!r} of version {VERSION}"
        )
    if set(arrays) != set(wanted):
        raise ProtocolError(f"{path}: holds the arrays {sorted(arrays)}; a {kind} has {sorted(wanted)}")
    for name, dtypes in wanted.items():
        if str(arrays[name].dtype) not in dtypes.split():
            raise ProtocolError(f"{path}: array {name!r} is {arrays[name].dtype}; allowed: {dtypes}")
    return record, arrays


def kind_of(path: str | Path) -> str | None:
    """The kind that a file says it is, None for anything that says nothing; nothing else is checked."""
    try:
        with open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, 100 << 20)))
        return json.loads(header["__metadata__"][_RECORD])["kind"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.data.cast("B") if array.size else b"")
    return digest.hexdigest()
