"""What a manifest says of its origin: source with hashes, options, versions, calibration, errors."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.convert.options import ConvertOptions
from workbench.formats.reader import StoredModel
from workbench.known import known
from workbench.models.source import Original
from workbench.models.tokenizer import tokenizer_hash
from workbench.runtime.provenance import versions


def source_hashes(source: Original | StoredModel, given_up: threading.Event | None = None) -> dict[str, str]:
    """SHA-256 by file name; of a stored model the manifest's alone, which holds the checksums of the rest."""
    if isinstance(source, StoredModel):
        manifest = Path(source.path) / "manifest.json"
        return {"manifest.json": hashlib.sha256(manifest.read_bytes()).hexdigest()}
    return source.source_hashes(given_up)


class HashesBeside:
    """Computes `source_hashes` in a thread while the block runs; leaving the block early gives the thread up.

    Hashing a source takes about as long as reading it, and leaves Python free meanwhile.
    """

    def __init__(self, source: Original | StoredModel) -> None:
        self._given_up = threading.Event()
        self._result: dict[str, str] | BaseException | None = None
        self._thread = threading.Thread(target=self._compute, args=(source,))

    def _compute(self, source: Original | StoredModel) -> None:
        try:
            self._result = source_hashes(source, self._given_up)
        except BaseException as error:
            self._result = error

    def result(self) -> dict[str, str]:
        """Waits for the hashes; raises what computing them raised."""
        self._thread.join()
        if isinstance(self._result, BaseException):
            raise self._result
        return known(self._result)

    def __enter__(self) -> HashesBeside:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._given_up.set()


def provenance(
    source: Original | StoredModel,
    hashes: Mapping[str, str],
    options: ConvertOptions,
    skipped: Mapping[str, str],
    seconds: float,
    calibration: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """JSON values. seconds: that the conversion took, in its last run; calibration: the text's record; tensors: what
    is said of single tensors."""
    origin: dict[str, Any] = {
        "name": Path(source.path).name,
        "tokenizer_sha256": tokenizer_hash(source.tokenizer_path),
        "sha256": dict(hashes),
    }
    if isinstance(source, StoredModel):
        origin["provenance"] = source.manifest.get("provenance")
    else:
        origin |= source.origin
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "source": origin,
        "quantizer": options.quantizer,
        "options": options.to_json(),
        "skipped": dict(skipped),
        "seconds": round(seconds, 1),
    }
    if calibration is not None:
        record |= {"calibration": dict(calibration), "tensors": dict(tensors or {})}
    return record
