"""A model in an ONNX file whose products are MatMulNBits, as a checkpoint like any other: config.json says what it is,
the graph where its weights are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.models.architecture import Architecture
from workbench.models.checkpoint import Checkpoint
from workbench.models.checkpoint_files import is_there
from workbench.models.families import architecture_of
from workbench.models.foreign import onnx_weights
from workbench.models.foreign.onnx_file import Initializer, OnnxFile, open_onnx
from workbench.models.foreign.packed import Headers
from workbench.models.foreign.packed_checkpoint import PackedCheckpoint

#: Families whose graphs hold the weights of their checkpoints as they are.
KNOWN = ("llama", "mistral", "qwen2", "qwen3")
#: The folder of a repository that Optimum puts its files into, config.json beside it.
FOLDER = "onnx"


class OnnxModel(PackedCheckpoint):
    """Made by `open_file`, as a Checkpoint. path: the folder of config.json."""

    def __init__(self, path: Path, config: dict, file: OnnxFile) -> None:
        self._initializers: dict[str, tuple[Initializer, bool]] = {
            name: (tensor, False) for name, tensor in file.initializers.items()
        }
        weights = onnx_weights.plain(file)
        headers = {name: (tensor.shape, tensor.dtype) for name, (tensor, _) in self._initializers.items()}
        for name, weight in weights.items():
            tensor = file.initializers[weight.initializer]
            self._initializers[name] = tensor, weight.transposed
            headers[name] = tensor.shape[:: -1 if weight.transposed else 1], tensor.dtype
        own = file.path.relative_to(path).as_posix()
        super().__init__(path, config, dict.fromkeys(self._initializers, own), headers)
        self._optional = (
            *Checkpoint._optional,
            *(each.relative_to(path).as_posix() for each in file.data_files),
        )
        self._file, self._plain = file, weights
        self.origin = {"onnx": {"producer": file.producer, "file": own}}

    def weight_files(self) -> list[Path]:
        """The ONNX file, and those beside it that hold its weights."""
        return [*super().weight_files(), *self._file.data_files]

    @classmethod
    def open_file(cls, path: Path) -> OnnxModel:
        """An ONNX file, with config.json beside it or, of a folder `onnx`, above.

        Raises CheckpointError, UnsupportedModelError, and WorkbenchError where the package onnx is missing.
        """
        folder = path.parent
        if not is_there(folder / "config.json") and folder.name == FOLDER:
            folder = folder.parent
        if not is_there(folder / "config.json"):
            raise CheckpointError(
                f"{path}: config.json is missing beside it; onnxruntime-genai's model builder writes none: copy that "
                "of the model that it was given"
            )
        config = cls._config(folder)
        if (kind := config.get("model_type")) not in KNOWN:
            allowed = ", ".join(map(repr, KNOWN))
            raise UnsupportedModelError(
                f"{path}: model_type of config.json is {kind!r}; allowed of ONNX: {allowed}"
            )
        architecture_of(config)
        opened = cls(folder, config, open_onnx(path))
        opened._select([])
        return opened

    def _select(self, notes: list[str]) -> None:
        self._parts = {}
        where = str(self._file.path)
        headers = Headers(dict(self._headers), where, self._part)
        self._assemble(dict(onnx_weights.packed(self._file, headers)))
        if not self._parts:
            raise UnsupportedModelError(
                f"{where}: no product of it is a MatMulNBits, the quantized form that is read"
            )
        # What is left are the model's tensors, under its own names.
        self._headers = {n: each for n, each in self._headers.items() if n in self._parts or n in self._plain}
        super()._select([*self._said(), *notes])

    def _stacks(self, model: Architecture) -> dict[str, tuple[str, ...]]:
        found = dict(super()._stacks(model))
        for name in [name for name in self._headers if ".qkv_proj." in name]:
            found.setdefault(name, tuple(name.replace("qkv_proj", f"{each}_proj") for each in "qkv"))
        unknown = [each for parts in found.values() for each in parts if each not in model.tensors()]
        if unknown:
            raise UnsupportedModelError(
                f"{self.path}: {model.family} has no {unknown[0]!r}, which the graph stacks"
            )
        return found

    def _values(self, file: str, framework: str, name: str, rows: slice | None):
        import torch

        name, rows = self._rows_of(name, rows)
        tensor, transposed = self._initializers[name]
        values = tensor.values()
        values = values.T if transposed else values
        values = np.array(
            values if rows is None else values[rows], order="C"
        )  # of its own: the file's are mapped
        if framework == "np":
            return values
        if tensor.dtype == "BF16":
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)


def onnx_in(folder: Path) -> Path | None:
    """The ONNX file of a folder, or of its folder `onnx`. Raises CheckpointError where there are several."""
    found = sorted(folder.glob("*.onnx")) or sorted((folder / FOLDER).glob("*.onnx"))
    if len(found) > 1:
        names = ", ".join(each.relative_to(folder).as_posix() for each in found[:4])
        raise CheckpointError(f"{folder}: several ONNX files ({names}); name one")
    return found[0] if found else None
