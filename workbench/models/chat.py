"""Conversations as a tokenizer's chat template writes them.

A template is a program that comes with the files: transformers runs it in Jinja's sandbox, where it reaches nothing
but the messages. It may be broken, refuse a conversation, or be missing; each is an error that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workbench.errors import WorkbenchError

Messages = Sequence[dict[str, str]]
#: What is said in place of a message, to see whether a template writes it.
_OTHER = "Something else is said here."


def chat_text(tokenizer: Any, messages: Messages, *, open_answer: bool = True) -> str:
    """The conversation as text; `open_answer`: with the beginning of the next answer, else its last message is open.

    Raises WorkbenchError if there is no template, or it does not take these messages, or leaves the last one out.
    """
    how = {"add_generation_prompt": open_answer, "continue_final_message": not open_answer}
    text = _applied(tokenizer, messages, tokenize=False, **how)
    if not isinstance(text, str):
        raise WorkbenchError(f"the chat template of {_name(tokenizer)} gives no text")
    if messages and (said := messages[-1]["content"].strip()) and said not in text:
        # Written in another way, as JSON is, or not at all.
        other = [*messages[:-1], {**messages[-1], "content": _OTHER}]
        if text == _applied(tokenizer, other, tokenize=False, **how):
            raise WorkbenchError(
                f"the chat template of {_name(tokenizer)} writes nothing of the last message, whose content is a text; "
                "one that reads contents in parts (of texts and images) is not understood here. Leave `chat` off, or "
                "mend the template"
            )
    return text


def chat_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of the conversation and of the beginning of an answer, at least one. Raises as `chat_text` does."""
    if not chat_text(tokenizer, messages):
        raise WorkbenchError(f"the chat template of {_name(tokenizer)} makes nothing of these messages")
    how = {"add_generation_prompt": True, "return_dict": True}
    # What is too long for a model is said where it runs, with the numbers.
    return list(_applied(tokenizer, messages, tokenizer_kwargs={"verbose": False}, **how)["input_ids"])


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
