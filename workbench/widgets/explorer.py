"""`QuantizationExplorer`: what a format does to one matrix, and how that compares with another format."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import traitlets

from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.known import known
from workbench.quantizers import QUANTIZERS
from workbench.show.table import Table
from workbench.studies.exploration import Exploration, explore, first_look, histogram
from workbench.studies.matrices import Matrices
from workbench.studies.weight_error import weight_error

from .background import Task
from .base import View
from .explorer_settings import DEFAULTS, check, format_of, given, inputs_of, offered

#: Cells of an error map, bins of a distribution, rows of the list of worst blocks.
MAP, BINS, WORST = (96, 128), 48, 6
#: Weights of each matrix that colour the map of the model.
GLIMPSE = 1 << 16
SIDES = ("a", "b")
#: Seconds that a static page waits for its first look.
STATIC_S = 20


class QuantizationExplorer(View):
    """Choose a matrix on the map of the model, and a format for it, or two to compare.

    source: a checkpoint (path, hub id, opened, or a loaded unquantized Model), or a dict name -> float array [rows,
    columns]. settings: {"bits", "block", "quantizer", "symmetric"} of side a; of b if `compare`.

    A change is drawn at once from a sample of rows, and says so, with the sampling error; all rows follow. `a` and `b`
    are the results (`workbench.studies.exploration.Exploration`); `selected` is the block that was picked.

    Quantizers that learn from the inputs of a matrix are offered where these can be had: the unquantized model runs
    once over the embedded calibration text, on a thread, when the first of them is chosen. From then on every result
    has the error of the outputs too. An embedding that is only looked up has no inputs, and gets what a conversion
    gives it (`workbench.convert.methods`). AWQ scales a whole layer and is no quantizer of one matrix.
    """

    module = "explorer"
    options = ("compare",)

    tensor = traitlets.Unicode("").tag(sync=True)
    tensors = traitlets.List().tag(sync=True)
    #: What can be chosen for this source.
    quantizers = traitlets.List(traitlets.Unicode()).tag(sync=True)
    settings_a = traitlets.Dict().tag(sync=True)
    settings_b = traitlets.Dict().tag(sync=True)
    compare = traitlets.Bool(False).tag(sync=True)
    #: [row, column] of a weight in the picked block.
    place = traitlets.List(traitlets.Int()).tag(sync=True)
    #: "looking", "calibrating" (running the model for its inputs), "counting" (all rows) or "done"
    state = traitlets.Unicode("looking").tag(sync=True)

    def __init__(
        self,
        source: Any,
        tensor: str | None = None,
        a: dict | None = None,
        b: dict | None = None,
        **options: Any,
    ) -> None:
        self.refuse_unknown(options)
        self.matrices = Matrices(source)
        self._inputs = inputs_of(self.matrices)
        self._found: dict[str, Exploration] = {}
        self._news = threading.Condition()
        self._map: dict[str, float] = {}
        self._mapped: dict[str, Any] | None = None
        places = self.matrices.places.values()
        super().__init__(
            tensor=tensor or next(iter(self.matrices.places)),
            tensors=[
                {
                    "name": p.name,
                    "layer": -1 if p.layer is None else p.layer,
                    "kind": p.kind,
                    "shape": list(p.shape),
                }
                for p in places
            ],
            settings_a=DEFAULTS | self._fitted(tensor) | given("a", a),
            settings_b=DEFAULTS | {"bits": 2} | self._fitted(tensor) | given("b", b),
            quantizers=offered(self._inputs),
            **{"compare": b is not None, **options},
        )
        self.matrices.weights(self.tensor)  # raises here, and not on a thread, for a name that is not there
        for side in SIDES:
            check(self._settings(side), self.quantizers)
        self._look()

    def _fitted(self, tensor: str | None) -> dict[str, int]:
        """The block to begin with: the default that a conversion fits to the rows of the first matrix shown."""
        places = self.matrices.places
        place = places.get(tensor or "") or next(iter(places.values()))
        return {"block": WeightFormat(f"int{DEFAULTS['bits']}").block(place.shape[1])}

    # ---- results ---------------------------------------------------------------------------------------------

    @property
    def a(self) -> Exploration:
        """The result of side a: of a sample of rows until all have been counted."""
        return self._result("a")

    @property
    def b(self) -> Exploration:
        """The result of side b; raises `WorkbenchError` where nothing is compared."""
        if not self.compare:
            raise WorkbenchError("there is no side b; set compare, or give settings b")
        return self._result("b")

    def _result(self, side: str) -> Exploration:
        self._await(side)
        found = self._found.get(side)
        if found is None:
            raise WorkbenchError(f"nothing was found: {self.error}")
        return found

    def _await(self, side: str, seconds: float = float("inf")) -> None:
        """Wait until a side has a result, if only of a sample, or nothing is being looked for any more."""
        end = time.monotonic() + seconds
        with self._news:
            while side not in self._found and known(self._task).alive and time.monotonic() < end:
                self._news.wait(0.05)  # a task that fails has no news

    def wait(self) -> None:
        """Wait until all rows are counted and the map is coloured."""
        while (task := known(self._task)).alive:
            task.join()

    @property
    def selected(self) -> dict[str, Any] | None:
        """The picked block: row, block, and its weights f32, with the values that side a's format has for them."""
        return self._block("a") if len(self.place) == 2 else None

    def data(self, side: str = "a") -> Any:
        """A pandas DataFrame, one row a block that was looked at: row, block, sqnr_db, scale, zero."""
        import pandas

        found = self._result(side)
        rows, blocks = found.signal.shape
        planes = {"sqnr_db": found.block_sqnr_db, "scale": found.scales, "zero": found.zeros}
        places = {"row": np.repeat(found.rows, blocks), "block": np.tile(np.arange(blocks), rows)}
        return pandas.DataFrame(places | {name: plane.ravel() for name, plane in planes.items()})

    # ---- what the page asks ----------------------------------------------------------------------------------

    def hear_choose(self, content: dict, buffers: list) -> None:
        """New settings of a side, another tensor, or whether to compare."""
        if "tensor" in content:
            self.choose(tensor=str(content["tensor"]))
        elif "compare" in content:
            self.choose(compare=bool(content["compare"]))
        elif content.get("side") in SIDES:
            self.choose(**{content["side"]: content["settings"]})

    def choose(
        self,
        tensor: str | None = None,
        a: dict | None = None,
        b: dict | None = None,
        compare: bool | None = None,
    ) -> None:
        """What the controls do; settings may be given in part. Raises `WorkbenchError`, `FormatError`."""
        wanted = {side: self._settings(side) | given(side, new) for side, new in (("a", a), ("b", b)) if new}
        for settings in wanted.values():
            check(settings, self.quantizers)
        if tensor is not None and tensor != self.tensor:
            self.matrices.weights(tensor)
            self.tensor, self.place = tensor, []
            wanted = {side: self._settings(side) for side in SIDES} | wanted
        if compare is not None:
            self.compare = compare
            wanted = {"b": self._settings("b")} | wanted
        known(self._task).stop()  # before what it works on goes
        for side, settings in wanted.items():
            setattr(self, f"settings_{side}", settings)
            self._found.pop(side, None)
        self.error = ""
        self._look()

    def hear_place(self, content: dict, buffers: list) -> None:
        """A block was picked: by row and column, or as a cell of a side's error map, whose worst block it is then."""
        if "cell" in content:
            i, j = content["cell"]
            self.place = list(self._found[content["side"]].worst_of_cell(i, j, *MAP))
        else:
            row, column = int(content["row"]), int(content["column"])
            rows, columns = self.matrices.places[self.tensor].shape
            if not (0 <= row < rows and 0 <= column < columns):
                raise WorkbenchError(f"no weight at row {row}, column {column} of {rows} x {columns}")
            self.place = [row, column]
        self._tell_blocks()

    def hear_hello(self, content: dict, buffers: list) -> None:
        for side in self._sides():
            if side in self._found:
                self._tell_look(side)
        self.tell("map", {"values": self._map, "settings": self._mapped})

    # ---- work ------------------------------------------------------------------------------------------------

    def _settings(self, side: str) -> dict[str, Any]:
        return getattr(self, f"settings_{side}")

    def _sides(self) -> tuple[str, ...]:
        return SIDES if self.compare else SIDES[:1]

    def _look(self) -> None:
        before = self._task
        if before is not None:
            before.stop()
        self._task = Task(self._work, self._failed, before)

    def _failed(self, error: BaseException) -> None:
        self.fail(error)
        self.state = "done"

    def _work(self, stopped: Callable[[], bool]) -> None:
        self.state = "looking"
        weights = self.matrices.weights(self.tensor)
        self._look_first(weights, [side for side in self._sides() if self._known(side)], stopped)
        if not all(map(self._known, self._sides())):
            self.state = "calibrating"
            if not known(self._inputs).measure(self._reporter("calibrated", stopped)):
                return
            self.state = "looking"
            self._look_first(weights, self._sides(), stopped)
        for side in self._sides():
            if not stopped() and self._found[side].sampled:
                self.state = "counting"
                found = explore(
                    *self._asked(weights, side),
                    self._reporter("share", stopped, side),
                    hessian=self._hessian(self.tensor),
                )
                if found is not None and not stopped():
                    self._show(side, found)
        if not stopped():
            self.state = "done"
            self._colour_map(stopped)

    def _known(self, side: str) -> bool:
        """Whether all is there that the side's quantizer needs."""
        return not QUANTIZERS[self._settings(side)["quantizer"]].needs or known(self._inputs).measured

    def _hessian(self, name: str) -> np.ndarray | None:
        return None if self._inputs is None else self._inputs.hessian(name)

    def _quantizer(self, name: str, wanted: str) -> str:
        """What a conversion does to a matrix where `wanted` is asked for."""
        entry = QUANTIZERS[wanted]
        return wanted if not entry.needs or self._hessian(name) is not None else entry.lookup

    def _asked(self, weights: np.ndarray, side: str) -> tuple[np.ndarray, WeightFormat, str, str]:
        settings = self._settings(side)
        return weights, format_of(settings), self._quantizer(self.tensor, settings["quantizer"]), self.tensor

    def _look_first(self, weights: np.ndarray, sides: Iterable[str], stopped: Callable[[], bool]) -> None:
        hessian = self._hessian(self.tensor)
        for side in sides:
            before = self._found.get(side)
            lacking = before is None or (before.output_db is None and hessian is not None)
            if lacking and not stopped():
                found = first_look(*self._asked(weights, side), hessian=hessian)
                if not stopped():
                    self._show(side, found)

    def _reporter(
        self, kind: str, stopped: Callable[[], bool], side: str | None = None
    ) -> Callable[[float], bool]:
        def report(share: float) -> bool:
            self.tell(kind, {"side": side, "share": share})
            return not stopped()

        return report

    def _show(self, side: str, found: Exploration) -> None:
        with self._news:
            self._found[side] = found
            self._news.notify_all()
        if not self.place:
            [worst, *_] = found.worst(1) or [None]
            if worst is not None:
                self.place = [worst.row, worst.block * found.format.block(found.shape[1])]
        self._tell_look(side)

    def _colour_map(self, stopped: Callable[[], bool]) -> None:
        """SQNR of every matrix under side a's settings, from a few rows of each."""
        settings = dict(self.settings_a)
        if settings == self._mapped:
            return
        self._map, self._mapped = {}, settings
        format = format_of(settings)
        for name in self.matrices.places:
            if stopped():
                self._mapped = None
                return
            part, quantizer = (
                self.matrices.glimpse(name, GLIMPSE),
                self._quantizer(name, settings["quantizer"]),
            )
            found = weight_error(part, format, quantizer, hessian=self._hessian(name))
            self._map[name] = round(found.sqnr_db, 2)
            if len(self._map) % 8 == 0:
                self.tell("map", {"values": self._map, "settings": settings})
        self.tell("map", {"values": self._map, "settings": settings})

    def _block(self, side: str) -> dict[str, Any]:
        row, column = self.place
        found = self._found[side]
        block, weights, levels = found.levels(self.matrices.weights(self.tensor), row, column)
        return {"row": row, "block": block, "weights": weights, "levels": levels}

    # ---- what the page is told -------------------------------------------------------------------------------

    def _tell_look(self, side: str) -> None:
        found = self._found[side]
        errors = np.ascontiguousarray(found.error_map(*MAP), np.float32)
        finite = found.block_sqnr_db[np.isfinite(found.block_sqnr_db)]
        spreads = {"sqnr": finite, "scale": found.scales, "zero": found.zeros}
        counted = {name: histogram(values, BINS, whole=name == "zero") for name, values in spreads.items()}
        content = {
            "side": side,
            "facts": found.facts(),
            "sampled": found.sampled,
            "granularity": found.format.granularity,
            "symmetric": found.format.symmetric,
            "size": found.format.block(found.shape[1]),
            "map": list(errors.shape),
            "rows": [int(found.rows[0]), int(found.rows[-1])],
            "ranges": {name: edges for name, (edges, _) in counted.items()},
            "worst": [vars(block) for block in found.worst(WORST)],
        }
        self.tell("look", content, [errors, *(counts for _, counts in counted.values())])
        self._tell_blocks((side,))

    def _tell_blocks(self, sides: tuple[str, ...] | None = None) -> None:
        for side in sides or self._sides():
            if side in self._found and len(self.place) == 2:
                block = self._block(side)
                reach = 1.05 * max(
                    float(np.abs(block["weights"]).max()), float(np.abs(block["levels"]).max()), 1e-12
                )
                counts = np.histogram(block["weights"], BINS, (-reach, reach))[0].astype(np.float32)
                levels = np.ascontiguousarray(block["levels"], np.float32)
                place = {"row": block["row"], "block": block["block"]}
                count = len(block["weights"])
                self.tell("block", {"side": side, "reach": reach, "count": count, **place}, [counts, levels])

    def static_html(self) -> str:
        self._await("a", STATIC_S)
        found = [self._found[side] for side in self._sides() if side in self._found]
        if not found:
            return "<p><em>Nothing was looked at.</em></p>"
        facts = [each.facts() for each in found]
        parts = [Table(list(facts[0]), [list(each.values()) for each in facts], caption=self.tensor).html()]
        for each in found:
            rows = [
                [w.row, w.block, f"{w.sqnr_db:.2f}", f"{w.scale:.4g}", f"{w.zero:g}", f"{w.crest:.1f}"]
                for w in each.worst(WORST)
            ]
            head = ["row", "block", "SQNR, dB", "scale", "zero-point", "largest / RMS"]
            caption = f"worst blocks, {each.format}, {each.quantizer}"
            parts.append(Table(head, rows, caption=caption).html())
        return "".join(parts)
