"""The plans of one model, each built when first asked for; both executors run the same ones."""

from __future__ import annotations

from typing import Any

from workbench.models.architecture import Architecture
from workbench.models.source import Source
from workbench.plan.plan import Plan, Ring


class Plans:
    """Call it with a head (`workbench.models.endings.HEADS`) to get the plan that ends with it."""

    def __init__(
        self,
        source: Source,
        config: Architecture,
        activations: str,
        cache: str | None = None,
        ring: Ring | None = None,
    ):
        self._source, self._config = source, config
        self._how: dict[str, Any] = {"activations": activations, "cache": cache, "ring": ring}
        self._built: dict[str, Plan] = {}

    @property
    def ring(self) -> Ring | None:
        """What bounds all that a token sees, where that was asked for."""
        return self._how["ring"]

    def __call__(self, head: str) -> Plan:
        if head not in self._built:
            self._built[head] = self._config.build(self._source.describe, head=head, **self._how)
        return self._built[head]
