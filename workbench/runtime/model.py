"""A loaded model: the few calls that evaluation, notebooks and the command line are written against."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from workbench import utf8
from workbench.errors import PromptTooLongError, WorkbenchError
from workbench.models.architecture import Architecture
from workbench.models.chat import chat_ids
from workbench.models.source import Source
from workbench.models.tokenizer import end_of_text_ids, load_tokenizer

from .batch import Batch, run_packed
from .card import card
from .chat import Chat
from .choices import max_tokens_of, ring_of, seen_reasons
from .edits import Edits, refuse_inside
from .executor import Executor
from .feeding import Ids, check_ids, run_chunks
from .generate_batch import Generated, generate_batch
from .host_memory import out_of_memory
from .results import Forward, Scores, as_one
from .sampling import SamplingOptions, as_integer, shown
from .session import Session, continued
from .textstream import Stream, stop_texts, stream_text

#: Positions of the cache that `forward` and `score` share, at least; it grows by doubling, since every size is compiled
#: for by itself.
SCRATCH = 512


class Model:
    """Made by `load`. Works on one device at a time; a lost device is replaced at the next call."""

    def __init__(
        self,
        source: Source,
        config: Architecture,
        make_executor: Callable[[], Executor],
        choices: list[tuple[str, str, str]],
        max_tokens: int,
    ):
        self.source, self.config = source, config
        self.choices, self.max_tokens = choices, max_tokens
        self._make_executor = make_executor
        self._executor = make_executor()
        self._scratch: dict[bool, Any] = {}  # caches of the executor: of one sequence, of several
        self._lock = threading.RLock()  # `forward` and `score` share a cache

    def __repr__(self) -> str:
        where = f"{self.backend} on {self.device_name}" if self.backend == "wgpu" else self.backend
        return f"<model {self.source.path.name}: {self._executor.activations} activations, {where}>"

    def _repr_html_(self) -> str:
        return card(self)

    @property
    def backend(self) -> str:
        """ "wgpu" or "torch"."""
        return self._executor.backend

    @property
    def device_name(self) -> str:
        return self._executor.device_name

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        """Positions the model was made for."""
        return self.config.context_length

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that it was loaded with (`lora`)."""
        return () if self.config.lora is None else self.config.lora.names

    @cached_property
    def tokenizer(self):
        return load_tokenizer(self.source.tokenizer_path)

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a text; generation stops at them."""
        return end_of_text_ids(self.source.tokenizer_path, self.source.config, self.tokenizer)

    def plan(self, head: str = "all"):
        """The semantic plan; prints as one line a call."""
        return self.executor.plan(head)

    @property
    def executor(self) -> Executor:
        """The executor, on a new device if the old one was lost."""
        with self._lock:
            device = getattr(self._executor, "device", None)
            if device is not None and device.lost:
                self._executor, self._scratch = self._make_executor(), {}
            return self._executor

    def session(self, edit: Edits | None = None, adapter: str | None = None) -> Session:
        """A new sequence with a cache of its own. Raises `OutOfMemoryError`.

        edit: functions that change activations in flight, by name, in every step (see `forward`). adapter: one of
        `adapters`; by default the one that the model was loaded with alone, else none. Raises `WorkbenchError` for
        another name.
        """
        return Session(self.executor, self.vocab_size, self.max_tokens, edit, adapter)

    def with_window(
        self, window: int | None, sinks: int | None = None, max_tokens: int | None = None
    ) -> Model:
        """This model with another `window` and `sinks` (see `load`), None for what it sees by itself. The weights are
        in memory once."""
        ring = ring_of(window, sinks)
        most, why = max_tokens_of(self.config, max_tokens, ring)
        kept = [each for each in self.choices if each[0] not in ("max_tokens", "window")]
        choices = [*kept[:1], *seen_reasons(most, why, ring), *kept[1:]]
        made = Model(self.source, self.config, lambda: self.executor.with_ring(ring), choices, most)
        made.plan("last")  # says what cannot be
        return made

    def _empty_cache(
        self, count: int, sequences: int = 1, adapter: str | Sequence[str | None] | None = None
    ) -> tuple[Executor, Any]:
        """The cache that `forward` and `score` use, or that of their batches, emptied: as large as calls have needed,
        not as the context. adapter: of all sequences, or of each."""
        executor, names = self.executor, [adapter] if adapter is None or isinstance(adapter, str) else adapter
        numbers = [self.config.adapter(name) for name in names]
        if len(numbers) not in (1, sequences):
            raise WorkbenchError(
                f"{len(numbers)} adapters for {sequences} texts; allowed: one, or one for each"
            )
        refuse_inside(executor)
        if count > self.max_tokens:
            raise PromptTooLongError(
                f"{count} tokens do not fit into a cache of {self.max_tokens}; load the model with a larger max_tokens"
            )
        kind = sequences > 1
        cache = self._scratch.get(kind)
        if cache is not None and (cache.capacity < count or cache.sequences < sequences):
            executor.free_cache(self._scratch.pop(kind))
            cache = None
        if cache is None:
            capacity = max(SCRATCH, 1 << (count - 1).bit_length())
            cache = self._scratch[kind] = executor.new_cache(min(capacity, self.max_tokens), sequences)
        cache.position = 0
        cache.adapters[:sequences] = numbers
        return executor, cache

    def forward(
        self,
        ids: Ids,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        finite: bool = True,
        adapter: str | None = None,
    ) -> Forward:
        """One sequence from an empty cache: logits of every token, and the activations named in `keep`.

        edit: name of an activation -> function(x, position) that gets its rows [tokens, width] of a step, the first
        one at `position` in the sequence, and returns what takes their place (`workbench.runtime.edits`). What is
        kept under an edited name is the replacement. finite: False gives logits back that are not, too. adapter: as of
        `session`.
        Raises `PromptTooLongError`, `PlanError` for a name the plan does not have, `EditError` for a replacement of
        another shape, or that is not finite, and `NonFiniteError` for logits that are not.
        """
        array, keep = check_ids(ids, self.vocab_size), ((keep,) if isinstance(keep, str) else tuple(keep))
        with self._lock:
            executor, cache = self._empty_cache(len(array), adapter=adapter)
            steps = run_chunks(executor, "all", array, cache, keep=keep, edit=edit, finite=finite)
            joined = as_one(steps, ("logits", *keep), len(array))
        return Forward(joined["logits"], {name: joined[name] for name in keep})

    def score(
        self,
        ids: Ids,
        logits: bool = False,
        edit: Edits | None = None,
        keep: Iterable[str] = (),
        adapter: str | None = None,
    ) -> Scores:
        """Losses of one sequence from an empty cache. Without `logits` no matrix of logits leaves the device.

        edit: functions that change activations in flight; keep: activations that are handed out; adapter: as in
        `forward`. Raises as that does.
        """
        array = check_ids(ids, self.vocab_size)
        if len(array) < 2:
            raise WorkbenchError("scoring needs at least two tokens, one to predict from and one to predict")
        keep = (keep,) if isinstance(keep, str) else tuple(keep)
        wanted = ("logits", *keep) if logits else keep
        with self._lock:
            executor, cache = self._empty_cache(len(array) - 1, adapter=adapter)
            with out_of_memory(f"scores of {len(array) - 1} tokens"):
                steps = list(run_chunks(executor, "score", array[:-1], cache, array[1:], wanted, edit))
                return Scores.joined(steps, keep)

    def batch(self, sequences: int, edit: Edits | None = None) -> Batch:
        """`sequences` sequences of `max_tokens` positions each, whose rows share steps. Raises `OutOfMemoryError`.

        edit: as in `session`, of functions f(x, positions, sequences).
        """
        return Batch(self.executor, self.vocab_size, self.max_tokens, sequences, edit)

    def forward_batch(
        self,
        texts: Sequence[Ids],
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[Forward]:
        """As `forward` of each of these sequences, in shared steps. edit: of functions f(x, positions, sequences).
        adapter: of all, or one for each."""
        keep = (keep,) if isinstance(keep, str) else tuple(keep)
        arrays = [check_ids(ids, self.vocab_size) for ids in texts]
        joined = self._packed("all", arrays, None, keep, edit, ("logits", *keep), adapter)
        return [Forward(each["logits"], {name: each[name] for name in keep}) for each in joined]

    def score_batch(
        self, texts: Sequence[Ids], adapter: str | Sequence[str | None] | None = None
    ) -> list[Scores]:
        """As `score` of each of these sequences, in shared steps. adapter: of all, or one for each."""
        arrays = [check_ids(ids, self.vocab_size) for ids in texts]
        if any(len(each) < 2 for each in arrays):
            raise WorkbenchError("scoring needs at least two tokens, one to predict from and one to predict")
        inputs, targets = [each[:-1] for each in arrays], [each[1:] for each in arrays]
        names = ("log_likelihood", "top1")
        found = self._packed("score", inputs, targets, (), None, names, adapter)
        return [Scores.joined([each]) for each in found]

    def _packed(self, head: str, arrays, targets, keep, edit, names, adapter) -> list[dict[str, np.ndarray]]:
        """Results of texts from empty sequences, each put together."""
        if not arrays:
            return []
        with self._lock:
            executor, cache = self._empty_cache(max(map(len, arrays)), len(arrays), adapter)
            found = run_packed(executor, head, arrays, cache, targets, keep, edit)
        return [as_one(steps, names, len(array)) for steps, array in zip(found, arrays, strict=True)]

    def generate_batch(  # many parameters: the options of sampling, by the names that users know
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        chat: bool = False,
        repetition_penalty: float = 1.0,
        sequences: int = 8,
        adapter: str | Sequence[str | None] | None = None,
    ) -> list[Generated]:
        """What `generate` gives for each of the prompts, `sequences` of them at a time in one cache.

        A sequence that ends makes room for the next prompt. Options as in `generate`; each prompt draws from the same
        seed, as it would alone. adapter: of all prompts, or one for each.
        """
        options = SamplingOptions(temperature, top_k, top_p, min_p, seed, repetition_penalty)
        return generate_batch(self, prompts, max_new_tokens, options, stop, chat, sequences, adapter)

    def generate(  # many parameters: the options of sampling, by the names that users know
        self,
        prompt: str,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        chat: bool = False,
        edit: Edits | None = None,
        repetition_penalty: float = 1.0,
        adapter: str | None = None,
    ) -> Stream:
        """Pieces of text that continue `prompt`, as they come; ends at EOS, a stop string, or a full cache.

        The stream's `finish_reason` says which, when it has ended. Options: see `SamplingOptions`. chat: put the prompt
        into the tokenizer's chat template. edit: functions that change activations in flight; adapter: as in `forward`.
        Raises `PromptTooLongError` and `WorkbenchError` before the first piece.
        """
        options = SamplingOptions(temperature, top_k, top_p, min_p, seed, repetition_penalty)
        stops = stop_texts(stop)
        ids = self.encode_prompt(prompt, chat)
        tokens = self.generate_ids(ids, max_new_tokens, options, edit, adapter)
        return stream_text(self.tokenizer, tokens, stop=stops, eos_ids=self.eos_ids, prompt_ids=ids)

    def chat(  # many parameters: the options of sampling, by the names that users know
        self,
        system: str | None = None,
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        edit: Edits | None = None,
        repetition_penalty: float = 1.0,
        adapter: str | None = None,
    ) -> Chat:
        """A conversation in the tokenizer's chat template, whose turns share a cache (`workbench.runtime.chat`).

        system: what the model is told first. max_new_tokens: of an answer. Other options as in `generate`. Raises
        `WorkbenchError` if there is no template, or it takes no system prompt, and `OutOfMemoryError`.
        """
        options = SamplingOptions(temperature, top_k, top_p, min_p, seed, repetition_penalty)
        return Chat(self, system, max_new_tokens, options, stop_texts(stop), edit, adapter)

    def encode_prompt(self, prompt: str, chat: bool = False) -> list[int]:
        """Token ids of a prompt, at least one.

        Raises `TextError` for what is no text, and `WorkbenchError` for a prompt without tokens, or if `chat` is asked
        and no template can do it.
        """
        utf8.checked(prompt, "the prompt")
        if not chat:
            ids = list(self.tokenizer(prompt, verbose=False)["input_ids"])
            if not ids:
                what = "has no tokens" if prompt else "is empty"
                raise WorkbenchError(
                    f"the prompt {what}, and this tokenizer puts no BOS in front of a text, so that there is nothing "
                    "to continue; write at least one character"
                )
            return ids
        return chat_ids(self.tokenizer, [{"role": "user", "content": prompt}])

    def generate_ids(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        options: SamplingOptions | None = None,
        edit: Edits | None = None,
        adapter: str | None = None,
    ) -> Stream:
        """Token ids that continue `ids`, up to `max_new_tokens` or until the cache is full; EOS does not stop it.

        The stream's `finish_reason` is "length" or "context" when it has ended. edit: functions that change activations
        in flight, of the prompt and of every token; adapter: as in `forward`.
        """
        count = as_integer(max_new_tokens)
        if count is None or count < 0:
            raise WorkbenchError(f"max_new_tokens = {shown(max_new_tokens)}; allowed: an integer >= 0")
        self.config.adapter(adapter)  # what cannot be is said now, not with the first token
        return Stream(self._continued(ids, count, options or SamplingOptions(), edit, adapter))

    def _continued(
        self,
        ids: Sequence[int],
        wanted: int,
        options: SamplingOptions,
        edit: Edits | None,
        adapter: str | None,
    ) -> Generator[int, None, str]:
        with contextlib.closing(self.session(edit, adapter)) as session:
            session.feed(ids)
            return (yield from continued(session, wanted, options))

    def warm(self) -> None:
        """Compile what a session runs and put all weights where they are read, now and not at the first prompt.

        Every size of step, greedy and sampled, is run once on a cache of its own. What captures, edits and batches need
        beside that still comes with the first of them. Raises `OutOfMemoryError`.
        """
        with contextlib.closing(self.session()) as session:
            for size in self._executor.chunks:
                if size < session.room:
                    session.feed([0] * size)
                    session.back(session.position)
            for options in (SamplingOptions(), SamplingOptions(temperature=1.0)):
                session.feed([0])
                for _ in continued(session, 2, options):
                    pass
                session.back(session.position)

    def describe_provenance(self) -> dict:
        """Model, adapter and versions: what a number needs beside it to be repeated."""
        from .provenance import provenance

        return provenance(self)
