"""`KernelLab`: a kernel's variants compared, its WGSL edited in place, and the versions side by side."""

from __future__ import annotations

import html
import inspect
import io
from collections.abc import Callable, Mapping
from typing import Any

import traitlets

import wgsl_kernels
from eval.texts import load_text
from wgsl_kernels import Kernel
from wgsl_kernels.judge import RATIO_EDGES
from workbench.assets import evaluation_text
from workbench.browser.kernels import PageKernels
from workbench.errors import WorkbenchError
from workbench.kernel_bench.compare import reference_source
from workbench.kernel_bench.comparison import PASSED, Comparison, VariantResult, plain
from workbench.kernel_bench.sizes import families
from workbench.runtime.launch import resolve
from workbench.show.html import folded
from workbench.show.table import Table
from workbench.studies.in_model import InModel
from workbench.studies.lab import Lab, Version

from .background import Task
from .in_page import InPage
from .kernel_content import kernel_content, row_content

FIGURES = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf"}
#: Where kernels run: here, or in the page that shows the widget.
PLACES = ("native", "page")
BUSY = ("judging", "comparing", "measuring", "inside")
#: How a version is measured inside a model unless it is said: less than the default of `in_model`, for a page.
INSIDE = {"protocol": "disjoint-256", "max_windows": 2, "repetitions": 3}


