"""The plans of one model, each built when first asked for; both executors run the same ones."""

from __future__ import annotations

from workbench.models.architecture import Architecture
from workbench.plan.plan import Plan


class Plans:
    """Call it with a head (`workbench.models.endings.HEADS`) to get the plan that ends with it."""

    def __init__(self, source, config: Architecture, activations: str, cache: str | None = None):
        self._source, self._config = source, config
        self._stored = {"activations": activations, "cache": cache}
        self._built: dict[str, Plan] = {}

    def __call__(self, head: str) -> Plan:
        if head not in self._built:
            self._built[head] = self._config.build(self._source.describe, head=head, **self._stored)
        return self._built[head]
