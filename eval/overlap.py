"""Whether a text that is scored shares passages with the text that calibrated the model.

A fingerprint holds hashes of n-grams of tokens: of all n-grams of the calibration windows those whose hash falls
below a limit, so that the same n-gram is in the sample wherever it occurs (sampling modulo the hash; Broder 1997).
It is stored in the manifest; the scored windows are hashed and sampled alike, with the same tokenizer.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

#: Tokens of an n-gram. Stories share openings of a dozen tokens; two texts that share 32 have the same source.
NGRAM = 32
#: Hashes of a fingerprint at most (of 8 bytes each, in base64 within the manifest).
MAX_HASHES = 2048

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def ngram_hashes(ids: Sequence[int] | np.ndarray, n: int = NGRAM) -> np.ndarray:
    """A hash of each n-gram of `ids` [T], uint64 [max(0, T - n + 1)]: a polynomial modulo 2^64, its bits mixed as
    in SplitMix64 (Steele, Lea and Flood 2014)."""
    ids = np.asarray(ids, np.int64).astype(np.uint64)
    count = max(0, len(ids) - n + 1)
    h = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(n):
            h = h * _MULTIPLIER + ids[i : i + count] + np.uint64(1)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    return h ^ (h >> np.uint64(31))


def fingerprint(windows: Iterable[Sequence[int] | np.ndarray], n: int = NGRAM) -> dict[str, Any]:
    """JSON values that `shared_windows` compares with: n-gram length, which share was kept, the hashes.

    windows: token ids of each. One in `one_in` n-grams is kept, the smallest power of two that keeps at most
    `MAX_HASHES`.
    """
    hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *(ngram_hashes(w, n) for w in windows)]))
    one_in = 1
    while len(kept := _sampled(hashes, one_in)) > MAX_HASHES:
        one_in *= 2
    encoded = base64.b64encode(kept.astype("<u8").tobytes()).decode("ascii")
    return {"ngram": n, "one_in": one_in, "hashes": encoded}


def shared_windows(print_: Mapping[str, Any], windows: Iterable[Sequence[int] | np.ndarray]) -> list[int]:
    """Indices of the windows in which an n-gram of the fingerprint occurs.

    A shared run of R tokens is missed with probability (1 - 1 / one_in)^(R - n + 1).
    """
    known = np.frombuffer(base64.b64decode(print_["hashes"]), "<u8")
    n, one_in = int(print_["ngram"]), int(print_["one_in"])
    return [
        index
        for index, window in enumerate(windows)
        if np.isin(_sampled(ngram_hashes(window, n), one_in), known).any()
    ]


def calibration_records(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The records of calibration in a model's provenance, also in that of the model it was converted from."""
    converted = provenance.get("source")  # what the manifest says
    while isinstance(converted, Mapping):
        if isinstance(found := converted.get("calibration"), Mapping):
            yield found
        converted = (converted.get("source") or {}).get("provenance")


def calibration_warnings(
    provenance: Mapping[str, Any],
    windows: Sequence[np.ndarray],
    tokenizer_sha256: str | None,
    text_sha256: str | None,
) -> tuple[str, ...]:
    """What a reader of a perplexity must know of the calibration behind it; empty where there is nothing.

    provenance: a model's `describe_provenance()`. windows: token ids of the scored windows. The hashes identify
    tokenizer and text of the scored tokens, None where unknown.
    """
    warnings = []
    for record in calibration_records(provenance):
        name = record["text"]["name"]
        if record["text"]["sha256"] == text_sha256:
            warnings.append(
                f"the model was calibrated on the text that is scored, {name}: its figures are too good; "
                "score another text"
            )
        if tokenizer_sha256 is not None and tokenizer_sha256 != record["tokenizer_sha256"]:
            warnings.append(f"overlap with the calibration text {name} unknown: it had another tokenizer")
            continue
        if shared := shared_windows(record["fingerprint"], windows):
            warnings.append(
                f"{len(shared)} of {len(windows)} windows share passages of {record['fingerprint']['ngram']} "
                f"tokens or more with the calibration text {name}; score other passages, or calibrate on another source"
            )
    return tuple(warnings)


def _sampled(hashes: np.ndarray, one_in: int) -> np.ndarray:
    """The hashes below 2^64 / one_in; one_in is a power of two."""
    return hashes if one_in == 1 else hashes[hashes >> np.uint64(64 - (one_in.bit_length() - 1)) == 0]
