"""Perplexity of a model on a text under a named protocol, alone or paired with a baseline.

    text = load_text("stories.txt")
    result = perplexity(model, text, "disjoint-512", separator="<|endoftext|>", baseline=reference)
    print(result.summary())

`perplexities` scores several models on the same windows side by side and compares them with one of them,
whose logits are then computed once.

A model is whatever scores a sequence from an empty cache: `score(ids)` giving `nll` f64 [n-1] and `top1`
int64 [n-1], `forward(ids)` giving `logits` f32 [n, vocab], `vocab_size`, `context_length`, `backend`,
`tokenizer` and `describe_provenance()`. Without a baseline model only `score` is called, so no logits leave
the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval import statistics
from eval.overlap import calibration_warnings
from eval.protocols import Protocol, Window, protocol
from eval.result import PerplexityResult, compare
from eval.texts import Text, Tokens, encode, tokenizer_sha256
from workbench.errors import ProtocolError, WorkbenchError

Progress = Callable[[int, int, float], None]
#: Called as progress(runs done, runs in all, name of the model just run, its mean nll so far); a run is one
#: window through one model.
RunProgress = Callable[[int, int, str, float], None]


class NonFiniteScoreError(WorkbenchError):
    """A model gave a target a negative log-likelihood that is not a number or not finite."""


def perplexity(
    model: Any,
    text: str | Text | Tokens | Sequence[int] | np.ndarray,
    scheme: str | Protocol,
    *,
    separator: str | None = None,
    baseline: Any = None,
    max_windows: int | None = None,
    progress: bool | Progress | None = None,
) -> PerplexityResult:
    """Score `text` under the protocol named `scheme`.

    text: a string or Text (tokenized with the model's tokenizer), Tokens from `eval.texts.encode` (to
    tokenize once for many models), or token ids [T] (the result then says that the text is unknown).
    separator: tells documents apart; see `eval.texts.encode`.
    baseline: a second model, run on the same windows, one at a time, whose logits are compared with the
    model's (paired difference, KL, same top-1); or a PerplexityResult of the same windows (no KL then, since
    it holds no logits).
    max_windows: score only the first so many.
    progress: True for a bar, or a function called as progress(windows done, windows, mean nll so far).

    Raises ProtocolError where protocol, text and model do not fit together; NonFiniteScoreError for NaN or
    infinity.
    """
    scheme = protocol(scheme)
    reference = None if isinstance(baseline, PerplexityResult) else baseline
    models = {"model": model} if reference is None else {"model": model, "baseline": reference}
    report = _reporter(progress)

    def told(done: int, total: int, name: str, nll: float) -> None:
        if name == "model":
            report(-(-done // len(models)), total // len(models), nll)

    result = perplexities(
        models,
        text,
        scheme,
        separator=separator,
        baseline=None if reference is None else "baseline",
        max_windows=max_windows,
        progress=told if report else None,
    )["model"]
    return result if baseline is reference else result.with_baseline(compare(result, baseline))


def perplexities(
    models: Mapping[str, Any],
    text: str | Text | Tokens | Sequence[int] | np.ndarray,
    scheme: str | Protocol,
    *,
    separator: str | None = None,
    baseline: str | None = None,
    max_windows: int | None = None,
    progress: RunProgress | None = None,
) -> dict[str, PerplexityResult]:
    """Score `text` with several models, window by window; results by name, in the order of `models`.

    baseline: the name of the model that the others are compared with. It runs once a window, and no more than
    two logits matrices are held at a time. Its own result is compared with nothing. Text, errors and the rest
    as in `perplexity`; ProtocolError also for an unknown baseline and for models of different vocabularies.
    """
    scheme = protocol(scheme)
    if not models:
        raise ProtocolError("there is no model to score with")
    if baseline is not None and baseline not in models:
        raise ProtocolError(f"baseline {baseline!r} is none of the models; allowed: {', '.join(models)}")
    if max_windows is not None and max_windows < 1:
        raise ProtocolError(f"max_windows is {max_windows}; it must be at least 1, or None for all")
    for name, one in models.items():
        if scheme.length > one.context_length:
            raise ProtocolError(
                f"protocol {scheme.name!r} has windows of {scheme.length} tokens, more than "
                f"the {_label(name)}'s context of {one.context_length}; allowed: up to {one.context_length}"
            )
    first = next(iter(models))
    tokens = _tokens(models[first], text, scheme, separator)
    for name in models:
        if name != first:
            _same_vocabulary(models, first, name, tokens)
    windows = scheme.windows(tokens.ids, bos=tokens.bos)
    available = len(windows)
    windows = windows[:max_windows]
    _known_ids(windows, models[first].vocab_size)

    # The baseline runs first in each window; alone it is scored like any other.
    order = [*([] if baseline is None else [baseline]), *(name for name in models if name != baseline)]
    parts: dict[str, list[statistics.Divergence]] = {name: [] for name in models}
    totals, seconds = dict.fromkeys(models, 0.0), dict.fromkeys(models, 0.0)
    done = count = 0
    for index, window in enumerate(windows):
        kept = None
        count += window.scored
        for name in order:
            began = time.perf_counter()
            if baseline is None or len(models) == 1:
                part = _score(models[name], window)
            elif name == baseline:
                kept = _logits(models[name], window)
                part = _own(kept, window)
            else:
                part = statistics.divergence(_logits(models[name], window), kept, window.targets)
            if not np.isfinite(part.nll).all():
                at = int(np.flatnonzero(~np.isfinite(part.nll))[0])
                raise NonFiniteScoreError(
                    f"window {index} of {scheme.name}: the {_label(name)} gives target "
                    f"{window.first_scored + at} (token {int(window.targets[at])}) "
                    f"a negative log-likelihood of {part.nll[at]}"
                )
            seconds[name] += time.perf_counter() - began
            parts[name].append(part)
            totals[name] += float(part.nll.sum())
            done += 1
            if progress:
                progress(done, len(windows) * len(order), name, totals[name] / count)

    sizes = tokens.token_bytes
    shared = {
        "protocol": scheme,
        "targets": np.concatenate([window.targets for window in windows]),
        "window_index": np.repeat(np.arange(len(windows)), [window.scored for window in windows]),
        "window_start": np.array([window.start for window in windows]),
        "window_first_scored": np.array([window.first_scored for window in windows]),
        "windows_available": available,
        "tokens_available": len(tokens),
        "scored_bytes": None
        if sizes is None
        else int(sum(sizes[w.start + w.first_scored : w.start + len(w.ids)].sum() for w in windows)),
        "tokens_sha256": tokens.sha256,
        "tokenizer_sha256": tokens.tokenizer_sha256,
        "text": tokens.text,
        "bos_policy": tokens.bos_policy,
        "separator": tokens.separator,
        "documents": tokens.documents,
    }
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
            warnings=calibration_warnings(
                provenance,
                [window.ids for window in windows],
                tokens.tokenizer_sha256,
                (tokens.text or {}).get("sha256"),
            ),
            **shared,
        )
    if baseline is None:
        return results
    against = results[baseline]
    return {
        name: result
        if name == baseline
        else result.with_baseline(compare(result, against, kl=np.concatenate([p.kl for p in parts[name]])))
        for name, result in results.items()
    }


def _label(name: str) -> str:
    """How messages speak of a model."""
    return name if name in ("model", "baseline") else f"model {name!r}"


def _tokens(model: Any, text: Any, scheme: Protocol, separator: str | None) -> Tokens:
    if isinstance(text, str | Text):
        return encode(model.tokenizer, text, scheme, separator=separator)
    if separator is not None:
        raise ProtocolError("a separator tells the documents of a text apart; these are tokens already")
    if not isinstance(text, Tokens):
        ids = np.asarray(text)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ProtocolError(
                f"text must be a string, Text, Tokens or integers [T], not {ids.dtype} {list(ids.shape)}"
            )
        return Tokens(ids.astype(np.int64))
    if text.tokenizer_sha256 is not None and text.tokenizer_sha256 != tokenizer_sha256(model.tokenizer):
        raise ProtocolError("the tokens were made by another tokenizer than the model's")
    if text.separator is not None and not scheme.takes_separator:
        raise ProtocolError(
            f"protocol {scheme.name!r} takes no document separator, but the tokens were made with one"
        )
    if scheme.joins_rows and text.text is not None and not text.text.get("joined"):
        raise ProtocolError(
            f"protocol {scheme.name!r} joins rows before tokenization; encode the text for it"
        )
    return text


def _same_vocabulary(models: Mapping[str, Any], first: str, other: str, tokens: Tokens) -> None:
    one, two = models[first], models[other]
    if one.vocab_size != two.vocab_size:
        raise ProtocolError(
            f"the {_label(first)} has {one.vocab_size} tokens, the {_label(other)} {two.vocab_size}; "
            "they must agree"
        )
    if tokens.tokenizer_sha256 is not None and tokenizer_sha256(two.tokenizer) != tokens.tokenizer_sha256:
        raise ProtocolError(
            f"{_label(first)} and {_label(other)} have different tokenizers; per-token differences would "
            "mean nothing"
        )


def _known_ids(windows: list[Window], vocabulary: int) -> None:
    for index, window in enumerate(windows):
        low, high = int(window.ids.min()), int(window.ids.max())
        if low < 0 or high >= vocabulary:
            bad = low if low < 0 else high
            raise ProtocolError(
                f"window {index}: token {bad} is outside the model's vocabulary, 0 to {vocabulary - 1}"
            )


def _score(model: Any, window: Window) -> statistics.Divergence:
    """Scores of one model; its own stand in for the baseline's and are not looked at."""
    scores = model.score(window.ids)
    part = slice(window.first_scored - 1, None)
    if not len(scores.nll) == len(scores.top1) == len(window.ids) - 1:
        raise WorkbenchError(
            f"score() of {len(window.ids)} tokens gave {len(scores.nll)} nll and {len(scores.top1)} top1; "
            f"expected {len(window.ids) - 1} of each"
        )
    nll, top1 = np.asarray(scores.nll, np.float64)[part], np.asarray(scores.top1, np.int64)[part]
    return statistics.Divergence(nll, nll, np.zeros(0), top1, top1)


def _logits(model: Any, window: Window) -> np.ndarray:
    """f32 [scored, vocab]: the logits that predict the window's targets."""
    return model.forward(window.ids).logits[window.first_scored - 1 : -1]


def _own(logits: np.ndarray, window: Window) -> statistics.Divergence:
    """The baseline's scores, from the logits that the others are compared with."""
    nll, top1 = statistics.target_nll(logits, window.targets), logits.argmax(1)
    return statistics.Divergence(nll, nll, np.zeros(0), top1, top1)


def _reporter(progress: bool | Progress | None) -> Progress | None:
    if not progress:
        return None
    if callable(progress):
        return progress
    from tqdm.auto import tqdm

    bar = tqdm(unit="window")

    def report(done: int, total: int, nll: float) -> None:
        bar.total = total
        bar.set_postfix(ppl=f"{np.exp(nll):.4f}", refresh=False)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report
