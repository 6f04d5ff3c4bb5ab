"""The engine as a model of lm-evaluation-harness, `--model workbench`.

    workbench lm-eval run --model workbench --model_args pretrained=runs/demo/models/int4 --tasks lambada_openai

or, with this module imported, `lm_eval.simple_evaluate(model="workbench", model_args="pretrained=DIR,backend=wgpu")`.
Conventions are those of the harness's own model `hf`: what is tokenized with or without special tokens, BOS as prefix
of empty contexts and of rolling windows, truncation from the left, stop strings cut off. Needs the extra `lm-eval`.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from eval.generation_options import Seeds, Wanted, of_checkpoint, read_options
from eval.prefix_scoring import PrefixScorer
from workbench.errors import WorkbenchError
from workbench.models.chat import chat_text
from workbench.models.tokenizer import end_of_text_ids
from workbench.runtime.sampling import SamplingOptions
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
    batch_size, max_batch_size, device: taken for the harness's sake and without effect: requests run one by one
    in one cache, where those that begin alike share their beginning.
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
        order = sorted(range(len(requests)), key=lambda i: requests[i][1] + requests[i][2])
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for index in tqdm(order, desc="Running loglikelihood requests", disable=disable_tqdm):
            key, context, continuation = requests[index]
            room = self.max_length + 1 - len(continuation)
            if room < 1:
                raise WorkbenchError(
                    f"a continuation of {len(continuation)} tokens exceeds the context of {self.max_length}"
                )
            log_p, greedy = self.scorer.score(context[-room:], continuation)
            found[index] = float(np.sum(log_p)), bool(greedy.all())
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[index])
        return found

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
        found, seeds = [], Seeds()
        wanted = [read_options(request.args[1], self._generation) for request in requests]  # before any work
        every = tqdm(requests, desc="Running generate_until requests", disable=disable_tqdm)
        for request, options in zip(every, wanted, strict=True):
            context, given = request.args
            found.append(self._generate(context, options, seeds.of(context, options)))
            self.cache_hook.add_partial("generate_until", (context, given), found[-1])
        return found

    def _generate(self, context: str, wanted: Wanted, sampling: SamplingOptions) -> str:
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
        tokens, text = [], ""
        with contextlib.closing(self.model.generate_ids(ids, limit, sampling)) as stream:
            for token in stream:
                tokens.append(token)
                text = self.tokenizer.decode(tokens, skip_special_tokens=True)
                if token in ended or any(stop and stop in text for stop in stops):
                    break
        return postprocess_generated_text(text, stops, None)


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
