"""The work folder of a conversion layer by layer: finished stages, from which a killed run goes on.

A stage leaves two files in `.OUTPUT.work-KEY` beside the output:

    streams-0003.safetensors   hidden states of the calibration windows behind the stage, f32
    stage-0003.safetensors     its tensors, plane by plane, and its record in the header

The second is written last and renamed into place, so that a stage is there whole or not at all. KEY is a hash of
everything that decides the result (options, source, calibration tokens, versions), so that another conversion does
not find these files. The folder is removed when the output is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, plane_specs

try:
    import fcntl
except ImportError:  # Windows: two runs with the same output are then not kept apart
    fcntl = None


def work_key(facts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the sha256 of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class WorkFolder:
    """Stages done so far, and where the next one goes. Raises WorkbenchError if another run is at work in it."""

    def __init__(self, output: Path, key: str) -> None:
        self.path = output.parent / f".{output.name}.work-{key}"
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / "lock", "wb")  # noqa: SIM115 (held until close)
        if fcntl is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                raise WorkbenchError(f"{self.path}: another conversion with this output is running") from None
        self.records: list[dict[str, Any]] = []
        self._where: dict[str, tuple[int, WeightFormat, tuple[int, ...]]] = {}
        while self._read(len(self.records)):
            pass

    @property
    def done(self) -> int:
        """Finished stages."""
        return len(self.records)

    def _file(self, kind: str, stage: int) -> Path:
        return self.path / f"{kind}-{stage:04}.safetensors"

    def _read(self, stage: int) -> bool:
        """Take note of a finished stage; False if it is not there."""
        try:
            with safe_open(str(self._file("stage", stage)), framework="np") as file:
                described = json.loads(file.metadata()["stage"])
        except (FileNotFoundError, SafetensorError):
            return False
        for name, tensor in described["tensors"].items():
            self._where[name] = (stage, WeightFormat.from_json(tensor["format"]), tuple(tensor["shape"]))
        self.records.append(described["record"])
        return True

    def streams(self) -> dict[str, np.ndarray]:
        """Hidden states behind the last finished stage."""
        with safe_open(str(self._file("streams", self.done - 1)), framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)

    def commit(
        self, tensors: Iterable[WeightTensor], record: Mapping[str, Any], streams: Mapping[str, np.ndarray]
    ) -> None:
        """Finish the next stage: its tensors, its record (JSON values), the hidden states behind it."""
        stage = self.done
        planes, described = {}, {}
        for tensor in tensors:
            described[tensor.name] = {"format": tensor.format.to_json(), "shape": tensor.shape}
            for plane, values in tensor.planes.items():
                planes[f"{tensor.name}/{plane}"] = np.ascontiguousarray(values)
        self._write("streams", stage, streams, {})
        self._write("stage", stage, planes, {"stage": json.dumps({"tensors": described, "record": record})})
        self._read(stage)
        if stage:
            self._file("streams", stage - 1).unlink(missing_ok=True)

    def _write(
        self, kind: str, stage: int, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]
    ) -> None:
        path = self._file(kind, stage)
        partial = path.with_suffix(".part")
        save_file(dict(arrays), partial, metadata=metadata)
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def tensor(self, name: str) -> WeightTensor:
        """A tensor of a finished stage."""
        stage, fmt, shape = self._where[name]
        with safe_open(str(self._file("stage", stage)), framework="np") as file:
            planes = {plane: file.get_tensor(f"{name}/{plane}") for plane in plane_specs(shape, fmt)}
        return WeightTensor(name, shape, fmt, planes)

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The folder stays if this was interrupted or failed for want of something; it goes where nothing of it is
        needed any more, or the same input would fail again."""
        if kind is None or not self.done or issubclass(kind, WorkbenchError):
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()
