"""What each expert of a mixture costs when it alone is quantized, beside how many tokens go to it.

    found = expert_sensitivity("MIXTURE", tokens, "disjoint-256", formats=[WeightFormat("int4")], max_windows=4)
    print(found)
    found.plot()

The experts of a layer lie one under the other in one matrix a projection, which is stored in one format; so a format
for a single expert cannot be stored, but its cost can be measured: the rows of one expert are quantized and all others
stay float. Blocks lie along rows, so these rows hold what a conversion of the whole matrix gives them (by quantizers
that see one matrix alone; with one scale a tensor, that of all experts).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.protocols import Protocol, Window, protocol
from eval.routing import Router, routers
from eval.texts import Tokens
from workbench.errors import WorkbenchError
from workbench.files.reading import read_text
from workbench.files.writing import write_json
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.model_bench.measure import reference_threads
from workbench.models.source import Source, open_source
from workbench.plan.plan import Plan
from workbench.precision.branches import QUANTIZE, RESTORE, Branches
from workbench.precision.groups import Group, unquantized_plan
from workbench.precision.meter import Meter, Progress
from workbench.precision.sensitivity import TIERS, empty_table, windows_of
from workbench.precision.table import SensitivityTable
from workbench.runtime.step import Step
from workbench.runtime.torch_executor import TorchCache
from workbench.show.figures import Picture, colour_of, label_apart
from workbench.show.table import Figure, Table

KIND = "workbench-expert-sensitivity"


@dataclass(frozen=True)
class Expert(Group):
    """The rows of one expert in the matrices of a layer. tensors: checkpoint name -> (rows, columns) of this expert;
    layer: such as `layers.3`; index: which of the layer's experts it is."""

    layer: str
    index: int


