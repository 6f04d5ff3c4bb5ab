"""Measuring what each group of matrices costs in each format: one group at a time is swapped, all else stays float.

Window after window, and in each group after group (`workbench.precision.branches`). What is done is in a file after
each group, so that a measurement that was stopped or killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.protocols import Protocol, Window, protocol
from eval.texts import Tokens
from workbench.convert.suited import suited
from workbench.errors import ProtocolError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.model_bench.measure import reference_threads
from workbench.models.families import architecture_of
from workbench.models.source import Source, open_source, require_floats
from workbench.precision.branches import Branches
from workbench.precision.groups import Group, fused_groups, unquantized_plan, vector_bytes
from workbench.precision.meter import Meter, Progress
from workbench.precision.requantized import source_hashes
from workbench.precision.table import SensitivityTable
from workbench.quantizers import QUANTIZERS_OF_ONE_MATRIX
from workbench.runtime.feeding import check_ids
from workbench.runtime.provenance import commit, versions

TIERS = ("int8", "int4", "int2")


def float_tier(source: Source) -> WeightFormat:
    """The dtype in which a source stores its matrices, where that has 16 bits; else f16."""
    stored = {weight.format for weight in unquantized_plan(source).weights.values()}
    return WeightFormat("bf16") if stored == {WeightFormat("bf16")} else WeightFormat("f16")


def default_formats(source: Source) -> tuple[WeightFormat, ...]:
    """The tiers: 16 bits as the source has them, INT8, INT4 and INT2 in their default blocks, fitted to each group."""
    return (float_tier(source), *map(WeightFormat, TIERS))


def sensitivity(  # many parameters: the options of a measurement, each of its own
    source,
    tokens: Tokens,
    scheme: str | Protocol = "disjoint-512",
    *,
    formats: Sequence[WeightFormat] | None = None,
    quantizer: str = "rtn",
    max_windows: int | None = None,
    path: str | Path | None = None,
    threads: int | None = None,
    progress: bool | Progress = False,
    so_far: Callable[[SensitivityTable], None] | None = None,
) -> SensitivityTable:
    """The KL of every group in every format on calibration text, through the PyTorch references in f32.

    source: an unquantized checkpoint (folder, hub id or opened). tokens: from `eval.texts.encode`. formats: default
    `default_formats`. quantizer: one of `QUANTIZERS_OF_ONE_MATRIX`. max_windows: of the protocol, from the beginning.
    path: a file that is rewritten after every group; what it holds of the same measurement already is not measured
    again, so a run that was killed goes on. threads: of PyTorch meanwhile; by default one for a model of small
    matrices, as many as PyTorch likes for others. progress: True for a bar with the time left, or a function, called as
    progress(done, windows): done / windows is a share of the time. so_far: called with the table of the windows that
    are measured, after each. What either function raises ends the measurement.

    Raises ProtocolError where text, protocol and model do not fit together, WorkbenchError for a model that is
    quantized already, unknown quantizers and a `path` that holds something else, FormatError and CheckpointError for
    weights that a format cannot hold.
    """
    source = open_source(source)
    windows = windows_of(source, tokens, protocol(scheme), max_windows)
    groups = fused_groups(unquantized_plan(source))
    table = empty_table(source, tokens, protocol(scheme), groups, formats, quantizer)
    if path is not None and Path(path).exists():
        table = _stored(Path(path), table)
    if table.windows >= len(windows):
        return table.first(len(windows))
    left = windows[table.windows :]
    measured = Branches(source, table.groups, table.stored, quantizer)
    meter = Meter(progress, len(left), measured.work(left, table.partial))
    with meter, reference_threads(threads or (1 if measured.small else None)):
        for window in left:
            began = time.perf_counter()

            def told(group: int, sums: np.ndarray) -> None:
                nonlocal table, began
                now = time.perf_counter()
                table, began = table.with_group(group, sums, now - began), now
                if path is not None:
                    table.save(path)

            measured.window(window, meter, tuple(table.partial), told)
            table = table.with_window(window.scored)
            if path is not None:
                table.save(path)
            if so_far:
                so_far(table)
    return table


def windows_of(source: Source, tokens: Tokens, scheme: Protocol, most: int | None) -> list[Window]:
    """The first so many windows of a text, None for all. Raises ProtocolError where text, protocol and model do not fit
    together."""
    config = architecture_of(source.config)
    if scheme.cut[0] > config.context_length:
        raise ProtocolError(
            f"protocol {scheme.name!r} has windows of {scheme.length} tokens, more than the model's context "
            f"of {config.context_length}"
        )
    if most is not None and most < 1:
        raise ProtocolError(f"max_windows is {most}; it must be at least 1, or None for all")
    return checked_windows(scheme.windows(tokens.ids, bos=tokens.bos)[:most], config.vocab_size)


def checked_windows(windows: list[Window], vocab_size: int) -> list[Window]:
    """The windows; ProtocolError for a token that the model has no embedding of."""
    for window in windows:
        try:
            check_ids(window.ids, vocab_size)
        except WorkbenchError as error:
            raise ProtocolError(f"text, window at token {window.start}: {error}") from error
    return windows


def empty_table(
    source: Source,
    tokens: Tokens,
    scheme: Protocol,
    groups: Sequence[Group],
    formats: Sequence[WeightFormat] | None,
    quantizer: str,
) -> SensitivityTable:
    """The table of a measurement of these groups before its first window; errors as in `sensitivity`."""
    groups, formats = tuple(groups), tuple(formats or default_formats(source))
    require_floats(source, "the loss of each format is measured")
    if quantizer not in QUANTIZERS_OF_ONE_MATRIX:
        allowed = ", ".join(QUANTIZERS_OF_ONE_MATRIX)
        raise WorkbenchError(f"allocate: quantizer = {quantizer!r}; allowed: {allowed}")
    variants = [
        suited(source, {tensor: fmt for group in groups for tensor in group.tensors}) for fmt in formats
    ]
    stored = tuple(
        tuple(variant[next(iter(group.tensors))].format for variant in variants) for group in groups
    )
    # What is the same for all groups is called what it is; what is not, as it was asked for.
    formats = tuple(
        stored[0][f] if len({each[f] for each in stored}) == 1 else fmt for f, fmt in enumerate(formats)
    )
    if len(set(formats)) < len(formats):
        raise WorkbenchError(f"allocate: a format is named twice: {', '.join(map(str, formats))}")
    key: dict[str, Any] = {
        "model": source_hashes(source),
        "tokens_sha256": tokens.sha256,
        "text": tokens.text,
        "protocol": scheme.name,
        "quantizer": quantizer,
        "formats": [str(fmt) for fmt in formats],
        "groups": [group.name for group in groups],
    }
    record = {"model": source.path.name, "versions": versions(), **commit()}
    empty = np.zeros((len(groups), len(formats), 0)), np.zeros(0, np.int64)
    return SensitivityTable(
        groups, formats, *empty, vector_bytes(unquantized_plan(source)), key, record, stored=stored
    )


def _stored(path: Path, wanted: SensitivityTable) -> SensitivityTable:
    """The table in the file, which must be one of the same measurement."""
    found = SensitivityTable.load(path)
    differing = [name for name in wanted.key if found.key.get(name) != wanted.key[name]]
    if not differing and found.stored != wanted.stored:
        differing = ["block sizes or scales"]
    if differing:
        raise WorkbenchError(
            f"{path}: holds another measurement (other {', '.join(differing)}); remove it or name another file"
        )
    return found
