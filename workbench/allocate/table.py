"""What each group of matrices costs in each format, measured alone: the input of an allocation, and a file.

The cost is KL(float model || model with one group quantized), in nats a token, mean over the scored tokens of a
text. Per window only sums are kept, which is all that means, clustered errors and sums over groups need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eval.statistics import ratio_se
from workbench.allocate.groups import Group, place
from workbench.errors import WorkbenchError
from workbench.files.reading import read_text
from workbench.files.writing import write_json
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat

KIND = "workbench-sensitivity"


@dataclass(frozen=True, eq=False)
class SensitivityTable:
    """kl_sums: f64 [groups, formats, windows], the sum of KL over a window's scored tokens. tokens: int64 [windows].

    vector_bytes: of norms and biases, which no allocation changes. key: what decides the numbers (model and text
    hashes, protocol, quantizer, groups, formats); two tables with equal keys differ in their windows alone. record:
    versions and the like. seconds: what measuring took.
    """

    groups: tuple[Group, ...]
    formats: tuple[WeightFormat, ...]
    kl_sums: np.ndarray = field(repr=False)
    tokens: np.ndarray = field(repr=False)
    vector_bytes: int
    key: dict[str, Any] = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    seconds: float = 0.0

    @property
    def windows(self) -> int:
        return len(self.tokens)

    @property
    def tokens_scored(self) -> int:
        return int(self.tokens.sum())

    @property
    def quantizer(self) -> str:
        return self.key["quantizer"]

    @property
    def weights(self) -> int:
        """Weights of all matrices."""
        return sum(group.weights for group in self.groups)

    @cached_property
    def kl(self) -> np.ndarray:
        """f64 [groups, formats]: mean KL a token."""
        return self.kl_sums.sum(2) / self.tokens.sum()

    @cached_property
    def kl_se(self) -> np.ndarray:
        """f64 [groups, formats]: its standard error, clustered by window; NaN for a single window."""
        return np.array([[ratio_se(sums, self.tokens) for sums in row] for row in self.kl_sums])

    @cached_property
    def nbytes(self) -> np.ndarray:
        """int64 [groups, formats]."""
        return np.array([[group.nbytes(fmt) for fmt in self.formats] for group in self.groups], np.int64)

    def predicted(self, options: Sequence[int]) -> tuple[float, float]:
        """Sum over the groups of the KL of their options, and its clustered error.

        The groups were measured on the same windows, so their errors are not independent: the windows' sums are
        added before the error is taken.
        """
        sums = self.kl_sums[np.arange(len(self.groups)), np.asarray(options)].sum(0)
        return float(sums.sum() / self.tokens.sum()), ratio_se(sums, self.tokens)

    def option(self, fmt: WeightFormat) -> int:
        """Where a format stands in `formats`. Raises WorkbenchError if it was not measured."""
        if fmt not in self.formats:
            allowed = ", ".join(map(str, self.formats))
            raise WorkbenchError(f"allocate: {fmt} was not measured; allowed: {allowed}")
        return self.formats.index(fmt)

    def allowed(self, pins: Mapping[str, WeightFormat]) -> list[list[int]]:
        """The options (indices into `formats`) of each group, where some groups are pinned to a format.

        Raises WorkbenchError for a group that is not there and for a format that was not measured.
        """
        names = [group.name for group in self.groups]
        if unknown := [name for name in pins if name not in names]:
            raise WorkbenchError(f"allocate: there is no group {unknown[0]!r}; there are {', '.join(names)}")
        every = list(range(len(self.formats)))
        return [[self.option(pins[name])] if name in pins else every for name in names]

    def stepped(self, group: str, fmt: WeightFormat, by: int) -> WeightFormat:
        """The format `by` places further in the order of a group's bytes, or the last one there."""
        sizes = self.nbytes[[each.name for each in self.groups].index(group)]
        order = np.argsort(sizes, kind="stable").tolist()
        at = order.index(self.option(fmt)) + by
        return self.formats[order[min(max(at, 0), len(order) - 1)]]

    def layer_bits(self, options: Sequence[int]) -> dict[int, float]:
        """Bits a weight of each layer's matrices under those options, scales and zero-points counted."""
        sums: dict[int, list[int]] = {}
        for g, (group, f) in enumerate(zip(self.groups, options, strict=True)):
            layer = place(group.name)[1]
            if layer is not None:
                sizes = sums.setdefault(layer, [0, 0])
                sizes[0] += int(self.nbytes[g, f])
                sizes[1] += group.weights
        return {layer: 8 * nbytes / weights for layer, (nbytes, weights) in sorted(sums.items())}

    def first(self, windows: int | None) -> SensitivityTable:
        """The table of the first so many windows, or itself."""
        if windows is None or windows >= self.windows:
            return self
        return replace(self, kl_sums=self.kl_sums[..., :windows], tokens=self.tokens[:windows])

    def only(self, formats: Sequence[WeightFormat]) -> SensitivityTable:
        """The table of some of its formats. Raises WorkbenchError for one that was not measured."""
        at = [self.option(fmt) for fmt in formats]
        key = self.key | {"formats": [str(fmt) for fmt in formats]}
        return replace(self, formats=tuple(formats), kl_sums=self.kl_sums[:, at], key=key)

    def extended(self, kl_sums: np.ndarray, tokens: int, seconds: float) -> SensitivityTable:
        """With one window more: kl_sums [groups, formats] over so many tokens."""
        return replace(
            self,
            kl_sums=np.concatenate([self.kl_sums, kl_sums[..., None]], 2),
            tokens=np.append(self.tokens, tokens),
            seconds=self.seconds + seconds,
        )

    def pareto(self):
        """The best allocation for every budget: `workbench.allocate.pareto.Pareto`."""
        from workbench.allocate.pareto import Pareto

        return Pareto(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a group and format: group, format, bytes, bits (a weight), kl, kl_se."""
        kl, se, nbytes = self.kl, self.kl_se, self.nbytes
        return [
            {
                "group": group.name,
                "format": str(fmt),
                "bytes": int(nbytes[g, f]),
                "bits": 8 * int(nbytes[g, f]) / group.weights,
                "kl": float(kl[g, f]),
                "kl_se": float(se[g, f]),
            }
            for g, group in enumerate(self.groups)
            for f, fmt in enumerate(self.formats)
        ]

    def plot(self):
        """A picture of KL a group, one line a format."""
        from workbench.allocate.plots import sensitivity

        return sensitivity(self)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": KIND,
            "version": 1,
            "key": self.key,
            "record": self.record,
            "seconds": self.seconds,
            "groups": [
                {"name": g.name, "tensors": {n: list(s) for n, s in g.tensors.items()}} for g in self.groups
            ],
            "formats": [fmt.to_json() for fmt in self.formats],
            "vector_bytes": self.vector_bytes,
            "tokens": self.tokens.tolist(),
            "kl_sums": self.kl_sums.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SensitivityTable:
        """Raises ValueError, KeyError or TypeError where the data is no table; `load` says it better."""
        if data["kind"] != KIND or data["version"] != 1:
            raise ValueError(f"kind and version are {data['kind']!r} and {data['version']!r}")
        groups = tuple(
            Group(str(g["name"]), {name: tuple(map(int, shape)) for name, shape in g["tensors"].items()})
            for g in data["groups"]
        )
        formats = tuple(WeightFormat.from_json(fmt) for fmt in data["formats"])
        tokens = np.array(data["tokens"], np.int64)
        kl_sums = np.array(data["kl_sums"], np.float64).reshape(len(groups), len(formats), len(tokens))
        if not np.isfinite(kl_sums).all() or (tokens < 1).any():
            raise ValueError("sums of KL that are not finite, or windows without tokens")
        fixed = (int(data["vector_bytes"]), dict(data["key"]), dict(data["record"]), float(data["seconds"]))
        return cls(groups, formats, kl_sums, tokens, *fixed)

    def save(self, path: str | Path) -> None:
        """Write it whole or not at all. Raises StorageError."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> SensitivityTable:
        """Read what `save` wrote. Raises WorkbenchError for anything else."""
        try:
            return cls.from_json(json.loads(read_text(path)))
        except OSError as error:
            raise WorkbenchError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, FormatError) as error:
            raise WorkbenchError(f"{path}: not a sensitivity table ({error})") from error