@dataclass(frozen=True, eq=False)
class ExpertSensitivity:
    """measured: a table whose groups are the experts, layer after layer. traffic: int64 [experts, windows], the scored
    tokens of each window that went to each expert in the float model."""

    measured: SensitivityTable
    traffic: np.ndarray = field(repr=False)

    @property
    def experts(self) -> list[tuple[str, int]]:
        """(layer, index) of each row."""
        return [_split(group.name) for group in self.measured.groups]

    @property
    def share(self) -> np.ndarray:
        """f64 [experts]: the share of the scored tokens that go to each; those of a layer add up to k."""
        return self.traffic.sum(1) / self.measured.tokens_scored

    @property
    def kl_routed(self) -> np.ndarray:
        """f64 [experts, formats]: the sum of KL over all tokens, for attention spreads it to others, over the number of
        those that go to the expert. NaN for an expert that none goes to."""
        counts = self.traffic.sum(1)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(counts > 0, self.measured.kl_sums.sum(2) / counts, np.nan)

    def rank_correlation(self, fmt: WeightFormat) -> float:
        """Spearman's between traffic and KL over all experts: 1 where more tokens always cost more. NaN where all are
        alike. Raises WorkbenchError for a format that was not measured."""
        kl = self.measured.kl[:, self.measured.option(fmt)]
        ranks = np.stack([_ranks(values) for values in (self.share, kl)])
        return float(np.corrcoef(ranks)[0, 1]) if (ranks.std(1) > 0).all() else float("nan")

    def require_groups_of(self, costs: SensitivityTable) -> None:
        """Raises WorkbenchError where groups are those of another model than that of these experts."""
        there = {tensor for group in costs.groups for tensor in group.tensors}
        for group in self.measured.groups:
            if missing := [tensor for tensor in group.tensors if tensor not in there]:
                raise WorkbenchError(
                    f"{group.name} has rows of {missing[0]}, which is in no group of the sensitivities: they are of "
                    "different models"
                )

    def table(self) -> Table:
        """A row an expert: traffic, and for each format KL ± its error, and KL a routed token."""
        found, share, routed = self.measured, self.share, self.kl_routed
        head = ["expert", "traffic, %"]
        for fmt in found.formats:
            head += [f"{fmt}: KL", "a routed token"]
        rows = []
        for g, (layer, index) in enumerate(self.experts):
            cells = [f"{layer}, {index}", f"{100 * share[g]:.1f}"]
            for f in range(len(found.formats)):
                error = f"{found.kl_se[g, f]:.1e}" if np.isfinite(found.kl_se[g, f]) else ""
                cells += [Figure(f"{found.kl[g, f]:.2e}", error), f"{routed[g, f]:.2e}"]
            rows.append(cells)
        notes = [
            f"{fmt}: rank correlation of KL and traffic {self.rank_correlation(fmt):+.2f}"
            for fmt in found.formats
        ]
        return Table(head, rows, caption=self.caption, notes=notes)

    @property
    def caption(self) -> str:
        found = self.measured
        return (
            f"one expert quantized by {found.quantizer}, all else float; {found.key['protocol']}, "
            f"{found.tokens_scored:,} tokens, KL in nats a token"
        )

    def data(self) -> Any:
        """A pandas DataFrame, one row an expert and format: layer, expert, format, traffic, kl, kl_se, kl_routed."""
        import pandas

        found, share, routed = self.measured, self.share, self.kl_routed
        return pandas.DataFrame(
            [
                {
                    "layer": layer,
                    "expert": index,
                    "format": str(found.stored[g][f]),
                    "traffic": share[g],
                    "kl": found.kl[g, f],
                    "kl_se": found.kl_se[g, f],
                    "kl_routed": routed[g, f],
                }
                for g, (layer, index) in enumerate(self.experts)
                for f in range(len(found.formats))
            ]
        )

    def plot(self) -> Picture:
        """KL against traffic, a panel a format, a point an expert, labelled by its layer."""
        found, share = self.measured, 100 * self.share
        picture = Picture(3.9 * len(found.formats) + 0.6, 3.5, columns=len(found.formats))
        for f, (axes, fmt) in enumerate(zip(picture.axes, found.formats, strict=True)):
            kl, se = found.kl[:, f], np.nan_to_num(found.kl_se[:, f])
            shown = kl > 0
            style = {"fmt": "o", "ms": 4, "lw": 1, "color": colour_of(fmt.dtype)}
            axes.errorbar(share[shown], kl[shown], yerr=se[shown], **style)
            axes.set_yscale("log")
            axes.set_title(f"{fmt}, rank correlation {self.rank_correlation(fmt):+.2f}", fontsize=9.5)
            axes.set(xlabel="tokens that go to the expert, %", xlim=(0, None))
        picture.axes[0].set_ylabel("KL of the expert alone, nats a token")
        layers = [layer.rpartition(".")[2] for layer, _ in self.experts]
        for f, axes in enumerate(picture.axes):
            dearest = [int(g) for g in np.argsort(-found.kl[:, f], kind="stable") if found.kl[g, f] > 0]
            label_apart(axes, [(layers[g], (share[g], found.kl[g, f])) for g in dearest], fontsize=7)
        return picture

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()

    def save(self, path: str | Path) -> None:
        """Write it whole or not at all; see `load`. Raises StorageError."""
        data = {"kind": KIND, "measured": self.measured.to_json(), "traffic": self.traffic.tolist()}
        write_json(path, data)

    @classmethod
    def load(cls, path: str | Path) -> ExpertSensitivity:
        """Read what `save` wrote. Raises WorkbenchError for anything else."""
        try:
            data = json.loads(read_text(path))
            if data["kind"] != KIND:
                raise ValueError(f"kind is {data['kind']!r}")
            measured = SensitivityTable.from_json(data["measured"])
            traffic = np.array(data["traffic"], np.int64)
            if traffic.shape != (len(measured.groups), measured.windows) or (traffic < 0).any():
                raise ValueError("traffic that is not of its experts and windows")
            found = cls(measured, traffic)
            found.experts  # noqa: B018  raises for names that are no experts'
        except OSError as error:
            raise WorkbenchError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, FormatError) as error:
            raise WorkbenchError(f"{path}: not a sensitivity of experts ({error})") from error
        return found


