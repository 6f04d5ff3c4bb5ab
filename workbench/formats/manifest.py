"""What is in `manifest.json`, as data, and the checks that need no other file.

    model/
      manifest.json        kind, version, config, shards, tensors, tokenizer, plan, precision, provenance
      model.wgpu           planes of tensors, each at a multiple of 256 bytes, at most 256 MiB a file
      model-00002.wgpu     ...
      tokenizer/           the tokenizer's files

`manifest.schema.json` has every field with its type. `parse` turns the bytes of a manifest into a `Manifest`
whose every number has been checked against every other: what a tensor's shape and format say its planes must
be, that parts follow each other, that planes lie in their shards, aligned and without overlap. Only the
shards themselves are not looked at. Whatever is wrong becomes a `FormatError` that names the tensor and the
field.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from itertools import pairwise
from math import prod

from workbench.formats.errors import FormatError
from workbench.formats.layout import stored_planes
from workbench.formats.schema import SchemaError, check, short
from workbench.formats.spec import DEFAULT_BLOCK, WeightFormat
from workbench.formats.strict_json import strict_json

KIND = "webgpu-quant-workbench/model"
VERSION = 1
FILE = "manifest.json"
TOKENIZER_FOLDER = "tokenizer"
ALIGNMENT = 256
MAX_SHARD = 256 << 20
MAX_PLANE = 64 << 20
# A manifest of an 8B model is about 1 MB, with its plan a few, and that of 400B weights in 128 experts 20;
# nothing larger is read. How much it may hold in these bytes: strict_json.py.
MAX_MANIFEST = 32 << 20

TENSOR_NAME = re.compile(r"[!-~]{1,512}")
TOKENIZER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Plane:
    """Where one plane of one part lies: bytes offset to offset + length of a shard."""

    shard: str
    offset: int
    length: int
    checksum: str


@dataclass(frozen=True)
class Part:
    """The rows start to stop of a tensor."""

    start: int
    stop: int
    planes: dict[str, Plane]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a manifest; `format.order` and `layout` are as stored."""

    shape: tuple[int, ...]
    format: WeightFormat
    layout: str
    parts: tuple[Part, ...]

    def part_shape(self, part: Part) -> tuple[int, ...]:
        """Shape of the tensor that the part alone makes."""
        return (part.stop - part.start, *self.shape[1:]) if self.shape else ()

    def to_json(self) -> dict:
        return {
            "shape": list(self.shape),
            "format": self.format.to_json(),
            "layout": self.layout,
            "parts": [
                {
                    "rows": [part.start, part.stop],
                    "planes": {name: vars(p) for name, p in part.planes.items()},
                }
                for part in self.parts
            ],
        }


@dataclass(frozen=True)
class Manifest:
    """A whole manifest. `shards`: file -> length; `tokenizer`: file -> {"length", "checksum"}."""

    config: dict
    shards: dict[str, int]
    tensors: dict[str, StoredTensor]
    tokenizer: dict[str, dict] = field(default_factory=dict)
    plan: dict | None = None
    precision: dict | None = None
    provenance: dict = field(default_factory=dict)

    def to_json(self) -> dict:
        return {
            "kind": KIND,
            "version": VERSION,
            "config": self.config,
            "provenance": self.provenance,
            "precision": self.precision,
            "shards": [{"file": file, "length": length} for file, length in self.shards.items()],
            "tokenizer": self.tokenizer,
            "tensors": {name: tensor.to_json() for name, tensor in self.tensors.items()},
            "plan": self.plan,
        }


def padded(length: int) -> int:
    """The next multiple of `ALIGNMENT`: up to there follow zeros."""
    return length + -length % ALIGNMENT


def shard_name(index: int) -> str:
    """File name of the shard number `index`, from 0."""
    return "model.wgpu" if index == 0 else f"model-{index + 1:05d}.wgpu"


