"""`Generator`: a prompt continued live by one model, or by two side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import traitlets

from workbench.browser.connection import Host
from workbench.browser.executor import page_model
from workbench.errors import WorkbenchError
from workbench.known import known
from workbench.runtime.loading import load
from workbench.runtime.model import Model
from workbench.runtime.sampling import SamplingOptions
from workbench.studies.continuation import Run, check_models
from workbench.studies.tokens import Continuation, Token, character, facts
from workbench.studies.writers import Setting

from .background import Task
from .base import execution
from .in_page import InPage

#: Seconds between two messages to the page.
TICK = 0.05
#: Where models compute: here, in the page that shows the widget, or one model in both.
ENGINES = ("native", "page", "both")
OPTIONS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")


class Generator(InPage):
    """Type a prompt, see it continued; each token tells its probability and what else was likely.

    models: a Model or what `workbench.load` takes, or label -> such for one or two. Two write side by side from the
    same seed; afterwards each reads the other's text, and every token is coloured by KL(first || second). backend,
    dtype, cache, max_tokens, adapter, window, sinks, lora, lora_format: as for `workbench.load`, of models that are
    loaded here. engine: "native", or "page" for converted models that compute in the page that shows the widget, with
    WebGPU and in f32; "both" for one model, once each, side by side. settings: label -> options of `workbench
    generate`, `edit`, `window` and `sinks`, for one or two: one model, loaded once, writes under each, in one batch
    where they see the same.
    options: as `workbench generate` has them, by the names of the traits.

    `start()`, `stop()` and `wait()` do what the buttons do. `run` is the result (`workbench.studies.continuation.Run`),
    `selected` the token that was clicked. Generation happens on a thread: the kernel stays free.
    """

    module = "generator"
    options = ("prompt", "chat", "max_new_tokens", *OPTIONS)

    prompt = traitlets.Unicode("Once upon a time").tag(sync=True)
    chat = traitlets.Bool(False).tag(sync=True)
    max_new_tokens = traitlets.Int(200, min=1).tag(sync=True)
    temperature = traitlets.Float(0.0, min=0.0).tag(sync=True)
    top_k = traitlets.Int(0, min=0).tag(sync=True)
    top_p = traitlets.Float(1.0, min=0.0, max=1.0).tag(sync=True)
    min_p = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    repetition_penalty = traitlets.Float(1.0, min=0.0).tag(sync=True)
    seed = traitlets.Int(0, min=0).tag(sync=True)
    #: "idle", "running", "measuring", "done", "stopped" or "failed"
    state = traitlets.Unicode("idle").tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    devices = traitlets.List(traitlets.Unicode()).tag(sync=True)
    has_chat = traitlets.Bool(False).tag(sync=True)
    limit = traitlets.Int(0).tag(sync=True)
    #: Whether two continuations come from something else each, so that KL is told.
    compares = traitlets.Bool(False).tag(sync=True)
    #: Of the last finished run, for views without a kernel behind them.
    texts = traitlets.List(traitlets.Unicode()).tag(sync=True)
    summary = traitlets.List().tag(sync=True)
    written_prompt = traitlets.Unicode("").tag(sync=True)
    #: [continuation, token] that was clicked, or empty.
    selection = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(
        self,
        models: Any,
        *,
        backend: str | None = None,
        dtype: str | None = None,
        cache: str | None = None,
        max_tokens: int | None = None,
        adapter: str | int | None = None,
        window: int | None = None,
        sinks: int | None = None,
        lora: str | None = None,
        lora_format: str | None = None,
        engine: str = "native",
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:  # many parameters: those of `workbench.load`
        self.refuse_unknown(options)
        how = {
            "backend": backend,
            "dtype": dtype,
            "cache": cache,
            "max_tokens": max_tokens,
            "adapter": adapter,
            "window": window,
            "sinks": sinks,
            "lora": lora,
            "lora_format": lora_format,
        }
        named = dict(models) if isinstance(models, Mapping) else {_label(models): models}
        self.models = _models(named, engine, how, self._host)
        self.settings = {}
        if settings is not None:
            self.models, self.settings = _set(self.models, settings)
        first, *others = check_models(self.models)
        edits = [each.get("edit") or {} for each in self.settings.values()]
        self.run: Run | None = None
        super().__init__(
            labels=list(self.models),
            devices=[model.device_name for model in self.models.values()],
            has_chat=bool(getattr(first.tokenizer, "chat_template", None)),
            limit=min(model.max_tokens for model in self.models.values()),
            in_page=engine != "native",
            compares=bool(others) and (first is not others[0] or edits[0] != edits[1]),
            **options,
        )
        self._task = Task(lambda stopped: self._warm(), self.fail)

    def _warm(self) -> None:
        """Compile what the first run needs: seconds on some adapters, in which a page would answer slowly."""
        for model in self.models.values():
            if model.backend == "page":
                continue  # there may be no page yet
            session = model.session()
            try:
                session.feed(model.encode_prompt(self.prompt or " "))
                for _ in session.stream(0, 1, told=True):
                    pass
            finally:
                session.close()

    # ---- what the buttons do ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a new run; an old one is stopped. Raises `WorkbenchError` for options that mean nothing."""
        options = {name: getattr(self, name) for name in OPTIONS}
        settings = {
            label: Setting(SamplingOptions(**{**options, **_sampling(own)}), own.get("edit"))
            for label, own in self.settings.items()
        }
        how = {"sampling": SamplingOptions(**options), "chat": self.chat, "settings": settings}
        run = Run(self.models, self.prompt, max_new_tokens=self.max_new_tokens, **how)
        before = known(self._task)
        before.stop()
        self.run, self.error, self.selection = run, "", []
        self.texts, self.summary, self.written_prompt = [], [], "" if self.chat else self.prompt
        self.state = "running"
        self.tell("begin", {"prompt": self.written_prompt})
        self._task = Task(lambda stopped: self._work(run, stopped), self._failed, before)

    def stop(self) -> None:
        """End the run after the step that is under way; what it still computes is not shown."""
        if self.state not in ("running", "measuring"):
            return
        known(self._task).stop()
        self._end("stopped")

    def wait(self, timeout: float | None = None) -> Run | None:
        """Wait for the run's end and return it; None if it goes on. A keyboard interrupt stops the run."""
        if self.run is None:
            raise WorkbenchError("nothing runs; start() first")
        try:
            ended = known(self._task).join(timeout)
        except KeyboardInterrupt:
            self._end("stopped")
            raise
        return self.run if ended else None

    @property
    def selected(self) -> Token | None:
        """The token that was clicked."""
        if self.run is None or len(self.selection) != 2:
            return None
        lane, at = self.selection
        return self.run.continuations[lane].tokens[at]

    def hear_start(self, content: dict, buffers: list) -> None:
        # Options come with the message: a change of traits that is still on its way would come too late.
        for name in ("prompt", "chat", "max_new_tokens", *OPTIONS):
            if name in content["options"]:
                setattr(self, name, content["options"][name])
        self.start()

    def hear_stop(self, content: dict, buffers: list) -> None:
        self.stop()

    def hear_hello(self, content: dict, buffers: list) -> None:
        if self.run is not None:
            lanes = [_packed(found, 0) for found in self.run.continuations]
            self.tell("all", {"prompt": self.written_prompt, "lanes": lanes, "parted": self.run.parted})

    # ---- the run ---------------------------------------------------------------------------------------------

    def _failed(self, error: BaseException) -> None:
        self.fail(error)
        self._end("failed")

    def _end(self, state: str) -> None:
        if self.run is not None:
            self.texts = [found.text for found in self.run.continuations]
            self.summary = [facts(found) for found in self.run.continuations]
        self.state = state

    def _work(self, run: Run, stopped: Any) -> None:
        sent = [0] * len(run.continuations)
        last = 0.0
        for _ in run.write(stopped):
            now = time.perf_counter()
            if now - last >= TICK and not stopped():
                self._send_new(run, sent)
                last = now
        if stopped():
            if self.run is run:  # what came between the last message and the stop
                self._end("stopped")
                self.hear_hello({}, [])
            return
        self._send_new(run, sent)
        self.state = "measuring"
        for _ in run.measure(stopped):
            pass
        if not stopped():
            self.hear_hello({}, [])
            self._end("done")

    def _send_new(self, run: Run, sent: list[int]) -> None:
        lanes = [_packed(found, start) for found, start in zip(run.continuations, sent, strict=True)]
        self.tell("more", {"lanes": lanes, "parted": run.parted})
        sent[:] = [start + len(lane["tokens"]) for start, lane in zip(sent, lanes, strict=True)]

    def static_html(self) -> str:
        if self.run is None:
            return "<p><em>No text yet: press Generate where a kernel runs.</em></p>"
        return self.run._repr_html_()


