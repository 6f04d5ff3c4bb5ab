"""Conversations as a tokenizer's chat template writes them.

A template is a program that comes with the files: transformers runs it in Jinja's sandbox, where it reaches nothing
but the messages. It may be broken, refuse a conversation, or be missing; each is an error that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import WorkbenchError

Messages = Sequence[dict[str, str]]


def chat_text(tokenizer: Any, messages: Messages, *, open_answer: bool = True) -> str:
    """The conversation as text; `open_answer`: with the beginning of the next answer, else its last message is open.

    Raises WorkbenchError if there is no template, or it does not take these messages.
    """
    how = {"add_generation_prompt": open_answer, "continue_final_message": not open_answer}
    text = _applied(tokenizer, messages, tokenize=False, **how)
    if not isinstance(text, str):
        raise WorkbenchError(f"the chat template of {_name(tokenizer)} gives no text")
    return text


def chat_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of the conversation and of the beginning of an answer. Raises as `chat_text` does."""
    return list(_applied(tokenizer, messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def _applied(tokenizer: Any, messages: Messages, **how: Any) -> Any:
    if not getattr(tokenizer, "chat_template", None):
        raise WorkbenchError("this tokenizer has no chat template; leave `chat` off")
    try:
        return tokenizer.apply_chat_template(list(messages), **how)
    except (
        Exception
    ) as error:  # whatever the template's own code does, and what transformers finds wrong with it
        raise WorkbenchError(
            f"the chat template of {_name(tokenizer)} fails: {type(error).__name__}: {error}; leave `chat` off, or "
            "mend the template (chat_template.jinja, or chat_template in tokenizer_config.json)"
        ) from error


def _name(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "name_or_path", "") or "this tokenizer")
