"""A conversation: its turns, and a session that holds what they have in common with the next one.

    chat = model.chat(system="You are brief.")
    for piece in chat.say("Why is the sky blue?"):
        print(piece, end="")
    chat.messages        # what was said so far; may be set, too

A turn feeds only what the cache does not hold: the template writes the whole conversation, its longest common beginning
with the cache stays, and the rest is taken back. So an edited history costs as much as what comes after the edit.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from workbench import utf8
from workbench.errors import PromptTooLongError, WorkbenchError
from workbench.models.chat import chat_ids

from .sampling import SamplingOptions
from .session import continued
from .textstream import Stream, stream_text
from .turns import Turns, alone

if TYPE_CHECKING:
    from .edits import Edits
    from .model import Model

Message = dict[str, str]


class Chat:
    """Made by `Model.chat`. `close` gives the cache's memory back, as leaving a `with` block does.

    max_new_tokens: of an answer. options: how they are drawn; each turn draws from the same seed, at its own positions.
    adapter: of those that the model was loaded with, by name. computed: tokens of the last turn's prompt that were not
    in the cache.

    One answer at a time: while one is being written, to begin another, to edit `messages` and to `undo` raise
    `SessionBusyError`, until it is at its end or closed.
    """

    def __init__(
        self,
        model: Model,
        system: str | None = None,
        max_new_tokens: int = 200,
        options: SamplingOptions | None = None,
        stop: Sequence[str] = (),
        edit: Edits | None = None,
        adapter: str | None = None,
    ) -> None:
        self.model, self.max_new_tokens, self.stop = model, max_new_tokens, stop
        self.options = options or SamplingOptions()
        self.computed = 0
        self._turns = Turns()
        # another list whenever it changes, so that answers see that it did
        self._messages: list[Message] = []
        if system is not None:
            self._messages = [{"role": "system", "content": utf8.checked(system, "the system prompt")}]
        chat_ids(
            model.tokenizer, [*self._messages, {"role": "user", "content": "a"}]
        )  # a template there must be
        self._edit, self._adapter = edit, adapter
        self._session = model.session(edit, adapter)

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the cache's memory back. The conversation stays readable."""
        self._session.close()

    def __repr__(self) -> str:
        held = f"{self._session.position} of {self._session.capacity} positions"
        return f"<chat with {self.model.source.path.name}: {len(self._messages)} messages, {held}>"

    @property
    def messages(self) -> list[Message]:
        """{"role", "content"} of each message; a copy. Setting it edits the history, which the next turn then reads."""
        return [dict(each) for each in self._messages]

    @messages.setter
    @alone
    def messages(self, messages: Sequence[Message]) -> None:
        for each in messages:
            if set(each) != {"role", "content"} or not all(isinstance(value, str) for value in each.values()):
                raise WorkbenchError(f"message {each!r}; allowed: texts 'role' and 'content', nothing else")
            utf8.checked(each["content"], "a message")
        self._messages = [dict(each) for each in messages]

    def say(self, text: str) -> Stream:
        """The answer to a message, as it comes. Both are in `messages` when it has ended, also by `close`: what was
        said until then is the answer.

        `finish_reason` as in `Model.generate`. Raises `TextError` for what is no text, `PromptTooLongError` if the
        conversation does not fit into the cache, and `WorkbenchError` if the template does not take it; nothing has
        changed then. Begins with the first piece that is taken; raises `WorkbenchError` there if the conversation has
        become another one since it was asked for.
        """
        asked = {"role": "user", "content": utf8.checked(text, "the message")}
        return self._answered([*self._messages, asked], self.options)

    def again(self, seed: int | None = None) -> Stream:
        """Another answer to the last message, in place of the one that there is; with another seed if one is given.
        Raises `WorkbenchError` where nothing was asked yet, and as `say` does."""
        messages = self.messages
        while messages and messages[-1]["role"] != "user":
            messages.pop()
        if not messages:
            raise WorkbenchError("nothing was asked yet")
        return self._answered(messages, self.options if seed is None else replace(self.options, seed=seed))

    @alone
    def undo(self) -> None:
        """Forget the last message and what was answered to it. Raises `WorkbenchError` where nothing was asked yet."""
        asked = [index for index, each in enumerate(self._messages) if each["role"] == "user"]
        if not asked:
            raise WorkbenchError("nothing was asked yet")
        self._messages = self._messages[: asked[-1]]

    def _answered(self, messages: list[Message], options: SamplingOptions) -> Stream:
        ids = chat_ids(self.model.tokenizer, messages)
        if len(ids) > self._session.capacity:
            raise PromptTooLongError(
                f"the conversation has {len(ids)} tokens, which do not fit into a cache of {self._session.capacity}; "
                "load the model with a larger max_tokens, undo a turn or set `messages`"
            )
        return Stream(self._turn(self._messages, messages, ids, options))

    def _turn(
        self, before: list[Message], messages: list[Message], ids: list[int], options: SamplingOptions
    ) -> Generator[str, None, str]:
        """The answer to `messages`, which were made of `before`."""
        with self._turns.of("say") as turn:
            if self._messages is not before:
                raise WorkbenchError(
                    "the conversation has changed since this answer was asked for; ask again"
                )
            self._feed(ids)
            tokens = Stream(continued(self._session, self.max_new_tokens, options))
            pieces = stream_text(self.model.tokenizer, tokens, self.stop, self.model.eos_ids, ids)
            said: list[str] = []
            try:
                for piece in pieces:
                    said.append(piece)
                    with turn.paused():
                        yield piece
            finally:
                pieces.close()
                tokens.close()
                self._messages = [*messages, {"role": "assistant", "content": "".join(said)}]
        return pieces.finish_reason or ""

    def _feed(self, ids: list[int]) -> None:
        """Leave in the cache what it has in common with `ids`, at most all but their last, and feed the rest. Where a
        device was lost with the cache, another one is fed all of it."""
        if self._session.lost:
            self._session.close()
            self._session = self.model.session(self._edit, self._adapter)
        held = self._session.ids
        differing = (at for at, (one, other) in enumerate(zip(held, ids[:-1], strict=False)) if one != other)
        common = next(differing, min(len(held), len(ids) - 1))
        if common < len(held):
            self._session.back(len(held) - common)
        self.computed = len(ids) - common
        self._session.feed(ids[common:])