def plane_bytes(shape: tuple[int, ...], format: WeightFormat, layout: str) -> dict[str, int]:
    """Bytes of each stored plane of a tensor (or of a part, given its shape)."""
    return {
        name: prod(plane_shape) * dtype.itemsize
        for name, (plane_shape, dtype) in stored_planes(shape, format, layout).items()
    }


@cache
def schema() -> dict:
    """The JSON schema of a manifest, as shipped."""
    return json.loads(
        resources.files("workbench.formats").joinpath("manifest.schema.json").read_text("utf-8")
    )


def _place(path: tuple) -> tuple[str | None, str]:
    """A path into the manifest as (tensor, field)."""
    tensor = None
    if len(path) >= 2 and path[0] == "tensors":
        tensor, path = str(path[1]), path[2:]
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return tensor, text or ("(whole tensor)" if tensor is not None else "(whole file)")


def _check_schema(value: object) -> None:
    try:
        check(value, schema())
    except SchemaError as error:
        tensor, place = _place(error.path)
        raise FormatError(error.why, tensor=tensor, field=place) from None


def _tensor(data: dict) -> StoredTensor:
    try:
        format = WeightFormat.from_json(data["format"])
        if format.default_block:  # nothing is fitted to the rows of what is stored already
            format = replace(format, block_size=DEFAULT_BLOCK[format.dtype])
    except FormatError as error:
        raise error.at(field="format") from None
    shape = tuple(data["shape"])
    parts = []
    for part in data["parts"]:
        first, stop = part["rows"]
        parts.append(Part(first, stop, {name: Plane(**plane) for name, plane in part["planes"].items()}))
    tensor = StoredTensor(shape, format, data["layout"], tuple(parts))
    _check_parts(tensor)
    return tensor


def _check_parts(tensor: StoredTensor) -> None:
    """Parts cover the rows in order, and their planes are those of the format, byte for byte."""
    plane_bytes(tensor.shape, tensor.format, tensor.layout)  # does the format fit the shape at all?
    rows = tensor.shape[0] if tensor.shape else 1
    done = 0
    for index, part in enumerate(tensor.parts):
        at = f"parts[{index}]"
        if part.start != done or part.stop <= part.start or part.stop > rows:
            raise FormatError(
                f"[{part.start}, {part.stop}] does not continue at row {done} of {rows}", field=f"{at}.rows"
            )
        done = part.stop
        wanted = plane_bytes(tensor.part_shape(part), tensor.format, tensor.layout)
        if set(part.planes) != set(wanted):
            raise FormatError(
                f"has {sorted(part.planes)}, but {tensor.format} stored {tensor.layout} needs "
                f"{sorted(wanted)}",
                field=f"{at}.planes",
            )
        for name, plane in part.planes.items():
            if plane.length != wanted[name]:
                raise FormatError(
                    f"{plane.length} bytes, but rows {part.start} to {part.stop} of shape "
                    f"{list(tensor.shape)} in {tensor.format} need {wanted[name]}",
                    field=f"{at}.planes.{name}.length",
                )
    if done != rows:
        raise FormatError(f"end at row {done} of {rows}", field="parts")


def _shards(data: list) -> dict[str, int]:
    shards = {}
    for index, shard in enumerate(data):
        if shard["file"] != shard_name(index):
            raise FormatError(
                f"{shard['file']!r} should be {shard_name(index)!r}", field=f"shards[{index}].file"
            )
        shards[shard["file"]] = shard["length"]
    return shards


