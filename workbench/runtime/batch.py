"""Several sequences side by side in one key/value cache: one step has rows of all of them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from workbench.errors import CacheFullError, NonFiniteError, PromptTooLongError, WorkbenchError

from .edits import Edits, check_edits
from .executor import Executor
from .feeding import Ids, check_ids
from .finite import TOKEN_OF_NAN, is_finite
from .sampling import Drawn
from .step import Step
from .turns import Turns, alone


def shares(left: Sequence[int], most: int) -> list[int]:
    """How many of so many remaining tokens each sequence gives to a step of `most` rows at most: as equal as can be."""
    found, room = [0] * len(left), most
    waiting = sorted((n for n in range(len(left)) if left[n]), key=lambda n: left[n])
    for place, n in enumerate(waiting):
        found[n] = min(left[n], room // (len(waiting) - place))
        room -= found[n]
    return found


def packed_steps(
    texts: Sequence[np.ndarray],
    most: int,
    starts: Sequence[int] | None = None,
    longest: int | None = None,
) -> Iterator[tuple]:
    """(step, [(text, where in it)]) until all of the texts have run, each in the sequence of its number.

    most: rows of a step. starts: positions of the first tokens, 0 by default. longest: rows of one text in a step, by
    default as many as it has.
    """
    done = [0] * len(texts)
    while any(left := [len(text) - at for text, at in zip(texts, done, strict=True)]):
        parts, places = [], []
        for n, count in enumerate(shares([min(each, longest or most) for each in left], most)):
            if count:
                first = starts[n] if starts is not None else 0
                place = slice(done[n], done[n] + count)
                parts.append(Step.following(texts[n][place], first + done[n], n))
                places.append((n, place))
                done[n] += count
        yield Step.joined(parts), places


def run_packed(
    executor: Executor,
    head: str,
    texts: Sequence[np.ndarray],
    cache,
    targets: Sequence[np.ndarray] | None = None,
    keep: Iterable[str] = (),
    edit: Edits | None = None,
    finite: bool = True,
) -> list[list[dict[str, np.ndarray]]]:
    """Results of a head that has a row a token, for texts from empty sequences: of each text, its steps'.

    Raises `NonFiniteError` for results that are not, unless `finite` is False.
    """
    found: list[list[dict[str, np.ndarray]]] = [[] for _ in texts]
    most = executor.chunk(sum(map(len, texts)), cache)
    for step, places in packed_steps(texts, most, longest=cache.longest):
        given = None
        if targets is not None:
            given = np.concatenate([targets[n][place] for n, place in places])
        results = executor.run_step(head, step, cache, given, keep, edit)
        if finite:
            require_finite_rows(executor.plan(head).results, results, [n for n, _ in places])
        start = 0
        for n, place in places:
            rows = slice(start, start + place.stop - place.start)
            found[n].append({name: values[rows] for name, values in results.items()})
            start = rows.stop
    return found


def require_finite_rows(
    names: Iterable[str], results: Mapping[str, np.ndarray], texts: Sequence[int]
) -> None:
    """Raises `NonFiniteError` unless a step's results are finite."""
    for name in names:
        if not is_finite(results[name]):
            raise NonFiniteError(
                f"{name.replace('_', ' ')} of a step with sequences {', '.join(map(str, texts))} are not finite; "
                "run one alone to see where it begins"
            )


