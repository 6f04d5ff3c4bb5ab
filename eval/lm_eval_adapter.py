"""The engine as a model of lm-evaluation-harness, `--model workbench`.

    workbench lm-eval run --model workbench --model_args pretrained=runs/demo/models/int4 --tasks lambada_openai

or, with this module imported, `lm_eval.simple_evaluate(model="workbench", model_args="pretrained=DIR,backend=wgpu")`.
Conventions are those of the harness's own model `hf`: what is tokenized with or without special tokens, BOS as prefix
of empty contexts and of rolling windows, truncation from the left, stop strings cut off. Needs the extra `lm-eval`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container
from typing import Any

import numpy as np

from eval.generation_options import Seeds, Wanted, of_checkpoint, read_options
from eval.prefix_scoring import PrefixScorer
from workbench.errors import WorkbenchError
from workbench.models.chat import chat_text
from workbench.models.tokenizer import end_of_text_ids
from workbench.runtime.jobs import Job
from workbench.runtime.sampling import Drawn, SamplingOptions
from workbench.runtime.scheduler import run_jobs
from workbench.utf8 import checked

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import (
        handle_stop_sequences,
        has_bos_prefix,
        postprocess_generated_text,
    )
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise WorkbenchError(
        f"lm-evaluation-harness cannot be imported ({error}); install it: pip install 'webgpu-quant-workbench[lm-eval]'"
    ) from error

from tqdm import tqdm


@register_model("workbench")
class WorkbenchLM(TemplateLM):
    """A loaded model behind the harness's three requests.

    pretrained: a converted folder, a checkpoint folder or hub id, or an object from `workbench.load`. backend,
    dtype, cache, adapter: as in `workbench.load`. max_length: tokens of context (default: all the model takes, at most
    what its cache holds). prefix_token_id: in front of empty contexts and rolling windows (default BOS, else EOS).
    batch_size: requests that run side by side; by default, and for "auto", one after the other in one cache, where
    those that begin alike share their beginning. max_batch_size, device: taken for the harness's sake and without
    effect.
    """

    def __init__(  # many parameters: what lm-evaluation-harness passes, by its names
        self,
        pretrained: Any,
        backend: str | None = None,
        dtype: str = "f32",
        max_length: int | str | None = None,
        prefix_token_id: int | str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | str | None = None,
        device: str | None = None,
        cache: str | None = None,
        adapter: str | int | None = None,
    ) -> None:
        super().__init__()
        limit = None if max_length is None else int(max_length)
        if isinstance(pretrained, str):
            import workbench

            pretrained = workbench.load(
                pretrained, backend=backend, dtype=dtype, max_tokens=limit, cache=cache, adapter=adapter
            )
        self.model = pretrained
        self.tokenizer = self.model.tokenizer
        self.max_length = min(
            self.model.context_length, self.model.max_tokens, limit or self.model.max_tokens
        )
        self._prefix_token_id = None if prefix_token_id is None else int(prefix_token_id)
        source = self.model.source
        self._ended = end_of_text_ids(source.tokenizer_path, source.config, self.tokenizer)
        self._generation = of_checkpoint(source.tokenizer_path)
        self.scorer = PrefixScorer(self.model)
        self._together = _together(batch_size)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands in front of a text that has no context."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The history as the tokenizer's chat template writes it."""
        return chat_text(self.tokenizer, chat_history, open_answer=add_generation_prompt)

    def get_model_info(self) -> dict[str, Any]:
        """For the harness's results file: the provenance of the model that ran."""
        return {"model_provenance": self.model.describe_provenance()}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids as the tokenizer gives them; no second BOS for a string that begins with it. TextError for no text."""
        checked(string, "a request of the task")
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            special = {"add_special_tokens": False}
        return list(self.tokenizer(string, verbose=False, **special)["input_ids"])

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(ln p of the continuation, whether it is what greedy decoding gives) of each request, in their order."""
        pairs = [
            (self._fitting(context, continuation), continuation) for _, context, continuation in requests
        ]
        if self._together > 1:  # those of about one length
            order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        else:  # those that begin alike
            order = sorted(range(len(pairs)), key=lambda i: pairs[i][0] + pairs[i][1])
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with tqdm(total=len(order), desc="Running loglikelihood requests", disable=disable_tqdm) as bar:
            for first in range(0, len(order), self._together):
                group = order[first : first + self._together]
                for index, scored in zip(group, self._scored([pairs[i] for i in group]), strict=True):
                    found[index] = scored
                    if (key := requests[index][0]) is not None:
                        self.cache_hook.add_partial("loglikelihood", key, scored)
                bar.update(len(group))
        return found

    def _fitting(self, context: list[int], continuation: list[int]) -> list[int]:
        """The end of a context that fits in front of a continuation."""
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise WorkbenchError(
                f"a continuation of {len(continuation)} tokens exceeds the context of {self.max_length}"
            )
        return context[-room:]

    def _scored(self, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """ln p and greediness of continuations behind contexts, alone or side by side."""
        if len(pairs) == 1:
            log_p, greedy = self.scorer.score(*pairs[0])
            return [(float(np.sum(log_p)), bool(greedy.all()))]
        results = self.model.score_batch([context + continuation for context, continuation in pairs])
        return [
            (
                -float(np.sum(scores.nll[-len(new) :])),
                bool((scores.top1[-len(new) :] == np.asarray(new)).all()),
            )
            for scores, (_, new) in zip(results, pairs, strict=True)
        ]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p of whole texts, in windows of the full context that overlap by one token."""
        totals = []
        for request in tqdm(requests, desc="Running rolling requests", disable=disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            pairs = [(None, *make_disjoint_window(window)) for window in windows]
            totals.append(sum(log_p for log_p, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first stop string, end-of-text or the task's limit.

        Options are those of the harness's `hf` (`eval.generation_options`); raises `WorkbenchError` for others. Repeats
        of a sampled request are different samples.
        """
        wanted, seeds = [read_options(request.args[1], self._generation) for request in requests], Seeds()
        jobs = [
            self._job(request.args[0], options, seeds.of(request.args[0], options))
            for request, options in zip(requests, wanted, strict=True)
        ]
        with tqdm(total=len(jobs), desc="Running generate_until requests", disable=disable_tqdm) as bar:
            for first in range(0, len(jobs), max(self._together, 1)):
                group = jobs[first : first + self._together]
                self._run(group)
                for request, job in zip(requests[first:], group, strict=False):
                    self.cache_hook.add_partial("generate_until", request.args, job.text)
                bar.update(len(group))
        return [job.text for job in jobs]

    def _run(self, jobs: list[_Job]) -> None:
        """Generate for all of them, side by side where there are several."""
        if len(jobs) > 1:
            with contextlib.closing(self.model.batch(len(jobs))) as batch:
                return run_jobs(batch, jobs)
        with contextlib.closing(
            self.model.generate_ids(jobs[0].ids, jobs[0].limit, jobs[0].options)
        ) as stream:
            for token in stream:
                if not jobs[0].take(Drawn(token)):
                    break

    def _job(self, context: str, wanted: Wanted, sampling: SamplingOptions) -> _Job:
        stops = handle_stop_sequences(list(wanted.until), eos=self.tokenizer.decode(self.eot_token_id))
        room = self.max_length - wanted.limit
        if room < 1:
            raise WorkbenchError(
                f"{wanted.limit} tokens to generate leave no room in a context of {self.max_length}"
            )
        ids = self.tok_encode(context)[-room:]
        limit, ended = wanted.limit, self._ended if wanted.ended is None else wanted.ended
        if wanted.total is not None:
            limit = min(wanted.total, self.max_length) - len(ids)
            if limit < 1:
                raise WorkbenchError(f"max_length = {wanted.total} with a context of {len(ids)} tokens")
        return _Job(self.tokenizer, ids, limit, sampling, stops, ended)


class _Job(Job):
    """A request's continuation."""

    def __init__(
        self,
        tokenizer: Any,
        ids: list[int],
        limit: int,
        options: SamplingOptions,
        stops: list[str],
        ended: Container[int],
    ) -> None:
        super().__init__(ids, limit, options)
        self._tokenizer, self._stops, self._ended = tokenizer, stops, ended
        self._tokens: list[int] = []

    def take(self, drawn: Drawn) -> bool:
        """A token; False if it ends the continuation."""
        self._tokens.append(drawn.id)
        if drawn.id in self._ended or any(stop and stop in self._decoded() for stop in self._stops):
            self.finish_reason = "stop"
        return self.finish_reason is None

    def _decoded(self) -> str:
        return self._tokenizer.decode(self._tokens, skip_special_tokens=True)

    @property
    def text(self) -> str:
        """The continuation without the stop string."""
        return postprocess_generated_text(self._decoded(), self._stops, None)


def _together(batch_size: int | str | None) -> int:
    """Requests side by side; raises `WorkbenchError` for what is no number of them."""
    if batch_size is None or str(batch_size).startswith("auto"):
        return 1
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise WorkbenchError(f"batch_size = {batch_size!r}; allowed: auto, or an integer >= 1")
    return int(batch_size)


def main(arguments: list[str] | None = None) -> int:
    """lm-evaluation-harness's own command line, with `--model workbench` known to it.

    Raises WorkbenchError for `trust_remote_code`: code that comes with a model or a dataset is not run.
    """
    import sys

    from lm_eval.__main__ import cli_evaluate

    before = sys.argv
    given = before[1:] if arguments is None else list(arguments)
    for argument in given:
        if argument.startswith("--trust") or "trust_remote_code" in argument:
            raise WorkbenchError(f"{argument}: code that comes with a model or a dataset is never run")
    sys.argv = ["lm-eval", *given]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
    return 0