def _check_planes_in_shards(tensors: dict[str, StoredTensor], shards: dict[str, int]) -> None:
    """Every plane lies inside its shard, no two share a byte, and nothing lies between them but their padding."""
    taken: dict[str, list[tuple[int, int, str, str]]] = {file: [] for file in shards}
    for name, tensor in tensors.items():
        for index, part in enumerate(tensor.parts):
            for plane_name, plane in part.planes.items():
                at = f"parts[{index}].planes.{plane_name}"
                if plane.shard not in shards:
                    raise FormatError(
                        f"{plane.shard[:80]!r} is not among the shards", tensor=name, field=f"{at}.shard"
                    )
                end = plane.offset + plane.length
                if end > shards[plane.shard]:
                    raise FormatError(
                        f"{plane.offset} + {plane.length} bytes end behind {plane.shard}, "
                        f"which has {shards[plane.shard]}",
                        tensor=name,
                        field=f"{at}.offset",
                    )
                taken[plane.shard].append((plane.offset, end, name, at))
    for file, ranges in taken.items():
        ranges.sort()
        for (_, end, other, where), (offset, _, name, at) in pairwise(ranges):
            if offset < end:
                raise FormatError(
                    f"{offset} of {file} overlaps {where} of {other!r}, which ends at {end}",
                    tensor=name,
                    field=f"{at}.offset",
                )
    for index, (file, ranges) in enumerate(taken.items()):
        end = 0
        for offset, stop, name, at in ranges:
            if offset != end:
                raise FormatError(
                    f"{offset} leaves {offset - end} bytes of {file} before it that belong to no plane",
                    tensor=name,
                    field=f"{at}.offset",
                )
            end = padded(stop)
        if end != shards[file]:
            raise FormatError(
                f"{shards[file]}, but behind byte {end} of {file} lies no plane",
                field=f"shards[{index}].length",
            )


_SEAL = re.compile(rb',\n "checksum": "sha256:([0-9a-f]{64})"\n}\n\Z')


def seal(value: dict) -> bytes:
    """The bytes of a manifest, ending in its own checksum: the sha256 of these bytes with 64 zeros in its
    place.
    """
    value = {name: inner for name, inner in value.items() if name != "checksum"}
    value["checksum"] = "sha256:" + "0" * 64
    data = (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()
    return _SEAL.sub(
        b',\n "checksum": "sha256:' + hashlib.sha256(data).hexdigest().encode() + b'"\n}\n', data
    )


def check_seal(data: bytes) -> None:
    """`FormatError` if a manifest was changed since it was sealed, be it to something that is allowed."""
    found = _SEAL.search(data[-200:])
    if found is not None:
        start = len(data) - len(data[-200:]) + found.start(1)
        cleared = data[:start] + b"0" * 64 + data[start + 64 :]
    else:
        raise FormatError(
            "does not stand at the end: this is not a manifest, or it was cut off or changed after it was written",
            field="checksum",
        )
    if hashlib.sha256(cleared).hexdigest().encode() != found[1]:
        raise FormatError(
            "is not the sha256 of this manifest: it was changed after it was written (verify=False reads it)",
            field="checksum",
        )


def parse(data: bytes) -> Manifest:
    """Reads and checks the bytes of a manifest; `FormatError` names tensor and field (the caller adds the
    file).
    """
    return from_value(strict_json(data))


def from_value(value: object) -> Manifest:
    """Checks what `strict_json` made of a manifest."""
    if not isinstance(value, dict):
        raise FormatError(f"is a JSON {type(value).__name__}, not an object", field="(whole file)")
    if value.get("kind") == KIND and value.get("version") != VERSION:
        raise FormatError(
            f"{short(value.get('version'))} is not {VERSION}, the only version this reader knows",
            field="version",
        )
    _check_schema(value)
    shards = _shards(value["shards"])
    tensors = {}
    for name, entry in value["tensors"].items():
        try:
            tensors[name] = _tensor(entry)
        except FormatError as error:
            raise error.at(tensor=name) from None
    _check_planes_in_shards(tensors, shards)
    return Manifest(
        config=value["config"],
        shards=shards,
        tensors=tensors,
        tokenizer=value["tokenizer"],
        plan=value["plan"],
        precision=value["precision"],
        provenance=value["provenance"],
    )
