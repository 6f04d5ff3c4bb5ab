"""`workbench.perplexity`: one model or several on one text under one protocol, as one result that shows itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.named_texts import named_text
from eval.texts import Text, Tokens
from workbench.model_bench.measure import Settings
from workbench.models.catalogue import catalogue
from workbench.models.hub import HUB_ID
from workbench.runtime.model import Model
from workbench.show.progress import Console, Progress

from .model_comparison import ModelComparison, compare_models

#: What a single model is called beside a baseline.
MODEL, BASELINE = "model", "baseline"


def perplexity(  # many parameters: the options of an evaluation, by the names that users know
    models: Any,
    text: str | Path | Text | Tokens,
    protocol: str = "disjoint-512",
    *,
    baseline: Any = None,
    separator: str | None = None,
    max_windows: int | None = None,
    backend: str | None = None,
    dtype: str = "f32",
    cache: str | None = None,
    progress: bool = True,
) -> ModelComparison:
    """The perplexity of one model or of several, by name, each paired with a baseline where there is one.

        models = {"f16": "DIR", "int4": workbench.quantize("DIR", "int4")}
        found = workbench.perplexity(models, "evaluation", "disjoint-256", baseline="f16", max_windows=4)
        found                      # in a notebook: the table
        found["int4"].ppl, found["int4"].baseline.ln_ratio

    models: what `workbench.load` takes, a loaded Model, or a mapping from names to such. text: a UTF-8 file, the name
    of a dataset ("wikitext2", "tinystories") or of an embedded text ("evaluation"), or an `eval.texts.Text`. protocol:
    how it is cut (docs/evaluation.md). baseline: one of the names, or another model. separator, max_windows: as in
    `eval.perplexity.perplexity`. backend, dtype, cache: of models that are not loaded, as for `workbench.load`; a
    baseline is in f32.

    The result has `.table()`, `.data()` (a DataFrame), `.plot()` and `.save()`. Perplexities are exp of nats a token;
    errors as docs/evaluation.md defines them. Raises ProtocolError where text, protocol and models do not fit together,
    SweepError for a baseline that is none of the names, and what loading raises.
    """
    named = _named(models)
    if baseline is not None and not (
        isinstance(baseline, str) and (baseline in named or not _is_model(baseline))
    ):
        named, baseline = {BASELINE: baseline, **named}, BASELINE
    return compare_models(
        named,
        baseline,
        named_text(text),
        Settings(protocol, max_windows),
        separator=separator,
        speed=False,
        backend=backend,
        dtype=dtype,
        cache=cache,
        progress=Console() if progress else Progress(),
    )


def _is_model(text: str) -> bool:
    """Whether a text that is none of the names stands for a model: a path, a hub id or a name of the catalogue."""
    return Path(text).exists() or HUB_ID.fullmatch(text) is not None or text in catalogue()


def _named(models: Any) -> dict[str, Any]:
    if isinstance(models, Mapping):
        return dict(models)
    name = models.source.path.name if isinstance(models, Model) else Path(str(models)).name
    return {name or MODEL: models}
