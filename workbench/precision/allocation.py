"""An allocation: a format for each group of matrices, what it costs, and why it was chosen. Saved as JSON."""

from __future__ import annotations

import glob
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.report import ONE_WINDOW, plus_minus
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.files.reading import read_text
from workbench.files.writing import write_json
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.precision.groups import fused_groups, unquantized_plan
from workbench.precision.table import SensitivityTable
from workbench.show.table import Figure, Table

KIND = "workbench-allocation"


@dataclass(frozen=True)
class Assignment:
    """One group's format. kl, kl_se: nats a token, measured with only this group quantized (kl_se NaN for one
    window). reason: for the manifest."""

    group: str
    tensors: tuple[str, ...]
    format: WeightFormat
    nbytes: int
    kl: float
    kl_se: float
    reason: str


@dataclass(frozen=True, repr=False)
class Allocation:
    """nbytes: of all weights, vectors included. weights: of the matrices. predicted_kl, predicted_se: the groups'
    KL added up, nats a token. target: what was asked for. joint: the KL measured with all groups quantized at once,
    by name of the text, each {kl, kl_se, ln_ratio, ln_ratio_se, tokens, windows}. key: of the table it rests on."""

    assignments: tuple[Assignment, ...]
    nbytes: int
    weights: int
    predicted_kl: float
    predicted_se: float
    target: str
    quantizer: str
    key: dict[str, Any]
    joint: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def bits_per_weight(self) -> float:
        """Everything stored over the weights of the matrices."""
        return 8 * self.nbytes / self.weights

    @property
    def formats(self) -> dict[str, WeightFormat]:
        """Checkpoint name -> format, of every matrix."""
        return {tensor: each.format for each in self.assignments for tensor in each.tensors}

    def options(self, **more: Any) -> ConvertOptions:
        """Options of a conversion with these formats and reasons; `more` are further fields of ConvertOptions.

        overrides among them win over the allocation.
        """
        patterns = {glob.escape(tensor): each for each in self.assignments for tensor in each.tensors}
        chosen = {pattern: each.format for pattern, each in patterns.items()}
        common = Counter(chosen.values()).most_common(1)[0][0]
        given = {"format": common, "quantizer": self.quantizer, **more}
        given["overrides"] = {**given.get("overrides", {}), **chosen}
        given["reasons"] = {pattern: each.reason for pattern, each in patterns.items()}
        return ConvertOptions(**given)

    def check_source(self, source) -> None:
        """Raise WorkbenchError unless the allocation is of a model with the same matrices."""
        groups = fused_groups(unquantized_plan(source))
        wanted, found = set(self.formats), {tensor for group in groups for tensor in group.tensors}
        for names, what in (
            (wanted - found, "the model does not have"),
            (found - wanted, "it does not name"),
        ):
            if names:
                raise WorkbenchError(
                    f"{source.path}: the allocation is of another model: {what} {sorted(names)[0]!r}"
                )

    def with_joint(self, name: str, figures: dict[str, float]) -> Allocation:
        """The same with a measurement of all groups at once, on the text of that name."""
        return replace(self, joint={**self.joint, name: figures})

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict a group: group, format, bytes, kl, kl_se, reason."""
        return [
            {
                "group": each.group,
                "format": str(each.format),
                "bytes": each.nbytes,
                "kl": each.kl,
                "kl_se": each.kl_se,
                "reason": each.reason,
            }
            for each in self.assignments
        ]

    def __str__(self) -> str:
        counts = Counter(str(each.format) for each in self.assignments)
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=_by_bits))
        lines = [
            f"{self.target}: {self.nbytes:,} bytes, {self.bits_per_weight:.3f} bits a weight; groups: {kinds}",
            f"predicted KL {self.predicted_kl:.3e}{_error(self.predicted_se)} nats a token (groups added up)",
        ]
        for name, found in self.joint.items():
            lines.append(
                f"measured KL  {found['kl']:.3e}{_error(found['kl_se'])} on {name} (all at once, "
                f"{found['tokens']:,} tokens), ln PPL ratio {found['ln_ratio']:+.3e}{_error(found['ln_ratio_se'])}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<allocation, {self.target}: {self.bits_per_weight:.3f} bits a weight, KL {self.predicted_kl:.1e} nats>"

    def table(self) -> Table:
        """A row a group: format, bytes, what it costs alone."""
        rows = [
            [
                each.group,
                str(each.format),
                f"{each.nbytes:,}",
                Figure(f"{each.kl:.2e}", _plain_error(each.kl_se)),
            ]
            for each in self.assignments
        ]
        head = ["group", "format", "bytes", "KL alone, nats a token"]
        return Table(head, rows, "llr", caption="; ".join(str(self).splitlines()))

    def data(self) -> Any:
        """A pandas DataFrame of `to_rows`."""
        import pandas

        return pandas.DataFrame(self.to_rows())

    def _repr_html_(self) -> str:
        return self.table().html()

    def plot(self):
        """A picture of the formats by layer and kind of matrix."""
        from workbench.precision.plots import allocation

        return allocation(self)

    def to_json(self) -> dict[str, Any]:
        def known(value: float) -> float | None:
            return None if np.isnan(value) else value

        plain = asdict(self) | {"predicted_se": known(self.predicted_se)}
        plain["assignments"] = [
            asdict(each) | {"format": str(each.format), "kl_se": known(each.kl_se)}
            for each in self.assignments
        ]
        plain["joint"] = {
            name: {key: known(value) for key, value in found.items()} for name, found in self.joint.items()
        }
        return {"kind": KIND, "version": 1, "bits_per_weight": self.bits_per_weight, **plain}

    def save(self, path: str | Path) -> None:
        """Write it whole or not at all; `workbench quantize --precision PATH` reads it. Raises StorageError."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Allocation:
        """Read what `save` wrote. Raises WorkbenchError for anything else."""

        def number(value: float | None) -> float:
            return float("nan") if value is None else float(value)

        try:
            data = json.loads(read_text(path))
            if data.pop("kind") != KIND or data.pop("version") != 1:
                raise ValueError("kind or version is another")
            del data["bits_per_weight"]
            data["assignments"] = tuple(
                Assignment(
                    **each
                    | {
                        "tensors": tuple(each["tensors"]),
                        "format": parse_format(each["format"]),
                        "kl_se": number(each["kl_se"]),
                    }
                )
                for each in data["assignments"]
            )
            data["predicted_se"] = number(data["predicted_se"])
            data["joint"] = {
                name: {key: number(value) for key, value in found.items()}
                for name, found in data["joint"].items()
            }
            return cls(**data)
        except OSError as error:
            raise WorkbenchError(f"{path}: cannot be read ({error.strerror})") from error
        except (
            ValueError,
            RecursionError,
            KeyError,
            TypeError,
            AttributeError,
            FormatError,
            WorkbenchError,
        ) as error:
            raise WorkbenchError(f"{path}: not an allocation ({error})") from error


