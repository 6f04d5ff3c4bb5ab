"""A checkpoint as it would read after conversion, without writing it: tensors are quantized when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.convert.tensors import convert_tensor, quantizer_on
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.source import Source


def source_hashes(source: Any) -> dict[str, str]:
    """sha256 by file name of what a source is made of; of a converted model its manifest's, which seals the rest."""
    if isinstance(source, StoredModel):
        return {
            "manifest.json": hashlib.sha256((Path(source.path) / "manifest.json").read_bytes()).hexdigest()
        }
    return source.source_hashes()


class Requantized:
    """Reads like `source` (names, describe, tensor, parts), with some matrices in other formats.

    formats: checkpoint name -> format; matrices that are not named keep their own. made: where tensors are kept,
    packed, once they were asked for, for several of these to share; by default they are made anew each time.
    """

    def __init__(
        self,
        source: Source,
        formats: Mapping[str, WeightFormat],
        quantizer: str = "rtn",
        made: dict[tuple, WeightTensor] | None = None,
    ):
        self._made = made
        self.source, self.formats, self.quantizer = source, dict(formats), quantizer
        self.path, self.config, self.tokenizer_path = source.path, source.config, source.tokenizer_path

    @property
    def manifest(self) -> dict:
        """What the provenance of a figure says of this source."""
        formats = {name: str(fmt) for name, fmt in self.formats.items()}
        made = {"quantizer": self.quantizer, "formats": formats, "files": source_hashes(self.source)}
        return {"provenance": made}

    def names(self) -> list[str]:
        return self.source.names()

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        shape, fmt = self.source.describe(name)
        return shape, self.formats[name].fitted(shape[-1]) if name in self.formats else fmt

    def has_made(self, name: str) -> bool:
        """Whether the tensor is there without quantizing it again."""
        return name not in self.formats or (self._made is not None and self._key(name) in self._made)

    def _key(self, name: str) -> tuple:
        return name, self.formats[name], self.quantizer

    def tensor(self, name: str) -> WeightTensor:
        if name not in self.formats:
            return self.source.tensor(name)
        if self._made is not None and self.has_made(name):
            return self._made[self._key(name)]
        tensor = convert_tensor(
            self.source, name, self.describe(name)[1], quantizer_on(self.quantizer, "cpu")
        )
        if self._made is not None:
            self._made[self._key(name)] = tensor
        return tensor

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        """As of the source; a requantized matrix comes whole."""
        if name not in self.formats:
            yield from self.source.parts(name)
        else:
            yield 0, self.tensor(name)
