"""Which format each matrix really gets: the one asked for, fitted to its rows and to the size of its weights, and why.

The one place where what is asked for ("int4") becomes what is stored ("int4/96/f32"): conversions, `--fit-memory` and
allocations all come here. Matrices that read the same input and are asked to have the same format keep it in common,
since fused kernels read them together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from workbench.errors import CheckpointError
from workbench.formats.spec import DEFAULT_BLOCK, WeightFormat
from workbench.models.families import architecture_of
from workbench.models.source import Source
from workbench.plan.inputs import read_together
from workbench.quantizers.suited import Reach

#: Matrices that a note names.
_NAMED = 3


@dataclass(frozen=True)
class Suited:
    """format: as stored. blocks, f32: why its block size or what it keeps in f32 is worth a word, or None."""

    format: WeightFormat
    blocks: str | None = None
    f32: str | None = None

    def reason(self, asked: str) -> str:
        """For the manifest: why the format was asked for, and what became of it."""
        return "; ".join(each for each in (asked, self.blocks, self.f32) if each)


def suited(source: Source, asked: Mapping[str, WeightFormat]) -> dict[str, Suited]:
    """By name of a tensor: the format that it is stored in. Reads the matrices whose weights may not suit f16.

    asked: formats of vectors and matrices, float or quantized. Raises what reading the source raises, and
    CheckpointError as `check_once` does.
    """
    chosen = {name: _blocks(source, name, fmt) for name, fmt in asked.items()}
    check_once(source, asked)
    read, together = _inputs(source), {}
    for name, each in chosen.items():
        together.setdefault((read.get(name, name), each.format), []).append(name)
    for (_, fmt), names in together.items():
        reach = Reach(fmt)
        for name in names:
            if reach.matters and _may_not_suit(source, name, fmt):
                _look(reach, source, name)
        if (why := reach.why) is not None:
            others = "" if len(names) == 1 else f" ({', '.join(names)} together)"
            for name in names:
                chosen[name] = replace(
                    chosen[name], format=reach.suited, f32=f"{_kept(fmt)} in f32: {why}{others}"
                )
    return chosen


def _kept(fmt: WeightFormat) -> str:
    return "scales" if fmt.is_quantized else "weights"


def _inputs(source: Source) -> dict[str, str]:
    """Matrix of the checkpoint -> what it reads in the plan."""
    plan = architecture_of(source.config).build(source.describe)
    return {
        tensor: read
        for read, matrices in read_together(plan).items()
        for matrix in matrices
        for tensor in plan.buffers[matrix].tensors
    }


def _look(reach: Reach, source: Source, name: str) -> None:
    if reach.format.granularity == "tensor" and reach.format.is_quantized:  # one scale for all rows
        reach.add(part.dequantize() for _, part in source.parts(name))
        return
    for _, part in source.parts(name):
        if not reach.passes(part):
            reach.add([part.dequantize()])


def _may_not_suit(source: Source, name: str, fmt: WeightFormat) -> bool:
    """Whether the tensor is a matrix whose weights are rounded to this format, and not stored so already."""
    shape, has = source.describe(name)
    return len(shape) == 2 and has != fmt and not (has.is_quantized and fmt.is_quantized)


def _blocks(source: Source, name: str, fmt: WeightFormat) -> Suited:
    shape, has = source.describe(name)
    if not fmt.is_quantized or len(shape) != 2:
        return Suited(fmt)
    columns = shape[1]
    if has.is_quantized:  # at most written in another order or layout: nothing is fitted any more
        same = replace(has, order=fmt.order, block_size=None if fmt.default_block else has.block_size)
        return Suited(
            replace(has, order=fmt.order) if fmt in (same, _with_f16(same)) else fmt.fitted(columns)
        )
    return Suited(fmt.fitted(columns), blocks=block_note(fmt, columns))


def quantized_once(source: Source, name: str, fmt: WeightFormat) -> None:
    """Raises CheckpointError for a tensor that is quantized and would be stored in another quantized format."""
    _, has = source.describe(name)
    if has.is_quantized and fmt.is_quantized and has != replace(fmt, order="low-first"):
        raise CheckpointError(
            f"{source.path}: tensor {name!r} is quantized already ({has}); quantizing it again to {fmt} "
            "would add a second loss: convert the unquantized checkpoint instead"
        )


def check_once(source: Source, asked: Mapping[str, WeightFormat]) -> None:
    """Raises CheckpointError, as `suited` does, before any weight is read. asked: as there."""
    for name, fmt in asked.items():
        quantized_once(source, name, _blocks(source, name, fmt).format)


def _with_f16(fmt: WeightFormat) -> WeightFormat:
    return replace(fmt, scale_dtype="f16")


def block_note(fmt: WeightFormat, columns: int) -> str | None:
    """What there is to say of a format's blocks on rows of `columns`: another default, or what padding costs."""
    if not fmt.is_quantized or fmt.granularity != "block":
        return None
    got = fmt.fitted(columns)
    default = replace(fmt, block_size=DEFAULT_BLOCK[fmt.dtype])
    bits = got.bits_per_weight(1, columns)
    if fmt.default_block and got != default:
        return (
            f"blocks of {got.block_size}, which divide rows of {columns}, in place of {default.block_size}: "
            f"{bits:.3f} bits a weight in place of {default.bits_per_weight(1, columns):.3f}"
        )
    if (padded := got.padded_columns(columns)) == columns:
        return None
    text = (
        f"{_PADDED}{columns} are padded to {padded} for blocks of {got.block_size}: {bits:.3f} bits a weight"
    )
    other = replace(fmt, block_size=None).fitted(columns)
    if other.bits_per_weight(1, columns) < bits:
        text += f"; blocks of {other.block_size}{_LESS}{other.bits_per_weight(1, columns):.3f}"
    return text


_PADDED, _LESS = "rows of ", " would take "


def padding(said: Iterable[str]) -> list[str]:
    """Those of `notes` that a block size causes which does not divide the rows, where another takes fewer bits."""
    return [each for each in said if each.startswith(_PADDED) and _LESS in each]


def notes(chosen: Mapping[str, Suited]) -> tuple[str, ...]:
    """What a user should hear of it, once for all matrices that it is true of."""
    blocks = Counter(each.blocks for each in chosen.values() if each.blocks)
    said = [f"{text} ({count} {'matrix' if count == 1 else 'matrices'})" for text, count in blocks.items()]
    return (*said, *_f32_notes({name: each.f32 for name, each in chosen.items() if each.f32}))


def _f32_notes(reasons: Mapping[str, str]) -> Iterable[str]:
    if not reasons:
        return
    named = list(reasons)[:_NAMED]
    more = f" and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
    yield f"{', '.join(named)}{more}: {reasons[named[0]]}"