def _label(model: Any) -> str:
    return model.source.path.name if hasattr(model, "source") else Path(str(model)).name


def _models(named: Mapping[str, Any], engine: str, how: Mapping[str, Any], host: Host) -> dict[str, Model]:
    """The models that run, by label. Raises WorkbenchError for an engine that cannot run them."""
    if engine not in ENGINES:
        raise WorkbenchError(f"Generator: engine = {engine!r}; allowed: {', '.join(map(repr, ENGINES))}")
    if engine == "native":
        return {str(label): _loaded(model, how) for label, model in named.items()}
    given = [name for name, value in how.items() if value is not None and name != "max_tokens"]
    if given and engine == "page":
        raise WorkbenchError(
            f"Generator: {', '.join(given)} given with engine='page', which takes max_tokens alone"
        )
    if own := [name for name in ("window", "lora") if how[name] is not None]:
        raise WorkbenchError(f"Generator: {own[0]} given with engine='both'; allowed: engine='native'")
    if engine == "both" and len(named) != 1:
        raise WorkbenchError(
            f"Generator: engine='both' runs one model on two engines, not {len(named)} models"
        )
    found = {}
    for label, model in named.items():
        path = model.source.path if isinstance(model, Model) else model
        capacity = how["max_tokens"] or (model.max_tokens if isinstance(model, Model) else None)
        if engine == "both":
            found[f"{label}, native"] = native = _loaded(model, how)
            found[f"{label}, page"] = page_model(path, host, native.max_tokens)
        else:
            found[str(label)] = page_model(path, host, capacity)
    return found