class _ExpertBranches(Branches):
    """Branches whose groups are single experts: what is swapped is their rows."""

    groups: Sequence[Expert]
    _of_layer: tuple[str, dict[str, torch.Tensor]] = ("", {})

    def traffic(self, window: Window, shared: Sequence[Router]) -> np.ndarray:
        """int64 [experts]: scored tokens of a window that go to each, in the float model."""
        ids, keep = window.ids[:-1], [router.chosen for router in shared]
        step = Step.following(ids, 0)
        found = self.executor.run_step("all", step, TorchCache(len(ids)), keep=keep)
        rows = slice(window.first_scored - 1, None)
        counts = {
            router.layer: np.bincount(
                np.asarray(found[router.chosen])[rows].ravel(), minlength=router.experts
            )
            for router in shared
        }
        return np.array([counts[expert.layer][expert.index] for expert in self.groups], np.int64)

    def _weights(self, group: Group, f: int, meter: Meter) -> dict[str, torch.Tensor]:
        assert isinstance(group, Expert)
        found = {}
        for tensor, (rows, columns) in group.tensors.items():
            part = slice(group.index * rows, (group.index + 1) * rows)
            made_before = self._sources[f].has_made(tensor)
            with meter.doing((QUANTIZE, f), 0 if made_before else rows * columns):
                quantized = self._sources[f].tensor(tensor).rows(part.start, part.stop)
            with meter.doing(RESTORE, rows * columns):
                matrix = self._float(group.layer, tensor).clone()
                matrix[part] = torch.from_numpy(quantized.dequantize())
                found[self._names[tensor]] = matrix
        return found

    def _float(self, layer: str, tensor: str) -> torch.Tensor:
        """A matrix of the float model, kept while experts of its layer are measured."""
        if self._of_layer[0] != layer:
            self._of_layer = layer, {}
        kept = self._of_layer[1]
        if tensor not in kept:
            kept[tensor] = torch.from_numpy(self._sources[0].source.tensor(tensor).dequantize())
        return kept[tensor]


def experts_of(plan: Plan) -> list[Expert]:
    """The experts of a plan, layer after layer; none for a model without."""
    found: list[Expert] = []
    for router in routers(plan):
        matrices = dict.fromkeys(
            call.inputs["weight"]
            for call in plan.calls
            if call.inputs.get("experts") == router.chosen and "weight" in call.inputs
        )
        shapes = {
            plan.weights[name].tensor: (plan.weights[name].rows // router.experts, plan.weights[name].columns)
            for name in matrices
        }
        found += [
            Expert(f"{router.layer}.mlp.experts.{index}", shapes, router.layer, index)
            for index in range(router.experts)
        ]
    return found


def expert_sensitivity(
    source: Any,
    tokens: Tokens,
    scheme: str | Protocol = "disjoint-512",
    *,
    formats: Sequence[WeightFormat] | None = None,
    quantizer: str = "rtn",
    max_windows: int | None = None,
    threads: int | None = None,
    progress: bool | Progress = False,
) -> ExpertSensitivity:
    """The KL of every expert in every format, and its traffic, through the PyTorch references in f32.

    source: an unquantized checkpoint of a mixture of experts (folder, hub id or opened). formats: by default INT8, INT4
    and INT2. The rest is as in `workbench.precision.sensitivity.sensitivity`, errors too; WorkbenchError also for a
    model without experts. It takes about (experts x layers x formats) / 2 forward passes a window.
    """
    source = open_source(source)
    experts = require_experts(source)
    windows = windows_of(source, tokens, protocol(scheme), max_windows)
    wanted = formats or [WeightFormat(name) for name in TIERS]
    table = empty_table(source, tokens, protocol(scheme), experts, wanted, quantizer)
    branches = _ExpertBranches(source, experts, table.stored, quantizer, kept=True)
    shared = routers(branches.plan)
    meter = Meter(progress, len(windows), branches.work(windows), text="measuring experts")
    traffic = []
    with meter, reference_threads(threads or (1 if branches.small else None)):
        for window in windows:
            traffic.append(branches.traffic(window, shared))
            began = time.perf_counter()

            def told(group: int, sums: np.ndarray) -> None:
                nonlocal table, began
                now = time.perf_counter()
                table, began = table.with_group(group, sums, now - began), now

            branches.window(window, meter, (), told)
            table = table.with_window(window.scored)
    return ExpertSensitivity(table, np.stack(traffic, 1))


def require_experts(source: Source) -> list[Expert]:
    """The experts of a source's model; WorkbenchError where it has none."""
    found = experts_of(unquantized_plan(source))
    if not found:
        raise WorkbenchError(f"{source.path}: has no experts: its plan routes no tokens")
    return found


def _split(name: str) -> tuple[str, int]:
    """`layers.3.mlp.experts.5` -> ("layers.3", 5). Raises ValueError for another name."""
    layer, mark, index = name.partition(".mlp.experts.")
    if not mark:
        raise ValueError(f"{name!r} is no expert")
    return layer, int(index)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of values [n], equal ones sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