class KernelLab(InPage):
    """A kernel to study: its name, a pair, or a `workbench.studies.lab.Lab`, which may hold versions already.

    options: as for `Lab`, sizes of the kernel among them; `model`, a folder or hub id that a version may run inside of.
    where: "native", or "page" for the adapter of the page that shows the widget, through WebGPU; ceilings are not
    measured there, and `run_inside` stays here.
    `comparison` is the last run (`workbench.kernel_bench.comparison.Comparison`), `versions` the edited texts,
    `selected` the result whose row was picked, `data()` the table as a DataFrame, `plot()` its figures, `inside` what a
    version did to a whole model (`workbench.studies.in_model.InModel`). Nothing runs before `run()`, `edit()`,
    `run_inside()` or a button; then it runs on a thread, and `wait()` waits for it.
    """

    module = "kernel_lab"

    kernel = traitlets.Unicode("").tag(sync=True)
    sizes = traitlets.Dict().tag(sync=True)
    #: Element type of float inputs and outputs, "f32" or "f16".
    dtype = traitlets.Unicode("f32").tag(sync=True)
    seed = traitlets.Int(0).tag(sync=True)
    #: What the next run compares.
    chosen = traitlets.List(traitlets.Unicode()).tag(sync=True)
    #: The name of the picked row.
    selection = traitlets.Unicode("").tag(sync=True)
    #: The text in the editor, what it was begun from, and the tunables that it will run with.
    draft = traitlets.Unicode("").tag(sync=True)
    base = traitlets.Unicode("").tag(sync=True)
    tunables = traitlets.Dict().tag(sync=True)
    #: Folder or hub id of a model that versions run inside of; "" where none was named.
    model = traitlets.Unicode("").tag(sync=True)
    #: "idle", "judging" (a new text), "comparing", "measuring" (the ceilings), "inside" (a model), "done" or "stopped"
    state = traitlets.Unicode("idle").tag(sync=True)

    def __init__(
        self,
        kernel: Lab | Kernel | str = "linear[int4]",
        *,
        model: Any = "",
        where: str = "native",
        **options: Any,
    ) -> None:
        if where not in PLACES:
            raise WorkbenchError(f"KernelLab: where = {where!r}; allowed: {', '.join(map(repr, PLACES))}")
        layout = {"layout": options.pop("layout")} if "layout" in options else {}
        if where == "page":
            if options.get("device") is not None or isinstance(kernel, Lab):
                raise WorkbenchError(
                    "KernelLab: where='page' has a device of its own; give neither a Lab nor a device"
                )
            options["device"] = PageKernels(self._host)
        lab = self._lab_of(kernel, options)
        self._labs = {lab.kernel.name: lab}
        self.inside: InModel | None = None
        super().__init__(**self._traits_of(lab), model=str(model), in_page=lab.in_page, **layout)

    @classmethod
    def _lab_of(cls, kernel: Lab | Kernel | str, options: Mapping[str, Any]) -> Lab:
        if isinstance(kernel, Lab):
            if options:
                raise WorkbenchError(f"KernelLab: {', '.join(options)} given with a Lab, which has its own")
            return kernel
        pair = resolve(kernel)
        named = [each for each in inspect.signature(Lab).parameters if each not in ("kernel", "sizes")]
        cls.refuse_unknown(options, [*named, *pair.takes])
        return Lab(pair, **options)

    # ---- results ---------------------------------------------------------------------------------------------

    @property
    def lab(self) -> Lab:
        """The result object of the kernel that is shown; it works without this widget."""
        return self._labs[self.kernel]

    @property
    def comparison(self) -> Comparison | None:
        return self.lab.comparison

    @property
    def versions(self) -> tuple[Version, ...]:
        return self.lab.versions

    @property
    def selected(self) -> VariantResult | None:
        """The result whose row was picked, None before a run."""
        return next((each for each in self.lab.results if each.variant == self.selection), None)

    def data(self) -> Any:
        """`Lab.data`."""
        return self.lab.data()

    def plot(self, kind: str = "timing") -> Any:
        """`Lab.plot`: "timing", "roofline" or "errors"."""
        return self.lab.plot(kind)

    # ---- what the buttons do ---------------------------------------------------------------------------------

    def choose(self, kernel: str) -> None:
        """Show another kernel. Versions of the one before are kept, and are there when it is chosen again."""
        if kernel not in self._labs:
            now = self.lab
            self._labs[kernel] = Lab(
                kernel, seed=self.seed, rounds=now.rounds, budget=now.budget, device=now.device
            )
        self.stop()
        lab = self._labs[kernel]
        with self.hold_trait_notifications():
            for name, value in self._traits_of(lab).items():
                setattr(self, name, value)
        self.inside = None
        self.error, self.state = "", "done" if lab.comparison else "idle"
        self._tell_kernel()
        self._tell_results()

    def run(self) -> None:
        """Compare what is chosen; raises `KernelUsageError` where nothing is."""
        self.lab.check_some(self.chosen)
        self._begin(lambda stopped: self._compare(stopped))

    def edit(self, text: str, base: str | None = None, tunables: Mapping[str, int] | None = None) -> None:
        """Judge a text as a new version, and time it beside the chosen ones if it passes."""
        base = base or self.base
        self.lab.text(base)  # raises here, and not on a thread, for a name that is not there
        self.draft, self.base, self.tunables = text, base, dict(tunables or {})
        self._begin(lambda stopped: self._judge(stopped, text, base, tunables))

    def run_inside(self, model: Any = None, name: str | None = None, **options: Any) -> None:
        """Run a version (default: the last that passed) inside a model, by default `model`: `Lab.in_model`, on a part
        of the embedded evaluation text unless `options` name another. Raises `KernelUsageError`, `WorkbenchError`."""
        self.model = self.model if model is None else str(model)
        if not self.model:
            raise WorkbenchError(
                "KernelLab: model names nothing to run a version inside of; allowed: a folder or hub id"
            )
        self.lab.library(name)  # raises here, and not on a thread, where there is no version that passed
        self._begin(lambda stopped: self._run_inside(stopped, name, options))

    def stop(self) -> None:
        """Forget what is under way; a call on the device still ends by itself, or at its budget."""
        if self._task is not None:
            self._task.stop()
        if self.state in BUSY:
            self.state = "stopped"

    def wait(self) -> Comparison | None:
        """Wait for the end of what runs; raises `WorkbenchError` with what went wrong, or where nothing ever ran.

        After an `edit`, `versions[-1]` has the verdict: a text that fails is in no comparison. None without any.
        """
        if self._task is not None:
            self._task.join()
        if self.error or not self.lab.results:
            raise WorkbenchError(self.error or "nothing has run; run() first")
        return self.comparison

    def forget(self, name: str) -> None:
        """Drop a version."""
        self.lab.forget(name)
        self.chosen = list(self.lab.chosen)
        if self.base == name:
            self.base = next(iter(self.lab.kernel.variants))
        self._tell_results()

    # ---- what the page asks ----------------------------------------------------------------------------------

    def hear_choose(self, content: dict, buffers: list) -> None:
        self.choose(str(content["kernel"]))

    def hear_run(self, content: dict, buffers: list) -> None:
        self._take(content)
        self.run()

    def hear_edit(self, content: dict, buffers: list) -> None:
        self._take(content)
        self.edit(content["text"], content["base"], content["tunables"])

    def hear_inside(self, content: dict, buffers: list) -> None:
        passed = {each.name for each in self.versions if each.status == PASSED}
        self.run_inside(content["model"], self.selection if self.selection in passed else None)

    def hear_stop(self, content: dict, buffers: list) -> None:
        self.stop()

    def hear_forget(self, content: dict, buffers: list) -> None:
        self.forget(content["name"])

    def hear_figure(self, content: dict, buffers: list) -> None:
        """A figure of the last run as a file for the page to hand out."""
        kind, ending = str(content["figure"]), str(content["format"])
        if ending not in FIGURES:
            raise WorkbenchError(f"a figure is one of {', '.join(FIGURES)}, not {ending!r}")
        Task(lambda stopped: self._tell_figure(kind, ending), self.fail)

    def hear_hello(self, content: dict, buffers: list) -> None:
        library = wgsl_kernels.library().with_kernels(self.lab.kernel)
        self.tell("catalogue", {"families": list(families(library).items())})
        self._tell_kernel()
        self._tell_results()

    def _take(self, content: dict) -> None:
        """The controls of the page: a change of traits that is still on its way would come too late."""
        for name in ("sizes", "dtype", "seed", "chosen"):
            if name in content:
                setattr(self, name, content[name])

    # ---- work ------------------------------------------------------------------------------------------------

    @staticmethod
    def _traits_of(lab: Lab) -> dict[str, Any]:
        base = lab.chosen[0] if lab.chosen else next(iter(lab.kernel.variants))
        return {
            **{"kernel": lab.kernel.name, "sizes": dict(lab.sizes), "dtype": lab.dtype, "seed": lab.seed},
            **{"chosen": list(lab.chosen), "selection": base, "base": base, "draft": lab.text(base)},
            "tunables": {},
        }

    def _begin(self, work: Callable[[Callable[[], bool]], Any]) -> None:
        before = self._task
        if before is not None:
            before.stop()
        self.error, self.state = "", "comparing"

        def after(stopped: Callable[[], bool]) -> None:
            self._apply()  # not earlier: a task that was stopped may still use the lab
            work(stopped)

        self._task = Task(after, self._failed, before)

    def _apply(self) -> None:
        """Give the lab what the controls say."""
        lab = self.lab
        lab.choose(self.chosen)
        if (self.sizes, self.dtype, self.seed) != (lab.sizes, lab.dtype, lab.seed):
            lab.resize(seed=self.seed, dtype=self.dtype, **self.sizes)
            self.sizes = dict(lab.sizes)

    def _failed(self, error: BaseException) -> None:
        self.fail(error)
        self.state = "done"
        self._tell_results()

    def _judge(
        self, stopped: Callable[[], bool], text: str, base: str, tunables: Mapping[str, int] | None
    ) -> None:
        lab = self.lab
        self.state = "judging"
        version = lab.edit(text, base, tunables=tunables, time=False)
        if stopped():
            return
        self.chosen, self.selection, self.base = list(lab.chosen), version.name, version.name
        self._tell_results()
        if version.status == PASSED:
            self._compare(stopped)
        else:
            self.state = "done"

    def _compare(self, stopped: Callable[[], bool]) -> None:
        lab = self.lab
        self.state = "comparing"
        lab.run()
        if stopped():
            return
        if self.selected is None:
            self.selection = lab.chosen[0] if lab.chosen else self.base
        self._tell_results()
        if lab.ceilings is None and not lab.in_page:
            self.state = "measuring"
            lab.measure_ceilings()
        if not stopped():
            self._tell_results()
            self.state = "done"

    def _run_inside(self, stopped: Callable[[], bool], name: str | None, options: Mapping[str, Any]) -> None:
        self.state = "inside"
        text = {} if "text" in options else {"text": load_text(evaluation_text())}
        found = self.lab.in_model(self.model, name, **{**INSIDE, **text, **options})
        if stopped():
            return
        self.inside = found
        self._tell_results()
        self.state = "done"

    # ---- what the page is told -------------------------------------------------------------------------------

    def _tell_kernel(self) -> None:
        self.tell("kernel", kernel_content(self.lab))

    def _tell_results(self) -> None:
        lab, found = self.lab, self.comparison
        self.tell(
            "results",
            plain(
                {
                    "title": found.heading if found else "",
                    "label": found.label if found else "",
                    "edges": RATIO_EDGES,
                    "rows": [row_content(each, found) for each in lab.results],
                    "notes": lab.notes(),
                    "inside": str(self.inside or ""),
                    "read": found.read_ceiling if found else None,
                    "rates": dict(found.compute_ceilings) if found else {},
                    "versions": {
                        v.name: {
                            "base": v.base,
                            "text": v.text,
                            "diff": v.diff(),
                            "tunables": v.tunables,
                            "faster": lab.speedup(v.name),
                        }
                        for v in lab.versions
                    },
                }
            ),
        )

    def _tell_figure(self, kind: str, ending: str) -> None:
        stored = io.BytesIO()
        picture = self.plot(kind)
        if ending == "png":
            stored.write(picture.png())
        else:
            picture.figure.savefig(stored, format=ending, facecolor="white")
        name = f"{self.kernel}-{kind}.{ending}"
        self.tell("file", {"name": name, "type": FIGURES[ending]}, [stored.getvalue()])

    def static_html(self) -> str:
        lab, found = self.lab, self.comparison
        parts = [f"<p><b>{html.escape(found.title if found else lab.kernel.name)}</b></p>"]
        if found:
            rows = [found.cells(each) for each in lab.results]
            parts.append(Table(found.head(), rows, notes=lab.notes()).html())
        else:
            parts.append("<p><em>Nothing has run: press Compare where a kernel runs.</em></p>")
        for each in lab.versions:
            places = each.result.places if each.result else ()
            why = "; ".join(map(str, places)) or (each.result.detail if each.result else "")
            says = f"{each.name}, from {each.base}: {each.status}{': ' if why else ''}{why}"
            parts.append(f"<p style='white-space:pre-wrap'>{html.escape(says)}</p>")
            parts.append(folded(f"{each.name} against {each.base}", each.diff() or "no difference"))
        if self.inside:
            parts.append(f"<pre>{html.escape(str(self.inside))}</pre>")
        parts.append(folded(f"{lab.kernel.name}: the reference", reference_source(lab.kernel)))
        parts += [folded(f"{name}: WGSL", lab.text(name)) for name in lab.kernel.variants]
        return "".join(parts)
