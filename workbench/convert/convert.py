"""Converting a checkpoint into a stored model, tensor by tensor.

    convert("checkpoint", "out", ConvertOptions(WeightFormat("int4")))

Without calibration a tensor is read, quantized and packed in ranges of rows, so that beside its packed result only
one range is in memory as float32. With it the model goes layer by layer (`layerwise`), and a run that was killed goes
on from its last finished layer. The output folder is complete or absent: the writer renames it into place at the end.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.advice import advise
from workbench.convert.calibration import load_calibration, of_other_words
from workbench.convert.options import ConvertOptions
from workbench.convert.provenance import HashesBeside, provenance, source_hashes
from workbench.convert.suited import notes, suited
from workbench.convert.tensors import convert_tensor, quantizer_on
from workbench.convert.work import WorkFolder, work_key
from workbench.errors import CheckpointError, WorkbenchError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.formats.writer import ModelWriter, check_target
from workbench.models.adapted import Merged
from workbench.models.architecture import Architecture
from workbench.models.checkpoint import TOKENIZER_FILES
from workbench.models.families import architecture_of
from workbench.models.source import Original, check_contents, open_source
from workbench.models.tokenizer import load_tokenizer
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
    notes: tuple[str, ...] = ()  # what was done otherwise than asked for


def convert(
    source: str | Path | Original | StoredModel | Merged,
    output: str | Path,
    options: ConvertOptions,
    progress: bool = False,
) -> ConversionSummary:
    """Convert a checkpoint (folder, hub id or opened) into the folder `output`.

    `progress` shows a bar on stderr. Raises UnsupportedModelError for an unknown family, CheckpointError naming
    the tensor for weights that are missing, not finite or not representable, WorkbenchError for options that
    do not fit the model, or for an output that exists.
    """
    started = time.perf_counter()
    opened: Original | StoredModel = open_source(source)
    output = Path(output)
    if output.exists() and output.resolve() == Path(opened.path).resolve():
        raise WorkbenchError(f"convert: output and source are the same folder, {output}")
    config = architecture_of(opened.config)
    stored, skipped, of_source = _select(opened, config)
    asked = {name: options.choose(name, shape, config) for name, shape in stored.items()}
    options.check_overrides((name for name, shape in stored.items() if len(shape) == 2), config)
    _check_plan(opened, config, stored, {name: fmt for name, (fmt, _) in asked.items()})
    way = _streamed if options.calibration is None else _calibrated
    nbytes, formats = 0, {}
    try:
        check_target(output, options.overwrite)
        chosen = suited(opened, {name: fmt for name, (fmt, _) in asked.items()})
        wanted = {name: each.format for name, each in chosen.items()}
        with (
            _bar(sum(map(math.prod, stored.values())), progress) as bar,
            way(opened, config, output, options, wanted, bar) as conversion,
            ModelWriter(
                output, config=opened.config, layout=options.layout, overwrite=options.overwrite
            ) as writer,
        ):
            for tensor in conversion.tensors:
                writer.add(tensor)
                formats[tensor.name] = tensor.format
                nbytes += tensor.nbytes
                del tensor  # before the next one is made: experts of a layer are gigabytes
            for name, data in _tokenizer_files(opened):
                writer.add_file(name, data)
            writer.provenance = provenance(
                opened,
                conversion.hashes(),
                options,
                skipped,
                time.perf_counter() - started,
                **conversion.facts,
            )
            writer.precision = {
                name: {
                    "format": str(formats[name]),
                    "reason": each.reason(asked[name][1]) + _widened(each.format, formats[name]),
                }
                for name, each in chosen.items()
            }
    except FileExistsError as error:
        raise WorkbenchError(f"convert: {error}") from error
    weights = sum(map(math.prod, stored.values()))
    return ConversionSummary(
        path=output,
        tensors=len(formats),
        weights=weights,
        nbytes=nbytes,
        bits_per_weight=8 * nbytes / weights,
        formats=dict(Counter(map(str, formats.values()))),
        skipped=skipped,
        seconds=time.perf_counter() - started,
        notes=(*of_source, *notes(chosen), *_rescaled(wanted, formats), *conversion.notes),
    )


@dataclass(frozen=True)
class _Conversion:
    """tensors: in the order of the source, made as they are taken. hashes: of the source, to be called behind the last.
    facts: what calibration adds to the provenance."""

    tensors: Iterator[WeightTensor]
    hashes: Callable[[], dict[str, str]]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@contextmanager
def _streamed(source, config, output, options, formats, bar) -> Iterator[_Conversion]:
    """Each tensor for itself, in ranges of rows."""
    quantize = quantizer_on(options.quantizer, options.device)

    def tensors() -> Iterator[WeightTensor]:
        for name, fmt in formats.items():
            bar.set_postfix_str(name, refresh=False)
            yield convert_tensor(source, name, fmt, quantize, bar.update)

    with HashesBeside(source) as hashes:
        yield _Conversion(tensors(), hashes.result)


@contextmanager
def _calibrated(source, config, output, options, formats, bar) -> Iterator[_Conversion]:
    """Layer by layer, through a work folder that stays behind if this ends early."""
    from workbench.convert.check import Verdict
    from workbench.convert.layerwise import CHECK, Layerwise, work_facts
    from workbench.convert.rounding import said_of_experts

    tokenizer = load_tokenizer(source.tokenizer_path)
    others = of_other_words(options.calibration, source.tokenizer_path)
    if others and QUANTIZERS[options.quantizer].needs:
        advise([others])  # now, since what follows takes minutes
    calibration = load_calibration(options.calibration, tokenizer, config.context_length)
    layerwise = Layerwise(source, config, formats, options, calibration)
    hashes = source_hashes(source)
    with WorkFolder(output, work_key(work_facts(layerwise, hashes))) as work:
        said = calibration.notes
        if work.done:
            said += (f"{work.done} of {layerwise.stages} stages were done by an earlier run",)
        layerwise.run(work, bar)
        record = {name: each for stage in work.records for name, each in stage.items()}
        facts = {"calibration": calibration.record, "tensors": record}
        if (found := record.pop(CHECK, None)) is not None:
            facts["calibration"] = {**calibration.record, "against_rtn": found}
            said += tuple(note for note in (Verdict(**found).note,) if note)
        said += said_of_experts(record)
        yield _Conversion(map(work.tensor, formats), lambda: hashes, facts, said)


def _rescaled(wanted: dict[str, WeightFormat], stored: dict[str, WeightFormat]) -> tuple[str, ...]:
    changed = [name for name in wanted if stored[name] != wanted[name]]
    if not changed:
        return ()
    return (
        f"{len(changed)} matrices in f32 or with f32 scales for the weights that scaling made, such as {changed[0]}",
    )


def _widened(wanted: WeightFormat, stored: WeightFormat) -> str:
    """For the manifest, where a quantizer changed weights so that they no longer suit the format wanted for them."""
    return "" if stored == wanted else f"; {stored} in place of {wanted} for the weights that scaling made"


def _check_plan(
    source, config: Architecture, shapes: dict[str, tuple[int, ...]], formats: dict[str, WeightFormat]
) -> None:
    """Raises what building the plan of the stored model finds, before anything is read: tensors that are missing or
    misshapen."""

    def describe(name: str) -> tuple[tuple[int, ...], WeightFormat]:
        if name not in shapes:
            raise CheckpointError(f"{source.path}: tensor {name!r} is missing; config.json asks for it")
        return shapes[name], replace(formats[name], order="low-first")

    config.build(describe)


def _select(
    source: Original | StoredModel, config: Architecture
) -> tuple[dict[str, tuple[int, ...]], dict[str, str], tuple[str, ...]]:
    """Shapes of the tensors to store: those that the model reads; the reasons for those left out; what else of the
    source does not count."""
    if isinstance(source, StoredModel):
        skipped, notes = check_contents(source, config), config.notes
    else:
        skipped, notes = dict(source.unread), (*config.notes, *source.notes)
    stored = {name: source.describe(name)[0] for name in source.names() if name not in skipped}
    return stored, skipped, notes


def _tokenizer_files(source: Original | StoredModel) -> Iterator[tuple[str, bytes]]:
    for name in TOKENIZER_FILES:
        file = Path(source.tokenizer_path) / name
        if file.is_file():
            yield name, file.read_bytes()


def _bar(total: int, shown: bool):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="converting", unit="weights", unit_scale=True, disable=not shown)
