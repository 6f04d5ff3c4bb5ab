"""Several versions of one model under one protocol, each paired with the same baseline: whose quantization is best?

    found = compare_models({"f16": checkpoint, "gptq": one, "awq": other}, "f16", text, Settings("disjoint-2048"))
    found          # in a notebook: the table; found.plot(), found.data(), found.save("comparison.json")

All models are loaded at once and take turns in each window, so that the baseline runs once; their weights together must
fit the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval.lambada import LastWords, Passages, last_words, pairs
from eval.perplexity import perplexities
from eval.protocols import protocol
from eval.report import errors_note, finite, ppl_text
from eval.result import PerplexityResult
from eval.statistics import QUANTILES
from eval.texts import Text, Tokens, encode
from workbench.errors import SweepError
from workbench.files.writing import write_json
from workbench.formats.reader import StoredModel
from workbench.known import known
from workbench.model_bench.measure import Settings, bits_per_weight, file_hashes, weight_bytes
from workbench.model_bench.records import heading
from workbench.model_bench.speed import Speed, measure_speed
from workbench.model_bench.table import model_note
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.loading import load
from workbench.runtime.model import Model
from workbench.show.figures import COLOURS, Picture, label_apart
from workbench.show.progress import Progress

from .pareto import plain
from .rows import COMPARISON_KIND, rows_of
from .table import Table


@dataclass(frozen=True, eq=False)
class Version:
    """One model's figures. bits_per_weight, file_bytes: of everything stored. note: what a reader must know."""

    name: str
    bits_per_weight: float
    file_bytes: int
    model_sha256: Mapping[str, str] = field(repr=False)
    result: PerplexityResult = field(repr=False)
    last_words: LastWords | None
    speed: Speed | None
    note: str = ""


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """What `compare_models` found: `versions`, the baseline first where there is one. Shows itself in a notebook as its
    table; `found["int4"]` is the perplexity of one of them."""

    versions: tuple[Version, ...]
    settings: Settings
    paired: bool = True

    @property
    def baseline(self) -> Version | None:
        """What the others are compared with, None where each stands for itself."""
        return self.versions[0] if self.paired else None

    def __getitem__(self, name: str) -> PerplexityResult:
        """Raises SweepError for a name that is none of the models'."""
        for each in self.versions:
            if each.name == name:
                return each.result
        allowed = ", ".join(each.name for each in self.versions)
        raise SweepError(f"{name!r} is none of the models; allowed: {allowed}")

    def __repr__(self) -> str:
        found = ", ".join(f"{each.name} {ppl_text(each.result.ppl)}" for each in self.versions)
        return f"<perplexity, {self.table().conditions}: {found}>"

    def record(self) -> dict[str, Any]:
        """Figures and provenance as JSON values, which `workbench table` reads too."""
        base = self.baseline
        return finite(
            {
                **heading(COMPARISON_KIND),
                "settings": self.settings.to_json(),
                "baseline": base and base.name,
                "models": [
                    {
                        **{
                            key: getattr(each, key)
                            for key in ("name", "bits_per_weight", "file_bytes", "note")
                        },
                        "model_sha256": each.model_sha256,
                        "perplexity": each.result.to_json(),
                        "last_words": each.last_words
                        and each.last_words.to_json(None if base in (None, each) else base.last_words),
                        "speed": each.speed and each.speed.to_json(),
                    }
                    for each in self.versions
                ],
            }
        )

    def save(self, path: str | Path) -> None:
        """Write the record. Raises StorageError."""
        write_json(Path(path), self.record())

    def table(self) -> Table:
        """With percentiles; `.format("csv")` and the like."""
        return Table(tuple(rows_of(Path("comparison"), self.record())), detailed=True)

    def data(self) -> Any:
        """A pandas DataFrame, one row a model, unrounded."""
        import pandas

        return pandas.DataFrame(self.table().records())

    def plot(self, path: str | Path | None = None) -> Picture:
        """Percentiles of KL, and ln(PPL / PPL of the baseline) ± its paired error against the size; without a baseline
        the perplexities ± their errors. Saved if a path is given."""
        picture = Picture(8.6, 3.7, columns=2) if self.paired else Picture(4.6, 3.7)
        colours = COLOURS * len(self.versions)
        if self.paired:
            self._divergences(picture.axes[0], colours)
        losses, labels = picture.axes[-1], []
        for each, colour in zip(self.versions[self.paired :], colours, strict=False):
            found, size = each.result.baseline, each.file_bytes / 1e6
            one = each.result
            y, error = (found.ln_ratio, found.ln_ratio_error) if found else (one.ppl, one.ppl_error)
            losses.errorbar(size, y, yerr=error, fmt="o", ms=5, capsize=3, color=colour)
            labels.append((plain(each.name), (size, y)))
        losses.margins(x=0.2, y=0.12)
        losses.set(xlabel="weights, MB", ylabel="perplexity ± SE")
        if base := self.baseline:
            losses.axhline(0, color="0.55", lw=0.8, ls="--")
            losses.set_yscale("symlog", linthresh=0.01)
            losses.set_ylabel(f"ln(PPL / PPL of {plain(base.name)}) ± paired SE")
        table = self.table()
        said = f"{table.conditions}\n{errors_note(pair for row in table.rows for pair in row.errors)}"
        picture.figure.suptitle(plain(said), fontsize=8)
        label_apart(losses, labels, fontsize=8, color="black")
        if path is not None:
            picture.save(path)
        return picture

    def _divergences(self, axes: Any, colours: Sequence[str]) -> None:
        """Percentiles of the KL to the baseline, a line a model."""
        places = [*QUANTILES, "max"]
        for each, colour in zip(self.versions[1:], colours, strict=False):
            found = known(known(each.result.baseline).kl)
            # None at all has no place on this scale.
            kl = [found[place] or np.nan for place in places]
            axes.plot(range(len(places)), kl, "o-", ms=4, lw=1.4, color=colour, label=plain(each.name))
        axes.set_yscale("log")
        axes.set_xticks(range(len(places)), places)
        axes.set(ylabel="KL to the baseline, nats", xlabel="of the tokens")
        if len(self.versions) > 1:
            axes.legend(fontsize=8, frameon=False)

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def __str__(self) -> str:
        return self.table().markdown()