class Batch:
    """Keys and values of `sequences` sequences, made by `Model.batch`; each is known by its number.

    edit: functions that change activations of every step in flight, called as f(x, positions, sequences)
    (`workbench.runtime.edits`). One call at a time. A call that raises leaves the sequences as they were; but where
    windows bound the cache, and one of more than `longest` tokens raises behind its first step, what a sequence held
    may be lost, and says so when it is gone on with.
    """

    def __init__(
        self, executor: Executor, vocab_size: int, capacity: int, sequences: int, edit: Edits | None = None
    ):
        self._executor, self._vocab_size = executor, vocab_size
        self._edit = check_edits(executor.plan("last"), edit)
        self._cache = executor.new_cache(capacity, sequences)
        self._lengths = [0] * sequences
        self._turns = Turns()
        self._free = weakref.finalize(self, executor.free_cache, self._cache)
        self._free.atexit = False

    @property
    def sequences(self) -> int:
        """How many there are."""
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """How many tokens each can hold."""
        return self._cache.capacity

    @property
    def most_rows(self) -> int:
        """Rows of a step at most."""
        return self._executor.chunk(self.sequences * self.capacity, self._cache)

    @property
    def longest(self) -> int:
        """Tokens of one sequence that a step takes at most."""
        return min(self.most_rows, self._cache.longest)

    def length(self, sequence: int) -> int:
        """How many tokens a sequence holds."""
        return self._lengths[sequence]

    @alone
    def reset(self, sequence: int, adapter: str | None = None) -> None:
        """Forget what a sequence holds; the next text takes its place, with an adapter of those that the model was
        loaded with, by name. Raises `WorkbenchError` for another name."""
        self._cache.adapters[sequence] = self._executor.config.adapter(adapter)
        self._lengths[sequence] = 0

    def adapter(self, sequence: int) -> int:
        """The number of a sequence's adapter; 0 for none."""
        return int(self._cache.adapters[sequence])

    def number_of(self, adapter: str | None) -> int:
        """The number of an adapter, by name. Raises `WorkbenchError` for a name that `reset` does not take."""
        return self._executor.config.adapter(adapter)

    def close(self) -> None:
        """Give the cache's memory back."""
        with self._turns.last():
            self._free()

    @alone
    def feed(self, texts: Mapping[int, Ids]) -> dict[int, np.ndarray]:
        """Append tokens to sequences, those of all in shared steps; the logits [vocab] after the last of each.

        Raises `PromptTooLongError` for what does not fit into an empty sequence, `CacheFullError` for what does not fit
        behind what one holds, `NonFiniteError`.
        """
        arrays = [np.zeros(0, np.int64)] * self.sequences
        for sequence, ids in texts.items():
            array = check_ids(ids, self._vocab_size)
            self._require(sequence, len(array))
            arrays[sequence] = array
        found: dict[int, np.ndarray] = {}
        most = self._executor.chunk(sum(map(len, arrays)), self._cache)
        for step, places in packed_steps(arrays, most, self._lengths, self._cache.longest):
            results = self._executor.run_step("last", step, self._cache, edit=self._edit)
            require_finite_rows(["logits"], results, [n for n, _ in places])
            found |= {n: logits for (n, _), logits in zip(places, results["logits"], strict=True)}
        for sequence, ids in enumerate(arrays):
            self._lengths[sequence] += len(ids)
        return found

    @alone
    def score(self, texts: Mapping[int, tuple[Ids, Ids]], likely: int = 0) -> dict[int, list[Drawn]]:
        """Append tokens to sequences, those of all in shared steps, and tell how likely the tokens behind each were.

        texts: of a sequence, tokens and as many that follow, one behind each of them. Returns the latter with ln p, and
        (id, ln p) of the `likely` likeliest in their places, best first. Raises as `feed` does.
        """
        arrays, targets = [np.zeros(0, np.int64)] * self.sequences, [np.zeros(0, np.int64)] * self.sequences
        for sequence, (ids, following) in texts.items():
            array, behind = check_ids(ids, self._vocab_size), check_ids(following, self._vocab_size)
            if len(array) != len(behind):
                raise WorkbenchError(f"{len(behind)} tokens follow {len(array)} of them; allowed: as many")
            self._require(sequence, len(array))
            arrays[sequence], targets[sequence] = array, behind
        found: dict[int, list[Drawn]] = {sequence: [] for sequence in texts}
        most = self._executor.chunk(sum(map(len, arrays)), self._cache)
        for step, places in packed_steps(arrays, most, self._lengths, self._cache.longest):
            given = np.concatenate([targets[n][place] for n, place in places])
            told = iter(self._told(step, given, [n for n, _ in places], min(likely, self._vocab_size)))
            for n, place in places:
                found[n] += itertools.islice(told, place.stop - place.start)
        for sequence, ids in enumerate(arrays):
            self._lengths[sequence] += len(ids)
        return found

    def _told(self, step: Step, targets: np.ndarray, sequences: Sequence[int], likely: int) -> list[Drawn]:
        """Targets of a step's rows with how likely they were."""
        names = self._executor.plan("score").results
        hold = ("logits",) if likely else ()
        with self._executor.holding():
            results = self._executor.run_step("score", step, self._cache, targets, edit=self._edit, hold=hold)
            require_finite_rows(names, results, sequences)
            if not likely:
                return [
                    Drawn(int(target), float(log_p))
                    for target, log_p in zip(targets, results["log_likelihood"], strict=True)
                ]
            best = results["logits"].apply("top_k", k=likely)["indices"]
            # of one kernel, so that a target that is the likeliest has the likeliest one's ln p to the last digit
            asked = np.concatenate([targets[:, None], best], axis=1).astype(np.uint32)
            log_p = results["logits"].apply("log_probabilities", ids=asked, counted=1)["y"]
        return [
            Drawn(ids[0], row[0], tuple(zip(ids[1:], row[1:], strict=True)))
            for ids, row in zip(asked.tolist(), log_p.tolist(), strict=True)
        ]

    @alone
    def greedy_after(self, tokens: Mapping[int, int], count: int) -> dict[int, list[int]]:
        """Feed a token to each of these sequences, and return the `count` greedy tokens after it; all but the last are
        in the cache then. Raises as `feed` does."""
        if count < 1 or not tokens:
            raise WorkbenchError(
                f"at least one token of one sequence can be asked for, not {count} of {len(tokens)}"
            )
        if self._edit:
            raise WorkbenchError("edits run in Python between steps: feed a token at a time instead")
        order = sorted(tokens)
        for sequence in order:
            self._require(sequence, count)
        ids = check_ids([tokens[sequence] for sequence in order], self._vocab_size)
        step = Step(ids, np.array([self._lengths[n] for n in order]), np.array(order))
        found = self._executor.greedy_rows(step, count, self._cache)
        for row in np.flatnonzero((found == TOKEN_OF_NAN).any(axis=0)):
            self._require_finite(order[row], np.append(ids[row], found[:-1, row]))
        for sequence in order:
            self._lengths[sequence] += count
        return {sequence: found[:, row].tolist() for row, sequence in enumerate(order)}

    def _require_finite(self, sequence: int, fed: np.ndarray) -> None:
        """Raises `NonFiniteError` if tokens that were fed behind what a sequence holds end in NaN. Greedy tokens bring
        no logits along, but a cache that holds NaN gives nothing else from there on."""
        if len(fed) > self._cache.longest:
            raise NonFiniteError(f"what sequence {sequence} was fed ends in logits that are not finite")
        step = Step.joined([Step.following(fed, self._lengths[sequence], sequence)])
        require_finite_rows(["logits"], self._executor.run_step("last", step, self._cache), [sequence])

    @alone
    def copy(self, source: int, target: int, count: int) -> None:
        """Let a sequence hold the first `count` tokens of another one, in place of what it held.

        Raises `OutOfMemoryError`, with both as they were, and `WorkbenchError` if there are fewer, if they have other
        adapters, if a window bounds the cache and it has lost what the next token sees, and for edits: what they have
        changed for one sequence need not be what they change for another.
        """
        for sequence in (source, target):
            self._require(sequence, 0)
        if source == target or not 0 <= count <= self._lengths[source]:
            raise WorkbenchError(
                f"{count} tokens of sequence {source} cannot be copied to sequence {target}; allowed: up to "
                f"{self._lengths[source]}, to another sequence"
            )
        if self.adapter(source) != self.adapter(target):
            raise WorkbenchError(
                f"sequences {source} and {target} have other adapters, with which the same tokens have other keys and "
                "values; feed the tokens instead"
            )
        if not self.can_share(source, count):
            why = (
                "edits tell sequences apart"
                if self._edit
                else "its window bounds its cache, which has lost what the next token sees"
            )
            raise WorkbenchError(
                f"sequence {source} cannot be shared up to token {count}: {why}; feed the tokens instead"
            )
        if count:
            self._executor.copy_sequence(self._cache, source, target, count)
            self._cache.furthest[target] = self._cache.furthest[source]
        self._lengths[target] = count

    def can_share(self, sequence: int, count: int) -> bool:
        """Whether another text can go on behind the first `count` tokens of a sequence: in it, or in a copy."""
        return not self._edit and self._cache.holds(count, sequence)

    def take_back(self, sequence: int, count: int) -> None:
        """Forget the last `count` tokens of a sequence. Raises `WorkbenchError` if there are fewer, or if the cache is
        bounded by windows and no longer has what stood in front of them."""
        if not 0 <= count <= self._lengths[sequence]:
            raise WorkbenchError(f"{count} tokens cannot be taken back of {self._lengths[sequence]}")
        if not self._cache.holds(self._lengths[sequence] - count, sequence):
            raise WorkbenchError(
                f"{count} tokens cannot be taken back of sequence {sequence}: its window bounds its cache, which has "
                "lost what stood in front of them; reset it and feed the rest"
            )
        self._lengths[sequence] -= count

    def _require(self, sequence: int, count: int) -> None:
        if not self._free.alive:
            raise WorkbenchError("this batch is closed; make a new one")
        if not 0 <= sequence < self.sequences:
            raise WorkbenchError(f"there is no sequence {sequence}; there are 0 to {self.sequences - 1}")
        held = self._lengths[sequence]
        if held + count <= self.capacity:
            return
        if held == 0:
            raise PromptTooLongError(
                f"{count} tokens do not fit into a sequence of {self.capacity}; load the model with a larger max_tokens"
            )
        raise CacheFullError(
            f"sequence {sequence} holds {held} of {self.capacity} tokens, so {count} more do not fit"
        )
