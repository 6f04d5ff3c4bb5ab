"""`QuantizationExplorer`: what a format does to one matrix, and how that compares with another format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import traitlets

from workbench.bench.exploration import Exploration, explore, first_look, histogram
from workbench.bench.matrices import Matrices
from workbench.bench.weight_error import weight_error
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.quantizers import QUANTIZERS

from .background import Task
from .base import View, table

#: Cells of an error map, bins of a distribution, rows of the list of worst blocks.
MAP, BINS, WORST = (96, 128), 48, 6
#: Weights of each matrix that colour the map of the model.
GLIMPSE = 1 << 16
SIDES = ("a", "b")
DEFAULTS = {"bits": 4, "block": 128, "quantizer": "rtn", "symmetric": False}


def format_of(settings: dict[str, Any]) -> WeightFormat:
    """The format of a side's settings: bits 2, 4 or 8; block a size, "channel" or "tensor"; symmetric."""
    block = settings["block"]
    kind = {"granularity": block} if isinstance(block, str) else {"block_size": int(block)}
    return WeightFormat(f"int{settings['bits']}", symmetric=bool(settings["symmetric"]), **kind)


class QuantizationExplorer(View):
    """Choose a matrix on the map of the model, and a format for it, or two to compare.

    source: a checkpoint (path, hub id, opened, or a loaded unquantized Model), or a dict name -> float array [rows,
    columns]. settings: {"bits", "block", "quantizer", "symmetric"} of side a; of b if `compare`.

    A change is drawn at once from a sample of rows, and says so, with the sampling error; all rows follow. `a` and `b`
    are the results (`workbench.bench.exploration.Exploration`); `selected` is the block that was picked.
    """

    module = "explorer"

    tensor = traitlets.Unicode("").tag(sync=True)
    tensors = traitlets.List().tag(sync=True)
    quantizers = traitlets.List(traitlets.Unicode(), list(QUANTIZERS)).tag(sync=True)
    settings_a = traitlets.Dict().tag(sync=True)
    settings_b = traitlets.Dict().tag(sync=True)
    compare = traitlets.Bool(False).tag(sync=True)
    #: [row, column] of a weight in the picked block.
    place = traitlets.List(traitlets.Int()).tag(sync=True)
    #: "looking", "counting" (all rows) or "done"
    state = traitlets.Unicode("looking").tag(sync=True)

    def __init__(
        self,
        source: Any,
        tensor: str | None = None,
        a: dict | None = None,
        b: dict | None = None,
        **traits: Any,
    ) -> None:
        self.matrices = Matrices(source)
        self._found: dict[str, Exploration] = {}
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
            settings_a=DEFAULTS | self._fitted(tensor) | (a or {}),
            settings_b=DEFAULTS | {"bits": 2} | self._fitted(tensor) | (b or {}),
            compare=b is not None,
            **traits,
        )
        self.matrices.weights(self.tensor)  # raises here, and not on a thread, for a name that is not there
        for side in SIDES:
            self._check(self._settings(side))
        self._look()

    def _fitted(self, tensor: str | None) -> dict[str, int]:
        """The block to begin with: the default that a conversion fits to the rows of the first matrix shown."""
        places = self.matrices.places
        place = places.get(tensor) or next(iter(places.values()))
        return {"block": WeightFormat(f"int{DEFAULTS['bits']}").fitted(place.shape[1]).block_size}

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
        if side not in self._found:
            self._task.join()
        if side not in self._found:
            raise WorkbenchError(f"nothing was found: {self.error}")
        return self._found[side]

    def wait(self) -> None:
        """Wait until all rows are counted and the map is coloured."""
        while (task := self._task).alive:
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
        """What the controls do; settings may be given in part. Raises `WorkbenchError`, `FormatError`, `KeyError`."""
        wanted = {side: self._settings(side) | new for side, new in (("a", a), ("b", b)) if new}
        for settings in wanted.values():
            self._check(settings)
        if tensor is not None and tensor != self.tensor:
            self.matrices.weights(tensor)
            self.tensor, self.place = tensor, []
            wanted = {side: self._settings(side) for side in SIDES} | wanted
        if compare is not None:
            self.compare = compare
            wanted = {"b": self._settings("b")} | wanted
        for side, settings in wanted.items():
            setattr(self, f"settings_{side}", settings)
            self._found.pop(side, None)
        self.error = ""
        self._look()

    def hear_place(self, content: dict, buffers: list) -> None:
        """A block was picked: by row and column, or as a cell of a side's error map, whose worst block it is then."""
        if "cell" in content:
            self.place = list(self._found[content["side"]].worst_of_cell(*content["cell"], *MAP))
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

    @staticmethod
    def _check(settings: dict[str, Any]) -> None:
        if unknown := set(settings) - set(DEFAULTS):
            raise WorkbenchError(f"no setting {sorted(unknown)}; there are {', '.join(DEFAULTS)}")
        format_of(settings)
        if settings["quantizer"] not in QUANTIZERS:
            raise WorkbenchError(f"no quantizer {settings['quantizer']!r}; there are {', '.join(QUANTIZERS)}")

    def _look(self) -> None:
        before = self._task
        if before is not None:
            before.stop()
        self._task = Task(self._work, self._failed, before)

    def _failed(self, error: BaseException) -> None:
        self.fail(error)
        self.state = "done"

    def _work(self, stopped: Callable[[], bool]) -> None:
        name = self.tensor
        weights = self.matrices.weights(name)
        for side in self._sides():
            if side not in self._found and not stopped():
                settings = self._settings(side)
                found = first_look(weights, format_of(settings), settings["quantizer"], name)
                if not stopped():
                    self._show(side, found)
        for side in self._sides():
            if not stopped() and self._found[side].sampled:
                self.state = "counting"
                settings = self._settings(side)
                found = explore(
                    weights, format_of(settings), settings["quantizer"], name, self._reporter(side, stopped)
                )
                if found is not None and not stopped():
                    self._show(side, found)
        if not stopped():
            self.state = "done"
            self._colour_map(stopped)

    def _reporter(self, side: str, stopped: Callable[[], bool]) -> Callable[[float], bool]:
        def report(share: float) -> bool:
            self.tell("share", {"side": side, "share": share})
            return not stopped()

        return report

    def _show(self, side: str, found: Exploration) -> None:
        self._found[side] = found
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
            part = self.matrices.glimpse(name, GLIMPSE)
            self._map[name] = round(weight_error(part, format, settings["quantizer"]).sqnr_db, 2)
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
        if self._task is not None and "a" not in self._found:
            self._task.join(20)
        found = [self._found[side] for side in self._sides() if side in self._found]
        if not found:
            return "<p><em>Nothing was looked at.</em></p>"
        facts = [each.facts() for each in found]
        parts = [table(list(facts[0]), [list(each.values()) for each in facts], self.tensor)]
        for each in found:
            rows = [
                [w.row, w.block, f"{w.sqnr_db:.2f}", f"{w.scale:.4g}", f"{w.zero:g}", f"{w.crest:.1f}"]
                for w in each.worst(WORST)
            ]
            head = ["row", "block", "SQNR, dB", "scale", "zero-point", "largest / RMS"]
            parts.append(table(head, rows, f"worst blocks, {each.format}, {each.quantizer}"))
        return "".join(parts)
