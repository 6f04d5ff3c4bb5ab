"""The command line: fast help, clean errors, and the conversion end to end."""

from __future__ import annotations

import argparse
import json
import re
import runpy
import subprocess
import sys
import time

import pytest
import torch

import workbench
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench import cli
from workbench.assets import demo_model_path
from workbench.commands.common import size
from workbench.errors import CacheFullError, ProtocolError, UnsupportedModelError
from workbench.formats.reader import StoredModel

HEAVY = {
    "numpy",
    "torch",
    "transformers",
    "tokenizers",
    "wgpu",
    "datasets",
    "matplotlib",
    "safetensors",
    "tqdm",
    "distributed",
    "starlette",
    "uvicorn",
}
COMMANDS = [
    "fetch",
    "models",
    "quantize",
    "import",
    "allocate",
    "generate",
    "chat",
    "serve",
    "perplexity",
    "compare-models",
    "routing",
    "info",
    "demo",
    "export",
    "bench",
    "speed",
    "tune",
    "notebook",
    "doctor",
    "adapters",
    "sweep",
    "table",
    "reproduce",
    "lm-eval",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source"), random_state(CONFIG), CONFIG, shards=2)


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main([str(each) for each in arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_names_what_there_is(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "usage: workbench" in said
    if not arguments:
        assert all(name in said for name in COMMANDS)


def test_python_runs_it_as_a_module_and_what_that_starts_does_not_run_it_again():
    command = [sys.executable, "-m", "workbench", "--version"]
    assert subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.startswith(
        "workbench "
    )
    assert runpy.run_module("workbench.__main__", run_name="__mp_main__")["main"] is cli.main


def test_the_promised_options_are_taken():
    parser = cli.build_parser()
    quantize = "quantize --input-dir A --output-dir B --format int4 --block-size 64 --granularity block"
    arguments = parser.parse_args(
        f"{quantize} --quantizer grid --symmetric --scale-dtype f32 --order high-first".split()
    )
    assert (arguments.model, arguments.output, arguments.block_size) == ("A", "B", 64)
    sampling = "--temperature 0.8 --top-k 5 --top-p 0.9 --min-p 0.1 --seed 3 --stop x --stop y --chat"
    arguments = parser.parse_args(
        f"generate --model A --prompt P --max-new-tokens 9 {sampling} --backend torch --dtype f16 --cache int8".split()
    )
    assert (arguments.stop, arguments.max_new_tokens, arguments.backend) == (["x", "y"], 9, "torch")
    assert (arguments.dtype, arguments.cache) == ("f16", "int8")
    options = "--separator S --baseline B --max-windows 3 --json"
    arguments = parser.parse_args(f"perplexity --model A --text F --protocol disjoint-512 {options}".split())
    assert (arguments.separator, arguments.max_windows, arguments.json) == ("S", 3, "-")


def test_help_is_fast_and_loads_nothing_heavy():
    times = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "workbench.cli", "--help"],
            capture_output=True,
            text=True,
        )
        times.append(time.perf_counter() - started)
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & HEAVY
    assert min(times) < 2  # idle it takes a fifth; one heavy import is seconds, beside other tests as well


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--format", "int4", "--block-size", "32"], "int4/32"),
        (["--format", "int8", "--granularity", "channel", "--symmetric"], "int8/channel/sym"),
        (["--format", "int2", "--zero-frac-bits", "5", "--scale-dtype", "f32"], "int2/256/z5/f32"),
        (["--format", "int4", "--zero-frac-bits", "3", "--quantizer", "hqq"], "int4/128/z3"),
        (["--format", "bf16"], "bf16"),
        (["--format", "int4/64"], "int4/64"),
        (["--format", "int8/channel", "--symmetric"], "int8/channel/sym"),
    ],
)
def test_quantize_end_to_end(capsys, tmp_path, checkpoint, options, expected):
    output = tmp_path / "out"
    status, said, shown = run(capsys, "quantize", "--model", checkpoint, "--output", output, *options)
    assert status == 0
    assert "bits a weight" in said and expected in said
    assert "100%" in shown  # the progress bar
    stored = StoredModel.open(output)
    assert str(stored.describe("model.layers.0.mlp.up_proj.weight")[1]) == expected
    assert stored.config == CONFIG


