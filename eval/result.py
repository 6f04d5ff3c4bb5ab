"""What a perplexity run found: per-token scores, figures made of them, and what makes them comparable."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from eval import advice, statistics
from eval.comparison import Comparison
from eval.documents import DocumentSizes
from eval.protocols import Protocol, protocol
from eval.report import ONE_WINDOW, finite, int8_noise, plus_minus, ppl_form, ppl_text, ran
from eval.statistics import exp
from eval.store import read_arrays, write_arrays
from eval.texts import WIKITEXT2_JOINED_SHA256, WIKITEXT2_RAW_SHA256
from workbench.errors import ProtocolError
from workbench.show.table import Table

KIND = "perplexity result"
ARRAYS = {
    "token_nll": "float64",
    **dict.fromkeys(("top1", "targets", "window_index", "window_start", "window_first_scored"), "int64"),
}


@dataclass(frozen=True, eq=False)
class PerplexityResult:
    """Scores of a text under a protocol. Arrays over the scored tokens, in order, all [n]:

    token_nll f64 (nats), top1 int64 (most likely token there), targets int64, window_index int64 (0-based).
    Arrays over windows [W]: window_start (index in the token stream) and window_first_scored. seconds: wall
    time of scoring. text: name, dataset, revision, split, sha256, bytes; None for bare tokens, like the
    hashes and policies that follow from it. document_sizes: where documents are scored apart, their sizes. warnings:
    what makes the figure doubtful, such as a text that the model was calibrated on (`eval.overlap`). noise_floor: the
    model against itself on another path, where it was run (`with_noise_floor`).
    """

    protocol: Protocol
    backend: str
    token_nll: np.ndarray = field(repr=False)
    top1: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    window_index: np.ndarray = field(repr=False)
    window_start: np.ndarray = field(repr=False)
    window_first_scored: np.ndarray = field(repr=False)
    windows_available: int
    tokens_available: int
    scored_bytes: int | None
    tokens_sha256: str
    tokenizer_sha256: str | None
    text: dict[str, Any] | None
    bos_policy: str | None
    separator: str | None
    documents: int | None
    context_length: int
    provenance: dict[str, Any] = field(repr=False)
    seconds: float
    baseline: Comparison | None = None
    document_sizes: DocumentSizes | None = None
    warnings: tuple[str, ...] = ()
    noise_floor: dict[str, Any] | None = None

    @cached_property
    def nll(self) -> float:
        """Mean negative log-likelihood a scored token, nats."""
        return statistics.mean_nll(self.token_nll)

    @property
    def ppl(self) -> float:
        return exp(self.nll)

    @cached_property
    def ppl_se(self) -> float:
        """PPL * SE(ln PPL), tokens taken as independent."""
        return self.ppl * statistics.ln_ppl_se(self.token_nll)

    @cached_property
    def ppl_se_clustered(self) -> float:
        """PPL * SE(ln PPL), clustered by window."""
        return self.ppl * statistics.clustered_se(self.token_nll, self.window_index)

    @property
    def ppl_error(self) -> float:
        """The error to give: the larger of `ppl_se` and `ppl_se_clustered`."""
        return statistics.larger_se(self.ppl_se, self.ppl_se_clustered)

    @cached_property
    def ppl_interval95(self) -> tuple[float, float]:
        """Percentile interval of the perplexity from 10,000 resamples of the windows, seed 0."""
        low, high = statistics.bootstrap_interval(self.token_nll, self.window_index)
        return exp(low), exp(high)

    @property
    def tokens_scored(self) -> int:
        return len(self.token_nll)

    @property
    def windows(self) -> int:
        return len(self.window_start)

    @cached_property
    def _of_documents(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """(total nll, words, bytes) of each document scored in full, all [D]; None where there is none."""
        sizes = self.document_sizes
        if not sizes or not (complete := sizes.complete(self.windows)):
            return None
        sums = sizes.sums(self.token_nll, self.window_index, complete)
        return sums, np.array(sizes.words[:complete]), np.array(sizes.bytes[:complete])

    @property
    def word_ppl(self) -> float | None:
        """exp(sum nll / words), over the documents scored in full, words counted before detokenization. None for
        protocols that do not count words."""
        found = self._of_documents
        return None if found is None else exp(found[0].sum() / found[1].sum())

    @property
    def word_ppl_se(self) -> float | None:
        """word_ppl times the error of its logarithm, clustered by document (lm-eval gives none)."""
        found, ppl = self._of_documents, self.word_ppl
        return None if found is None or ppl is None else ppl * statistics.ratio_se(found[0], found[1])

    @property
    def byte_ppl(self) -> float | None:
        """exp(sum nll / UTF-8 bytes), as `word_ppl`."""
        found = self._of_documents
        return None if found is None else exp(found[0].sum() / found[2].sum())

    @property
    def bits_per_byte(self) -> float | None:
        """Bits of the scored tokens over the UTF-8 bytes that they stand for (not over the whole text's); where
        documents are scored apart, over their bytes before detokenization, as lm-eval does."""
        if self.document_sizes:
            return None if self.byte_ppl is None else math.log2(self.byte_ppl)
        return float(self.token_nll.sum() / math.log(2) / self.scored_bytes) if self.scored_bytes else None

    @property
    def top1_accuracy(self) -> float:
        return float(np.mean(self.top1 == self.targets))

    @property
    def ppl_hf_loop(self) -> float | None:
        """What the loop printed in the documentation of `transformers` gives; None outside `hf-strided-L-S`.

        That loop weights each window's mean by its targets less one, as if the internal shift dropped a
        target from every window; it drops one only where the window's first token is among them. So later
        windows weigh one too little.
        """
        if self.protocol.kind != "hf-strided":
            return None
        sums, counts = statistics.window_sums(self.token_nll, self.window_index)
        length, stride = self.protocol.cut
        overlap = stride < length
        weights = counts - (overlap & (np.arange(len(counts)) > 0))
        return exp(float(np.sum(sums / counts * weights) / weights.sum())) if weights.sum() else None

    @property
    def unrecorded(self) -> tuple[str, ...]:
        """What is not known of this row and would be needed to compare it with rows of other origin."""
        text = self.text or {}
        missing = [key for key in ("dataset", "revision", "split", "sha256") if text.get(key) is None]
        missing = [f"text {key}" for key in missing]
        known = {WIKITEXT2_JOINED_SHA256, *([WIKITEXT2_RAW_SHA256] if self.protocol.by_document else [])}
        if (self.protocol.joins_rows or self.protocol.by_document) and text.get("sha256") not in known:
            missing.append("that the text is WikiText-2's test split (its hash is another)")
        if self.tokenizer_sha256 is None:
            missing.append("tokenizer")
        if self.bos_policy is None:
            missing.append("BOS policy")
        if self.noise_floor is None and (noise := int8_noise(self.provenance)):
            missing.append(noise)
        return tuple(missing)

    def first(self, windows: int) -> PerplexityResult:
        """Only its first so many windows; what counts all scored tokens together is then unknown."""
        tokens = self.window_index < windows
        arrays = {name: getattr(self, name)[tokens] for name in tuple(ARRAYS)[:4]}
        arrays |= {name: getattr(self, name)[:windows] for name in tuple(ARRAYS)[4:]}
        return dataclasses.replace(self, **arrays, scored_bytes=None, baseline=None)

    def with_baseline(self, comparison: Comparison) -> PerplexityResult:
        """Beside a baseline; one that ran in another precision is a warning."""
        doubt = advice.other_precision(self.provenance, comparison.provenance)
        warnings = [each for each in (*self.warnings, doubt) if each]
        return dataclasses.replace(self, baseline=comparison, warnings=tuple(dict.fromkeys(warnings)))

    def with_noise_floor(self, other: PerplexityResult) -> PerplexityResult:
        """With what the model's other path alone changes, d in nats a token: `other` scores the same windows."""
        from eval.losses import noise_floor

        loss = noise_floor(self, other)
        same = float(np.mean(self.top1 == other.top1))
        floor = {
            **loss.to_json(),
            "same_top1": same,
            "backend": other.backend,
            "provenance": other.provenance,
        }
        return dataclasses.replace(self, noise_floor=floor)

    def to_json(self) -> dict[str, Any]:
        """Figures and provenance, without the per-token arrays. Numbers that do not exist are null."""
        return finite(
            {
                "protocol": self.protocol.name,
                "backend": self.backend,
                "tokens_scored": self.tokens_scored,
                "windows": self.windows,
                "ppl": self.ppl,
                "ppl_se": self.ppl_se,
                "ppl_se_clustered": self.ppl_se_clustered,
                "ppl_error": self.ppl_error,
                "ppl_interval95": self.ppl_interval95,
                **({"ppl_hf_loop": self.ppl_hf_loop} if self.protocol.kind == "hf-strided" else {}),
                **(self._words() if self.protocol.by_document else {}),
                "nll": self.nll,
                "bits_per_byte": self.bits_per_byte,
                "top1_accuracy": self.top1_accuracy,
                "baseline": self.baseline.to_json() if self.baseline else None,
                "noise_floor": self.noise_floor,
                "provenance": self.provenance,
                "text": self.text,
                "tokens_sha256": self.tokens_sha256,
                "tokenizer_sha256": self.tokenizer_sha256,
                "bos_policy": self.bos_policy,
                "separator": self.separator,
                "documents": self.documents,
                "window_length": self.protocol.length,
                "stride": self.protocol.stride,
                "context_length": self.context_length,
                "windows_available": self.windows_available,
                "tokens_available": self.tokens_available,
                "scored_bytes": self.scored_bytes,
                "normalisation": "per token of the model's tokenizer, natural logarithm"
                + (
                    "; word_ppl and byte_ppl per word and byte before detokenization"
                    if self.document_sizes
                    else ""
                ),
                "unrecorded": self.unrecorded,
                "warnings": self.warnings,
                "seconds": self.seconds,
            }
        )

    def _words(self) -> dict[str, Any]:
        found = self._of_documents
        return {
            "word_ppl": self.word_ppl,
            "word_ppl_se": self.word_ppl_se,
            "byte_ppl": self.byte_ppl,
            "documents_scored": 0 if found is None else len(found[0]),
        }

    def record(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values; `from_record` is the inverse."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ARRAYS}
        plain["protocol"] = self.protocol.name
        plain["baseline"] = dataclasses.asdict(self.baseline) if self.baseline else None
        plain["document_sizes"] = self.document_sizes.to_json() if self.document_sizes else None
        return plain

    @classmethod
    def from_record(cls, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> PerplexityResult:
        """Raises ProtocolError where record and arrays do not make a result."""
        try:
            plain = dict(record, protocol=protocol(record["protocol"]))
            if plain["baseline"] is not None:
                plain["baseline"] = Comparison.from_json(plain["baseline"])
            if plain["document_sizes"] is not None:
                plain["document_sizes"] = DocumentSizes.from_json(plain["document_sizes"])
            plain["warnings"] = tuple(plain["warnings"])
            result = cls(**{**plain, **{name: arrays[name] for name in ARRAYS}})
            if any(
                arrays[name].shape != arrays[like].shape or arrays[name].ndim != 1
                for like, names in (("token_nll", tuple(ARRAYS)[:4]), ("window_start", tuple(ARRAYS)[4:]))
                for name in names
            ):
                raise ValueError("arrays of different lengths")
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(f"the record is not of a {KIND} ({error})") from error
        return result

    def save(self, path: str | Path) -> None:
        """Figures, provenance and per-token arrays in one file, for comparisons later; see `load`."""
        write_arrays(path, KIND, self.record(), {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> PerplexityResult:
        """Read what `save` wrote. Raises ProtocolError for anything else."""
        record, arrays = read_arrays(path, KIND, ARRAYS)
        try:
            return cls.from_record(record, arrays)
        except ProtocolError as error:
            raise ProtocolError(f"{path}: {error}") from error

    def summary(self) -> str:
        """A few lines to print."""
        return "\n".join(f"{key}: {value}" for key, value in self._rows())

    def _repr_html_(self) -> str:
        return Table((), self._rows(), "l").html()

    def _noise(self) -> list[tuple[str, str]]:
        floor, noise = self.noise_floor, int8_noise(self.provenance)
        if floor:
            error = statistics.larger_se(floor["se"], floor["se_clustered"])
            size = f"d {floor['mean']:+.1e}{plus_minus(error, '.0e')}, RMS {floor['rms']:.1e} nats a token"
            other = ran(floor["backend"], floor["provenance"])
            return [
                (floor["kind"], f"{size}, same top-1 {floor['same_top1']:.2%} (the model through {other})")
            ]
        if noise:
            why = "a quant on an edge falls to either side by the last bit of a sum, so backends differ"
            return [(noise, f"not measured; {why} token by token (--noise-floor BACKEND)")]
        return []

    def _errors(self) -> str:
        """Which of its errors the perplexity is given with, and the other, or why there is none."""
        plain, clustered, form = self.ppl_se, self.ppl_se_clustered, ppl_form(self.ppl)
        if not math.isfinite(plain):
            return "one token has no error" if self.tokens_scored < 2 else "no error"
        if not math.isfinite(clustered):
            return f"tokens taken as independent; {ONE_WINDOW}"
        if clustered > plain:
            return f"clustered by window; with tokens as independent ± {plain:{form}}"
        return f"tokens taken as independent; clustered by window ± {clustered:{form}}"

    def _rows(self) -> list[tuple[str, str]]:
        part = "" if self.windows == self.windows_available else f", the first of {self.windows_available}"
        source = self.text["name"] if self.text else "bare tokens"
        size = (
            f"{self.tokens_scored:,} tokens in {self.windows} window{'s' if self.windows > 1 else ''}{part}"
        )
        rows = [
            ("perplexity", f"{ppl_text(self.ppl, self.ppl_error)} ({self._errors()})"),
            ("protocol", f"{self.protocol.name} on {source}, {size}"),
            ("backend", ran(self.backend, self.provenance)),
        ]
        if (found := self._of_documents) is not None:
            scored = len(found[0])
            word = ppl_text(self.word_ppl, self.word_ppl_se)
            rows.insert(0, ("word perplexity", f"{word} (documents scored: {scored})"))
        if self.baseline:
            rows += self.baseline.rows()
        rows += self._noise()
        if self.unrecorded:
            rows.append(("unrecorded", ", ".join(self.unrecorded)))
        if few := advice.few_tokens(self):
            rows.append(("too few tokens", few))
        if self.warnings:
            rows.append(("warning", "; ".join(self.warnings)))
        return rows
