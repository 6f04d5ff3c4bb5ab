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
from workbench.errors import WorkbenchError
from workbench.files.reading import read_text
from workbench.files.writing import write_json
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.precision.groups import Group, place

KIND = "workbench-sensitivity"


@dataclass(frozen=True, eq=False)
class SensitivityTable:
    """kl_sums: f64 [groups, formats, windows], the sum of KL over a window's scored tokens. tokens: int64 [windows].

    formats: the candidates; one that differs between groups as it was asked for. stored: what each is for each group,
    [groups][formats], by default with its block size fitted to the rows. vector_bytes: of norms and biases, which no
    allocation changes. key: what decides the numbers (model and text hashes, protocol, quantizer, groups, formats); two
    tables with equal keys differ in their windows alone. record: versions and the like. seconds: what measuring took.
    partial: of the window that comes next, group -> sums of KL [formats], where measuring it was stopped.
    """

    groups: tuple[Group, ...]
    formats: tuple[WeightFormat, ...]
    kl_sums: np.ndarray = field(repr=False)
    tokens: np.ndarray = field(repr=False)
    vector_bytes: int
    key: dict[str, Any] = field(repr=False)
    record: dict[str, Any] = field(repr=False)
    seconds: float = 0.0
    stored: tuple[tuple[WeightFormat, ...], ...] = field(default=(), repr=False)
    partial: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.stored:
            fitted = (tuple(fmt.fitted(group.columns) for fmt in self.formats) for group in self.groups)
            object.__setattr__(self, "stored", tuple(fitted))

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
        sizes = [
            [group.nbytes(fmt) for fmt in formats]
            for group, formats in zip(self.groups, self.stored, strict=True)
        ]
        return np.array(sizes, np.int64)

    def predicted(self, options: Sequence[int]) -> tuple[float, float]:
        """Sum over the groups of the KL of their options, and its clustered error.

        The groups were measured on the same windows, so their errors are not independent: the windows' sums are
        added before the error is taken.
        """
        sums = self.kl_sums[np.arange(len(self.groups)), np.asarray(options)].sum(0)
        return float(sums.sum() / self.tokens.sum()), ratio_se(sums, self.tokens)

    def option(self, fmt: WeightFormat, group: str | None = None) -> int:
        """Where a format stands in `formats`: as it was asked for, or as it is stored of a group (None: of all).

        Raises WorkbenchError if it was not measured.
        """
        if fmt in self.formats:
            return self.formats.index(fmt)
        rows = [g for g, each in enumerate(self.groups) if group in (None, each.name)]
        for f in range(len(self.formats)):
            if all(self.stored[g][f] == fmt.fitted(self.groups[g].columns) for g in rows):
                return f
        allowed = ", ".join(map(str, self.formats))
        raise WorkbenchError(f"allocate: {fmt} was not measured; allowed: {allowed}")

    def allowed(self, pins: Mapping[str, WeightFormat]) -> list[list[int]]:
        """The options (indices into `formats`) of each group, where some groups are pinned to a format.

        Raises WorkbenchError for a group that is not there and for a format that was not measured.
        """
        names = [group.name for group in self.groups]
        if unknown := [name for name in pins if name not in names]:
            raise WorkbenchError(f"allocate: there is no group {unknown[0]!r}; there are {', '.join(names)}")
        every = list(range(len(self.formats)))
        return [[self.option(pins[name], name)] if name in pins else every for name in names]

    def stepped(self, group: str, fmt: WeightFormat, by: int) -> WeightFormat:
        """The format `by` places further in the order of a group's bytes, or the last one there."""
        sizes = self.nbytes[[each.name for each in self.groups].index(group)]
        order = np.argsort(sizes, kind="stable").tolist()
        at = order.index(self.option(fmt, group)) + by
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
        return replace(self, kl_sums=self.kl_sums[..., :windows], tokens=self.tokens[:windows], partial={})

    def only(self, formats: Sequence[WeightFormat]) -> SensitivityTable:
        """The table of some of its formats. Raises WorkbenchError for one that was not measured."""
        at = [self.option(fmt) for fmt in formats]
        key = self.key | {"formats": [str(fmt) for fmt in formats]}
        stored = tuple(tuple(each[f] for f in at) for each in self.stored)
        sums = self.kl_sums[:, at]
        return replace(self, formats=tuple(formats), kl_sums=sums, key=key, stored=stored, partial={})

    def with_group(self, group: int, kl_sums: np.ndarray, seconds: float) -> SensitivityTable:
        """With a group more of the window that comes next: kl_sums [formats]."""
        partial = {**self.partial, group: np.asarray(kl_sums, np.float64)}
        return replace(self, partial=partial, seconds=self.seconds + seconds)

    def with_window(self, tokens: int) -> SensitivityTable:
        """With the window of which all groups are there, over so many tokens."""
        sums = np.stack([self.partial[g] for g in range(len(self.groups))])
        return replace(
            self,
            kl_sums=np.concatenate([self.kl_sums, sums[..., None]], 2),
            tokens=np.append(self.tokens, tokens),
            partial={},
        )

    def pareto(self):
        """The best allocation for every budget: `workbench.precision.pareto.Pareto`."""
        from workbench.precision.pareto import Pareto

        return Pareto(self)

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a group and format as stored: group, format, bytes, bits (a weight), kl, kl_se."""
        kl, se, nbytes = self.kl, self.kl_se, self.nbytes
        return [
            {
                "group": group.name,
                "format": str(self.stored[g][f]),
                "bytes": int(nbytes[g, f]),
                "bits": 8 * int(nbytes[g, f]) / group.weights,
                "kl": float(kl[g, f]),
                "kl_se": float(se[g, f]),
            }
            for g, group in enumerate(self.groups)
            for f in range(len(self.formats))
        ]

    def plot(self):
        """A picture of KL a group, one line a format."""
        from workbench.precision.plots import sensitivity

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
            "stored": [[fmt.to_json() for fmt in formats] for formats in self.stored],
            "vector_bytes": self.vector_bytes,
            "tokens": self.tokens.tolist(),
            "kl_sums": self.kl_sums.tolist(),
            "partial": {str(group): sums.tolist() for group, sums in self.partial.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SensitivityTable:
        """Raises ValueError, KeyError or TypeError where the data is no table; `load` says it better."""
        if data["kind"] != KIND or data["version"] != 1:
            raise ValueError(f"kind and version are {data['kind']!r} and {data['version']!r}")
        groups = tuple(
            Group(str(g["name"]), {name: (int(n), int(k)) for name, (n, k) in g["tensors"].items()})
            for g in data["groups"]
        )
        formats = tuple(WeightFormat.from_json(fmt) for fmt in data["formats"])
        tokens = np.array(data["tokens"], np.int64)
        kl_sums = np.array(data["kl_sums"], np.float64).reshape(len(groups), len(formats), len(tokens))
        if not np.isfinite(kl_sums).all() or (tokens < 1).any():
            raise ValueError("sums of KL that are not finite, or windows without tokens")
        # Files from before block sizes were fitted name all of theirs, and hold whole windows only.
        stored = tuple(tuple(map(WeightFormat.from_json, each)) for each in data.get("stored", ()))
        if (stored and {len(each) for each in stored} != {len(formats)}) or len(stored) not in (
            0,
            len(groups),
        ):
            raise ValueError("stored formats that are not one of each group and format")
        partial = {int(group): np.array(sums, np.float64) for group, sums in data.get("partial", {}).items()}
        if any(
            group not in range(len(groups)) or sums.shape != (len(formats),) or not np.isfinite(sums).all()
            for group, sums in partial.items()
        ):
            raise ValueError("sums of a window in part that are not of its groups")
        fixed = (int(data["vector_bytes"]), dict(data["key"]), dict(data["record"]), float(data["seconds"]))
        return cls(groups, formats, kl_sums, tokens, *fixed, stored, partial)

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
