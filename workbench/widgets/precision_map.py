"""`PrecisionMap`: how many bits each matrix gets under a budget, what that is predicted to cost, and what it does."""

from __future__ import annotations

import html
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import traitlets

from eval.protocols import Protocol
from eval.texts import Tokens
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import as_format
from workbench.known import known
from workbench.models.families import architecture_of
from workbench.models.paths import expanded
from workbench.models.source import open_source
from workbench.precision import plots
from workbench.precision.allocation import Allocation, Assignment
from workbench.precision.comparison import Row, compare, same
from workbench.precision.experts import ExpertSensitivity
from workbench.precision.groups import place
from workbench.precision.measured import Measured, measure
from workbench.precision.pareto import Pareto
from workbench.precision.sensitivity import sensitivity
from workbench.precision.table import SensitivityTable
from workbench.quantizers import QUANTIZERS_OF_ONE_MATRIX
from workbench.show.figures import Picture
from workbench.studies.fitting import fitted_protocol

from .background import Task, meter
from .base import View
from .precision_budget import beginning, in_bytes
from .precision_content import choice_content, experts_content, panel_content, static_html, table_content

WINDOWS = 8
NO_COSTS = "PrecisionMap: no sensitivities yet; measure_costs() or the button measures them"
Format = str | WeightFormat


