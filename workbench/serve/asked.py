"""What a request asks for, checked, and the model that it asks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.models.contents import some
from workbench.models.keys import shown
from workbench.models.token_bytes import TokenBytes
from workbench.runtime.sampling import SamplingOptions

from .choice import Choice, Deliver, Ends, Prompt
from .errors import ApiError, wrong


@dataclass
class Served:
    """A model by the name that requests give it. created: in Unix seconds."""

    model: Any
    name: str
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.bytes_of = TokenBytes(self.model.tokenizer)

    def spelled(self, token: int) -> str:
        """A token as text; one that is no whole character as OpenAI spells it, bytes:\\xe6."""
        data = self.bytes_of(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    @property
    def names(self) -> list[str]:
        """What requests may call: the model, and the model with each of its adapters, NAME:ADAPTER."""
        return [self.name, *(f"{self.name}:{adapter}" for adapter in self.model.adapters)]

    def adapter_of(self, name: str | None) -> str | None:
        """The adapter that a request's model names, by itself or behind the model; None for the model as it was loaded.
        Raises `ApiError` for another model's name."""
        if name is None or name == self.name:
            return None
        for adapter in self.model.adapters:
            if name in (adapter, f"{self.name}:{adapter}"):
                return adapter
        raise ApiError(
            404,
            f"model is {name[:200]!r}; allowed: {some([repr(each) for each in self.names])}, which is served here",
            param="model",
            code="model_not_found",
        )

    def called(self, adapter: str | None) -> str:
        """What answers call the model with an adapter."""
        return self.name if adapter is None else f"{self.name}:{adapter}"

    def check_vocabulary(self, prompt: Sequence[int], param: str) -> None:
        """Raises `ApiError` for ids that the model has no row for. A tokenizer gives such ones, too, for tokens that
        were added to it and not to the model."""
        size = self.model.vocab_size
        if (most := max(prompt)) >= size:
            raise wrong(
                param,
                f"{param} holds token {shown(most)}; allowed: 0 to {size - 1}, the vocabulary of the model",
            )

    def limit_of(self, prompt: Sequence[int], wanted: int | None, param: str, wanted_param: str) -> int:
        """Tokens behind a prompt at most: as many as are wanted, or as fit. The last one needs no place.

        Raises `ApiError` for what does not fit.
        """
        capacity = self.model.max_tokens
        if len(prompt) > capacity:
            raise wrong(
                param,
                f"{param} has {len(prompt)} tokens; allowed: {capacity}, the context of this server (--max-tokens)",
                "context_length_exceeded",
            )
        room = capacity - len(prompt) + 1
        if wanted is not None and wanted > room:
            raise wrong(
                wanted_param,
                f"{wanted_param} is {wanted}; allowed: up to {room} behind a prompt of {len(prompt)} tokens, in a "
                f"context of {capacity}",
                "context_length_exceeded",
            )
        return room if wanted is None else wanted


@dataclass(frozen=True)
class Asked:
    """prompts: with their limits. options: of each answer to a prompt. likely: as in `Job`. echo: prompts are given
    back. usage: a stream ends with the numbers of tokens. adapter: of those that the model was loaded with."""

    prompts: Sequence[tuple[Prompt, int]]
    options: Sequence[SamplingOptions]
    likely: int | None
    echo: bool
    stop: Sequence[str]
    stream: bool
    usage: bool
    adapter: str | None = None

    def choices(self, served: Served, deliver: Deliver) -> list[Choice]:
        """The jobs: the answers to the first prompt, then those to the next."""
        model, found = served.model, []
        ends = Ends(model.eos_ids, self.stop)
        for prompt, limit in self.prompts:
            for options in self.options:
                index = len(found)
                found.append(
                    Choice(
                        index, prompt, limit, options, self.likely, self.echo, ends, model.tokenizer, deliver
                    )
                )
                found[-1].adapter = self.adapter
        return found

    def used(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Numbers of tokens, as OpenAI counts them: each prompt once, however many answers it has. cached_tokens: of
        the prompts, what was read for none of their answers."""
        given = sum(len(prompt.ids) for prompt, _ in self.prompts)
        written = sum(choice.taken for choice in choices)
        answers = len(self.options)
        cached = sum(
            min(choice.reused for choice in choices[first : first + answers])
            for first in range(0, len(choices), answers)
        )
        return {
            "prompt_tokens": given,
            "completion_tokens": written,
            "total_tokens": given + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