def compare_models(  # many parameters: the options of a measurement, each of its own
    models: Mapping[str, Any],
    baseline: str | None,
    text: str | Text | Tokens,
    settings: Settings | None = None,
    *,
    separator: str | None = None,
    passages: Passages | None = None,
    speed: bool = True,
    backend: str | None = None,
    dtype: str = "f32",
    cache: str | None = None,
    baseline_dtype: str = "f32",
    baseline_cache: str | None = None,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> ModelComparison:  # long: one order of checks and measurements; many parameters: options by name
    """Score `models` by name, one of which is the `baseline`, and pair the others with it; None pairs nothing.

        models, text = {"f16": "DIR", "int8": workbench.quantize("DIR", "int8")}, Text("Once upon a time. " * 99)
        found = workbench.compare_models(models, "f16", text, Settings("disjoint-64"), speed=False)
        found.plot("comparison.pdf")

    models: of each what `workbench.load` takes, or a loaded Model, which runs as it was loaded. text, separator: as in
    `eval.perplexity.perplexity`. settings: protocol and windows, and how tokens a second are measured where `speed` is
    asked for. passages: whose last words are predicted, such as LAMBADA's (`eval.lambada.load_passages`). dtype, cache:
    of the models; the baseline's are f32 unless said. max_tokens: positions of the cache; by default as many as the
    work takes.

    A model that was made from another checkpoint than the baseline is noted. Raises SweepError for an unknown baseline,
    and what loading and scoring raise: ProtocolError, naming both, for models of different tokenizers.
    """
    if not models or baseline not in (None, *models):
        raise SweepError(f"baseline {baseline!r} is none of the models; allowed: {', '.join(models)}")
    settings, progress = settings or Settings(), progress or Progress()
    scheme = protocol(settings.scheme)
    names = sorted(models, key=lambda name: name != baseline)
    given = {name: models[name] for name in names}
    sources = {
        name: each.source if isinstance(each, Model) else open_source(each) for name, each in given.items()
    }
    tokenizer = load_tokenizer(sources[names[0]].tokenizer_path)
    tokens = text if isinstance(text, Tokens) else encode(tokenizer, text, scheme, separator=separator)
    words = pairs(tokenizer, passages) if passages else []
    if max_tokens is None and scheme.length is not None:
        timed = settings.prompt_tokens + settings.decode_tokens if speed else 0
        max_tokens = max(scheme.length, timed, *(len(context) + len(word) for context, word in words), 1)
    loaded = {
        name: given[name]
        if isinstance(given[name], Model)
        else load(
            source,
            backend,
            dtype=baseline_dtype if name == baseline else dtype,
            max_tokens=max_tokens,
            cache=baseline_cache if name == baseline else cache,
        )
        for name, source in sources.items()
    }
    progress.say(f"{scheme.name}: {', '.join(names)}")
    results = perplexities(
        loaded,
        tokens,
        scheme,
        baseline=baseline,
        max_windows=settings.windows,
        progress=progress.runs("windows"),
    )
    found, speeds = {}, {}
    if passages:
        progress.say(f"last words of {passages}")
        found = {name: last_words(model, passages, words) for name, model in loaded.items()}
    if speed:
        progress.say("tokens a second")
        speeds = _speeds(loaded, tokens, settings)
    versions = []
    for name, source in sources.items():
        nbytes, hashes = weight_bytes(source), file_hashes(source)
        if baseline in (None, name):
            notes = model_note(results[name].provenance)
        else:
            notes = _other_origin(source, sources[baseline], baseline)
        notes = "; ".join(notes)
        figures = results[name], found.get(name), speeds.get(name)
        versions.append(Version(name, bits_per_weight(source), nbytes, hashes, *figures, notes))
    return ModelComparison(tuple(versions), settings, baseline is not None)


def _speeds(loaded: Mapping[str, Model], tokens: Tokens, settings: Settings) -> dict[str, Speed]:
    """Of each model on the beginning of the text, as much of it as every context holds."""
    room = min(min(model.max_tokens, model.context_length) for model in loaded.values())
    count = max(1, min(settings.prompt_tokens, room - settings.decode_tokens))
    prompt = [int(token) for token in tokens.ids[:count]]
    return {
        name: measure_speed(
            model, prompt, decode_tokens=settings.decode_tokens, repetitions=settings.repetitions
        )
        for name, model in loaded.items()
    }


def _other_origin(source: Any, base: Any, baseline: str) -> list[str]:
    """What is to be said where two models were not made from the same weights."""
    (name, own), (_, other) = _origin(source), _origin(base)
    if own and own == other:
        return []
    if not isinstance(source, StoredModel):
        return [f"other weights than those of {baseline}; nothing says what they were made from"]
    return [f"quantized from another checkpoint than {baseline}: from {name}, whose weights are others"]


def _origin(source: Any) -> tuple[str, dict[str, str]]:
    """(name, SHA-256 of the weight files by name) of the checkpoint that a model was made from in the first place."""
    name, hashes = Path(source.path).name, {}
    if isinstance(source, StoredModel):
        record = source.manifest.get("provenance")
        while record:  # a conversion of a conversion holds the first one's record
            origin = record.get("source") or {}
            name, hashes = origin.get("name", "an unknown one"), origin.get("sha256") or {}
            record = origin.get("provenance")
    else:
        hashes = source.source_hashes()
    return name, {file: digest for file, digest in hashes.items() if file.endswith((".safetensors", ".gguf"))}