def _sampling(own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if name in OPTIONS}


def _set(
    models: Mapping[str, Model], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Model], dict[str, dict[str, Any]]]:
    """The model under the label of each setting, another with the same weights where that sees something else.

    Raises WorkbenchError for settings of several models, or for what is no setting.
    """
    if len(models) != 1 or len(settings) not in (1, 2):
        raise WorkbenchError(
            f"Generator: settings are one or two, of one model; here are {len(settings)} of {len(models)}"
        )
    (model,) = models.values()
    found, kept = {}, {}
    for label, given in settings.items():
        allowed = (*OPTIONS, "edit", "window", "sinks")
        if unknown := [name for name in given if name not in allowed]:
            raise WorkbenchError(
                f"Generator: setting {label!r} has {unknown[0]!r}; allowed: {', '.join(allowed)}"
            )
        SamplingOptions(**_sampling(given))  # says what is wrong
        seen = {name: given[name] for name in ("window", "sinks") if name in given}
        if seen and model.backend == "page":
            raise WorkbenchError("Generator: window given with engine='page'; allowed: engine='native'")
        found[str(label)] = model.with_window(seen.get("window"), seen.get("sinks")) if seen else model
        kept[str(label)] = dict(given)
    return found, kept


def _loaded(model: Any, how: Mapping[str, Any]) -> Model:
    options = execution("Generator", model, **how)
    return model if isinstance(model, Model) else load(model, **options)


def _packed(found: Continuation, start: int) -> dict[str, Any]:
    """Tokens from `start` on as the page wants them, with short keys; likely tokens as [name, probability]. b: so many
    tokens before it are parts of the same character."""
    tokens = []
    for at, token in enumerate(found.tokens[start:], start):
        packed: dict[str, Any] = {"t": token.text, "n": token.name, "i": token.id}
        if before := at - character(found.tokens, at).start:
            packed["b"] = before
        if token.probability is not None:
            packed["p"] = round(token.probability, 6)
            packed["a"] = [[each.text, round(each.probability, 6)] for each in token.alternatives]
        if token.kl is not None:
            packed["k"] = token.kl
            packed["o"] = [[each.text, round(each.probability, 6)] for each in token.likely]
            packed["f"] = token.flip
        tokens.append(packed)
    return {"from": start, "tokens": tokens, "facts": facts(found)}
