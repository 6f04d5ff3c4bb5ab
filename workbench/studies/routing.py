"""`workbench.routing`: where the tokens of mixtures of experts go, and what quantization changes about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.named_texts import named_text
from eval.routing import Routing
from eval.routing import routing as compare_routes
from eval.texts import Text, Tokens
from workbench.runtime.loading import load
from workbench.runtime.model import Model
from workbench.show.progress import Console, Progress


def routing(  # many parameters: the options of an evaluation, by the names that users know
    models: Mapping[str, Any],
    text: str | Path | Text | Tokens,
    protocol: str = "disjoint-512",
    *,
    baseline: str,
    separator: str | None = None,
    max_windows: int | None = None,
    backend: str | None = None,
    dtype: str = "f32",
    cache: str | None = None,
    progress: bool = True,
) -> Routing:
    """Which share of the tokens goes to other experts than in the baseline, layer by layer.

        models = {"f16": "MIXTURE", "int4": workbench.quantize("MIXTURE", "int4")}
        found = workbench.routing(models, "evaluation", "disjoint-64", baseline="f16", max_windows=2)
        found                      # in a notebook: the table
        found.flips("int4"), found.traffic("f16"), found.plot()

    models: names and what `workbench.load` takes, or loaded Models. text: a UTF-8 file, the name of a dataset or of an
    embedded text, or an `eval.texts.Text`. baseline: one of the names. backend, dtype, cache: of models that are not
    loaded; the baseline is in f32.

    The result has `.table()`, `.data()` (a DataFrame) and `.plot()`, and the choices themselves (`eval.routing`).
    Raises ProtocolError for models without experts or with other routers, and where text, protocol and models do not
    fit together.
    """
    precision: dict[str, Any] = {"dtype": dtype, "cache": cache}
    loaded = {
        name: each
        if isinstance(each, Model)
        else load(each, backend=backend, **(dict[str, Any]() if name == baseline else precision))
        for name, each in models.items()
    }
    return compare_routes(
        loaded,
        named_text(text),
        protocol,
        baseline=baseline,
        separator=separator,
        max_windows=max_windows,
        progress=(Console() if progress else Progress()).runs("windows"),
    )
