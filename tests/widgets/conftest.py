"""Models for the widgets' tests: a few layers of the embedded one, and one whose tokens try to break out of a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runtime.models import Shape, write_random
from tests.support.chromium import launched
from tests.support.steps import sizes_of_steps
from tests.support.threads import one_torch_thread
from tests.widgets.bridge import bridged
from workbench.commands.conversions import convert_each
from workbench.runtime.loading import load
from workbench.runtime.model import Model

#: Markup, direction and control characters, ANSI escapes, halves of tags, things that look escaped already.
HOSTILE = (
    "<img src=x onerror=\"window.broken='img'\">",
    "</script><script>window.broken='script'</script>",
    "\u202egnirts desrever",
    "\u2066\u200b\ufeff",
    "\x1b[31m\x00\x07",
    "<b>bold",
    "&lt;i&gt;",
    "'\"><svg onload=\"window.broken='svg'\">",
    "\N{SNOWMAN}\N{COMBINING ACUTE ACCENT}",
)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small models run faster on one thread, and the same on every machine."""
    with one_torch_thread():
        yield


@pytest.fixture(scope="package", autouse=True)
def few_steps():
    with sizes_of_steps(64, 1):
        yield


@pytest.fixture(scope="package")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture
def shown(browser, tmp_path):
    """`shown(widget)` opens it in a page: a context that gives a `Bridge`."""

    def show(widget, width: int = 960):
        return bridged(browser, widget, tmp_path, width)

    return show


@pytest.fixture(scope="package")
def int4(shallow, tmp_path_factory) -> Path:
    """The shallow model in INT4."""
    return convert_each(shallow, tmp_path_factory.mktemp("shallow"), ["int4"])["int4"]


@pytest.fixture(scope="package")
def model(few_steps, shallow) -> Model:
    """The shallow model on the device, or on the references where there is none."""
    return load(shallow)


@pytest.fixture(scope="package")
def quantized(few_steps, int4) -> Model:
    return load(int4)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Model:
    """A random model over the tokens of `HOSTILE`, on the references."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "go", *HOSTILE]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    folder = tmp_path_factory.mktemp("hostile") / "<b onclick=alert(1)>"
    write_random(folder, Shape("hostile", 32, 44, 4, 2, 8, vocab=len(words)))
    for name in ("config.json", "generation_config.json"):  # nothing ends a text
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"eos_token_id": None}))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return load(folder, backend="torch", max_tokens=64)
