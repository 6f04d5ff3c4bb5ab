"""Writing a model in the layouts of others, where they hold exactly what it holds; whole or not at all.

    hf                   safetensors of floats; integers as f32, which holds every s (q - z) exactly
    compressed-tensors   pack-quantized; embeddings, and matrices that are floats, stay floats
    gptq                 all linear layers of the decoder in one format, scales in f16
    gguf                 Q4_0, Q8_0 and floats (`export_gguf`)
    onnx                 MatMulNBits, and floats in f32 (`export_onnx`)

What a target cannot hold is refused before anything is written, with what would fit.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import OutputExistsError, WorkbenchError
from workbench.files.folders import Partial
from workbench.files.writing import flush, json_bytes, storing
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.families import architecture_of
from workbench.models.float_checkpoint import (
    floats_of,
    tokenizer_files,
    write_floats,
    write_safetensors,
)
from workbench.models.foreign import TARGETS, compressed_tensors, export_gguf, export_onnx, gptq
from workbench.models.orders import InPlace, order_of
from workbench.models.source import Source

#: Targets that have mixtures of experts.
OF_EXPERTS = ("hf", "gguf")
#: Targets whose readers, or whose floats, have columns in any order.
OF_ORDERS = ("hf", "gptq")
#: Made of a matrix: its tensors by what stands behind the module's name.
Pack = Callable[[WeightTensor], Mapping[str, np.ndarray]]


def export(
    source: Source,
    target: str,
    output: str | Path,
    *,
    floats: str | None = None,
    activations: str = "f32",
    overwrite: bool = False,
) -> list[str]:
    """Write a model as a folder, or for gguf as a file; returns the names of what was written.

    target: one of `TARGETS`. floats: "f32", "f16" or "bf16" for what stays or becomes floats, rounded to it; None for
    the own type of floats, and f32 for integers, which rounds nothing. activations: "f32", or for onnx "int8": what its
    products with integers are asked to compute with. Raises WorkbenchError for what the target cannot hold,
    OutputExistsError, StorageError.
    """
    if target not in TARGETS:
        raise WorkbenchError(f"export: target = {target!r}; allowed: {', '.join(TARGETS)}")
    allowed = tuple(export_onnx.LEVELS) if target == "onnx" else ("f32",)
    if activations not in allowed:
        raise WorkbenchError(
            f"export: activations = {activations!r}; allowed of {target}: {', '.join(allowed)}"
        )
    model = architecture_of(source.config)
    if target not in OF_ORDERS and model.orders:
        raise WorkbenchError(
            f"export: {target} of {source.path}: columns of {len(model.orders)} matrices are grouped in an order of "
            f"their own (act-order), such as those of {next(iter(model.orders))}; what fits: --to "
            f"{' or '.join(OF_ORDERS)}"
        )
    if target not in OF_EXPERTS and model.gathered():
        raise WorkbenchError(
            f"export: {target} of {source.path}: its readers want experts in layouts of their own; what fits: --to "
            f"{' or '.join(OF_EXPERTS)}"
        )
    output = Path(output)
    if output.exists() and (not overwrite or output.resolve() == Path(source.path).resolve()):
        why = "give overwrite=True to replace it" if not overwrite else "it is what would be read"
        raise OutputExistsError(f"{output} exists; {why}", output)
    if target == "gguf":
        export_gguf.write_gguf(source, output, floats)
        return [output.name]
    if output.exists() and not (output / "config.json").is_file():
        raise OutputExistsError(f"{output} holds no config.json, so it is not replaced")
    if target == "onnx":
        export_onnx.check(source, floats)
    plan = {"gptq": _gptq, "compressed-tensors": _compressed}.get(target)
    packing = None if plan is None else plan(source)  # refuses before anything is written
    partial = Partial(output.absolute())
    try:
        with storing(output):
            if target == "onnx":
                written = export_onnx.write_onnx(source, partial.path, activations)
            elif packing is None:
                written = write_floats(InPlace(source, model.orders), partial.path, floats)
            else:
                written = _write_packed(source, partial.path, *packing, floats)
            for name in written:
                flush(partial.path / name)
        partial.put_in_place()
    except BaseException:
        partial.remove()
        raise
    return written


def _write_packed(
    source: Source, folder: Path, config: Mapping[str, Any], packs: Mapping[str, Pack], floats: str | None
) -> list[str]:
    """A checkpoint with a quantization_config, some of whose matrices are packed."""
    import torch

    plain = InPlace(source, architecture_of(source.config).orders)

    def make(name: str) -> dict[str, Any]:
        if name not in packs:
            return {name: floats_of(plain, name, floats)}
        module = name.removesuffix(".weight")
        parts = packs[name](source.tensor(name))
        return {
            f"{module}.{part}": torch.from_numpy(np.array(values, order="C"))
            for part, values in parts.items()
        }

    described = plain.config | {"quantization_config": config, "dtype": "float16"}
    files = {"config.json": json_bytes(described), **tokenizer_files(source)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sizes = {name: 4 * math.prod(plain.describe(name)[0]) for name in plain.names()}
    return [*files, *write_safetensors(folder, sizes, make)]


def _linear(source: Source) -> dict[str, WeightFormat]:
    """Formats of the matrices of linear layers by name: all but an embedding that is looked up."""
    model = architecture_of(source.config)
    described = {name: source.describe(name) for name in source.names() if name != model.embedding}
    return {name: fmt for name, (shape, fmt) in described.items() if len(shape) == 2}


def _unsigned(tensor: WeightTensor) -> tuple[np.ndarray, np.ndarray]:
    """q, uint8 [rows, columns], and zero-points, uint8 [rows, blocks], both from 0 up."""
    shift = 128 if tensor.format.dtype == "int8" else 0
    q = tensor.quants()[:, : tensor.shape[1]].astype(np.int16) + shift
    shape = tensor.format.scale_shape(*tensor.shape)
    zeros = np.broadcast_to(tensor.zero_points() + shift, shape)
    return q.astype(np.uint8), _by_row(tensor, zeros).astype(np.uint8)


def _by_row(tensor: WeightTensor, plane: np.ndarray) -> np.ndarray:
    """Scales or zeros [rows, blocks], where one may stand for the whole matrix."""
    return np.broadcast_to(plane, (tensor.shape[0], plane.shape[1]))


def _refuse(source: Source, name: str, target: str, why: str, fits: str) -> WorkbenchError:
    return WorkbenchError(
        f"export: {target} cannot hold {name} ({source.describe(name)[1]}): {why}; what fits: {fits}"
    )


def _check_packable(source: Source, name: str, target: str) -> None:
    (_, columns), fmt = source.describe(name)
    fits = "formats with whole zero-points (z0) whose blocks divide the rows, such as int4/32"
    if fmt.offset:
        raise _refuse(source, name, target, "it has offsets in place of zero-points", fits)
    if fmt.zero_frac_bits:
        raise _refuse(source, name, target, "its zero-points have fractions", fits)
    if fmt.granularity == "block" and columns % fmt.block(columns):
        raise _refuse(source, name, target, f"its blocks do not divide rows of {columns}", fits)


def _compressed(source: Source) -> tuple[dict[str, Any], dict[str, Pack]]:
    """quantization_config and how each packed matrix is made. Raises WorkbenchError."""
    groups: dict[WeightFormat, list[str]] = {}
    ignored = []
    for name, fmt in _linear(source).items():
        if fmt.is_quantized:
            _check_packable(source, name, "compressed-tensors")
            groups.setdefault(fmt, []).append(name)
        else:
            ignored.append(name.removesuffix(".weight"))
    if not groups:
        raise WorkbenchError("export: no matrix is quantized; what fits: --to hf")
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ignored,
        "config_groups": {
            f"group_{number}": {
                "targets": [name.removesuffix(".weight") for name in names],
                "weights": {
                    "num_bits": fmt.bits,
                    "type": "int",
                    "symmetric": fmt.symmetric,
                    "strategy": "group" if fmt.granularity == "block" else "channel",
                    "group_size": fmt.block_size,
                },
            }
            for number, (fmt, names) in enumerate(groups.items())
        },
    }

    def pack(tensor: WeightTensor) -> dict[str, np.ndarray]:
        q, zeros = _unsigned(tensor)
        scales = _by_row(tensor, tensor.planes["scales"])
        return compressed_tensors.pack(
            q, scales, None if tensor.format.symmetric else zeros, tensor.format.bits
        )

    return config, {name: pack for names in groups.values() for name in names}


def _gptq(source: Source) -> tuple[dict[str, Any], dict[str, Pack]]:
    """quantization_config and how each packed matrix is made. Raises WorkbenchError."""
    model = architecture_of(source.config)
    linear = {name: fmt for name, fmt in _linear(source).items() if name != model.lm_head}
    one = Counter(linear.values()).most_common(1)[0][0]
    zero_somewhere = False
    for name, fmt in linear.items():
        fits = "int4 or int8 for all linear layers of the decoder, in blocks of one size, with scales in f16"
        if not fmt.is_quantized or (fmt.bits, fmt.block_size) != (one.bits, one.block_size):
            raise _refuse(source, name, "gptq", f"most matrices are {one}", fits)
        _check_packable(source, name, "gptq")
        tensor = source.tensor(name)
        if (np.float16(tensor.planes["scales"]) != tensor.planes["scales"]).any():
            raise _refuse(source, name, "gptq", "its scales do not fit f16", fits)
        rows, columns = tensor.shape
        if rows * fmt.bits % 32 or columns % 32:
            why = f"{rows} rows of {columns} do not fill words of 32 bits"
            raise _refuse(source, name, "gptq", why, "multiples of 32")
        zero_somewhere |= bool((_unsigned(tensor)[1] == 0).any())
    config = {
        "quant_method": "gptq",
        "bits": one.bits,
        "group_size": one.block_size or -1,
        "sym": all(fmt.symmetric for fmt in linear.values()),
        "desc_act": bool(model.orders),
        # Version 1 stores z - 1, and not all of its readers take -1 for a 0.
        "checkpoint_format": "gptq_v2" if zero_somewhere else "gptq",
    }
    offset = gptq.VERSIONS[config["checkpoint_format"]]

    def pack(tensor: WeightTensor) -> dict[str, np.ndarray]:
        q, zeros = _unsigned(tensor)
        scales = _by_row(tensor, tensor.planes["scales"]).astype(np.float16)
        order = model.orders.get(tensor.name)
        columns = None if order is None else order_of(source, order)
        return gptq.pack(q, scales, zeros, tensor.format.bits, offset, columns)

    return config, dict.fromkeys(linear, pack)
