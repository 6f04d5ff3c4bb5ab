"""Folders that a page could be in: a converted model and its programs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.models import Shape, write_random
from tests.support.steps import sizes_of_steps
from tests.support.threads import one_torch_thread
from workbench.assets import demo_model_path
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.text import parse_format
from workbench.models.source import open_source
from workbench.runtime import export
from workbench.runtime.device import adapter_missing
from workbench.runtime.export import export_programs

#: Positions of the caches.
CAPACITY = 128
#: Spaces are trimmed, a system message stands in front, and the text opens an answer, as published templates do.
CHAT = """{{ bos_token }}{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}
{{ '<' + message['role'] + '>' + message['content'] | trim + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}<assistant>{% endif %}"""


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small models run faster on one thread, and the same on every machine."""
    with one_torch_thread():
        yield


@pytest.fixture
def adapter() -> None:
    """The native engine, which browsers are compared with, runs on a device too."""
    if missing := adapter_missing():
        pytest.skip(missing)


@pytest.fixture(scope="package", autouse=True)
def software_adapters():
    """Programs for adapters as Chromium's software one is: lowering takes seconds for each kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "SUBGROUPS", (0, 4))
        patch.setattr(export, "TYPES", ("f32",))
        patch.setattr(export, "WIDE", export.PROMISED)
        yield


@pytest.fixture(scope="package", autouse=True)
def few_steps():
    with sizes_of_steps(16, 1):
        yield


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A random model of one layer with the embedded model's tokenizer, and a chat template."""
    folder = write_random(
        tmp_path_factory.mktemp("small") / "small", Shape("small", 64, 96, 2, 1, 32, vocab=4096, layers=1)
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo_model_path() / name, folder / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT}))
    return folder


@pytest.fixture(scope="package")
def site(software_adapters, few_steps, tmp_path_factory) -> Callable[..., Path]:
    """`site(format, checkpoint, max_tokens, **how)`: a folder with `model` and `programs`, exported so."""

    def make(format: str, checkpoint: Path, max_tokens: int = CAPACITY, **how: Any) -> Path:
        folder = tmp_path_factory.mktemp("site")
        convert(checkpoint, folder / "model", ConvertOptions(parse_format(format)))
        export_programs(open_source(folder / "model"), folder / "programs", max_tokens=max_tokens, **how)
        return folder

    return make


@pytest.fixture(scope="package")
def small_site(site, small) -> Path:
    return site("int4/32", small)
