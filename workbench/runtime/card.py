"""A loaded model as a table: what it is, what it runs on, and what was chosen for it and why."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from workbench.show.table import Table

if TYPE_CHECKING:
    from .model import Model


def card(model: Model) -> str:
    """HTML. `workbench info` and `ModelCard` say more: memory, bytes a token, kernels."""
    names = model.source.names()
    formats = Counter(
        str(model.source.describe(name)[1]) for name in names if len(model.source.describe(name)[0]) > 1
    )
    config = model.config
    facts = {
        "model": model.source.path.name,
        **config.facts(),
        "vocabulary": f"{config.vocab_size:,}",
        "context": f"{config.context_length:,}, of which {model.max_tokens:,} fit into its cache",
        "matrices": ", ".join(f"{count} {name}" for name, count in formats.items()),
        "runs on": f"{model.device_name} ({model.backend})",
    }
    choices = Table(("chosen", "", "because"), [list(each) for each in model.choices], "l")
    return Table((), list(facts.items()), "l").html() + (choices.html() if model.choices else "")
