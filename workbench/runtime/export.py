"""Programs for a page: everything that a model does there, lowered for adapters that are not here.

    OUT/
      programs.json         kind, version, the model and its manifest's checksum, heads and sizes, the bundles
      f32-0.json ...        bundles, one for each kind of adapter: activations, and size of a subgroup (0: none); those
                            of the activations that are preferred come first
      f32-0-wide.json ...   the same for adapters with `WIDE` limits, where a model's matrices then lie in other ways

A bundle holds the programs of one kind of adapter. What they share is stored once: WGSL modules and uploads are lists
of their own, which programs point into. `programs.json` has a sha256 of every bundle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wgsl_kernels
from wgsl_kernels import Adapter
from workbench.errors import WorkbenchError
from workbench.files.folders import Partial
from workbench.files.writing import storing
from workbench.formats.reader import StoredModel
from workbench.models.architecture import Architecture
from workbench.models.blocks import ACTIVATIONS
from workbench.models.families import architecture_of
from workbench.models.source import Source
from workbench.plan.plan import step_sizes
from workbench.plan.types import Int8Rows
from workbench.show.progress import Steps

from .device import PROMISED_LIMITS
from .link import program_of
from .lowering import lower, row_ranges
from .program import Program, ProgramError
from .rewrite import stacked_together
from .stacks import stackable
from .wgpu_executor import STEPS, chunk_sizes

KIND = "webgpu-quant-workbench/programs"
VERSION = 2
INDEX = "programs.json"
#: Ends of programs that take one token a step; those of all others take many.
DECODE = ("greedy", "draw", "told")
#: What pages need: a prompt, scores of windows, and decoding.
NEEDED = ("last", "score", *DECODE)
#: A program with a row of each of two sequences, which gives the logits behind both.
TOGETHER, TOGETHER_ROWS = "together", 2
#: Lanes of a subgroup that adapters have; 0 is a program that needs none.
SUBGROUPS = (0, 4, 8, 16, 32, 64)
#: Subgroups as narrow as a CPU's 128-bit registers: SwiftShader's, which browsers fall back to without a GPU.
SOFTWARE_LANES = 4
#: Activations that there are programs for: INT8 where a product has integer weights.
TYPES = ACTIVATIONS


@dataclass(frozen=True)
class Bindings:
    """What an adapter binds: so many bytes, from multiples of so many on."""

    nbytes: int
    alignment: int

    def to_json(self) -> dict[str, int]:
        return {"bytes": self.nbytes, "alignment": self.alignment}

    @classmethod
    def from_json(cls, data: Mapping[str, int]) -> Bindings:
        return cls(data["bytes"], data["alignment"])


#: What every WebGPU device binds.
PROMISED = Bindings(PROMISED_LIMITS["max-storage-buffer-binding-size"], Adapter.offset_alignment)
#: What most adapters of computers bind at least.
WIDE = Bindings((1 << 30) - 4, 32)
#: The limits that programs can be lowered for, by name -> the least of them.
LIMITS = {"browser": PROMISED}


@dataclass(frozen=True)
class Exported:
    """What was written. programs: how many; nbytes: of all files."""

    path: Path
    programs: int
    nbytes: int


def page_adapter(lanes: int, *, f16: bool = False) -> Adapter:
    """What is known of an adapter that is not here. lanes: of its subgroups, 0 without."""
    return Adapter(bool(lanes), lanes, f16=f16, is_cpu=lanes == SOFTWARE_LANES)


def adapters(types: Sequence[str], subgroups: Sequence[int]) -> Iterator[tuple[str, Adapter]]:
    """Activations and kind of adapter of each bundle."""
    for activations in types:
        for lanes in subgroups:
            yield activations, page_adapter(lanes, f16=activations == "f16")


def programs_for(
    source: Source,
    activations: str,
    adapter: Adapter,
    capacity: int,
    binding_bytes: int,
    heads: Sequence[str] = NEEDED,
) -> Iterator[Program]:
    """The programs that a page needs on one kind of adapter. heads: what they end in (`workbench.models.endings`), or
    `TOGETHER`."""
    model = architecture_of(source.config)
    for head, sizes in steps_of(model, binding_bytes, heads):
        rows = TOGETHER_ROWS if head == TOGETHER else 1
        ending = "last" if head == TOGETHER else head
        plan = model.build(source.describe, head=ending, activations=activations)
        for tokens in sizes:
            dimensions = step_sizes(tokens, capacity, sequences=rows, results=rows, steps=STEPS)
            lowered = lower(plan, dimensions, adapter, binding_bytes)
            yield program_of(lowered, head, adapter, binding_bytes, dialect="tint")


def steps_of(
    model: Architecture, binding_bytes: int, heads: Sequence[str]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Heads with the sizes of steps, in tokens, that programs are lowered for."""
    # a step that larger bindings would allow has activations as large
    chunks = tuple(chunk_sizes(model, min(binding_bytes, PROMISED.nbytes)))
    for head in heads:
        one = {**dict.fromkeys(DECODE, (1,)), TOGETHER: (TOGETHER_ROWS,)}
        yield head, one.get(head, chunks)


