"""A model's plans run in a page: an executor like the native one, whose steps are messages to a worker there.

The page plays programs that are lowered here for its adapter. So what stands on executors (sessions, streams of tokens,
two models side by side) is the same for both, and so are the objects that it gives.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import NonFiniteError, WorkbenchError
from workbench.models.architecture import Architecture
from workbench.models.families import architecture_of
from workbench.models.source import Source, open_source
from workbench.plan.plan import Ring
from workbench.runtime.cache import Cache
from workbench.runtime.executor import Sequential
from workbench.runtime.export import (
    DECODE,
    PROMISED,
    SUBGROUPS,
    Bindings,
    bindings,
    bundle,
    page_adapter,
    programs_for,
    require_readable,
)
from workbench.runtime.finite import is_finite
from workbench.runtime.model import Model
from workbench.runtime.plans import Plans
from workbench.runtime.sampling import Drawn
from workbench.runtime.step import Step, padded
from workbench.runtime.streaming import AHEAD, read_group
from workbench.runtime.wgpu_executor import STEPS, chunk_sizes

from .connection import Connection, Host

PROMPT = ("last", "all")
HEADS = (*PROMPT, *DECODE)
#: Positions of the cache unless asked for.
DEFAULT_MAX_TOKENS = 2048


class PageCache(Cache):
    """number: by which the page knows it."""

    def __init__(self, capacity: int, number: int, rings: Sequence[Ring] = ()):
        super().__init__(capacity, rings=rings)
        self.number = number


class PageDevice:
    """The page's adapter. lost: its page has gone."""

    def __init__(self, connection: Connection):
        self.connection, self.name, self.lanes = connection, "the page's GPU", 0

    @property
    def lost(self) -> bool:
        return self.connection.lost

    @property
    def info(self) -> dict[str, str]:
        facts = dict.fromkeys(("vendor", "device", "adapter_type"), "unknown")
        return {**facts, "description": self.name, "backend_type": "WebGPU in a page"}


