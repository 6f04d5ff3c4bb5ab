"""What commands say and where: examples in every help, stdout that holds JSON alone, one form of errors, quiet."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys

import pytest

from workbench import cli
from workbench.commands.output import ERROR_KIND
from workbench.errors import KernelError, ProtocolError


def parsers(
    parser: argparse.ArgumentParser | None = None, name: str = ""
) -> dict[str, argparse.ArgumentParser]:
    """Every command and every part of one, by its words."""
    parser = parser or cli.build_parser()
    found = {name: parser} if name else {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                found |= parsers(sub, f"{name} {word}".strip())
    return found


COMMANDS = parsers()
#: What has no result, and what hands its options to another program.
WITHOUT_JSON = {"chat", "lm-eval", "bench", "serve"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_two_examples_that_the_parser_takes(name):
    _, mark, below = COMMANDS[name].format_help().partition("\nexamples:\n")
    lines = [line.strip() for line in below.strip().splitlines()]
    assert mark and len(lines) >= 2
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "workbench" and " ".join(words).startswith(name)
        cli.build_parser().parse_args(words)


def test_every_command_takes_quiet_and_json():
    options = {
        name: {o for a in parser._actions for o in a.option_strings} for name, parser in COMMANDS.items()
    }
    assert {name for name, has in options.items() if "--quiet" not in has} == {"lm-eval", "bench"}
    assert {name for name, has in options.items() if "--json" not in has} == WITHOUT_JSON
    for parser in COMMANDS.values():
        for action in parser._actions:
            if "--json" in action.option_strings:
                assert action.nargs == "?" and parser.get_default("json") is None


def run(capsys, *arguments) -> tuple[int, str, str]:
    return cli.main([str(each) for each in arguments]), *capsys.readouterr()


@pytest.mark.parametrize("line", ["models", "adapters", "notebook", "reproduce --list"])
def test_stdout_holds_the_json_and_a_file_leaves_the_text(capsys, tmp_path, line, adapter):
    status, text, _ = run(capsys, *line.split())
    told, out, _ = run(capsys, *line.split(), "--json")
    values = json.loads(out)
    assert (status, told) == (0, 0) and values
    file = tmp_path / "out.json"
    assert run(capsys, *line.split(), "--json", file)[:2] == (0, text)
    assert json.loads(file.read_text("utf-8")) == values


def test_what_a_command_prints_meanwhile_goes_to_stderr(capsys, monkeypatch):
    def prints(arguments):
        print("meanwhile")
        print("aside", file=sys.stderr)
        cli.info.answer(arguments, "text", {"a": float("nan")})

    monkeypatch.setattr(cli.info, "run", prints)
    assert run(capsys, "info", "x") == (0, "meanwhile\ntext\n", "aside\n")
    status, out, err = run(capsys, "info", "x", "--json")
    assert (status, json.loads(out), err) == (0, {"a": None}, "meanwhile\naside\n")
    assert run(capsys, "info", "x", "--quiet") == (0, "meanwhile\ntext\n", "")
    assert run(capsys, "info", "x", "--quiet", "--json")[2] == ""


@pytest.mark.parametrize(
    ("error", "status"), [(ProtocolError("no\nsuch"), 2), (KernelError("does not compile"), 1)]
)
def test_errors_have_one_form(capsys, monkeypatch, error, status):
    """A line of its own behind a bar that is open, also where quiet was asked for; with --json an object as well."""
    from tqdm import tqdm

    def fails(arguments):
        bar = tqdm(total=3, file=sys.stderr)
        bar.update(1)
        raise error

    monkeypatch.setattr(cli.info, "run", fails)
    message = " ".join(str(error).split())
    got, out, err = run(capsys, "info", "x", "--json")
    assert got == status and err.splitlines()[-1] == f"workbench: error: {message}" and "1/3" in err
    wanted = {"type": type(error).__name__, "message": message, "status": status}
    assert json.loads(out) == {"kind": ERROR_KIND, "version": 1, "error": wanted}
    assert run(capsys, "info", "x", "--quiet") == (status, "", f"workbench: error: {message}\n")


def test_a_wrong_option_is_an_object_too(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["info", "x", "--dtype", "f8", "--json"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 2 and json.loads(out)["error"]["type"] == "UsageError"
    assert json.loads(out)["error"]["message"] in err and "invalid choice: 'f8'" in err
    status, out, _ = run(capsys, "info", "x", "--json", "/nowhere/at/all.json")
    assert status == 2 and out == ""


@pytest.mark.parametrize("line", ["import a --output b", "info --model x", "bench kernels --nothing"])
def test_an_option_that_a_command_lacks_is_answered_with_that_commands_usage(capsys, line):
    with pytest.raises(SystemExit) as stopped:
        cli.main(line.split())
    command = " ".join(line.split()[: 2 if line.startswith("bench") else 1])
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.startswith(f"usage: workbench {command} [-h]")
    assert f"workbench {command}: error: unrecognized arguments: --" in err


def test_warnings_stand_above_a_bar(capsys, monkeypatch):
    import warnings

    from tqdm import tqdm

    from workbench.runtime.tuning.store import TuningFileWarning

    def warns(arguments):
        with tqdm(total=2, file=sys.stderr) as bar:
            bar.update(1)
            warnings.warn("look", TuningFileWarning, stacklevel=1)

    monkeypatch.setattr(cli.info, "run", warns)
    _, _, err = run(capsys, "info", "x")
    assert "workbench: look" in [line.split("\r")[-1].strip() for line in err.splitlines()]
    assert "look" not in run(capsys, "info", "x", "--quiet")[2]


def test_nothing_is_coloured():
    """Neither with a terminal's environment nor with NO_COLOR."""
    for more in ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, {"NO_COLOR": "1", "TERM": "xterm-256color"}):
        done = subprocess.run(
            [sys.executable, "-m", "workbench.cli", "models"],
            env={**os.environ, **more},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "\x1b[" not in done.stdout + done.stderr


def test_the_shell_is_told_what_may_come_next():
    pytest.importorskip("argcomplete")
    line = "workbench bench k"
    shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    code = (
        "import os, sys; os.dup2(1, 8); from workbench.cli import main; sys.argv[0] = 'workbench'; main([])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **shell}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["kernels"]
