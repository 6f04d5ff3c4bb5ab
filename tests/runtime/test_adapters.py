"""Which adapter runs: by name, by place, by default; one that is not there is an error, never the references."""

from __future__ import annotations

import argparse
import json

import pytest

import workbench
from workbench import cli
from workbench.errors import NoAdapterError, WorkbenchError
from workbench.models.families import architecture_of
from workbench.runtime import device as devices
from workbench.runtime.adapters import VARIABLE, find_adapter, list_adapters
from workbench.runtime.choices import choose
from workbench.runtime.device import Device, adapter_missing, open_device

from .models import LLAMA3_8B, SHAPES, write_random

CONFIG = architecture_of(LLAMA3_8B)
ABSENT = "no such adapter"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("adapters") / "model", SHAPES[0])


@pytest.fixture
def listed(open_promised, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    open_promised()  # skips where there is no adapter
    return list_adapters()


@pytest.fixture
def default(listed):
    return next(each for each in listed if each.default)


def test_one_of_the_list_runs_by_default(listed, default):
    assert [each.index for each in listed] == list(range(len(listed)))
    assert default.usable and default.name == open_device().name
    assert sum(each.default for each in listed) == 1


def test_by_place_and_by_part_of_the_name(default, monkeypatch):
    part = default.device.split()[0]
    for wanted in (default.index, str(default.index), f" {part.upper()} "):
        assert open_device(wanted).name == default.name
        assert dict(find_adapter(wanted).info)["device"] == default.device
        monkeypatch.setenv(VARIABLE, str(wanted))
        assert open_device().name == default.name and adapter_missing() is None
        monkeypatch.delenv(VARIABLE)


@pytest.mark.parametrize("wanted", [ABSENT, 99, "99", "4090 or so"])
def test_one_that_is_not_there_lists_those_that_are(default, wanted, checkpoint):
    with pytest.raises(NoAdapterError, match=rf"{wanted}.* matches no adapter; there are: 0: "):
        open_device(wanted)
    for backend in (None, "wgpu"):
        with pytest.raises(NoAdapterError, match="matches no adapter"):
            workbench.load(checkpoint, backend=backend, adapter=wanted)


@pytest.mark.parametrize("wanted", ["", " ", True, 1.5, b"x"])
def test_what_names_no_adapter_is_refused(wanted, checkpoint):
    with pytest.raises(WorkbenchError, match="adapter is a part of a name or a place"):
        workbench.load(checkpoint, adapter=wanted)


def test_one_that_cannot_run_kernels_is_named(listed):
    unable = [each for each in listed if not each.usable]
    if not unable:
        pytest.skip("every adapter here can run kernels")
    with pytest.raises(NoAdapterError, match=f"{unable[0].backend}.*kernels need one of Vulkan"):
        find_adapter(unable[0].index)


@pytest.mark.parametrize("backend", [None, "wgpu"])
def test_a_pinned_adapter_that_is_absent_never_means_the_references(checkpoint, monkeypatch, backend):
    monkeypatch.setenv(VARIABLE, ABSENT)
    with pytest.raises(NoAdapterError, match=f"{VARIABLE}='{ABSENT}'"):
        workbench.load(checkpoint, backend=backend)
    with pytest.raises(NoAdapterError):
        adapter_missing()  # which commands ask that run both backends
    assert (
        workbench.load(checkpoint, backend="torch").backend == "torch"
    )  # asked for by name: it is what runs


def test_an_adapter_goes_before_the_environment(default, checkpoint, monkeypatch):
    monkeypatch.setenv(VARIABLE, ABSENT)
    model = workbench.load(checkpoint, adapter=default.index, max_tokens=16)
    assert model.device_name == default.name
    assert ("adapter", default.name, "asked for") in model.choices
    assert model.forward([1, 2]).logits.shape == (2, SHAPES[0].vocab)


def test_an_adapter_for_the_references_is_a_contradiction(checkpoint):
    with pytest.raises(WorkbenchError, match="leave one out"):
        workbench.load(checkpoint, backend="torch", adapter=0)


# ---- dtype -------------------------------------------------------------------------------------------------------


@pytest.fixture
def without_f16(open_promised, monkeypatch):
    open_promised()
    made = Device(find_adapter(), f16=False)
    monkeypatch.setattr(devices, "open_device", lambda adapter=None: made)
    return made


def reason(chosen, what: str) -> tuple[str, str]:
    return next((value, why) for name, value, why in chosen.reasons if name == what)


def test_f16_without_shader_f16_says_what_would_run(without_f16):
    for options, named in (({"dtype": "f16"}, "dtype"), ({"dtype": "f32", "cache": "f16"}, "cache")):
        with pytest.raises(WorkbenchError, match=f"no shader-f16.*{named}='f32' can.*dtype='auto'"):
            choose(CONFIG, "wgpu", options["dtype"], 16, options.get("cache"))


def test_auto_takes_what_the_adapter_has(without_f16):
    chosen = choose(CONFIG, "wgpu", "auto", 16)
    assert chosen.dtype == "f32" and reason(chosen, "dtype") == ("f32", "auto: the adapter has no shader-f16")
    assert reason(chosen, "cache")[0] == "f32"


def test_auto_is_f16_where_there_is_shader_f16(default, checkpoint):
    if "shader-f16" not in default.features:
        pytest.skip("the adapter has no shader-f16")
    model = workbench.load(checkpoint, backend="wgpu", dtype="auto", max_tokens=16)
    assert model.executor.activations == model.executor.cache == "f16"
    assert (
        workbench.load(checkpoint, backend="torch", dtype="auto", max_tokens=16).executor.activations == "f32"
    )


# ---- the command line ---------------------------------------------------------------------------------------------


def options(name: str) -> set[str]:
    """Of a command or, as in `bench suite`, of a part of one."""
    parser = cli.build_parser()
    for word in name.split():
        subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = subparsers.choices[word]
    return set(parser._option_string_actions)


def test_every_command_that_runs_a_model_takes_an_adapter():
    for command in (
        "generate",
        "chat",
        "perplexity",
        "info",
        "speed",
        "tune",
        "bench suite",
        "bench kernels",
        "demo",
        "sweep",
        "reproduce",
        "adapters",
    ):
        assert "--adapter" in options(command), command
    for command in ("quantize", "allocate"):
        assert ("--fit-memory" in options(command)) == ("--adapter" in options(command))


def test_the_list_as_a_table_and_as_json(default, capsys):
    assert cli.main(["adapters"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:2] == ["#", "adapter"] and default.device in table[1 + default.index]
    assert table[1 + default.index].startswith("*")
    assert cli.main(["adapters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[default.index] == json.loads(json.dumps(default.to_json()))


@pytest.mark.parametrize(
    "arguments, status, said",
    [
        (["--adapter", ABSENT], 1, "matches no adapter; there are: "),
        (["--adapter", ABSENT, "--backend", "torch"], 2, "leave one out"),
        (["--adapter", ""], 2, "not an empty text"),
    ],
)
@pytest.mark.parametrize("quiet", [[], ["--quiet"]], ids=["", "quiet"])
def test_an_impossible_adapter_ends_a_command(
    checkpoint, capsys, monkeypatch, arguments, status, said, quiet
):
    monkeypatch.setenv(VARIABLE, "untouched")
    asked = ["generate", "--model", str(checkpoint), "--prompt", "x", *arguments, *quiet]
    assert cli.main(asked) == status
    assert said in capsys.readouterr().err
    import os

    assert os.environ[VARIABLE] == "untouched"  # the option holds for its command alone