def types_for(sources: Sequence[Source], asked: Sequence[str] | None = None) -> tuple[str, ...]:
    """Activations that models which are played together can have: those that are asked for, in that order, else all.

    Raises WorkbenchError for a name that is none, or comes twice, and for INT8 where a model has no product of integer
    weights, whose inputs it would be.
    """
    without = [each for each in sources if not _takes_int8(each)] if "int8" in (asked or TYPES) else []
    if asked is None:
        return tuple(each for each in TYPES if each != "int8" or not without)
    if wrong := [each for each in asked if each not in ACTIVATIONS]:
        raise WorkbenchError(f"activations = {wrong[0]!r}; allowed: {', '.join(ACTIVATIONS)}")
    if not asked or len(set(asked)) < len(asked):
        raise WorkbenchError(f"activations = {', '.join(asked) or 'none'}; allowed: each once, at least one")
    if without:
        raise WorkbenchError(
            f"activations = int8: {without[0].path} has no linear layer with integer weights, whose inputs they are"
        )
    return tuple(asked)


def _takes_int8(source: Source) -> bool:
    plan = architecture_of(source.config).build(source.describe, head=NEEDED[0], activations="int8")
    return any(isinstance(each.type, Int8Rows) for each in plan.buffers.values())


def bindings(source: Source, least: Bindings = PROMISED) -> tuple[Bindings, ...]:
    """What a model's programs are lowered for: the least that adapters bind, and `WIDE` where that lets more of its
    matrices lie together or be bound whole."""
    plan = architecture_of(source.config).build(source.describe, head=NEEDED[0])
    groups = list(stacked_together(plan, wgsl_kernels.library()))
    matrices = [each for each in plan.buffers.values() if each.is_matrix]

    def places(found: Bindings) -> tuple:
        stacks = stackable(groups, found.nbytes, found.alignment)
        return [each.names for each in stacks], [row_ranges(each, found.nbytes) for each in matrices]

    return (least,) if places(least) == places(WIDE) else (least, WIDE)


def bundle(programs: Iterator[Program]) -> dict[str, Any]:
    """JSON values of programs, with what they share stored once; `unbundled` is the inverse."""
    modules: dict[str, int] = {}
    uploads: dict[str, int] = {}
    found = []
    for program in programs:
        data = program.to_json()
        data["modules"] = [modules.setdefault(code, len(modules)) for code in data["modules"]]
        names = [each["name"] for each in data["buffers"]]
        named = [[*each[:4], names[each[4]], *each[5:]] for each in data["uploads"]]
        data["uploads"] = uploads.setdefault(json.dumps(named), len(uploads))
        found.append(data)
    return {"modules": list(modules), "uploads": [json.loads(each) for each in uploads], "programs": found}


def unbundled(data: Mapping[str, Any]) -> list[Program]:
    """The programs of a bundle. Raises `ProgramError` for what is none."""
    try:
        found = []
        for each in data["programs"]:
            index = {buffer["name"]: n for n, buffer in enumerate(each["buffers"])}
            uploads = [[*u[:4], index[u[4]], *u[5:]] for u in data["uploads"][each["uploads"]]]
            modules = [data["modules"][n] for n in each["modules"]]
            found.append({**each, "modules": modules, "uploads": uploads})
    except (KeyError, IndexError, TypeError) as error:
        raise ProgramError(f"this is not a bundle of programs: {error!r}") from error
    return [Program.from_json(each) for each in found]


def require_readable(source: Any) -> None:
    """Raises WorkbenchError unless a page can read the source's planes as they lie."""
    if not isinstance(source, StoredModel):
        raise WorkbenchError(
            f"{source.path}: only a converted model has planes that a page can read; convert it first"
        )
    for name in source.names():
        stored = source.stored(name)
        if stored.layout != "planar" or stored.format.order != "low-first":
            raise WorkbenchError(
                f"{source.path}: tensor {name!r} is stored {stored.layout} and {stored.format.order}; a page reads "
                "planar and low-first"
            )


