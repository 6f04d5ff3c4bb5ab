"""`ModelCard`: what a model is, what it will cost, what was chosen and why, and where a decode step's time goes."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import traitlets

from workbench.errors import WorkbenchError
from workbench.model_bench.step_profile import Dispatch, StepProfile, profile_step
from workbench.runtime.info import ModelInfo, describe
from workbench.runtime.loading import load
from workbench.runtime.model import Model
from workbench.show.table import Table

from .background import Task
from .base import View, execution

MIB = 1 << 20
VARIANTS = ["kernel", "variant", "tokens", "shapes", "because"]
#: Tokens in the cache unless asked for.
POSITION = 64


class ModelCard(View):
    """A Model, or what `workbench.load` takes: then nothing is loaded before a step is measured.

    backend, dtype, cache, max_tokens, adapter, window, sinks: as for `workbench.load` and `workbench info`, of a model
    that is not loaded.

    `info` is what `workbench info` prints (`workbench.runtime.info.ModelInfo`), `profile` the measured decode step
    (`workbench.model_bench.step_profile.StepProfile`) once `measure()` or the button has made one, `selected` the
    dispatch that was picked in it.
    """

    module = "model_card"
    options = ("position",)

    #: "idle", "measuring" or "done"
    state = traitlets.Unicode("idle").tag(sync=True)
    #: Tokens in the cache at the measured step.
    position = traitlets.Int(POSITION, min=0).tag(sync=True)
    #: Index of the picked dispatch, -1 for none.
    selection = traitlets.Int(-1).tag(sync=True)

    def __init__(
        self,
        model: Any,
        *,
        backend: str | None = None,
        dtype: str | None = None,
        cache: str | None = None,
        max_tokens: int | None = None,
        adapter: str | int | None = None,
        window: int | None = None,
        sinks: int | None = None,
        **options: Any,
    ) -> None:
        self.refuse_unknown(options)
        how = {
            "backend": backend,
            "dtype": dtype,
            "cache": cache,
            "max_tokens": max_tokens,
            "adapter": adapter,
            "window": window,
            "sinks": sinks,
        }
        asked = execution("ModelCard", model, **how)
        self._model = model if isinstance(model, Model) else None
        if self._model is not None:
            device = getattr(model.executor, "device", None)
            ring = getattr(model.executor.plan, "ring", None)
            self._options = {
                "backend": model.backend,
                "dtype": model.executor.activations,
                "max_tokens": model.max_tokens,
                "cache": model.executor.cache,
                "adapter": None if device is None else device.info["device"],
                "window": ring and ring.window,
                "sinks": ring and ring.sinks,
            }
            self._path = model.source.path
        else:
            self._options, self._path = asked, model
        self.info: ModelInfo = describe(self._path, **self._options)
        self.profile: StepProfile | None = None
        options.setdefault("position", min(POSITION, self.info.config.context_length - 1))
        super().__init__(**options)

    def measure(self) -> None:
        """Measure a decode step on a thread; `wait()` for it. Loads the model if that has not happened."""
        before = self._task
        if before is not None:
            before.stop()
        self.error, self.state, self.selection = "", "measuring", -1
        self._task = Task(self._work, self._failed, before)

    def wait(self) -> StepProfile:
        """The measured step; raises `WorkbenchError` if there is none."""
        if self._task is not None:
            self._task.join()
        if self.profile is None:
            raise WorkbenchError(self.error or "no step was measured; measure() first")
        return self.profile

    @property
    def selected(self) -> Dispatch | None:
        """The dispatch that was picked in the timeline."""
        if self.profile is None or not 0 <= self.selection < len(self.profile.dispatches):
            return None
        return self.profile.dispatches[self.selection]

    def hear_measure(self, content: dict, buffers: list) -> None:
        self.position = content["position"]
        self.measure()

    def hear_hello(self, content: dict, buffers: list) -> None:
        self.tell("info", {"info": self.described()})
        self._tell_profile()

    def _failed(self, error: BaseException) -> None:
        self.fail(error)
        self.state = "idle"

    def _work(self, stopped: Any) -> None:
        if self._model is None:
            self._model = load(self._path, **self._options)
        found = profile_step(self._model, self.position)
        if not stopped():
            self.profile = found
            self._tell_profile()
            self.state = "done"

    def _tell_profile(self) -> None:
        if self.profile is None:
            return
        kernels = self.profile.by_kernel()
        rows = {(row["kernel"], row["variant"]): index for index, row in enumerate(kernels)}
        found = self.profile.dispatches
        spans = np.array([[d.start_s, d.seconds] for d in found], np.float64)
        content = {
            "notes": self.profile.notes(),
            "kernels": kernels,
            "dispatches": [[d.output, rows[d.kernel, d.variant], d.reason] for d in found],
        }
        self.tell("profile", content, [spans])

    def described(self) -> dict[str, Any]:
        """The card's contents as JSON values."""
        info = self.info
        c, f = info.config, info.forecast
        formats = ", ".join(f"{count} {name}" for name, count in info.formats.items())
        lowered = f", {info.dispatches} dispatches" if info.dispatches else ""
        return {
            "name": info.name,
            "facts": {
                **c.facts(),
                "vocabulary": f"{c.vocab_size:,}",
                "context": f"{c.context_length:,}",
                "matrices": formats,
                "runs on": info.device,
                "one token": f"{info.calls} calls{lowered}",
                "weights read a token": f"{info.weight_bytes_per_token / MIB:.2f} MiB",
                "cache read a token": f"up to {info.cache_bytes_per_token / MIB:.2f} MiB, "
                f"{info.cache_bytes_per_position:,} bytes a position",
                "arithmetic a token": f"{info.flops_per_token / 1e6:,.1f} MFLOP with a full cache",
            },
            "memory": {
                "weights": f.weights,
                "cache": f.cache,
                "activations to generate": f.generation,
                "activations to score": f.scoring,
            },
            "choices": [list(each) for each in info.choices],
            "variants": _grouped(info.variants),
            "plan": [str(call) for call in info.plan.calls],
        }

    def static_html(self) -> str:
        card = self.described()
        memory = [[what, f"{size / MIB:.2f}"] for what, size in card["memory"].items()]
        plan = "\n".join(card["plan"])
        parts = [
            f"<p><b>{html.escape(card['name'])}</b></p>",
            Table((), list(card["facts"].items()), "l").html(),
            Table(["memory", "MiB"], memory).html(),
            Table(["choice", "", "because"], card["choices"], "l").html(),
            Table(VARIANTS, card["variants"], "l").html() if card["variants"] else "",
            self.profile._repr_html_() if self.profile else "",
            f"<details><summary>plan, {len(card['plan'])} calls</summary><pre>{html.escape(plan)}</pre></details>",
        ]
        return "".join(parts)


def _grouped(variants: Mapping[tuple[str, str, str], str]) -> list[list[str]]:
    """Rows of `VARIANTS`: shapes for which the same was chosen for the same reason stand in one."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for (kernel, shape, variant), why in variants.items():
        size, tokens = shape.removesuffix(" token(s)").rsplit(", ", 1)
        rows.setdefault((kernel, variant, tokens, why), []).append(size.replace("x", " × "))
    return [[*key[:3], ", ".join(sizes), key[3]] for key, sizes in rows.items()]