class PrecisionMap(View):
    """Drag the budget and see every group's format; pin groups by hand; measure what the prediction promises.

    costs: a `SensitivityTable` or the file of one; without it they are measured here, on `calibration`, and kept in
    `path`. source: the unquantized checkpoint (folder, hub id or opened), which is needed to measure anything.
    calibration, held_out: `Tokens` of `eval.texts.encode`; allocations are measured on held_out, or on calibration
    where there is no other text. protocol and max_windows hold for all measurements, the protocol's windows being no
    longer than the model's context; formats and quantizer for the costs. bits or budget (bytes of all weights): what to
    begin with, at least the smallest that there is. pins: group -> format. `note` says what was not as asked. experts:
    of a mixture, an `ExpertSensitivity` or the file of one: the experts of the picked layers are shown, the traffic of
    each beside what it costs alone.

    `allocation` is the chosen one (`workbench.precision.allocation.Allocation`), `front` the best for every budget,
    `measured` what was measured as a whole, `selected` the assignments of the groups that were picked.
    """

    module = "precision_map"
    options = ("unit", "selection")

    #: Bytes of all weights.
    budget = traitlets.Int(0).tag(sync=True)
    #: What the page shows sizes in.
    unit = traitlets.Enum(["bits", "MB"], "bits").tag(sync=True)
    #: Group -> format, as text. Set by `choose`, which checks it.
    pins = traitlets.Dict().tag(sync=True)
    #: Names of the picked groups.
    selection = traitlets.List(traitlets.Unicode()).tag(sync=True)
    #: "idle", "costs" (measuring sensitivities) or "measuring" (an allocation)
    state = traitlets.Unicode("idle").tag(sync=True)
    #: What is not as it was asked for: it did not fit the model.
    note = traitlets.Unicode("").tag(sync=True)
    #: What can be measured here: "costs", "measure".
    able = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(  # many parameters: the options of the widget
        self,
        costs: SensitivityTable | str | Path | None = None,
        source: Any = None,
        *,
        calibration: Tokens | None = None,
        held_out: Tokens | None = None,
        protocol: str | Protocol = "disjoint-512",
        formats: Sequence[Format] | None = None,
        quantizer: str = "rtn",
        max_windows: int = WINDOWS,
        path: str | Path | None = None,
        bits: float | None = None,
        budget: int | None = None,
        pins: Mapping[str, Format] | None = None,
        experts: ExpertSensitivity | str | Path | None = None,
        **options: Any,
    ) -> None:
        self.refuse_unknown(options)
        if costs is None and (source is None or calibration is None):
            raise WorkbenchError("PrecisionMap: give costs, or source and calibration to measure them on")
        if quantizer not in QUANTIZERS_OF_ONE_MATRIX:
            raise WorkbenchError(
                f"PrecisionMap: quantizer = {quantizer!r}; allowed: {', '.join(QUANTIZERS_OF_ONE_MATRIX)}"
            )
        if isinstance(max_windows, bool) or not isinstance(max_windows, int) or max_windows < 1:
            raise WorkbenchError(
                f"PrecisionMap: max_windows = {max_windows!r}; allowed: an integer of at least 1"
            )
        self.source = None if source is None else open_source(source)
        self._text, self._calibration = held_out or calibration, calibration
        self._protocol, self._windows, self._fitted = protocol, max_windows, ""
        self._options = {
            "formats": [as_format(f) for f in formats] if formats else None,
            "quantizer": quantizer,
        }
        self._path, self._folder = path, None
        self._whole = costs is not None  # no sensitivities are left to measure
        self._wanted = {"bits": bits, "budget": budget, "pins": pins}
        self.costs: SensitivityTable | None = None
        self.front: Pareto | None = None
        self.experts = ExpertSensitivity.load(experts) if isinstance(experts, str | Path) else experts
        self._chosen: Allocation | None = None
        self._measured: list[Measured] = []
        self._lock = threading.RLock()  # a measurement may bring a new table while the slider moves
        super().__init__(**options)
        if self.source is not None:
            context = architecture_of(self.source.config).context_length
            self._protocol, self.note = fitted_protocol(protocol, context)
            self._fitted = self.note
        if costs is not None:
            self._take(costs if isinstance(costs, SensitivityTable) else SensitivityTable.load(costs))
        else:
            self.able = ["costs"]

    # ---- results ---------------------------------------------------------------------------------------------

    @property
    def allocation(self) -> Allocation:
        """The chosen allocation, with its joint figures where it was measured; WorkbenchError without costs."""
        if self._chosen is None:
            raise WorkbenchError(NO_COSTS)
        found = next((each for each in self._measured if same(each.allocation, self._chosen)), None)
        return self._chosen.with_joint(found.text, found.figures) if found else self._chosen

    @property
    def measured(self) -> tuple[Measured, ...]:
        """What was measured as a whole so far, the latest last."""
        return tuple(self._measured)

    @property
    def selected(self) -> list[Assignment]:
        """The chosen allocation's assignments of the groups that were picked in the map."""
        return [each for each in self.allocation.assignments if each.group in self.selection]

    def compared(self) -> list[Row]:
        """The chosen allocation, one format everywhere, and what else was measured."""
        return compare(known(self.front), self.allocation, self._measured)

    def data(self, what: str = "groups") -> Any:
        """A pandas DataFrame: "groups" of the chosen allocation, "front" (25 budgets), "measured", or "experts"."""
        import pandas

        chosen = self.allocation
        if what == "groups":
            rows = [
                {**row, "layer": place(row["group"])[1], "kind": place(row["group"])[0]}
                | {"pinned": row["group"] in self.pins}
                for row in chosen.to_rows()
            ]
        elif what == "front":
            rows = known(self.front).to_rows()
        elif what == "measured":
            rows = [each.to_row() for each in self._measured]
        elif what == "experts" and self.experts is not None:
            return self.experts.data()
        else:
            raise WorkbenchError(f"data: {what!r}; there are groups, front, measured, and experts if given")
        found = pandas.DataFrame(rows)
        return found.astype({"layer": "Int64"}) if what == "groups" else found  # <NA>: in no layer

    def plot(self, what: str = "allocation") -> Picture:
        """A figure of the "allocation", the "front" with what was measured, the "costs", or the "experts"."""
        chosen = self.allocation
        if what == "allocation":
            return chosen.plot()
        if what == "costs":
            return known(self.costs).plot()
        if what == "experts" and self.experts is not None:
            return self.experts.plot()
        if what != "front":
            raise WorkbenchError(f"plot: {what!r}; there are allocation, front, costs, and experts if given")
        return plots.outcomes(known(self.front), self._measured)

    def save(self, path: str | Path) -> Path:
        """Write the allocation for `workbench quantize --precision PATH`; returns where it lies.

        Raises WorkbenchError rather than write over a file that is no allocation.
        """
        path = expanded(path)
        if path.exists():
            Allocation.load(path)
        self.allocation.save(path)
        return path.resolve()

    # ---- choosing --------------------------------------------------------------------------------------------

    def choose(
        self,
        *,
        bits: float | None = None,
        budget: int | None = None,
        pins: Mapping[str, Format] | None = None,
    ) -> Allocation:
        """What slider and pins do: the least predicted KL within a budget, around the pins (which replace all others).

        A budget that new pins do not allow is raised to the least that they do. Raises WorkbenchError for a budget
        that nothing fits, for groups that are not there and for formats that were not measured; then nothing changes.
        """
        with self._lock:
            front = self._front_with(pins)
            if bits is None and budget is None:
                budget = max(self.budget, int(front.nbytes[0]))
            budget = in_bytes(known(self.costs), bits, budget)
            self._chosen = front.at(budget)
            anew, self.front = front is not self.front, front
            self.pins = {name: str(fmt) for name, fmt in front.pins.items()}
            self.budget, self.error = budget, ""
            if anew:
                self._tell_front()
            self._tell_choice()
            return self.allocation

    def _front_with(self, pins: Mapping[str, Format] | None) -> Pareto:
        if self.costs is None:
            raise WorkbenchError(NO_COSTS)
        if pins is None and self.front is not None:
            return self.front
        wanted = {name: as_format(fmt) for name, fmt in (pins or {}).items()}
        if self.front is not None and self.front.pins == wanted:
            return self.front
        return Pareto(self.costs, wanted)

    def pin(self, groups: str | Sequence[str], fmt: Format | None) -> Allocation:
        """Give groups a format whatever the budget says, or leave them to the solver again (None)."""
        names = [groups] if isinstance(groups, str) else groups
        kept = {name: each for name, each in self.pins.items() if name not in names}
        return self.choose(pins=kept if fmt is None else kept | dict.fromkeys(names, fmt))

    def _take(self, costs: SensitivityTable) -> None:
        """Choose by a new table; what was asked for before is asked for again."""
        with self._lock:
            if self.experts is not None:
                self.experts.require_groups_of(costs)
            asked = {"budget": self.budget, "pins": dict(self.pins)} if self.front else dict(self._wanted)
            self.costs, self.front = costs, None
            front = self._front_with(asked.pop("pins"))
            budget, note = beginning(front, **asked)
            self.front, self.note = front, "; ".join(filter(None, (self._fitted, note)))
            able = {"costs": self._calibration and not self._whole, "measure": self._text}
            self.able = [name for name, can in able.items() if can and self.source is not None]
            self._tell_table()
            self._tell_front()
            self.choose(budget=budget)

    # ---- measuring -------------------------------------------------------------------------------------------

    def measure_costs(self) -> None:
        """Measure the sensitivities on a thread; `stop()` keeps the windows that are done, and a later call goes on."""
        if self.source is None or self._calibration is None:
            raise WorkbenchError("PrecisionMap: sensitivities need source and calibration")
        self._begin("costs", self._measure_costs)

    def measure(self, fmt: Format | None = None) -> None:
        """Measure the chosen allocation, or one format everywhere, on a thread: its loss and its tokens a second."""
        if self.source is None or self._text is None:
            raise WorkbenchError("PrecisionMap: measuring needs source and held_out (or calibration)")
        chosen = self.allocation if fmt is None else self._front_with(None).uniform(as_format(fmt))
        self._begin("measuring", lambda stopped: self._measure(chosen, stopped))

    def stop(self) -> None:
        """End what is being measured."""
        if self._task is not None:
            self._task.stop()
        self.state = "idle"

    def wait(self) -> None:
        """Wait for what is being measured; raises WorkbenchError where it failed."""
        if self._task is not None:
            self._task.join()
        if self.error:
            raise WorkbenchError(self.error)

    def _begin(self, state: str, work: Callable[[Callable[[], bool]], None]) -> None:
        before = self._task
        if before is not None:
            before.stop()
        self.error, self.state = "", state
        self._task = Task(work, self._failed, before)

    def _failed(self, error: BaseException) -> None:
        self.fail(error)
        self.state = "idle"

    def _meter(self, stopped: Callable[[], bool]) -> Callable[[float, float], None]:
        return meter(stopped, lambda share, left: self.tell("share", {"share": share, "left": left}))

    def _measure_costs(self, stopped: Callable[[], bool]) -> None:
        if self._path is None:
            self._folder = tempfile.TemporaryDirectory(prefix="workbench-")
            self._path = Path(self._folder.name) / "sensitivity.json"
        options = {"max_windows": self._windows, "path": self._path, **self._options}
        options |= {"progress": self._meter(stopped), "so_far": self._take}
        costs = sensitivity(self.source, known(self._calibration), self._protocol, **options)
        self._whole = True
        self._take(costs)
        if not stopped():
            self.state = "idle"

    def _measure(self, chosen: Allocation, stopped: Callable[[], bool]) -> None:
        options = {"max_windows": self._windows, "progress": self._meter(stopped)}
        found = measure(self.source, chosen, known(self._text), self._protocol, **options)
        if not stopped():
            with self._lock:
                others = [each for each in self._measured if not same(each.allocation, chosen)]
                self._measured = [*others, found]
                self._tell_choice()
            self.state = "idle"

    # ---- what the page asks and is told ----------------------------------------------------------------------

    def hear_hello(self, content: dict, buffers: list) -> None:
        if self._chosen is not None:
            self._tell_table()
            self._tell_front()
            self._tell_choice()

    def hear_choose(self, content: dict, buffers: list) -> None:
        """A budget in bytes and pins, either of which may be missing."""
        self.error = ""  # so that the page hears of the same error again, and goes on
        self.choose(**{name: content[name] for name in ("budget", "pins") if name in content})

    def hear_pick(self, content: dict, buffers: list) -> None:
        """Groups were picked; the same ones again: none."""
        groups = [str(name) for name in content["groups"]]
        self.selection = [] if set(groups) == set(self.selection) else groups
        self.tell("panel", self._panel())

    def hear_pin(self, content: dict, buffers: list) -> None:
        self.pin(content["groups"], content["format"])

    def hear_step(self, content: dict, buffers: list) -> None:
        """Pin groups to the next larger or smaller format (by 1 or -1), or leave them to the solver (0)."""
        groups, by = content["groups"], int(content["by"])
        now = next(each for each in self.allocation.assignments if each.group == groups[0])
        self.pin(groups, known(self.costs).stepped(now.group, now.format, by) if by else None)

    def hear_measure(self, content: dict, buffers: list) -> None:
        self.measure(content.get("format"))

    def hear_costs(self, content: dict, buffers: list) -> None:
        self.measure_costs()

    def hear_stop(self, content: dict, buffers: list) -> None:
        self.stop()

    def hear_save(self, content: dict, buffers: list) -> None:
        self.error = ""
        path = self.save(str(content["path"]))
        model = self.source.path if self.source is not None else "DIR"
        command = (
            f"workbench quantize --model {quote(str(model))} --precision {quote(str(path))} --output OUT"
        )
        self.tell("saved", {"says": f"{path}: for {command}"})

    def _tell_table(self) -> None:
        self.tell("table", table_content(known(self.costs)))

    def _tell_front(self) -> None:
        front = known(self.front)
        shown = front.curve()
        points = np.stack([front.nbytes[shown], front.kl[shown]], 1).tolist()
        self.tell("front", {"points": points})

    def _tell_choice(self) -> None:
        content = choice_content(known(self.costs), self.compared(), self.pins)
        self.tell("choice", {**content, "panel": self._panel()})

    def _panel(self) -> dict[str, Any]:
        found = panel_content(known(self.costs), known(self._chosen), self.selection, self.pins)
        layers = {place(name)[1] for name in self.selection}
        return found if self.experts is None else {**found, "experts": experts_content(self.experts, layers)}

    def static_html(self) -> str:
        if self._chosen is None:
            return "<p><em>No sensitivities were measured.</em></p>"
        note = f"<p>{html.escape(self.note)}</p>" if self.note else ""
        experts = "" if self.experts is None else self.experts.table().html()
        return note + static_html(known(self.costs), self.compared(), self.pins) + experts