def export_programs(  # many parameters: what programs are for, and how they are written
    source: Any,
    output: str | Path,
    *,
    limits: str = "browser",
    max_tokens: int = 2048,
    heads: Sequence[str] = NEEDED,
    types: Sequence[str] | None = None,
    subgroups: Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Steps | None = None,
) -> Exported:
    """Write the programs of a converted model, whole or not at all.

    max_tokens: positions of the cache. heads: what programs end in. types: of activations, the preferred first
    (default: all that the model can have, `types_for`). subgroups: lanes of the adapters that programs are for, of
    `SUBGROUPS` (default: all of them). progress: called behind each program. Raises WorkbenchError for a
    model that is not converted, or not stored planar and low-first (a page reads its planes as they lie), for unknown
    limits, for activations that it cannot have, and for an output that exists.
    """
    if limits not in LIMITS:
        raise WorkbenchError(f"export-program: limits = {limits!r}; allowed: {', '.join(LIMITS)}")
    require_readable(source)
    model = architecture_of(source.config)
    capacity = min(max_tokens, model.context_length)
    index: dict[str, Any] = {
        "kind": KIND,
        "version": VERSION,
        "model": {
            "name": Path(source.path).name,
            "manifest_sha256": _sha256((Path(source.path) / "manifest.json").read_bytes()),
            "vocab_size": model.vocab_size,
            "context_length": model.context_length,
        },
        "capacity": capacity,
        "steps": STEPS,
        "bundles": [],
    }
    output = Path(output)
    if output.exists() and not (overwrite and (output / INDEX).is_file()):
        what = "and holds no programs" if overwrite else "give --overwrite to replace it"
        raise WorkbenchError(f"export-program: {output} exists; {what}")
    partial = Partial(output)
    try:
        wanted = itertools.product(
            adapters(types_for([source], types), SUBGROUPS if subgroups is None else subgroups),
            bindings(source, LIMITS[limits]),
        )
        count, nbytes = _write(partial.path, source, index, list(wanted), heads, progress)
        partial.put_in_place()
    except BaseException:
        partial.remove()
        raise
    return Exported(output, count, nbytes)


def _write(
    folder: Path,
    source: Any,
    index: dict[str, Any],
    wanted: Sequence[tuple[tuple[str, Adapter], Bindings]],
    heads: Sequence[str],
    progress: Steps | None,
) -> tuple[int, int]:
    """All files; the numbers of programs and bytes."""
    count, nbytes, capacity = 0, 0, index["capacity"]
    model = architecture_of(source.config)
    total = sum(len(sizes) for _, bound in wanted for _, sizes in steps_of(model, bound.nbytes, heads))

    def counted(programs: Iterator[Program], name: str) -> Iterator[Program]:
        for done, program in enumerate(programs, count + 1):
            yield program
            if progress is not None:
                progress(done, total, name if done < total else "")

    with storing(folder):
        for (activations, adapter), bound in wanted:
            aligned = dataclasses.replace(adapter, offset_alignment=bound.alignment)
            name = f"{activations}-{adapter.subgroup_size}{'' if bound == wanted[0][1] else '-wide'}"
            programs = programs_for(source, activations, aligned, capacity, bound.nbytes, heads)
            made = bundle(counted(programs, name))
            data = json.dumps(made, separators=(",", ":")).encode()
            entry = {
                "file": f"{name}.json",
                "activations": activations,
                "subgroup_size": adapter.subgroup_size,
                "binding_bytes": bound.nbytes,
                "offset_alignment": bound.alignment,
                "bytes": len(data),
                "sha256": _sha256(data),
            }
            (folder / entry["file"]).write_bytes(data)
            index["bundles"].append(entry)
            count, nbytes = count + len(made["programs"]), nbytes + len(data)
        data = json.dumps(index, indent=1).encode()
        (folder / INDEX).write_bytes(data)
    return count, nbytes + len(data)


def read_bundle(
    folder: str | Path, activations: str, subgroup_size: int, bound: Bindings = PROMISED
) -> list[Program]:
    """The programs of one kind of adapter. Raises `ProgramError` for a bundle that is missing, damaged or
    exchanged."""
    index = json.loads((Path(folder) / INDEX).read_text("utf-8"))
    wanted = {"activations": activations, "subgroup_size": subgroup_size}
    wanted |= {"binding_bytes": bound.nbytes, "offset_alignment": bound.alignment}
    for entry in index["bundles"]:
        if wanted.items() <= entry.items():
            data = (Path(folder) / entry["file"]).read_bytes()
            if _sha256(data) != entry["sha256"]:
                raise ProgramError(f"{Path(folder) / entry['file']}: not the bytes that {INDEX} names")
            return unbundled(json.loads(data))
    raise ProgramError(f"{folder}: no programs for {activations} and subgroups of {subgroup_size}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
