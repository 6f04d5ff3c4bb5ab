"""Perplexity of a model on a text under a named protocol, alone or paired with a baseline.

    text = load_text("stories.txt")
    result = perplexity(model, text, "disjoint-512", separator="<|endoftext|>", baseline=reference)
    print(result.summary())

`perplexities` scores several models on the same windows side by side and compares them with one of them,
whose logits are then computed once. They may also come from a file that an earlier run kept
(`eval.top_logits`).

A model is whatever scores a sequence from an empty cache (`eval.scorer.Scorer`). Without a baseline only `score` is
called; models of `workbench.load` on one device are compared there (`eval.scoring`). Either way no matrix of logits
leaves the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval import advice, inputs, statistics
from eval.comparison import compare
from eval.overlap import calibration_warnings
from eval.protocols import Protocol, Window, protocol
from eval.report import ppl_text
from eval.result import PerplexityResult
from eval.scorer import Scorer
from eval.texts import Text, Tokens
from eval.top_logits import TOP_K, StoredBaseline, TopLogits
from workbench.errors import ProtocolError, WorkbenchError
from workbench.show.progress import Bar, RunProgress

if TYPE_CHECKING:
    from eval.scoring import Scoring

Progress = Callable[[int, int, float], None]


class NonFiniteScoreError(WorkbenchError):
    """A model gave a target a negative log-likelihood that is not a number or not finite."""


def perplexity(  # many parameters: the options of an evaluation, each of its own
    model: Scorer,
    text: str | Text | Tokens | Sequence[int] | np.ndarray,
    scheme: str | Protocol,
    *,
    separator: str | None = None,
    baseline: Scorer | PerplexityResult | StoredBaseline | str | Path | None = None,
    noise_floor: Scorer | None = None,
    again: Scorer | None = None,
    save_baseline: str | Path | None = None,
    top_k: int = TOP_K,
    max_windows: int | None = None,
    windows_per_step: int = 1,
    progress: bool | Progress | None = None,
) -> PerplexityResult:
    """Score `text` under the protocol named `scheme`.

    text: a string or Text (tokenized with the model's tokenizer), Tokens from `eval.texts.encode` (to
    tokenize once for many models), or token ids [T] (the result then says that the text is unknown).
    separator: tells documents apart; see `eval.texts.encode`.
    baseline: what the model is compared with (paired difference, KL, same top-1): a second model, run on the
    same windows; a StoredBaseline or the path of its file (KL is then an estimate, see `eval.top_logits`);
    or a PerplexityResult of the same windows (no KL then, since it holds no logits).
    noise_floor: the baseline once more, on another path (f16 instead of f32, the references instead of
    WGSL): its own comparison with the baseline is put beside the model's.
    again: the model once more, on another path: what that alone changes is put beside its figures. Models that round
    activations or cache to INT8 need it (`eval.report.int8_noise`).
    save_baseline: a file to keep the baseline's distributions in, or the model's own where there is no
    baseline: the `top_k` likeliest tokens of each place, and a sample of the rest.
    max_windows: score only the first so many.
    windows_per_step: windows that run side by side, where the model is compared with nothing or with a loaded model on
    the same device: a GPU has more to do in a step then. Losses differ by what another order of sums rounds to.
    progress: True for a bar, or a function called as progress(windows done, windows, mean nll so far).

    Raises ProtocolError where protocol, text and model do not fit together; NonFiniteScoreError for NaN or
    infinity.
    """
    if isinstance(baseline, str | Path):
        baseline = StoredBaseline.load(baseline)
    live = None if isinstance(baseline, PerplexityResult | StoredBaseline) else baseline
    models = {"model": model}
    if live is not None:
        models["baseline"] = live
    if noise_floor is not None:
        if live is None and not isinstance(baseline, StoredBaseline):
            raise ProtocolError("a noise floor needs a baseline with logits: a model, or a stored baseline")
        models["noise floor"] = noise_floor
    report = _reporter(progress)

    def told(done: int, total: int, name: str, nll: float) -> None:
        if report is not None and name == "model":
            report(-(-done // len(models)), total // len(models), nll)

    result = perplexities(
        models,
        text,
        scheme,
        separator=separator,
        baseline="baseline"
        if live is not None
        else baseline
        if isinstance(baseline, StoredBaseline)
        else None,
        noise_floor=None if noise_floor is None else "noise floor",
        save_baseline=save_baseline,
        top_k=top_k,
        max_windows=max_windows,
        windows_per_step=windows_per_step,
        progress=told if report else None,
    )["model"]
    if isinstance(baseline, PerplexityResult):
        result = result.with_baseline(compare(result, baseline))
    if again is None:
        return result
    common: dict[str, Any] = {"separator": separator, "max_windows": max_windows, "progress": progress}
    common["windows_per_step"] = windows_per_step
    return result.with_noise_floor(perplexity(again, text, scheme, **common))


def perplexities(  # many parameters: the options of an evaluation, each of its own
    models: Mapping[str, Scorer],
    text: str | Text | Tokens | Sequence[int] | np.ndarray,
    scheme: str | Protocol,
    *,
    separator: str | None = None,
    baseline: str | StoredBaseline | None = None,
    noise_floor: str | None = None,
    save_baseline: str | Path | None = None,
    top_k: int = TOP_K,
    max_windows: int | None = None,
    windows_per_step: int = 1,
    progress: RunProgress | None = None,
) -> dict[str, PerplexityResult]:
    """Score `text` with several models, window by window; results by name, in the order of `models`.

    baseline: the name of the model that the others are compared with. It runs once a window. Its own result
    is compared with nothing. Or a StoredBaseline.
    noise_floor: the name of the model that is the baseline on another path. Text, errors and the rest as in
    `perplexity`; ProtocolError also for unknown names and for models of different vocabularies.
    """
    _check_names(models, baseline, noise_floor)
    if max_windows is not None and max_windows < 1:
        raise ProtocolError(f"max_windows is {max_windows}; it must be at least 1, or None for all")
    if windows_per_step < 1:
        raise ProtocolError(f"windows_per_step is {windows_per_step}; it must be at least 1")
    stored = baseline if isinstance(baseline, StoredBaseline) else None
    kept_name = None if save_baseline is None else _kept(models, baseline, Path(save_baseline))
    scheme = inputs.fitting(protocol(scheme), models)
    first = next(iter(models))
    tokens = inputs.tokens(models[first], text, scheme, separator)
    for name in models:
        if name != first:
            inputs.same_vocabulary(models, first, name, tokens)
    windows = scheme.windows(
        tokens.ids, bos=tokens.bos, starts=(0,) if tokens.starts is None else tokens.starts
    )
    every = windows
    windows = windows[:max_windows]
    inputs.known_ids(windows, models[first].vocab_size)
    if stored:
        stored = stored.require(
            scheme, windows, tokens.sha256, tokens.tokenizer_sha256, models[first].vocab_size
        )

    from eval.scoring import Scoring  # and torch with it

    scoring = Scoring(
        models,
        baseline if isinstance(baseline, str) else None,
        stored,
        keep=kept_name,
        top_k=top_k,
    )
    parts, seconds = _scored(scoring, scheme, windows, models, windows_per_step, progress)
    shared = inputs.described(scheme, tokens, windows, every)
    results = {}
    for name, model in models.items():
        provenance = model.describe_provenance()
        results[name] = PerplexityResult(
            backend=model.backend,
            token_nll=np.concatenate([part.nll for part in parts[name]]),
            top1=np.concatenate([part.top1 for part in parts[name]]),
            context_length=model.context_length,
            provenance=provenance,
            seconds=seconds[name],
            warnings=_warnings(tokens, windows, provenance),
            **shared,
        )
    if save_baseline is not None and kept_name is not None:
        StoredBaseline(results[kept_name], TopLogits.join(scoring.top)).save(save_baseline)
    paired = _paired(results, parts, baseline, noise_floor, stored)
    _advise(paired, set(tokens.warnings))
    return paired


def _check_names(
    models: Mapping[str, Scorer], baseline: str | StoredBaseline | None, noise_floor: str | None
) -> None:
    if not models:
        raise ProtocolError("there is no model to score with")
    for what, name in (("baseline", baseline), ("noise floor", noise_floor)):
        if isinstance(name, str) and name not in models:
            raise ProtocolError(f"{what} {name!r} is none of the models; allowed: {', '.join(models)}")


def _kept(models: Mapping[str, Scorer], baseline: str | StoredBaseline | None, path: Path) -> str:
    """The model whose distributions are kept in a file."""
    found = next(iter(models)) if baseline is None and len(models) == 1 else baseline
    if not isinstance(found, str):
        raise ProtocolError(
            "save_baseline keeps the logits of a baseline model, or of a single model; name one"
        )
    if not path.parent.is_dir():
        raise ProtocolError(f"save_baseline: there is no folder {path.parent}")
    return found


def _scored(
    scoring: Scoring,
    scheme: Protocol,
    windows: Sequence[Window],
    models: Mapping[str, Scorer],
    together: int,
    progress: RunProgress | None,
) -> tuple[dict[str, list[statistics.Divergence]], dict[str, float]]:
    """The scores of every window, and seconds, of each model. together: windows that share steps. Raises
    NonFiniteScoreError."""
    parts: dict[str, list[statistics.Divergence]] = {name: [] for name in models}
    totals, seconds = dict.fromkeys(models, 0.0), dict.fromkeys(models, 0.0)
    done = count = 0
    for index, window in enumerate(windows):
        if together > 1 and index % together == 0:
            scoring.score_together(index, windows[index : index + together])
        place = slice(count, count + window.scored)
        count += window.scored
        for name, part, took in scoring.window(index, window, place):
            if not np.isfinite(part.nll).all():
                at = int(np.flatnonzero(~np.isfinite(part.nll))[0])
                raise NonFiniteScoreError(
                    f"window {index} of {scheme.name}: the {inputs.label(name)} gives target "
                    f"{window.first_scored + at} (token {int(window.targets[at])}) "
                    f"a negative log-likelihood of {part.nll[at]}"
                )
            seconds[name] += took
            parts[name].append(part)
            totals[name] += float(part.nll.sum())
            done += 1
            if progress:
                progress(done, len(windows) * len(models), name, totals[name] / count)
    return parts, seconds


def _paired(
    results: dict[str, PerplexityResult],
    parts: Mapping[str, list[statistics.Divergence]],
    baseline: str | StoredBaseline | None,
    noise_floor: str | None,
    stored: StoredBaseline | None,
) -> dict[str, PerplexityResult]:
    """The results beside the baseline's and the noise floor. stored: the part of a StoredBaseline that was scored."""
    if baseline is None:
        return results
    against = stored.result if stored else results[str(baseline)]
    compared = {
        name: compare(
            result,
            against,
            kl=np.concatenate([p.kl for p in parts[name]]),
            kl_truncation=stored.truncation(parts[name]) if stored else None,
        )
        for name, result in results.items()
        if name != baseline
    }
    results |= {name: results[name].with_baseline(found) for name, found in compared.items()}
    if noise_floor is not None:
        floor = results[noise_floor]
        results |= {
            name: results[name].with_baseline(found.with_noise_floor(floor))
            for name, found in compared.items()
            if name != noise_floor
        }
    return results


def _warnings(tokens: Tokens, windows: Sequence[Window], provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes a model's figures on this text doubtful."""
    text = (tokens.text or {}).get("sha256")
    ids = [window.ids for window in windows]
    return *tokens.warnings, *calibration_warnings(provenance, ids, tokens.tokenizer_sha256, text)


def _advise(results: Mapping[str, PerplexityResult], said: set[str]) -> None:
    """Warn of what makes the results doubtful. said: what has been said of the text already."""
    doubts = [each for result in results.values() for each in result.warnings if each not in said]
    several = len(results) > 2
    for name, result in results.items():
        if few := advice.few_tokens(result):
            doubts.append(f"{name}: {few}" if several else few)
    advice.advise(doubts, shown=True)


def _reporter(progress: bool | Progress | None) -> Progress | None:
    if not progress:
        return None
    if callable(progress):
        return progress
    bar = Bar("window")
    return lambda done, total, nll: bar.at(done, total, {"ppl": ppl_text(statistics.exp(nll))})