def allocation_of(
    table: SensitivityTable, options: Sequence[int], target: str, pinned: Collection[str] = ()
) -> Allocation:
    """The allocation that takes option options[g] (an index into table.formats) for group g.

    pinned: names of groups whose format was given, and not chosen; their reasons say so.
    """
    kl, se, nbytes = table.kl, table.kl_se, table.nbytes
    predicted, predicted_se = table.predicted(options)
    return Allocation(
        assignments=tuple(
            Assignment(
                group=group.name,
                tensors=tuple(group.tensors),
                format=table.stored[g][f],
                nbytes=int(nbytes[g, f]),
                kl=float(kl[g, f]),
                kl_se=float(se[g, f]),
                reason=("pinned by hand, others " if group.name in pinned else "")
                + _reason(table, g, f, target, kl[g], se[g], nbytes[g]),
            )
            for g, (group, f) in enumerate(zip(table.groups, options, strict=True))
        ),
        nbytes=int(nbytes[np.arange(len(options)), list(options)].sum()) + table.vector_bytes,
        weights=table.weights,
        predicted_kl=predicted,
        predicted_se=predicted_se,
        target=target,
        quantizer=table.quantizer,
        key=table.key,
    )


def _reason(table: SensitivityTable, g: int, f: int, target: str, kl, se, nbytes) -> str:
    """What the format costs, and what its neighbours in size would have changed."""
    error = plus_minus(se[f], ".1e")
    text = f"allocated for {target}: {table.groups[g].name} alone costs KL {kl[f]:.2e}{error} nats a token"
    order = sorted(range(len(nbytes)), key=lambda option: nbytes[option])
    place = order.index(f)
    if place:
        other = order[place - 1]
        text += (
            f"; {table.stored[g][other]} would save {nbytes[f] - nbytes[other]:,} bytes for {kl[other]:.2e}"
        )
    if place + 1 < len(order):
        other = order[place + 1]
        text += (
            f"; {table.stored[g][other]} would take {nbytes[other] - nbytes[f]:,} more for {kl[other]:.2e}"
        )
    return text


def _error(se: float) -> str:
    """An error that is clustered by window."""
    return plus_minus(se, ".1e", ONE_WINDOW)


def _plain_error(se: float) -> str:
    return "" if np.isnan(se) else f"{se:.0e}"


def _by_bits(counted: tuple[str, int]) -> tuple[int, str]:
    return -parse_format(counted[0]).bits, counted[0]
