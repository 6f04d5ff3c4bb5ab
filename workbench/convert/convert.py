"""Converting a checkpoint into a stored model, tensor by tensor.

    convert("checkpoint", "out", ConvertOptions(WeightFormat("int4")))

A tensor is read, quantized and packed in ranges of rows, so that beside its packed result only one range is
in memory as float32. The output folder is complete or absent: the writer renames it into place at the end.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from workbench.convert.options import EMBEDDING, LM_HEAD, ConvertOptions
from workbench.convert.versions import versions
from workbench.errors import CheckpointError, UnsupportedModelError, WorkbenchError
from workbench.formats.errors import FormatError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, plane_specs, quantized_tensor
from workbench.formats.writer import ModelWriter
from workbench.models.checkpoint import TOKENIZER_FILES, Checkpoint
from workbench.models.llama import LlamaConfig, build_plan
from workbench.models.source import open_source
from workbench.models.tokenizer import tokenizer_hash
from workbench.plan.plan import Plan
from workbench.quantizers import QUANTIZERS


@dataclass(frozen=True)
class ConversionSummary:
    """What a conversion made. bits_per_weight counts everything stored of all tensors; nbytes the same."""

    path: Path
    tensors: int
    weights: int
    nbytes: int
    bits_per_weight: float
    formats: dict[str, int]  # format -> number of tensors
    skipped: dict[str, str]  # tensor -> why it is not stored
    seconds: float


def convert(
    source: str | Path | Checkpoint | StoredModel,
    output: str | Path,
    options: ConvertOptions,
    progress: bool = False,
) -> ConversionSummary:
    """Convert a checkpoint (folder, hub id or opened) into the folder `output`.

    `progress` shows a bar on stderr. Raises UnsupportedModelError if it is no Llama, CheckpointError naming
    the tensor for weights that are missing, not finite or not representable, WorkbenchError for options that
    do not fit the model, or for an output that exists.
    """
    started = time.perf_counter()
    if not isinstance(source, Checkpoint | StoredModel):
        source = open_source(source)
    output = Path(output)
    if output.exists() and output.resolve() == Path(source.path).resolve():
        raise WorkbenchError(f"convert: output and source are the same folder, {output}")
    require_llama(source.config)
    stored, skipped = _select(source)
    tied = bool(source.config.get("tie_word_embeddings", False))
    chosen = {name: options.choose(name, shape, tied) for name, shape in stored.items()}
    options.check_overrides(name for name, shape in stored.items() if len(shape) == 2)
    plan = _plan(source, stored, {name: fmt for name, (fmt, _) in chosen.items()})

    nbytes = weights = 0
    try:
        writer = ModelWriter(
            output,
            config=source.config,
            layout=options.layout,
            overwrite=options.overwrite,
        )
    except FileExistsError as error:
        raise WorkbenchError(f"convert: {error}") from error
    with ThreadPoolExecutor(1) as beside, writer:
        # Hashing the source takes about as long as reading it, and leaves Python free meanwhile.
        provenance = beside.submit(_provenance, source, options, skipped)
        with _bar(sum(map(math.prod, stored.values())), progress) as bar:
            for name, (fmt, _) in chosen.items():
                bar.set_postfix_str(name, refresh=False)
                tensor = convert_tensor(source, name, fmt, options.quantizer, bar.update)
                writer.add(tensor)
                nbytes += tensor.nbytes
                weights += math.prod(tensor.shape)
        for name, data in _tokenizer_files(source):
            writer.add_file(name, data)
        writer.provenance = provenance.result()
        writer.plan = plan.to_json()
        writer.precision = {
            name: {"format": str(fmt), "reason": reason} for name, (fmt, reason) in chosen.items()
        }
    return ConversionSummary(
        path=output,
        tensors=len(chosen),
        weights=weights,
        nbytes=nbytes,
        bits_per_weight=8 * nbytes / weights,
        formats=dict(Counter(str(fmt) for fmt, _ in chosen.values())),
        skipped=skipped,
        seconds=time.perf_counter() - started,
    )


def _plan(source, shapes: dict[str, tuple[int, ...]], formats: dict[str, WeightFormat]) -> Plan:
    """The semantic plan of the stored model; building it also finds tensors that are missing or misshapen."""

    def describe(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        if name not in shapes:
            raise CheckpointError(f"{source.path}: tensor {name!r} is missing; config.json asks for it")
        return shapes[name], replace(formats[name], order="low-first")

    return build_plan(LlamaConfig.parse(source.config), describe)


def convert_tensor(
    source: Checkpoint | StoredModel, name: str, fmt: WeightFormat, quantizer: str = "rtn", advance=None
) -> WeightTensor:
    """One tensor of the source in another format. `advance(n)` is called after each n weights.

    Raises CheckpointError for weights that are not finite, or that the format cannot hold.
    """
    shape, has = source.describe(name)
    if has.is_quantized and fmt.is_quantized and has != replace(fmt, order="low-first"):
        raise CheckpointError(
            f"{source.path}: tensor {name!r} is quantized already ({has}); quantizing it again to {fmt} "
            "would add a second loss: convert the unquantized checkpoint instead"
        )
    # One scale over all rows of a matrix needs all rows at once.
    whole = fmt.is_quantized and fmt.granularity == "tensor"
    planes = {plane: np.empty(size, dtype) for plane, (size, dtype) in plane_specs(shape, fmt).items()}
    for start, part in [(0, source.tensor(name))] if whole else source.parts(name):
        part = _converted(source, name, start, part, fmt, quantizer)
        for plane, values in part.planes.items():
            planes[plane][start : start + len(values)] = values
        if advance is not None:
            advance(math.prod(part.shape))
    return WeightTensor(name, shape, fmt, planes)


def _converted(source, name: str, start: int, part: WeightTensor, fmt: WeightFormat, quantizer: str):
    """Rows of a tensor, the first of which is `start`, in another format."""
    if part.format.is_quantized and part.format == replace(fmt, order="low-first"):
        return quantized_tensor(
            name, part.shape, fmt, part.quants(), part.planes["scales"], part.planes.get("zeros")
        )
    values = part.dequantize()
    try:
        if fmt.is_quantized:
            return quantized_tensor(name, values.shape, fmt, *QUANTIZERS[quantizer](values, fmt))
        _require_finite(source, name, start, values)
        return part if part.format == fmt else float_tensor(name, values, fmt.dtype)
    except FormatError as error:
        raise CheckpointError(f"{source.path}: {error}") from error
    except ValueError as error:
        _require_finite(source, name, start, values)  # says where in the whole tensor
        raise CheckpointError(f"{source.path}: tensor {name!r} cannot be {fmt}: {error}") from error


def require_llama(config: dict[str, Any]) -> None:
    """Raise UnsupportedModelError unless the configuration is of an unquantized Llama."""
    kind, architectures = config.get("model_type"), config.get("architectures") or ["LlamaForCausalLM"]
    if kind != "llama":
        raise UnsupportedModelError(f"config: model_type is {kind!r}; allowed: 'llama'")
    if "LlamaForCausalLM" not in architectures:
        raise UnsupportedModelError(
            f"config: architectures is {architectures!r}; allowed: ['LlamaForCausalLM']"
        )
    if method := config.get("quantization_config"):
        method = method.get("quant_method", method) if isinstance(method, dict) else method
        raise UnsupportedModelError(
            f"config: quantization_config says that the weights are quantized ({method!r}); "
            "allowed: f32, f16, bf16"
        )


def _select(source: Checkpoint | StoredModel) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes of the tensors to store, and the reasons for those left out."""
    stored, skipped = {}, {}
    tied = source.config.get("tie_word_embeddings", False)
    for name in source.names():
        if name.endswith(".rotary_emb.inv_freq"):
            skipped[name] = "rotary frequencies follow from the configuration"
        elif name == LM_HEAD and tied:
            skipped[name] = f"tied to {EMBEDDING}"
        else:
            shape, _ = source.describe(name)
            if len(shape) not in (1, 2):
                raise UnsupportedModelError(
                    f"{source.path}: tensor {name!r} has shape {list(shape)}; allowed: vectors and matrices"
                )
            stored[name] = shape
    if EMBEDDING not in stored:
        raise CheckpointError(f"{source.path}: tensor {EMBEDDING!r} is missing")
    if not tied and LM_HEAD not in stored:
        raise CheckpointError(
            f"{source.path}: tensor {LM_HEAD!r} is missing, and config.json does not set tie_word_embeddings"
        )
    return stored, skipped


