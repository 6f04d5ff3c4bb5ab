"""One sequence in the key/value cache: feeding tokens, continuing greedily, and what happens when it is full."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wgsl_kernels.layout import make_seen
from workbench.errors import CacheFullError, NonFiniteError, PromptTooLongError, WorkbenchError

from .edits import Edits, check_edits
from .executor import Executor
from .feeding import check_ids, run_chunks
from .finite import TOKEN_OF_NAN
from .sampling import Drawn, Sampler, SamplingOptions
from .turns import Turns, alone


@dataclass(frozen=True)
class _Group:
    """Tokens that came back together, and the one that was fed before them."""

    before: int
    drawn: Sequence[Drawn]


class Session:
    """Keys and values of one sequence, made by `Model.session`. Its memory goes with `close`, or with the session.

    adapter: which of those that the model was loaded with it has, by name. edit: functions that change activations of
    every step in flight (`workbench.runtime.edits`). A step whose edit raises leaves the session as it was before the
    call. One call at a time: another, from an edit, from another thread or between the steps of an iterator
    (`feed_all`, `stream`), raises `SessionBusyError`; `close` alone may come between an iterator's steps. Logits that
    are not finite are a `NonFiniteError` that names the first activation that is not.
    """

    def __init__(
        self,
        executor: Executor,
        vocab_size: int,
        capacity: int,
        edit: Edits | None = None,
        adapter: str | None = None,
    ):
        self._executor, self._vocab_size = executor, vocab_size
        number = executor.config.adapter(adapter)
        self._edit = check_edits(executor.plan("last"), edit)
        self._cache = executor.new_cache(capacity)
        self._cache.adapters[:] = number
        self._logits: np.ndarray | None = None
        self._ids: list[int] = []  # those in the cache
        self._turns = Turns()
        # the cache is released with the session, not when Python gets around to its cycles
        self._free = weakref.finalize(self, executor.free_cache, self._cache)
        self._free.atexit = False

    @property
    def position(self) -> int:
        """How many tokens the cache holds."""
        return self._cache.position

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens in the cache."""
        return tuple(self._ids)

    @property
    def capacity(self) -> int:
        """How many tokens the cache can hold."""
        return self._cache.capacity

    @property
    def lost(self) -> bool:
        """Whether the device is lost that has the cache, and with it what the session holds."""
        return bool(getattr(getattr(self._executor, "device", None), "lost", None))

    @property
    def room(self) -> int:
        """How many tokens can follow what was fed: the last of them needs no place in the cache."""
        return self.capacity - self.position + 1

    @alone
    def reset(self) -> None:
        """Forget everything; the cache stays allocated."""
        self._require_open()
        self._move(0)

    def close(self) -> None:
        """Give the cache's memory back; the session cannot be used afterwards, nor what it still hands out. Raises
        `SessionBusyError` in the middle of a step."""
        with self._turns.last():
            self._free()

    @alone
    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Append tokens; returns the logits [vocab] after the last one.

        Raises `PromptTooLongError` if they do not fit into an empty cache, `CacheFullError` if not behind what is
        there; the session is unchanged then.
        """
        array = check_ids(ids, self._vocab_size)
        self._require(len(array))
        with self._moving():
            for results in run_chunks(self._executor, "last", array, self._cache, edit=self._edit):
                logits = results["logits"][0]
            self._ids += array.tolist()
        self._logits = logits
        return logits

    @alone
    def back(self, count: int) -> None:
        """Forget the last `count` tokens. Raises `WorkbenchError` if there are fewer.

        Where a window bounds the cache it may have lost what stands in front of them; what is left is then fed once
        more before anything else.
        """
        self._require_open()
        if not 0 <= count <= self.position:
            raise WorkbenchError(f"{count} tokens cannot be taken back of the {self.position} in the cache")
        self._move(self.position - count)

    def feed_all(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Append tokens; yields the logits [n, vocab] after each of them, a step of n tokens at a time.

        What is not taken from the iterator is not fed. Raises as `feed` does, at the first step; an edit that raises
        in a later one leaves the steps before it fed. The session is busy until the iterator has ended, or is closed or
        forgotten.
        """
        array = check_ids(ids, self._vocab_size)
        with self._turns.of("feed_all") as turn:
            self._require(len(array))
            self._logits, fed = None, 0
            for results in run_chunks(self._executor, "all", array, self._cache, edit=self._edit):
                logits = results["logits"]
                self._ids += array[fed : fed + len(logits)].tolist()
                fed += len(logits)
                with turn.paused():
                    yield logits
                if fed < len(array):
                    self._require_open()

    def stream(
        self,
        token: int,
        count: int,
        options: SamplingOptions | None = None,
        *,
        told: bool = False,
        ahead: bool = True,
    ) -> Iterator[Drawn]:
        """Feed `token` and hand out the `count` tokens after it as they come; all but the last are in the cache then.

        options: how they are chosen, greedily by default; the repetition penalty is for all that was fed. told: with
        ln p of each and of the likeliest. On a device later steps run while earlier tokens are on their way; what is
        not taken from the iterator is not in the cache, and no trace of it is left. ahead: False if nothing may run
        while nobody waits for it, so that the time of models that work in turns is their own. Raises as `feed` does,
        before anything is computed. The session is busy from the first token taken until the iterator has ended, or is
        closed or forgotten.
        """
        (token,) = check_ids([token], self._vocab_size)
        if count < 1:
            raise WorkbenchError(f"at least one token can be asked for, not {count}")
        self._require(count)
        return self._streamed(int(token), count, options or SamplingOptions(), told, ahead)

    @alone
    def greedy(self, count: int) -> list[int]:
        """The next `count` greedy tokens. All but the last are in the cache afterwards, so feed the last to go on."""
        if count < 1:
            raise WorkbenchError(f"at least one token can be asked for, not {count}")
        if self._logits is None:
            raise WorkbenchError("feed a prompt before asking for its continuation")
        first = int(self._logits.argmax())
        self._require(count - 1)
        rest = self._greedy_after(first, count - 1) if count > 1 else []
        self._logits = None
        return [first, *rest]

    @alone
    def greedy_after(self, token: int, count: int) -> list[int]:
        """Feed `token` and return the `count` greedy tokens after it; all but the last are in the cache then."""
        (token,) = check_ids([token], self._vocab_size)
        if count < 1:
            raise WorkbenchError(f"at least one token can be asked for, not {count}")
        self._require(count)
        return self._greedy_after(int(token), count)

    def _greedy_after(self, token: int, count: int) -> list[int]:
        with self._moving():
            groups = self._groups(token, count, SamplingOptions(), False, True)
            return [drawn.id for group in groups for drawn in self._taken(group)]

    @alone
    def draw(self, options: SamplingOptions, *, told: bool = False) -> Drawn:
        """A token that may follow what was fed last; it is not fed. Raises `WorkbenchError` if nothing was."""
        if self._logits is None:
            raise WorkbenchError("feed a prompt before asking for its continuation")
        return Sampler(options).drawn(self._logits, self.position, self._ids, told=told)

    # ---- streams ---------------------------------------------------------------------------------------------

    def _streamed(
        self, token: int, count: int, options: SamplingOptions, told: bool, ahead: bool
    ) -> Iterator[Drawn]:
        with self._turns.of("stream") as turn:
            self._require(count)  # once more: this begins when the first token is taken
            with contextlib.closing(self._groups(token, count, options, told, ahead)) as groups:
                for group in groups:
                    for drawn in self._taken(group):
                        with turn.paused():
                            yield drawn
                        self._require_open()

    def _groups(
        self, token: int, count: int, options: SamplingOptions, told: bool, ahead: bool
    ) -> Generator[_Group]:
        """The tokens after `token`, as many at a time as come back together. Whoever takes one moves the position."""
        self._logits = None
        while count:
            doubtful = None
            with contextlib.closing(self._source(token, count, options, told, ahead)) as source:
                for drawn in source:
                    group = _Group(token, drawn)
                    token, count = drawn[-1].id, count - len(drawn)
                    if token == TOKEN_OF_NAN and options.plain and not (told or self._edit):
                        doubtful = group  # nothing may run meanwhile
                        break
                    yield group
            if doubtful is not None:
                self._require_finite(doubtful)
                yield doubtful

    def _source(
        self, token: int, count: int, options: SamplingOptions, told: bool, ahead: bool
    ) -> Generator[list[Drawn]]:
        if self._edit:
            return self._step_by_step(token, count, options, told)
        return self._recorded(token, count, options, told, ahead)

    def _taken(self, group: _Group) -> Iterator[Drawn]:
        token = group.before
        for drawn in group.drawn:
            self._require_open()
            self._cache.position += 1
            self._ids.append(token)
            token = drawn.id
            yield drawn

    def _recorded(
        self, token: int, count: int, options: SamplingOptions, told: bool, ahead: bool
    ) -> Generator[list[Drawn]]:
        """Steps that Python has no say in."""
        if options.plain and not told:
            yield from self._executor.stream("greedy", token, count, self._cache, ahead=ahead)
            return
        seen = make_seen(self._vocab_size, [*self._ids, token])
        head = "told" if told else "draw"
        source = self._executor.stream(head, token, count, self._cache, options.words(), seen, ahead=ahead)
        given = 0
        try:
            for group in source:
                yield group
                given, token = given + len(group), group[-1].id
        except GeneratorExit:  # looked for first: when the interpreter ends, the name below is gone
            raise
        except NonFiniteError:  # it knows where, and not what: the same steps once more, one by one
            position, held = self.position, len(self._ids)
            try:
                for group in self._step_by_step(token, count - given, options, told):
                    list(self._taken(_Group(token, group)))
                    token = group[-1].id
            finally:
                self._cache.position = position
                del self._ids[held:]
            raise

    def _step_by_step(
        self, token: int, count: int, options: SamplingOptions, told: bool
    ) -> Generator[list[Drawn]]:
        """Python has its say in each step: the device's draw is made here."""
        sampler = Sampler(options)
        for _ in range(count):
            position = self.position
            [step] = run_chunks(self._executor, "last", np.array([token]), self._cache, edit=self._edit)
            self._cache.position = position  # whoever takes tokens moves it
            drawn = sampler.drawn(step["logits"][0], position + 1, [*self._ids, token], told=told)
            token = drawn.id
            yield [drawn]

    def _require_finite(self, group: _Group) -> None:
        """Raises `NonFiniteError` if a greedy group has ended in NaN. It hands out no logits, but a cache that holds
        NaN gives nothing else from there on, and so one token until the end; what gave it is run again."""
        fed, position = [group.before, *(drawn.id for drawn in group.drawn[:-1])], self.position
        try:
            self._cache.position = position + len(fed) - 1
            list(run_chunks(self._executor, "last", np.array(fed[-1:]), self._cache))
        except NonFiniteError:
            self._cache.position = position
            for token in fed:
                list(
                    run_chunks(self._executor, "last", np.array([token]), self._cache)
                )  # raises where it began
            raise
        finally:
            self._cache.position = position

    # ---- state -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        """Steps of which all are kept, or none: an error puts the position back."""
        position, logits = self._cache.position, self._logits
        try:
            yield
        except BaseException:
            self._move(position)
            self._logits = logits
            raise

    def _move(self, position: int) -> None:
        self._cache.position = position
        self._logits = None
        del self._ids[position:]

    def _feed_again(self) -> None:
        """What is in the session once more from the beginning, into a cache that windows bound and that has lost some
        of it."""
        position = self.position
        try:
            self._cache.position = 0
            for _ in run_chunks(self._executor, "last", np.array(self._ids), self._cache, edit=self._edit):
                pass
        finally:
            self._cache.position = position  # where it stays if this fails, until it is tried again

    def _require_open(self) -> None:
        if not self._free.alive:
            raise WorkbenchError("this session is closed; make a new one")

    def _require(self, count: int) -> None:
        """Room for so many tokens in an open session, and all that they see in the cache."""
        self._require_open()
        room = self.capacity - self.position
        if count <= room:
            if not self._cache.holds(self.position):
                self._feed_again()
            return
        if self.position == 0:
            raise PromptTooLongError(
                f"{count} tokens do not fit into a cache of {self.capacity}; load the model with a larger max_tokens"
            )
        raise CacheFullError(
            f"the cache holds {self.position} of {self.capacity} tokens, so {count} more do not fit; "
            "reset the session or load the model with a larger max_tokens"
        )


def continued(session: Session, wanted: int, options: SamplingOptions) -> Generator[int, None, str]:
    """Up to `wanted` tokens after what was fed, as they come; returns "length", or "context" if the cache is full."""
    count = min(wanted, session.room)
    if count > 0:
        token = session.draw(options).id
        yield token
    if count > 1:
        for drawn in session.stream(token, count - 1, options):
            yield drawn.id
    return "length" if count == wanted else "context"
