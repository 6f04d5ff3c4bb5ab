"""The plans of one model, each built when first asked for; both executors run the same ones."""

from __future__ import annotations

from workbench.models.llama import build_plan
from workbench.models.llama_config import LlamaConfig
from workbench.plan.plan import Plan


class Plans:
    """Call it with a head (`workbench.models.llama.HEADS`) to get the plan that ends with it."""

    def __init__(self, source, config: LlamaConfig, activations: str, cache: str | None = None):
        self._source, self._config = source, config
        self._stored = {"activations": activations, "cache": cache}
        self._built: dict[str, Plan] = {}

    def __call__(self, head: str) -> Plan:
        if head not in self._built:
            self._built[head] = build_plan(self._config, self._source.describe, head=head, **self._stored)
        return self._built[head]
