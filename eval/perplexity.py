"""Perplexity of a model on a text under a named protocol, alone or paired with a baseline.

    text = load_text("stories.txt")
    result = perplexity(model, text, "disjoint-512", separator="<|endoftext|>", baseline=reference)
    print(result.summary())

`model` is whatever scores a sequence from an empty cache: `score(ids)` giving `nll` f64 [n-1] and `top1`
int64 [n-1], `forward(ids)` giving `logits` f32 [n, vocab], `vocab_size`, `context_length`, `backend`,
`tokenizer` and `describe_provenance()`. Without a baseline model only `score` is called, so no logits leave
the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eval import statistics
from eval.protocols import Protocol, Window, protocol
from eval.result import Comparison, PerplexityResult, compare
from eval.texts import Text, Tokens, encode, tokenizer_sha256
from workbench.errors import ProtocolError, WorkbenchError

Progress = Callable[[int, int, float], None]


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
    if max_windows is not None and max_windows < 1:
        raise ProtocolError(f"max_windows is {max_windows}; it must be at least 1, or None for all")
    reference = None if isinstance(baseline, PerplexityResult) else baseline
    for name, one in (("model", model), ("baseline", reference)):
        if one is not None and scheme.length > one.context_length:
            raise ProtocolError(
                f"protocol {scheme.name!r} has windows of {scheme.length} tokens, more than "
                f"the {name}'s context of {one.context_length}; allowed: up to {one.context_length}"
            )
    tokens = _tokens(model, text, scheme, separator)
    if reference is not None:
        _same_vocabulary(model, reference, tokens)
    windows = scheme.windows(tokens.ids, bos=tokens.bos)
    available = len(windows)
    windows = windows[:max_windows]
    _known_ids(windows, model.vocab_size)

    began = time.perf_counter()
    parts: list[statistics.Divergence] = []
    report = _reporter(progress)
    total = count = 0
    for index, window in enumerate(windows):
        part = _score(model, window) if reference is None else _score_both(model, reference, window)
        for name, nll in (("model", part.nll), ("baseline", part.nll_baseline)):
            if not np.isfinite(nll).all():
                at = int(np.flatnonzero(~np.isfinite(nll))[0])
                raise NonFiniteScoreError(
                    f"window {index} of {scheme.name}: the {name} gives target {window.first_scored + at} "
                    f"(token {int(window.targets[at])}) a negative log-likelihood of {nll[at]}"
                )
        parts.append(part)
        total, count = total + part.nll.sum(), count + len(part.nll)
        if report:
            report(index + 1, len(windows), float(total / count))
    seconds = time.perf_counter() - began

    sizes = tokens.token_bytes
    result = PerplexityResult(
        protocol=scheme,
        backend=model.backend,
        token_nll=np.concatenate([part.nll for part in parts]),
        top1=np.concatenate([part.top1 for part in parts]),
        targets=np.concatenate([window.targets for window in windows]),
        window_index=np.repeat(np.arange(len(windows)), [window.scored for window in windows]),
        window_start=np.array([window.start for window in windows]),
        window_first_scored=np.array([window.first_scored for window in windows]),
        windows_available=available,
        tokens_available=len(tokens),
        scored_bytes=None
        if sizes is None
        else int(sum(sizes[w.start + w.first_scored : w.start + len(w.ids)].sum() for w in windows)),
        tokens_sha256=tokens.sha256,
        tokenizer_sha256=tokens.tokenizer_sha256,
        text=tokens.text,
        bos_policy=tokens.bos_policy,
        separator=tokens.separator,
        documents=tokens.documents,
        context_length=model.context_length,
        provenance=model.describe_provenance(),
        seconds=seconds,
    )
    if baseline is None:
        return result
    if reference is None:
        return result.with_baseline(compare(result, baseline))
    return result.with_baseline(_comparison(result, parts, reference))


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


def _same_vocabulary(model: Any, baseline: Any, tokens: Tokens) -> None:
    if model.vocab_size != baseline.vocab_size:
        raise ProtocolError(
            f"the model has {model.vocab_size} tokens, the baseline {baseline.vocab_size}; they must agree"
        )
    if (
        tokens.tokenizer_sha256 is not None
        and tokenizer_sha256(baseline.tokenizer) != tokens.tokenizer_sha256
    ):
        raise ProtocolError(
            "model and baseline have different tokenizers; per-token differences would mean nothing"
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


def _score_both(model: Any, baseline: Any, window: Window) -> statistics.Divergence:
    part = slice(window.first_scored - 1, -1)
    logits = model.forward(window.ids).logits[part]
    return statistics.divergence(logits, baseline.forward(window.ids).logits[part], window.targets)


def _comparison(result: PerplexityResult, parts: list[statistics.Divergence], baseline: Any) -> Comparison:
    return Comparison.of(
        result.token_nll,
        np.concatenate([part.nll_baseline for part in parts]),
        result.window_index,
        result.top1,
        np.concatenate([part.top1_baseline for part in parts]),
        kl=np.concatenate([part.kl for part in parts]),
        backend=baseline.backend,
        provenance=baseline.describe_provenance(),
    )


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
