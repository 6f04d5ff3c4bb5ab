"""Reading a model: manifest and sizes are checked when it is opened, the data when it is first touched.

Reading is total. Whatever is wrong with the files (missing, truncated, bits flipped, planes that overlap,
names that lead elsewhere, counts and sizes that are lies) raises `FormatError`, which names file, tensor and
field, and nothing else does. No number of a manifest is believed before it has been compared with the size of
the real file, so that nothing is allocated or mapped on a liar's word. JSON and raw numbers are all that is
read, never a pickle.

With `verify=True`, the default, the manifest must have its own checksum, which is looked at before anything of
it is parsed; a plane's sha256 is compared, and its padding must be zeros, when the plane is first touched (then
once for this object, so that streaming a model reads it once), and tokenizer files' sha256 at opening; scales
must be finite and zero-points in their range. No unverified plane is returned. `check()` touches everything.
"""

from __future__ import annotations

import difflib
import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from workbench.files.reading import open_regular, read_bytes
from workbench.formats import manifest as rules
from workbench.formats.errors import FormatError
from workbench.formats.layout import deinterleave, reorder, stored_planes
from workbench.formats.manifest import Manifest, Part, Plane, StoredTensor
from workbench.formats.spec import WeightFormat
from workbench.formats.strict_json import strict_json
from workbench.formats.tensor import WeightTensor
from workbench.formats.writer import checksum

#: So many names are looked through for one that is like an unknown one.
_COMPARED = 4096


def _read(path: Path, most: int, field: str) -> bytes:
    """A whole small file, whose size is looked at first."""
    try:
        return read_bytes(path, most)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror or error}", file=path, field=field) from None


def _map(path: Path, length: int, field: str) -> mmap.mmap:
    """A shard mapped for reading, whose size must be `length`."""
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) != length:
                raise FormatError(
                    f"has {size} bytes, but the manifest says {length}: truncated or exchanged",
                    file=path,
                    field=field,
                )
            return mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        why = getattr(error, "strerror", None) or error
        raise FormatError(f"cannot be read: {why}", file=path, field=field) from None


