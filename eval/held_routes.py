"""A mixture of experts with the routes of another: is it the wrong expert that costs, or the experts' own weights?

    held = HeldRoutes(int2, f16)
    found = perplexities({"f16": f16, "int2": int2, "routes held": held}, text, "disjoint-512", baseline="f16")

Each router's logits are replaced by the other model's, computed by it alone on the same tokens, so that every token
goes to the experts, with the scores, that it had there. What a quantized model still loses then is the loss of its
weights; the difference to its own routes is what routing adds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from eval import inputs
from eval.routing import alike
from eval.texts import Tokens, tokenizer_sha256
from workbench.runtime.edits import Edits
from workbench.runtime.model import Model
from workbench.runtime.results import Forward, Scores


class HeldRoutes:
    """What `eval.perplexity` scores (`eval.scorer.Scorer`): `model` with the routes of `routed`, two loaded models.

    Each sequence takes a run of both. Raises ProtocolError for models whose routers or vocabularies are not alike.
    """

    def __init__(self, model: Model, routed: Model) -> None:
        both = {"model": model, "routed": routed}
        self._model, self._routed, self._routers = model, routed, alike(both)
        none = Tokens(np.zeros(0, np.int64), tokenizer_sha256=tokenizer_sha256(model.tokenizer))
        inputs.same_vocabulary(both, "model", "routed", none)

    @property
    def backend(self) -> str:
        return self._model.backend

    @property
    def tokenizer(self) -> Any:
        return self._model.tokenizer

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def context_length(self) -> int:
        return min(self._model.context_length, self._routed.context_length)

    def score(self, ids: np.ndarray) -> Scores:
        """As `Model.score`."""
        kept = self._routed.score(ids, keep=[router.logits for router in self._routers]).kept
        return self._model.score(ids, edit=_given(kept))

    def forward(self, ids: np.ndarray) -> Forward:
        """As `Model.forward`."""
        kept = self._routed.forward(ids, keep=[router.logits for router in self._routers]).kept
        return self._model.forward(ids, edit=_given(kept))

    def describe_provenance(self) -> dict[str, Any]:
        return {
            **self._model.describe_provenance(),
            "routes_of": self._routed.describe_provenance(),
        }


def _given(kept: dict[str, np.ndarray]) -> Edits:
    """Edits that put these rows in place of a model's own."""

    def edit_of(rows: np.ndarray):
        return lambda x, position: rows[position : position + len(x)]

    return {name: edit_of(rows) for name, rows in kept.items()}
