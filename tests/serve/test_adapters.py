"""A server whose requests name adapters: as `model`, behind the model's name or alone."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from safetensors.torch import save_file

import workbench
from tests.models.lora_cases import PLAIN
from workbench.commands.serve import loras_of
from workbench.errors import WorkbenchError
from workbench.serve.app import Limits, make_app
from workbench.serve.asked import Served
from workbench.serve.engine import Engine

from .conftest import SEQUENCES
from .test_requests import ask, refused

ASKED = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def adapters(reference, tmp_path_factory):
    """Two folders, of other ranks and on other matrices."""
    found, generator = {}, torch.Generator().manual_seed(0)
    for name, rank, part in (("pirate", 4, "self_attn.q_proj"), ("poet", 2, "mlp.down_proj")):
        folder, factors = tmp_path_factory.mktemp(name), {}
        for layer in range(reference.config.layers):
            module = f"model.layers.{layer}.{part}"
            rows, columns = reference.source.describe(f"{module}.weight")[0]
            down = torch.randn(rank, columns, generator=generator) / columns**0.5
            factors[f"base_model.model.{module}.lora_A.weight"] = down
            factors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
        save_file(factors, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, "r": rank}))
        found[name] = folder
    return found


@pytest.fixture(scope="module")
def model(folder, adapters):
    return workbench.load(folder, backend="torch", max_tokens=64, lora=adapters)


@pytest.fixture(scope="module")
def app(model):
    with closing(Engine(model, SEQUENCES, 64)) as engine:
        yield make_app(engine, Served(model, "stories"), Limits(20_000))


def test_adapters_are_listed_as_models(app):
    found = ask(app, "/v1/models", None, method="GET").json()["data"]
    assert [each["id"] for each in found] == ["stories", "stories:pirate", "stories:poet"]
    assert [each.get("parent") for each in found] == [None, "stories", "stories"]
    for name in ("poet", "stories:poet"):
        assert ask(app, f"/v1/models/{name}", None, method="GET").json() == found[2]


def test_each_request_has_the_adapter_that_it_names(app, model):
    """Requests that are served side by side, and what the model gives alone with each."""
    names = {None: None, "stories": None, "stories:pirate": "pirate", "pirate": "pirate", "poet": "poet"}
    with ThreadPoolExecutor(len(names)) as threads:
        bodies = [ASKED | ({"model": name} if name else {}) for name in names]
        found = list(threads.map(lambda body: ask(app, "/v1/completions", body).json(), bodies))
    for answer, adapter in zip(found, names.values(), strict=True):
        expected = "".join(model.generate(ASKED["prompt"], 8, adapter=adapter))
        assert answer["choices"][0]["text"] == expected
        assert answer["model"] == (f"stories:{adapter}" if adapter else "stories")
    assert len({answer["choices"][0]["text"] for answer in found}) == 3
    chat = {
        "model": "poet",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 4,
        "temperature": 0,
    }
    said = ask(app, "/v1/chat/completions", chat).json()
    with closing(model.chat(max_new_tokens=4, adapter="poet")) as alone:
        assert said["choices"][0]["message"]["content"] == "".join(alone.say("a"))


@pytest.mark.parametrize("name", ["prose", "stories:", "stories:prose", "other:poet"])
def test_another_name_is_refused(app, name):
    error = refused(ask(app, "/v1/completions", ASKED | {"model": name}), 404)
    assert (
        error["code"] == "model_not_found"
        and "'stories', 'stories:pirate', 'stories:poet'" in error["message"]
    )


def test_what_the_option_says():
    assert loras_of(None) is None and loras_of(["DIR/one"]) == "DIR/one"
    assert loras_of(["a=DIR/one"]) == {"a": "DIR/one"}
    assert loras_of(["DIR/one", "b=DIR/two"]) == {"one": "DIR/one", "b": "DIR/two"}
    with pytest.raises(WorkbenchError, match="--lora names 'one' twice: DIR/one and OTHER/one"):
        loras_of(["DIR/one", "OTHER/one"])
