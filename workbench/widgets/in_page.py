"""Base of the widgets that may compute in the page that shows them."""

from __future__ import annotations

from functools import cached_property

import traitlets

from workbench.browser.connection import Host

from .base import View


class InPage(View):
    """What its page's workers say goes to `_host`, and what that says to them to the views (`compute.js`)."""

    #: Whether something computes in the page.
    in_page = traitlets.Bool(False).tag(sync=True)

    @cached_property
    def _host(self) -> Host:
        return Host(lambda content, buffers: self.tell("engine", content, buffers))

    def hear_page_here(self, content: dict, buffers: list) -> None:
        self._host.here(str(content["view"]))

    def hear_page_gone(self, content: dict, buffers: list) -> None:
        self._host.gone(str(content["view"]))

    def hear_engine(self, content: dict, buffers: list) -> None:
        self._host.hear(content, buffers)
