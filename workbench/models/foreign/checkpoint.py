"""A Hugging Face checkpoint whose matrices are quantized: `quantization_config` in config.json (`quantization`, of MLX)
says by whom and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError
from workbench.models.checkpoint import Checkpoint
from workbench.models.checkpoint_files import is_there, read_json
from workbench.models.foreign import awq, bitsandbytes, compressed_tensors, gptq, hqq, mlx
from workbench.models.foreign.packed import Headers, Packed, wrong_value
from workbench.models.foreign.packed_checkpoint import Found, PackedCheckpoint

Find = Callable[[Headers, Mapping[str, Any]], Iterator[tuple[str, Packed]]]
KEY = "quantization_config"
#: AutoGPTQ's own file, which stands beside config.json, or in place of its key.
BESIDE = "quantize_config.json"
#: `packing_format` of AutoRound -> the layout that it is, and its version.
AUTO_ROUND: dict[str, tuple[Find, dict[str, str]]] = {
    "auto_round": (gptq.find, {"checkpoint_format": "gptq_v2"}),
    "auto_round:gptqmodel": (gptq.find, {"checkpoint_format": "gptq_v2"}),
    "auto_round:auto_gptq": (gptq.find, {"checkpoint_format": "gptq"}),
    "auto_round:gptq": (gptq.find, {"checkpoint_format": "gptq"}),
    "auto_round:auto_awq": (awq.find, {"version": "gemm"}),
    "auto_round:awq": (awq.find, {"version": "gemm"}),
    "auto_round:llm_compressor": (compressed_tensors.find, {}),
}
#: Keys of AutoRound and GPTQModel that have activations rotated as well, without which the weights are others.
ROTATIONS = ("rotation_config", "spinquant_config", "rotation")
METHODS = ("gptq", "awq", "auto-round", "compressed-tensors", "bitsandbytes", "hqq", mlx.METHOD)
#: Keys of config.json that say how weights are stored, not what they are.
STORAGE = (KEY, mlx.KEY)


def quantization_of(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a checkpoint says of its quantization; None where its weights are floats. Raises CheckpointError."""
    found = config.get(KEY)
    own = config.get(mlx.KEY)
    if isinstance(own, dict) and not (isinstance(found, dict) and "quant_method" in found):
        return {**own, "quant_method": mlx.METHOD}
    if found is None and is_there(path / BESIDE):
        return {"quant_method": "gptq", **read_json(path / BESIDE)}
    if found is not None and not isinstance(found, dict):
        raise wrong_value(str(path / "config.json"), KEY, found, "an object")
    return found


def _layout(where: str, config: Mapping[str, Any]) -> tuple[Find, Mapping[str, Any]]:
    """Who finds the matrices of a quantization_config, and what it is to be told. Raises UnsupportedModelError."""
    for key in ROTATIONS:
        if config.get(key) not in (None, False, "", {}):
            raise wrong_value(where, key, config[key], "null: activations are not rotated here")
    method = config.get("quant_method")
    if method is None and (config.get("load_in_4bit") or config.get("load_in_8bit")):
        method = "bitsandbytes"
    if method in ("auto-round", "intel/auto-round"):
        packing = config.get("packing_format") or "auto_round:auto_gptq"
        if not isinstance(packing, str) or packing not in AUTO_ROUND:
            raise wrong_value(where, "packing_format", packing, ", ".join(AUTO_ROUND))
        find, more = AUTO_ROUND[packing]
        return find, {**config, **more}
    finders: dict[Any, Find] = {
        "gptq": gptq.find,
        "awq": awq.find,
        "compressed-tensors": compressed_tensors.find,
        "bitsandbytes": bitsandbytes.find,
        "hqq": hqq.find,
        mlx.METHOD: mlx.find,
    }
    if not isinstance(method, str) or method not in finders:
        raise wrong_value(where, "quant_method", method, ", ".join(METHODS))
    return finders[method], config


class QuantizedCheckpoint(PackedCheckpoint):
    """Made by `open`, as a Checkpoint. origin: for the provenance of what is made of it."""

    _optional = (*Checkpoint._optional, BESIDE)

    def _select(self, notes: list[str]) -> None:
        config = quantization_of(self.path, read_json(self.path / "config.json"))
        assert config is not None, "open_checkpoint looked"
        self.config = {name: value for name, value in self.config.items() if name not in STORAGE}
        self.origin = {KEY: config}
        where = str(self.path)
        find, told = _layout(where, config)
        self._parts: dict[str, Found] = {}
        zeros = self._assemble(dict(find(Headers(dict(self._headers), where, self._part), told)))
        if not self._parts:
            raise CheckpointError(
                f"{where}: {KEY} says {config.get('quant_method')!r}, but no tensor is packed so"
            )
        if find is compressed_tensors.find:
            notes += compressed_tensors.notes(config)
        super()._select([*self._said(), *notes])
        self.unread |= dict.fromkeys(zeros, "zeros beside packed weights, where the model has no bias")

    @classmethod
    def _config(cls, path: Path) -> dict[str, Any]:
        return {name: value for name, value in super()._config(path).items() if name not in STORAGE}


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of floats or of quantized matrices. Raises CheckpointError, UnsupportedModelError."""
    quantized = quantization_of(path, read_json(path / "config.json")) is not None
    return (QuantizedCheckpoint if quantized else Checkpoint).open(path)