def test_quantize_switches(capsys, tmp_path, checkpoint):
    status, _, shown = run(
        capsys,
        *("quantize", "--model", checkpoint, "--output", tmp_path / "out", "--format", "int4", "--quiet"),
        *("--keep-embedding", "--keep-lm-head", "bf16", "--set", "*.layers.1.*=int8/channel"),
        *("--set", "layers.*.attn.o_proj=f32"),
    )
    assert status == 0
    assert all(line.startswith("note: rows of ") for line in shown.splitlines())  # no bar
    stored = StoredModel.open(tmp_path / "out")
    found = {name: str(stored.describe(name)[1]) for name in stored.names()}
    assert found["model.embed_tokens.weight"] == "f16" and found["lm_head.weight"] == "bf16"
    assert found["model.layers.1.self_attn.q_proj.weight"] == "int8/channel"
    assert found["model.layers.1.self_attn.o_proj.weight"] == "int8/channel"  # the first that matches
    assert found["model.layers.0.self_attn.o_proj.weight"] == "f32"
    assert found["model.layers.0.self_attn.q_proj.weight"] == "int4/128"


def broken(folder, state=None, config=CONFIG):
    return write_checkpoint(folder / "broken", random_state(CONFIG) | (state or {}), config)


WRONG = {
    "no such folder": (lambda t: t / "missing", ["--format", "int4"], "no folder"),
    "block size": (None, ["--format", "int4", "--block-size", "33"], "block_size.*33.*multiple of 32"),
    "block and channel": (
        None,
        ["--format", "int4", "--block-size", "64", "--granularity", "channel"],
        "block_size.*granularity 'channel'",
    ),
    "float with block": (
        None,
        ["--format", "f16", "--block-size", "64"],
        "--block-size: nothing that f16 has",
    ),
    "pattern syntax": (None, ["--format", "int4", "--set", "int8"], "PATTERN=FORMAT"),
    "no such dtype": (None, ["--format", "int3/64"], "'int3' is not one of int8, int4, int2, f32"),
    "a block size twice": (
        None,
        ["--format", "int4/64", "--block-size", "32"],
        "int4/64 and --block-size say the same",
    ),
    "pattern": (
        None,
        ["--format", "int4", "--set", "*nope*=int8"],
        r"'\*nope\*' matches no matrix; .* or 'layers\.1\.attn",
    ),
    "no allocation": (None, ["--precision", "none.json"], "none.json: cannot be read"),
    "memory": (None, ["--fit-memory", "1KB"], "even the smallest of f16, .* takes 0.*--max-tokens"),
    "memory and block": (None, ["--fit-memory", "2GB", "--block-size", "64"], "--block-size: --fit-memory"),
    "cache": (None, ["--format", "int4", "--max-tokens", "64"], "--max-tokens: counts in --fit-memory"),
    "other model": (
        lambda t: broken(t, config=CONFIG | {"model_type": "gpt2"}),
        ["--format", "int4"],
        "'gpt2'",
    ),
    "not finite": (
        lambda t: broken(t, {"model.norm.weight": torch.full((48,), torch.nan)}),
        ["--format", "int4"],
        r"'model.norm.weight' is not finite: nan at \[0\]",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line_and_status_2(capsys, tmp_path, checkpoint, case):
    make, options, expected = WRONG[case]
    source = checkpoint if make is None else make(tmp_path)
    status, said, shown = run(
        capsys, "quantize", "--quiet", "--model", source, "--output", tmp_path / "out", *options
    )
    assert (status, said) == (2, "")
    assert re.fullmatch(rf"workbench: error: .*{expected}.*\n", shown)
    assert not (tmp_path / "out").exists()


def test_the_highest_tier_that_fits_is_chosen_and_explained(capsys, tmp_path, checkpoint):
    command = ["quantize", "--model", checkpoint, "--output", tmp_path / "out", "--fit-memory"]
    status, said, shown = run(capsys, *command, "2GiB", "--set", "embedding=int8")
    assert status == 0 and "15 f16, 5 f32, 1 int8/128" in said
    assert shown.startswith("f16: ") and "MiB to generate (weights" in shown
    precision = StoredModel.open(tmp_path / "out").manifest["precision"]
    assert precision["model.embed_tokens.weight"]["format"] == "int8/128"
    assert precision["model.embed_tokens.weight"]["reason"].startswith(
        "override 'embedding'; rows of 48 are padded"
    )
    assert precision["lm_head.weight"]["format"] == "f16"
    assert precision["lm_head.weight"]["reason"].startswith("highest tier that fits: ")


@pytest.mark.parametrize(("text", "expected"), [("2.5MB", 2_500_000), ("2GiB", 2 << 30), ("77", 77)])
def test_sizes(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "0", "0.5", "-1", "2 TB", "1e6", "9" * 400])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size; allowed: 4000000"):
        size(text)


def test_an_existing_output_needs_overwrite(capsys, tmp_path, checkpoint):
    command = ["quantize", "--quiet", "--model", checkpoint, "--output", tmp_path / "out", "--format", "int8"]
    assert run(capsys, *command)[0] == 0
    status, _, shown = run(capsys, *command)
    assert status == 2 and "exists; --overwrite replaces it" in shown and "overwrite=True" not in shown
    assert run(capsys, *command, "--overwrite")[0] == 0


def test_perplexity_looks_at_protocol_and_text_first(capsys, tmp_path):
    command = ["perplexity", "--model", tmp_path / "missing", "--text", tmp_path / "none.txt", "--protocol"]
    status, _, shown = run(capsys, *command, "disjoint-0")
    assert status == 2 and "disjoint-0" in shown
    status, _, shown = run(capsys, *command, "disjoint-16")
    assert status == 2 and "none.txt" in shown


@pytest.mark.parametrize(("room", "says"), [(9, True), (60, False)])
def test_generate_says_that_the_context_ended_it(capsys, monkeypatch, room, says):
    command = ("generate", "--model", demo_model_path(), "--prompt", "Once upon a time", "--backend", "torch")
    with monkeypatch.context() as terminal:  # where both streams are one, it has a line of its own
        terminal.setattr("sys.stderr", sys.stdout)
        status, shown, _ = run(capsys, *command, "--max-new-tokens", 20, "--max-tokens", room)
    assert status == 0 and "Once upon a time, there was" in shown
    assert ("\nstopped at the end of the context: 9 tokens" in shown) is says
    status, _, shown = run(capsys, *command, "--max-new-tokens", 20, "--max-tokens", room, "--quiet")
    assert (status, shown) == (0, "")


def test_generate_goes_on_in_a_window(capsys):
    command = ("generate", "--model", demo_model_path(), "--prompt", "Once upon a time", "--backend", "torch")
    status, near, _ = run(capsys, *command, "--max-new-tokens", 20, "--window", 6, "--sinks", 2)
    model = workbench.load(demo_model_path(), backend="torch", window=6, sinks=2)
    assert status == 0 and near == f"Once upon a time{''.join(model.generate('Once upon a time', 20))}\n"
    status, _, shown = run(capsys, *command, "--sinks", 2)
    assert status == 2 and "sinks = 2 without a window" in shown


def test_generate_looks_at_its_options_first(capsys, tmp_path):
    status, _, shown = run(capsys, "generate", "--model", tmp_path / "x", "--prompt", "P", "--top-p", "2")
    assert status == 2 and "top_p = 2.0; allowed" in shown


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CacheFullError("full at 512"), 1, "workbench: error: full at 512\n"),
        (UnsupportedModelError("two\nlines"), 2, "workbench: error: two lines\n"),
        (ProtocolError(), 2, "workbench: error: ProtocolError\n"),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            "workbench: error: [Errno 13] Permission denied: '/x'\n",
        ),
        (KeyboardInterrupt(), 130, "workbench: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_statuses(capsys, monkeypatch, error, status, message):
    def fails(arguments):
        raise error

    monkeypatch.setattr(cli.info, "run", fails)
    assert run(capsys, "info", "model") == (status, "", message)


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fails(arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(cli.info, "run", fails)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", "model"])


def test_the_process_as_a_shell_sees_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    quantize = f"quantize --model {tmp_path} --output {tmp_path}/out --format int4"
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", *quantize.split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("workbench: error: ") and "pytorch_model.bin" in done.stderr
    assert done.stderr.count("\n") == 1