class PageExecutor(Sequential):
    """Executes plans of one converted model in a page, in f32; `workbench.runtime.executor.Executor`.

    Programs and weights go there with the first step. A page hands out logits and tokens: activations are not kept,
    edited or held, and targets not scored; asking for it raises `WorkbenchError`.
    """

    backend, activations, cache = "page", "f32", "f32"
    tuned = library = None

    def __init__(self, source: Source, config: Architecture, capacity: int, connection: Connection):
        self.source, self.config, self.capacity = source, config, capacity
        self.device = PageDevice(connection)
        self.plan = Plans(source, config, self.activations, self.cache)
        self.chunks = chunk_sizes(config, PROMISED.nbytes)
        self._call, self._ask = connection.call, connection.ask
        self._programs: dict[tuple[str, int], int] = {}
        self._numbers, self._lock = itertools.count(), threading.RLock()

    @property
    def device_name(self) -> str:
        return self.device.name

    def with_ring(self, ring: Ring | None) -> PageExecutor:
        """Programs of a page are lowered once."""
        raise WorkbenchError("a page's engine sees what the model sees; a window is the native one's")

    def _open(self) -> None:
        """Lower for the page's adapter, and send programs and weights there; once."""
        with self._lock:
            if self._programs:
                return
            kinds = [each.to_json() for each in bindings(self.source)]
            needs = {"bindings": kinds, "subgroupSizes": SUBGROUPS, "f16": False}
            found, _ = self._call("open", {**needs, "vocabSize": self.config.vocab_size})
            self.device.name, self.device.lanes = f"{found['adapter']} (page)", found["lanes"]
            bound = Bindings.from_json(found["bindings"])
            adapter = replace(page_adapter(found["lanes"]), offset_alignment=bound.alignment)
            programs = list(
                programs_for(self.source, self.activations, adapter, self.capacity, bound.nbytes, HEADS)
            )
            manifest = (Path(self.source.path) / "manifest.json").read_bytes()
            self._call("load", {}, [json.dumps(bundle(iter(programs))).encode(), manifest])
            self._programs = {(each.target.head, each.target.tokens): n for n, each in enumerate(programs)}

    def new_cache(self, capacity: int, sequences: int = 1) -> PageCache:
        """Keys and values in the page, of as many positions as its programs have. Raises what the page says, and
        `WorkbenchError` for several sequences, which its programs do not have."""
        if sequences > 1:
            raise WorkbenchError(
                f"a page's engine has one sequence in a cache, not {sequences}; the native one has more"
            )
        self._open()
        cache = PageCache(min(capacity, self.capacity), next(self._numbers), self.plan("last").rings)
        self._call("cache", {"cache": cache.number})
        return cache

    def free_cache(self, cache: PageCache) -> None:
        if not cache.freed and not self.device.lost:
            self._ask("free", {"cache": cache.number})
        cache.freed = True

    def chunk(self, remaining: int, cache: PageCache | None = None) -> int:
        """How many of the remaining tokens the next step takes; it is padded if that wastes a quarter at most."""
        return min(next(size for size in self.chunks if 3 * size <= 4 * remaining), remaining)

    def greedy_rows(self, step: Step, count: int, cache: PageCache) -> np.ndarray:
        """Of several sequences, which a page does not have."""
        raise WorkbenchError("a page's engine continues one sequence; the native one has more")

    def run_step(
        self,
        head: str,
        step: Step,
        cache: PageCache,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Any = None,
        hold: Iterable[str] = (),
    ) -> dict[str, Any]:
        """One step, as the native executor runs it. Raises `NonFiniteError` for results that are not finite."""
        if head not in PROMPT or targets is not None or edit or tuple(keep) or tuple(hold):
            raise WorkbenchError(
                "a page's engine gives logits and tokens; activations, edits and scores are the native engine's"
            )
        cache.take(step)
        count, first = len(step), int(step.positions[0])
        size = min(chunk for chunk in self.chunks if chunk >= count)
        names = self.plan(head).results
        asked = {"cache": cache.number, "program": self._programs[head, size], "position": first}
        _, [data] = self._call(
            "run", {**asked, "rows": count, "names": list(names)}, [padded(step.ids, size)]
        )
        logits = np.frombuffer(data, np.float32).copy().reshape(-1, self.config.vocab_size)
        if not is_finite(logits):
            raise NonFiniteError(
                f"logits of tokens {first} to {first + count - 1} are not finite; "
                "the native engine says where it begins"
            )
        return {names[0]: logits}

    def stream(
        self,
        head: str,
        first: int,
        count: int,
        cache: PageCache,
        options: Any = None,
        seen: np.ndarray | None = None,
        *,
        ahead: bool = True,
    ) -> Iterator[list[Drawn]]:
        """Tokens in groups, as `workbench.runtime.streaming.stream` gives them."""
        cache.require(count)
        stream, start, given = next(self._numbers), cache.position, 0
        buffers = [np.array([first], np.uint32)]
        if options is not None and seen is not None:
            buffers += [options.numpy(), seen]
        step = {"cache": cache.number, "program": self._programs[head, 1], "position": start}
        self._call("stream", {**step, "stream": stream, "count": count, "ahead": ahead}, buffers)
        coming = deque(self._ask("next", {"stream": stream}) for _ in range(AHEAD if ahead else 1))
        try:
            while given < count:
                cache.reach(start, min(count, given + AHEAD * STEPS))  # as far as the page may have come
                found, data = coming.popleft().wait()
                given += found["steps"]
                if given < count:
                    coming.append(self._ask("next", {"stream": stream}))
                words = bytes(data[0])
                yield read_group(words, head, found["steps"], self.config.vocab_size, start + given)
        finally:
            if not self.device.lost:
                self._ask("leave", {"stream": stream})

    def holding(self) -> AbstractContextManager:
        return nullcontext()


def page_model(path: Any, host: Host, max_tokens: int | None = None) -> Model:
    """A converted model, planar and low-first, that computes in a page. Raises `WorkbenchError` for any other."""
    source = open_source(path)
    require_readable(source)
    config = architecture_of(source.config)
    capacity = min(max_tokens or DEFAULT_MAX_TOKENS, config.context_length)
    shards = {each["file"] for each in source.manifest["shards"]}

    def read(file: str, offset: int, length: int) -> bytes:
        shard = file.removeprefix("model/")
        if shard not in shards:
            raise WorkbenchError(f"{file}: not a shard of {source.path.name}")
        with (Path(source.path) / shard).open("rb") as opened:
            opened.seek(offset)
            return opened.read(length)

    def make_executor() -> Any:
        return PageExecutor(source, config, capacity, host.connect(read))

    reasons = [("backend", "page", "asked for"), ("max_tokens", str(capacity), "positions of its programs")]
    return Model(source, config, make_executor, reasons, capacity)
