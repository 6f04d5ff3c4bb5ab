"""What every widget is: a view that loads its module, says errors in place, and leaves readable HTML behind.

A subclass names its `module` (`NAME.js`, optionally `NAME.css`), declares small synced traits for what should be
there again after a page was reloaded, names in `options` those that users may give, and calls `refuse_unknown` before
anything else. It answers messages of the page in methods `hear_KIND(content, buffers)`, and writes `static_html()`.
Large or frequent data goes out with `tell`, as messages, and never into traits: those are saved with the notebook. A
view that opens sends the message `hello`; `hear_hello` tells it again what it missed.

Messages of the page arrive on any thread: long work belongs into a `background.Task`, kept as `_task`.
"""

from __future__ import annotations

import difflib
import html
import inspect
from collections.abc import Iterable
from typing import Any, ClassVar

import anywidget
import traitlets

from workbench.errors import WorkbenchError
from workbench.runtime.model import Model

from . import modules
from .background import Task


class View(anywidget.AnyWidget):
    """Base of the widgets. error: what went wrong last, shown in the widget; empty if nothing did."""

    module: ClassVar[str] = ""
    #: Traits that users may give as keywords, beside the named parameters of `__init__`.
    options: ClassVar[tuple[str, ...]] = ()
    error = traitlets.Unicode("").tag(sync=True)
    _task: Task | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "module" in cls.__dict__:  # and not the classes that anywidget derives to add traits
            cls._esm, cls._css = modules.script(cls.module), modules.style(cls.module)
        super().__init_subclass__(**kwargs)

    def __init__(self, **traits: Any) -> None:
        try:
            super().__init__(**traits)
        except traitlets.TraitError as error:
            raise WorkbenchError(f"{type(self).__name__}: {error}") from error
        answer_on_any_subshell(self.comm)
        self.on_msg(self._received)

    @classmethod
    def refuse_unknown(cls, given: Iterable[str], more: Iterable[str] = ()) -> None:
        """Raise WorkbenchError for keywords that mean nothing here, before anything is loaded.

        more: names that this call takes beside the parameters of `__init__` and `options`.
        """
        named = inspect.signature(cls.__init__).parameters.values()
        own = [each.name for each in named if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        allowed = [*(name for name in own if name != "self"), *cls.options, *more, "layout"]
        for name in given:
            if name not in allowed:
                close = difflib.get_close_matches(name, allowed, 1)
                meant = f" (did you mean {close[0]!r}?)" if close else ""
                raise WorkbenchError(
                    f"{cls.__name__}: there is no option {name!r}{meant}; allowed: {', '.join(allowed)}"
                )

    def close(self) -> None:
        """Take the widget from every page, and stop its work."""
        if self._task is not None:
            self._task.stop()
        super().close()

    def tell(self, kind: str, content: dict[str, Any] | None = None, buffers: list | None = None) -> None:
        """Send a message to the views that are open; from any thread. buffers: contiguous arrays or bytes."""
        self.send({"kind": kind, **(content or {})}, buffers)

    def hear_hello(self, content: dict[str, Any], buffers: list) -> None:
        """A view has opened."""

    def _received(self, _: Any, content: Any, buffers: list) -> None:
        kind = content.get("kind") if isinstance(content, dict) else None
        handler = getattr(self, f"hear_{kind}", None)
        if handler is None:
            return
        try:
            handler(content, buffers)
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Show an error in the widget, where a callback's traceback would be seen by no one."""
        self.error = f"{type(error).__name__}: {error}"

    def static_html(self) -> str:
        """What the widget shows, as HTML without script: for exported pages and readers without a kernel."""
        raise NotImplementedError

    def to_html(self) -> str:
        """A whole page of `static_html()` that needs neither a network nor scripts."""
        title = html.escape(type(self).__name__)
        return (
            f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
            "<meta name='color-scheme' content='light dark'><style>body { font: 14px system-ui, sans-serif; "
            "margin: 1.5rem } td, th { padding: 0.2rem 0.7rem }</style></head>"
            f"<body>{self.static_html()}</body></html>"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, "text/plain": repr(self), "text/html": self.static_html()}, metadata

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


def execution(kind: str, model: Any, **given: Any) -> dict[str, Any]:
    """Options for `workbench.load` (backend, dtype, cache, max_tokens) that were given, so are not None.

    Raises WorkbenchError for a model that is loaded already: it runs as it was loaded.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    if wanted and isinstance(model, Model):
        raise WorkbenchError(
            f"{kind}: {', '.join(wanted)} given with a model that is loaded already; give them to workbench.load"
        )
    return wanted


def answer_on_any_subshell(comm: Any) -> None:
    """Take messages on the subshell that the page chose.

    ipykernel 7.4 sends a comm's messages to the shell that last published on it. After a cell has created the widget
    that is the main one, so the first click would wait until the running cell ends. JupyterLab asks for a subshell
    of the comm's own; earlier kernels obey.
    """
    if hasattr(comm, "_reply_subshell_for"):
        comm._reply_subshell_for = lambda data, default: default
