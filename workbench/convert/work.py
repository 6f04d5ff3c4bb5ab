"""The work folder of a conversion layer by layer: finished stages, from which a killed run goes on.

A stage leaves two files in `.OUTPUT.work-KEY` beside the output:

    streams-0003.safetensors   hidden states of the calibration windows behind the stage, f32
    stage-0003.safetensors     its tensors, plane by plane, and its record in the header

The second is written last and renamed into place, so that a stage is there whole or not at all; the last stage has
nothing behind it, and no streams. KEY is a hash of
everything that decides the result (options, source, calibration tokens, versions), so that another conversion does
not find these files. The folder is removed when the output is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workbench.errors import WorkbenchError
from workbench.files.locks import lock, unlock
from workbench.files.reading import require_regular
from workbench.files.writing import os_error, storing, written_whole
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, plane_specs


def work_key(facts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the sha256 of JSON values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class WorkFolder:
    """Stages done so far, and where the next one goes. Raises WorkbenchError if another run is at work in it."""

    def __init__(self, output: Path, key: str) -> None:
        self.path = output.parent / f".{output.name}.work-{key}"
        with storing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                (self.path / "lock").touch()
                self._lock = lock(self.path / "lock")
            except BlockingIOError:
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

    def _open(self, kind: str, stage: int):
        return safe_open(str(require_regular(self._file(kind, stage))), framework="np")

    def _read(self, stage: int) -> bool:
        """Take note of a finished stage; False if it is not there."""
        try:
            with self._open("stage", stage) as file:
                described = json.loads(file.metadata()["stage"])
        except (OSError, SafetensorError):
            return False
        for name, tensor in described["tensors"].items():
            self._where[name] = (stage, WeightFormat.from_json(tensor["format"]), tuple(tensor["shape"]))
        self.records.append(described["record"])
        return True

    def streams(self) -> dict[str, np.ndarray]:
        """Hidden states behind the last finished stage, if another one follows."""
        with self._open("streams", self.done - 1) as file:
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
        if streams:
            self._write("streams", stage, streams, {})
        self._write("stage", stage, planes, {"stage": json.dumps({"tensors": described, "record": record})})
        self._read(stage)
        if stage:
            self._file("streams", stage - 1).unlink(missing_ok=True)

    def _write(
        self, kind: str, stage: int, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]
    ) -> None:
        with written_whole(self._file(kind, stage)) as partial:
            try:
                save_file(dict(arrays), partial, metadata=metadata)
            except SafetensorError as error:
                raise os_error(error) from error

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def tensor(self, name: str) -> WeightTensor:
        """A tensor of a finished stage."""
        stage, fmt, shape = self._where[name]
        with self._open("stage", stage) as file:
            planes = {plane: file.get_tensor(f"{name}/{plane}") for plane in plane_specs(shape, fmt)}
        return WeightTensor(name, shape, fmt, planes)

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """The folder stays if this was interrupted; it goes where nothing of it is needed any more, where the same
        input would fail again, and where it would keep a disk full."""
        if kind is None or not self.done or issubclass(kind, WorkbenchError):
            # Without its first stage it is no beginning of anything, should this be killed before the rest is gone.
            self._file("stage", 0).unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)
        unlock(self._lock)