def _require_finite(source, name: str, start: int, values: np.ndarray) -> None:
    # The sum of finite float32 in float64 is finite: one pass without a temporary tells.
    with np.errstate(invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return
    bad = np.argwhere(~np.isfinite(values))
    first = bad[0]
    value = values[tuple(first)]
    index = [start + int(first[0]), *map(int, first[1:])]
    raise CheckpointError(f"{source.path}: tensor {name!r} is not finite: {value} at {index}")


def _tokenizer_files(source: Checkpoint | StoredModel) -> Iterator[tuple[str, bytes]]:
    for name in TOKENIZER_FILES:
        file = Path(source.tokenizer_path) / name
        if file.is_file():
            yield name, file.read_bytes()


def _provenance(source, options: ConvertOptions, skipped: dict[str, str]) -> dict[str, Any]:
    origin: dict[str, Any] = {
        "name": Path(source.path).name,
        "tokenizer_sha256": tokenizer_hash(source.tokenizer_path),
    }
    if isinstance(source, Checkpoint):
        origin["sha256"] = source.source_hashes()
    else:  # the manifest holds the checksums of everything else
        manifest = Path(source.path) / "manifest.json"
        origin["sha256"] = {"manifest.json": hashlib.sha256(manifest.read_bytes()).hexdigest()}
        origin["provenance"] = source.manifest.get("provenance")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "source": origin,
        "quantizer": options.quantizer,
        "options": options.to_json(),
        "skipped": skipped,
    }


def _bar(total: int, shown: bool):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="converting", unit="weights", unit_scale=True, disable=not shown)
