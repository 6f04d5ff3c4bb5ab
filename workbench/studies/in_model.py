"""What an edited kernel does to a whole model: tokens a second and perplexity with it, beside those without it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.perplexity import perplexities
from eval.result import PerplexityResult
from wgsl_kernels.library import Library
from workbench.known import known
from workbench.model_bench.speed import Rate, measure_speed
from workbench.runtime.loading import load
from workbench.show.table import Table

HEAD = ["", "prefill, tokens/s", "decode, tokens/s", "perplexity"]
WITHOUT, WITH = "as it was", "with the library"


@dataclass(frozen=True)
class InModel:
    """By "as it was" and "with the library": rates, whose repetitions took turns, and perplexities if there was a text.

    used: (kernel, variant, where it runs).
    """

    used: tuple[tuple[str, str, str], ...]
    prefill: dict[str, Rate]
    decode: dict[str, Rate]
    results: dict[str, PerplexityResult]

    def times_as_fast(self, rates: dict[str, Rate]) -> tuple[float, float, float]:
        """Of `prefill` or `decode`, with the library: median, least and greatest over the repetitions."""
        pairs = zip(rates[WITHOUT].seconds, rates[WITH].seconds, strict=True)
        ratios = [before / after for before, after in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)

    def __repr__(self) -> str:
        prefill, decode = (self.times_as_fast(rates)[0] for rates in (self.prefill, self.decode))
        return f"<kernels inside a model: prefill {prefill:.2f}, decode {decode:.2f} times as fast>"

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()

    def table(self) -> Table:
        """Both, with how they compare below."""
        rows = []
        for name in (WITHOUT, WITH):
            found = self.results.get(name)
            said = f"{found.ppl:.5f}" if found else "–"
            rows.append([name, str(self.prefill[name]), str(self.decode[name]), said])
        lines = []
        for what, rates in (("prefill", self.prefill), ("decode", self.decode)):
            middle, low, high = self.times_as_fast(rates)
            lines.append(f"{what} {middle:.3f} ({low:.3f} to {high:.3f}) times as fast")
        if self.results:
            change = known(self.results[WITH].baseline)
            ratio = f"ln(perplexity) {change.ln_ratio:+.1e} ± {change.ln_ratio_error:.0e}"
            lines.append(f"{ratio}, KL {change.kl_mean:.1e} nats a token")
        lines += [f"{kernel}, {name}: {where}" for kernel, name, where in self.used]
        return Table(HEAD, rows, notes=lines)


def in_model(
    path: Any,
    library: Library,
    *,
    text: Any = None,
    protocol: str = "disjoint-512",
    max_windows: int | None = 4,
    prompt_tokens: int = 32,
    decode_tokens: int = 32,
    repetitions: int = 5,
    **options: Any,
) -> InModel:
    """Load a model twice, without and with a library of kernels, and let both take turns.

    path and options: as for `workbench.load`. text, protocol, max_windows: as for `eval.perplexity.perplexity`; without
    a text no perplexity is measured. prompt_tokens, which are drawn, and decode_tokens: fed and decoded in each of the
    repetitions, after one that is not counted. Raises what `load` and `perplexity` raise.
    """
    models = {WITHOUT: load(path, "wgpu", **options), WITH: load(path, "wgpu", library=library, **options)}
    prompt = np.random.default_rng(0).integers(0, models[WITHOUT].vocab_size, prompt_tokens).tolist()
    seconds = {name: ([], []) for name in models}
    for _ in range(repetitions):
        for name, model in models.items():
            found = measure_speed(model, prompt, decode_tokens=decode_tokens, repetitions=1)
            seconds[name][0].extend(found.prefill.seconds)
            seconds[name][1].extend(found.decode.seconds)
    results = {}
    if text is not None:
        results = perplexities(models, text, protocol, baseline=WITHOUT, max_windows=max_windows)
    changed = library.changed()
    return InModel(
        tuple(each for each in models[WITH].choices if each[0] in changed),
        {name: Rate(prompt_tokens, tuple(found[0])) for name, found in seconds.items()},
        {name: Rate(decode_tokens, tuple(found[1])) for name, found in seconds.items()},
        results,
    )
