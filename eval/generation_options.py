"""The options with which lm-evaluation-harness asks for texts, as its model `hf` understands them.

That model hands them to transformers' `generate`, which fills in what the checkpoint's generation_config.json says and
then its own defaults (top_k is 50 unless said). What changes a text is obeyed in the same way or refused by name, as is
what transformers does not know.
"""

from __future__ import annotations

import difflib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.errors import WorkbenchError
from workbench.runtime.sampling import SamplingOptions, as_integer, as_real, shown

#: Tokens generated at most where a task does not say, as in the harness's `hf`.
MAX_NEW_TOKENS = 256
#: Names under which the harness takes that number, in the order in which they count.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
OWN = ("until", "do_sample", "max_length", "eos_token_id", "seed", *LENGTHS)
#: transformers' defaults of what is obeyed.
OBEYED = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
#: Filters of sampling, which transformers leaves out of greedy generation.
SAMPLING_ONLY = (
    *(name for name in OBEYED if name != "repetition_penalty"),
    *("top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
)
#: Values other than None with which an option changes nothing.
NEUTRAL = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "diversity_penalty": 0.0,
    "penalty_alpha": 0.0,
    "guidance_scale": 1.0,
    "min_length": 0,
    "min_new_tokens": 0,
    "early_stopping": False,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "token_healing": False,
    "return_dict_in_generate": False,
    "use_mtp": False,
    "is_assistant": False,
}
#: What changes no text, whatever its value: how transformers computes, and what only beams or assistants look at.
WITHOUT_EFFECT = (
    *("use_cache", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size"),
    *("compile_config", "disable_compile", "low_memory", "length_penalty", "pad_token_id", "bos_token_id"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "transformers_version"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "assistant_early_exit", "decoder_start_token_id"),
)


@dataclass(frozen=True)
class Wanted:
    """limit: tokens at most. until: stop strings. total: tokens at most with the context, None if not said. ended: ids
    that end a text, None for the model's own. seed: of the samples, None for torch's random numbers."""

    limit: int
    until: tuple[str, ...]
    sampling: SamplingOptions
    total: int | None = None
    ended: frozenset[int] | None = None
    seed: int | None = None


def read_options(given: Mapping[str, Any], checkpoint: Mapping[str, Any] | None = None) -> Wanted:
    """A task's options, completed by those of generation_config.json. Raises `WorkbenchError` that names the option."""
    checkpoint = {n: v for n, v in (checkpoint or {}).items() if v is not None and n != "do_sample"}
    sampled = _is_sampled(given)
    for source, options in (("", given), ("generation_config.json: ", checkpoint)):
        for name, value in options.items():
            if name not in given or options is given:
                _check(source, name, value, sampled)
    said = {**OBEYED, **{n: v for n, v in checkpoint.items() if n in OBEYED}}
    said |= {n: given[n] for n in OBEYED if given.get(n) is not None}
    if not sampled:
        said = {"repetition_penalty": said["repetition_penalty"]}
    seed = given.get("seed")
    sampling = SamplingOptions(**said, seed=0 if seed is None else seed)
    limit = next((given[name] for name in LENGTHS if given.get(name) is not None), MAX_NEW_TOKENS)
    return Wanted(
        _count("max_gen_toks", limit),
        _texts(given.get("until")),
        sampling,
        None if given.get("max_length") is None else _count("max_length", given["max_length"]),
        _ids(given.get("eos_token_id")),
        None if seed is None else sampling.seed,
    )


def of_checkpoint(path: str | Path) -> dict[str, Any]:
    """What generation_config.json beside the tokenizer says; nothing where there is none."""
    file = Path(path) / "generation_config.json"
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkbenchError(f"{file}: not readable as a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise WorkbenchError(f"{file}: not a JSON object")
    # transformers writes these down without asking; the harness's own length holds
    left_out = ("eos_token_id", "max_length", "max_new_tokens", "_from_model_config")
    return {name: value for name, value in found.items() if name not in left_out}


class Seeds:
    """A seed for each sample: repeats of one request differ, and a second run gives the same again.

    Without a seed among the options they come from torch's random numbers, which the harness seeds.
    """

    def __init__(self) -> None:
        self._asked: dict[tuple, int] = {}

    def of(self, context: str, wanted: Wanted) -> SamplingOptions:
        """The options of a request's next sample."""
        if wanted.sampling.greedy:
            return wanted.sampling
        if wanted.seed is None:
            return replace(wanted.sampling, seed=int(torch.randint(2**63 - 1, (1,))))
        repeat = self._asked[context, wanted] = self._asked.get((context, wanted), -1) + 1
        words = (wanted.seed, zlib.crc32(context.encode("utf-8", "surrogatepass")), repeat)
        mixed = np.random.SeedSequence(words).generate_state(1, np.uint64)
        return replace(wanted.sampling, seed=int(mixed[0]))


def _is_sampled(given: Mapping[str, Any]) -> bool:
    sampled, temperature = given.get("do_sample"), given.get("temperature", 0.0)
    if sampled not in (None, True, False) or (
        isinstance(sampled, (int, float)) and not isinstance(sampled, bool)
    ):
        raise WorkbenchError(f"do_sample = {shown(sampled)}; allowed: true or false")
    value = as_real(temperature)
    if value is None:
        raise WorkbenchError(f"temperature = {shown(temperature)}; allowed: a finite number")
    if sampled and value <= 0:
        raise WorkbenchError(
            f"temperature = {shown(temperature)} with do_sample; allowed: a number > 0, or do_sample=false"
        )
    return value > 0 if sampled is None else sampled


def _check(source: str, name: str, value: Any, sampled: bool) -> None:
    """Raises `WorkbenchError` unless the option is obeyed, or changes nothing."""
    if name in OWN or name in OBEYED or name in WITHOUT_EFFECT or value is None:
        return _known(source, name)
    if name in SAMPLING_ONLY and not sampled:
        return None
    _known(source, name)
    if name in NEUTRAL and not isinstance(value, str) and value == NEUTRAL[name]:
        return None
    raise WorkbenchError(f"{source}{name} = {shown(value)} changes the text, and this engine does not do it")


def _known(source: str, name: str) -> None:
    from transformers import GenerationConfig

    known = {*OWN, *OBEYED, *NEUTRAL, *SAMPLING_ONLY, *WITHOUT_EFFECT, *vars(GenerationConfig())}
    if name not in known:
        near = difflib.get_close_matches(name, sorted(known), n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise WorkbenchError(f"{source}{name!r} is not an option of generation{hint}")


def _count(name: str, value: Any) -> int:
    found = as_integer(value)
    if found is None or found < 1:
        raise WorkbenchError(f"{name} = {shown(value)}; allowed: an integer >= 1")
    return found


def _texts(value: Any) -> tuple[str, ...]:
    texts = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(each, str) for each in texts):
        raise WorkbenchError(f"until = {shown(value)}; allowed: a text or a list of texts")
    return tuple(texts)


def _ids(value: Any) -> frozenset[int] | None:
    if value is None:
        return None
    found = [as_integer(each) for each in (value if isinstance(value, (list, tuple)) else [value])]
    ids = frozenset(each for each in found if each is not None)
    if None in found:
        raise WorkbenchError(f"eos_token_id = {shown(value)}; allowed: an integer or a list of integers")
    return ids
