"""Conversations: turns that share a cache say what each whole conversation says, and compute what is new alone."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys

import pytest

import workbench
from tests.support.device_faults import OwnDevices
from workbench import cli
from workbench.errors import DeviceLostError, PromptTooLongError, SessionBusyError, TextError, WorkbenchError
from workbench.models.chat import chat_ids

from .models import model_on

pytestmark = pytest.mark.usefixtures("few_steps")

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)


@pytest.fixture(scope="module")
def folder(shared, tmp_path_factory):
    made = tmp_path_factory.mktemp("chat") / "model"
    shutil.copytree(shared / "models" / "stories260K-hf", made)
    config = json.loads((made / "tokenizer_config.json").read_text())
    (made / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return made


@pytest.fixture(scope="module", params=["torch", "wgpu"])
def model(folder, request):
    if request.param == "wgpu":
        request.getfixturevalue("adapter")
    return workbench.load(folder, backend=request.param)


@pytest.fixture
def chat(model):
    with model.chat("Be brief.", max_new_tokens=8) as made:
        yield made


def alone(model, messages, count=8) -> str:
    """The answer to a conversation that is fed whole."""
    ids = chat_ids(model.tokenizer, messages)
    found = model.tokenizer.decode([*ids, *model.generate_ids(ids, count)])
    return found.removeprefix(model.tokenizer.decode(ids))


def test_turns_say_what_the_whole_conversation_says_and_compute_what_is_new(model, chat):
    for turn, text in enumerate(("Once upon a time", "Then", "And")):
        asked = [*chat.messages, {"role": "user", "content": text}]
        answer = chat.say(text)
        assert "".join(answer) == alone(model, asked)
        assert chat.messages == [*asked, {"role": "assistant", "content": chat.messages[-1]["content"]}]
        if turn:
            assert chat.computed < len(chat_ids(model.tokenizer, asked)) // 2 + 8
    assert "7 messages" in repr(chat)


def test_an_edited_history_is_what_the_next_turn_reads(model, chat):
    "".join(chat.say("Once upon a time"))
    history = chat.messages
    history[1]["content"] = "There was a dog"
    chat.messages = history
    assert "".join(chat.say("Then")) == alone(model, chat.messages[:-1])
    held = chat_ids(model.tokenizer, chat.messages[:-1])
    assert chat.computed > len(held) // 2  # from the edit on
    history[1]["content"] = "changed without being given"
    assert chat.messages[1]["content"] == "There was a dog"


def test_again_and_undo(model, chat):
    with pytest.raises(WorkbenchError, match="nothing was asked yet"):
        chat.again()
    with pytest.raises(WorkbenchError, match="nothing was asked yet"):
        chat.undo()
    first = "".join(chat.say("Once upon a time"))
    assert "".join(chat.again()) == first and chat.computed == 1
    assert [each["role"] for each in chat.messages] == ["system", "user", "assistant"]
    chat.undo()
    assert chat.messages == [{"role": "system", "content": "Be brief."}]


def test_an_answer_that_is_closed_is_what_was_said_until_then(model, chat):
    answer = chat.say("Once upon a time")
    said = next(answer)
    answer.close()
    assert chat.messages[-1] == {"role": "assistant", "content": said}
    assert "".join(chat.say("Then")) == alone(model, chat.messages[:-1])


def test_an_answer_belongs_to_the_conversation_that_it_was_asked_in(model, chat):
    """One at a time, and what changes meanwhile is neither lost nor answered."""
    answer, late = chat.say("Once upon a time"), chat.say("Then")
    first = next(answer)
    for meanwhile in (lambda: next(late), chat.undo, lambda: setattr(chat, "messages", [])):
        with pytest.raises(SessionBusyError, match=r"between the steps of `say`; .* close it"):
            meanwhile()
    said = first + "".join(answer)
    assert said == alone(model, chat.messages[:-1])
    stale, system = chat.say("Then"), chat.messages[:1]
    chat.messages = system
    with pytest.raises(WorkbenchError, match="has changed since this answer was asked for"):
        next(stale)
    assert chat.messages == system and "".join(chat.say("Once upon a time")) == said


def test_what_does_not_fit_changes_nothing(folder, chat):
    small = workbench.load(folder, backend="torch", max_tokens=40)
    with small.chat(max_new_tokens=30) as made:
        answer = made.say("Once")
        assert "".join(answer) and answer.finish_reason == "context"
        before = made.messages
        with pytest.raises(PromptTooLongError, match=r"do not fit into a cache of 40.*undo a turn"):
            made.say("Then " * 20)
        assert made.messages == before
    with pytest.raises(TextError, match="the message"):
        chat.say("a\ud800")
    with pytest.raises(WorkbenchError, match="allowed: texts 'role' and 'content'"):
        chat.messages = [{"role": "user"}]
    made.messages = []
    with pytest.raises(WorkbenchError, match="closed"):
        next(made.say("x"))


def test_a_model_without_a_template_says_so(shared):
    plain = workbench.load(shared / "models" / "stories260K-hf", backend="torch")
    with pytest.raises(WorkbenchError, match="no chat template"):
        plain.chat()


def test_the_command(folder, capsys, monkeypatch):
    typed = "Once upon a time\n\n/again\n/undo\n" + "so " * 2000 + "\n/undo\nThen\n/bye\nnever read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    status = cli.main(["chat", "--model", str(folder), "--backend", "torch", "--max-new-tokens", "6"])
    said, shown = capsys.readouterr()
    assert status == 0 and len(said.split("\n")) >= 3
    assert "do not fit into a cache of 512" in shown and "error: nothing was asked yet" in shown
    assert cli.main(["chat", "--model", str(folder), "--temperature", "-1"]) == 2


class Interrupting(io.StringIO):
    """stdout whose reader presses Ctrl-C when the third piece of an answer comes, once."""

    pieces = 0

    def write(self, text: str) -> int:
        self.pieces += bool(text.strip())
        if self.pieces == 3:
            self.pieces += 1
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, whatever was done to it in this process before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_stops_the_answer_and_not_the_conversation(folder, monkeypatch, interruptible):
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon a time\nThen\n"))
    monkeypatch.setattr("sys.stdout", Interrupting())
    options = ["--temperature", "0", "--max-new-tokens", "12"]
    assert cli.main(["chat", "--model", str(folder), "--backend", "torch", *options]) == 0
    with workbench.load(folder, backend="torch").chat(temperature=0, max_new_tokens=12) as chat:
        pieces = list(chat.say("Once upon a time"))
        third = [index for index, piece in enumerate(pieces) if piece.strip()][2]
        assert third < len(pieces) - 1
        chat.messages = [chat.messages[0], {"role": "assistant", "content": "".join(pieces[: third + 1])}]
        second = "".join(chat.say("Then"))
    assert sys.stdout.getvalue() == f"{''.join(pieces[:third])}\n{second}\n"


def test_a_conversation_outlives_its_device(folder, adapter):
    """What the cache held is fed again, on another device."""
    own = OwnDevices()
    said = [{"role": "user", "content": "Once"}, {"role": "assistant", "content": "upon a time"}]
    asked = [*said, {"role": "user", "content": "Then"}]
    with model_on(folder, own, max_tokens=128).chat(max_new_tokens=4) as chat:
        chat.messages = said
        own.opened[0].wgpu.destroy()
        with pytest.raises(DeviceLostError):
            list(chat.say("Then"))
        assert chat.messages == said
        assert "".join(chat.say("Then")) == alone(chat.model, asked, 4)
        assert chat.computed == len(chat_ids(chat.model.tokenizer, asked)) and len(own.opened) == 2