class StoredModel:
    """A model folder opened for reading; make it with `StoredModel.open`.

    Tensors come planar and low-first, however they are stored; `stored` tells how that is. Arrays are
    read-only views of the mapped files where a tensor is one planar part, so the files must not change while
    they are in use.
    """

    def __init__(
        self, path: Path, manifest: Manifest, raw: dict, maps: dict[str, mmap.mmap], verify: bool
    ) -> None:
        self.path = path
        self.manifest: dict = raw
        self.verify = verify
        self._manifest = manifest
        self._maps = maps
        self._verified: set[tuple[str, int, str]] = set()

    @classmethod
    def open(cls, path: str | os.PathLike, verify: bool = True) -> StoredModel:
        """Opens a model folder; `FormatError` if manifest, shard sizes or tokenizer files are wrong."""
        path = Path(path)
        file = path / rules.FILE
        if not path.is_dir():
            raise FormatError(
                "is not a folder; a model is one that holds manifest.json", file=path, field="path"
            )
        data = _read(file, rules.MAX_MANIFEST, "(whole file)")
        try:
            if verify:
                rules.check_seal(data)
            raw = strict_json(data)
            manifest = rules.from_value(raw)
        except FormatError as error:
            raise error.at(file=file) from None
        maps = {
            name: _map(path / name, length, f"shards[{index}].length")
            for index, (name, length) in enumerate(manifest.shards.items())
        }
        model = cls(path, manifest, raw, maps, verify)
        model._check_tokenizer()
        return model

    def _check_tokenizer(self) -> None:
        folder = self.tokenizer_path
        listed = self._manifest.tokenizer
        try:
            found = sorted(each.name for each in folder.iterdir() if not each.name.startswith("."))
        except FileNotFoundError:
            found = []
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}", file=folder, field="tokenizer") from None
        for name in found:
            if name not in listed:
                raise FormatError(
                    "is not listed in the manifest", file=folder / name, field=f"tokenizer.{name}"
                )
        for name, entry in listed.items():
            data = _read(folder / name, entry["length"], f"tokenizer.{name}.length")
            if len(data) != entry["length"]:
                raise FormatError(
                    f"has {len(data)} bytes, but the manifest says {entry['length']}",
                    file=folder / name,
                    field=f"tokenizer.{name}.length",
                )
            if self.verify and checksum(data) != entry["checksum"]:
                raise FormatError(
                    "does not have the sha256 of the manifest",
                    file=folder / name,
                    field=f"tokenizer.{name}.checksum",
                )

    @property
    def config(self) -> dict:
        """The model's config.json, verbatim."""
        return self._manifest.config

    @property
    def tokenizer_path(self) -> Path:
        """Folder of the tokenizer's files (it may be empty)."""
        return self.path / rules.TOKENIZER_FOLDER

    def weight_files(self) -> list[Path]:
        """The shards."""
        return [self.path / name for name in self._manifest.shards]

    def names(self) -> list[str]:
        """Names of all tensors, in the order they were written."""
        return list(self._manifest.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._manifest.tensors

    def _entry(self, name: str) -> StoredTensor:
        entry = self._manifest.tensors.get(name)
        if entry is None:
            known = islice(self._manifest.tensors, _COMPARED)
            near = difflib.get_close_matches(str(name)[:512], list(known), n=3, cutoff=0.8)
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise FormatError(
                f"is not in this model{hint}", file=self.path / rules.FILE, tensor=str(name), field="tensors"
            )
        return entry

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        """Shape and format of what `tensor` returns, without touching the data."""
        entry = self._entry(name)
        return entry.shape, replace(entry.format, order="low-first")

    def stored(self, name: str) -> StoredTensor:
        """How and where a tensor is stored: layout, order, parts, planes."""
        return self._entry(name)

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        """The parts of a tensor as (first row, tensor of these rows), one after the other."""
        entry = self._entry(name)
        for index, part in enumerate(entry.parts):
            yield part.start, self._part(name, entry, index, part)

    def tensor(self, name: str) -> WeightTensor:
        """A whole tensor. One planar, low-first part is returned without a copy, several are put together."""
        entry = self._entry(name)
        parts = [part for _, part in self.parts(name)]
        if len(parts) == 1:
            return parts[0]
        planes = {}
        for plane in parts[0].planes:
            arrays = [part.planes[plane] for part in parts]
            if entry.format.shares(plane):
                for index, array in enumerate(arrays):
                    if array.tobytes() != arrays[0].tobytes():
                        raise FormatError(
                            "differs from that of the first part, but there is one for the whole tensor",
                            file=self.path / rules.FILE,
                            tensor=name,
                            field=f"parts[{index}].planes.{plane}",
                        )
                planes[plane] = arrays[0]
            else:
                planes[plane] = np.concatenate(arrays)
        return WeightTensor(name, entry.shape, parts[0].format, planes)

    def check(self) -> None:
        """Reads and verifies every plane; returns nothing, or raises the first `FormatError`."""
        for name in self._manifest.tensors:
            for _ in self.parts(name):
                pass

    def _part(self, name: str, entry: StoredTensor, index: int, part: Part) -> WeightTensor:
        shape = entry.part_shape(part)
        stored = {
            plane: self._plane(name, index, plane, part, *wanted)
            for plane, wanted in stored_planes(shape, entry.format, entry.layout).items()
        }
        if entry.layout == "interleaved":
            tensor = deinterleave(stored["blocks"], name, shape, entry.format)
        else:
            tensor = WeightTensor(name, shape, entry.format, stored)
        if self.verify and entry.format.is_quantized:
            self._check_values(tensor, index, part, entry.layout)
        return reorder(tensor, "low-first") if entry.format.is_quantized else tensor

    def _plane(
        self, name: str, index: int, plane: str, part: Part, shape: tuple[int, ...], dtype: np.dtype
    ) -> np.ndarray:
        at = part.planes[plane]
        data = memoryview(self._maps[at.shard])[at.offset : at.offset + at.length]
        key = (name, index, plane)
        if self.verify and key not in self._verified:
            if checksum(data) != at.checksum:
                raise FormatError(
                    f"the {at.length} bytes at {at.offset} do not have this sha256: damaged or exchanged",
                    file=self.path / at.shard,
                    tensor=name,
                    field=f"parts[{index}].planes.{plane}.checksum",
                )
            self._check_padding(name, f"parts[{index}].planes.{plane}", at)
            self._verified.add(key)
        return np.frombuffer(data, dtype).reshape(shape)

    def _check_padding(self, name: str, field: str, at: Plane) -> None:
        """Zeros follow a plane up to where the next one begins; no checksum covers them."""
        end = at.offset + at.length
        behind = self._maps[at.shard][end : rules.padded(end)]
        if any(behind):
            place = next(index for index, byte in enumerate(behind, end) if byte)
            raise FormatError(
                f"byte {place} is {self._maps[at.shard][place]}, but is padding, which is 0: damaged",
                file=self.path / at.shard,
                tensor=name,
                field=f"{field}.offset",
            )

    def _check_values(self, tensor: WeightTensor, index: int, part: Part, layout: str) -> None:
        """Scales, zero-points and offsets that a converter could not have written, though their checksum is right."""
        low, high = tensor.format.zero_range
        checks = {
            "scales": np.isfinite,
            "offsets": np.isfinite,
            "zeros": lambda plane: (plane >= low) & (plane <= high),
        }
        for plane in checks.keys() & tensor.planes.keys():
            good = checks[plane](tensor.planes[plane])
            if not good.all():
                row, block = np.argwhere(~good)[0].tolist()
                value = tensor.planes[plane][row, block]
                stored = "blocks" if layout == "interleaved" else plane
                raise FormatError(
                    f"{plane[:-1]} {value} of row {part.start + row}, block {block} is not allowed in "
                    f"{tensor.format}",
                    file=self.path / part.planes[stored].shard,
                    tensor=tensor.name,
                    field=f"parts[{index}].planes.{stored}",
                )
