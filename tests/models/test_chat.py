"""Chat templates: programs that come with a model, run in a sandbox, and what is said when they fail."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import tokenization_utils_base

import workbench
from workbench.errors import WorkbenchError
from workbench.models.chat import chat_ids, chat_text
from workbench.models.tokenizer import load_tokenizer

ASKED = [{"role": "user", "content": "Once"}]
PLAIN = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)


@pytest.fixture(scope="module")
def stories(shared):
    return shared / "models" / "stories260K-hf"


@pytest.fixture
def tokenizer(stories, tmp_path):
    def make(template, file: bool = False):
        shutil.copytree(stories, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        if file:
            (tmp_path / "chat_template.jinja").write_text(template)
        elif template is not None:
            config["chat_template"] = template
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return load_tokenizer(tmp_path)

    return make


@pytest.mark.parametrize("file", [False, True])
def test_a_conversation_is_written_by_the_template(tokenizer, file):
    made = tokenizer(PLAIN, file)
    assert chat_text(made, ASKED) == "[user] Once [answer]"
    assert chat_ids(made, ASKED) == made("[user] Once [answer]", add_special_tokens=False).input_ids
    open_ended = [*ASKED, {"role": "assistant", "content": "upon a"}]
    assert chat_text(made, open_ended, open_answer=False) == "[user] Once [assistant] upon a"


FAILING = {
    "raises": "{{ raise_exception('roles must alternate') }}",
    "is no Jinja": "{% for %}",
    "has no default": [{"name": "rag", "template": "a"}, {"name": "tool_use", "template": "b"}],
    "divides by zero": "{{ 1 // 0 }}",
    "adds a number to a text": "{{ messages[0].content + 1 }}",
    "asks for what is not there": "{{ messages[7].content.more }}",
    "includes itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "counts without end": "{% for i in range(10 ** 12) %}x{% endfor %}",
    "reaches for Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches for modules": "{{ cycler.__init__.__globals__.os.system('touch mark') }}",
    "changes the messages": "{{ messages.append(1) }}",
    "imports a file": "{% include 'config.json' %}",
}


@pytest.mark.parametrize("template", FAILING.values(), ids=FAILING.keys())
def test_a_template_that_fails_is_an_error_that_names_it(tokenizer, template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tokenizer(template)
    for call in (chat_text, chat_ids):
        with pytest.raises(WorkbenchError, match=f"the chat template of {tmp_path} fails: "):
            call(made, ASKED)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("template", [5, True, {"a": 1}, [[1]], [{"name": "x"}]], ids=str)
def test_a_template_of_another_type_is_refused(tokenizer, template):
    with pytest.raises(WorkbenchError, match=r"chat template|tokenizer cannot be loaded"):
        chat_text(tokenizer(template), ASKED)


PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("template", [PARTS, "Hello", "{{ messages[0].role }}"])
def test_a_template_that_leaves_out_what_is_said_is_refused(tokenizer, template):
    """Nobody would see that the model was asked nothing."""
    made = tokenizer(template)
    for call in (chat_text, chat_ids):
        with pytest.raises(WorkbenchError, match="writes nothing of the last message"):
            call(made, ASKED)


def test_a_template_may_write_a_message_in_its_own_way(tokenizer):
    made = tokenizer("{% for m in messages %}{{ m.content | upper | tojson }}{% endfor %}")
    assert chat_text(made, [{"role": "user", "content": ' "Why?" '}]) == '" \\"WHY?\\" "'
    with pytest.raises(WorkbenchError, match="makes nothing of these messages"):
        chat_ids(tokenizer("{{ messages[0].content }}"), [{"role": "user", "content": ""}])


def test_long_texts_are_tokenized_without_a_word(tokenizer, tmp_path, monkeypatch):
    """transformers would say that they are longer than the context; the engine says so where it matters."""
    tokenizer(PLAIN)
    model = workbench.load(tmp_path, backend="torch")
    model.tokenizer.model_max_length = 8
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda *said, **_: pytest.fail(str(said)))
    assert len(model.encode_prompt("Once upon a time " * 9)) > 8
    assert len(model.encode_prompt("Once upon a time " * 9, chat=True)) > 8


@pytest.mark.parametrize("template", [None, "", []], ids=str)
def test_a_missing_template_is_said(tokenizer, template):
    with pytest.raises(WorkbenchError, match="no chat template; leave `chat` off"):
        chat_ids(tokenizer(template), ASKED)


def test_a_model_tells_the_same(tokenizer, tmp_path):
    tokenizer(FAILING["raises"])
    model = workbench.load(tmp_path, backend="torch")
    with pytest.raises(WorkbenchError, match="TemplateError: roles must alternate; leave `chat` off"):
        model.generate("Once", chat=True)
    assert model.generate("Once", max_new_tokens=1)
