"""Text that is not UTF-8, or no text at all, wherever it comes in: an error that names it, never a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

import workbench
from eval.perplexity import perplexity
from eval.texts import Text
from tests.eval.conftest import byte_tokenizer
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench import cli, utf8
from workbench.errors import TextError, WorkbenchError

LATIN = "café".encode("latin-1")
#: A locale in which Python decodes and encodes ASCII alone.
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random checkpoint over bytes whose tokenizer adds no BOS."""
    folder = tmp_path_factory.mktemp("bytes")
    config = {**CONFIG, "vocab_size": 259}
    write_checkpoint(folder, random_state(config), config)
    byte_tokenizer(bos=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return workbench.load(folder, backend="torch")


def command(folder, prompt: str | bytes, data: bytes = b"", **environment: str):
    return subprocess.run(
        [
            *(sys.executable, "-m", "workbench.cli", "generate", "--quiet", "--backend", "torch"),
            *("--max-new-tokens", "3", "--model", folder, "--prompt", prompt),
        ],
        input=data,
        capture_output=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, PLAIN_C], ids=["C", "plain C"])
def test_a_prompt_is_utf8_in_every_locale(folder, environment):
    argument = command(folder, LATIN, **environment)
    assert argument.returncode == 2
    assert b"--prompt: the given text: byte 3 (0xE9) is not UTF-8" in argument.stderr
    stdin = command(folder, "-", LATIN, **environment)
    assert stdin.returncode == 2
    assert stdin.stderr == b"workbench: error: the prompt: byte 3 (0xE9) is not UTF-8\n"


def test_text_comes_and_goes_in_a_plain_c_locale(folder):
    found = command(folder, "café – ü", **PLAIN_C)
    assert found.returncode == 0 and found.stdout.startswith("café – ü".encode()), found.stderr


def test_an_encoding_that_cannot_say_it_ends_no_command(folder):
    found = command(folder, "-", "é €".encode(), PYTHONIOENCODING="latin-1")
    assert found.returncode == 0 and found.stdout.startswith(b"\xe9 \\u20ac"), found.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("generate", "--prompt", "a", "--stop"),
        ("chat", "--system"),
        ("perplexity", "--text", "f", "--protocol", "disjoint-8", "--separator"),
        ("allocate", "--text", "f", "--bits", "3", "--output", "o", "--separator"),
        ("quantize", "--output", "o", "--format", "int4", "--calibration-separator"),
    ],
    ids=lambda options: f"{options[0]} {options[-1]}",
)
def test_every_option_that_takes_text_asks_for_utf8(options, capsys):
    for value, said in (("caf\udce9", "byte 3 (0xE9) is not UTF-8"), ("\ud800", "half of a surrogate pair")):
        with pytest.raises(SystemExit) as stopped:
            cli.main([*options, value, "--model", "m"])
        assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_lone_surrogates_are_no_text_for_the_library_either(model):
    for make in (
        lambda: model.encode_prompt("a\ud800"),
        lambda: model.encode_prompt("a\ud800", chat=True),
        lambda: list(model.generate("a\ud800")),
    ):
        with pytest.raises(TextError, match=r"the prompt: character 1 is U\+D800, half of a surrogate pair"):
            make()
    with pytest.raises(TextError, match="a stop string: character 0"):
        list(model.generate("a", stop=["\udfff"]))
    with pytest.raises(TextError, match="text stories: character 2"):
        Text("ab\udc80", name="stories")
    for separator, what in (("\ud800", "character 0"), (3, "is a int, not text")):
        with pytest.raises(TextError, match=f"the document separator: {what}"):
            perplexity(model, "a b", "disjoint-2", separator=separator)
    for other in (None, b"a", 3, ["a"]):
        with pytest.raises(TextError, match=f"the prompt: is a {type(other).__name__}, not text"):
            model.generate(other)


def test_a_request_of_the_harness_is_text(model):
    """A lone surrogate comes out of JSON's `\\ud800`."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")
    from eval.lm_eval_adapter import WorkbenchLM

    with pytest.raises(TextError, match="a request of the task: character 1"):
        WorkbenchLM(model).tok_encode(json.loads('"a\\ud800"'))


def test_an_empty_prompt_needs_a_bos(model, folder, capsys):
    with pytest.raises(WorkbenchError, match="the prompt is empty, and this tokenizer puts no BOS in front"):
        list(model.generate(""))
    status = cli.main(["generate", "--model", str(folder), "--backend", "torch", "--prompt", "", "--quiet"])
    assert status == 2 and "the prompt is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"##\n##  ##", "holds no document between its separators '##'"),
        (LATIN, r"byte 3 \(0xE9\) is not UTF-8"),
        ("a ## b".encode("utf-16"), r"byte 0 \(0xFF\) is not UTF-8 \(it looks like UTF-16\)"),
    ],
    ids=["empty", "blank", "separators", "latin-1", "utf-16"],
)
def test_a_text_file_without_text(tmp_path, data, said, capsys):
    """A BOS for documents is asked for, so a tokenizer that has one."""
    config = {**CONFIG, "vocab_size": 259}
    write_checkpoint(tmp_path / "m", random_state(config), config)
    byte_tokenizer().save_pretrained(tmp_path / "m")
    (tmp_path / "text.txt").write_bytes(data)
    options = ["--protocol", "disjoint-8", "--separator", "##", "--backend", "torch", "--quiet"]
    text = str(tmp_path / "text.txt")
    status = cli.main(["perplexity", "--model", str(tmp_path / "m"), "--text", text, *options])
    shown = capsys.readouterr().err
    assert status == 2 and shown.startswith("workbench: error: text ") and re.search(said, shown)


def test_rows_of_a_data_set_are_named(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    from eval import texts

    row = json.loads('"b\\ud800"')
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: {"text": ["a", row]})
    with pytest.raises(TextError, match=r"dataset 'wikitext2', row 1: character 1 is U\+D800"):
        texts.load_dataset_text("wikitext2")


def test_bytes_that_an_argument_keeps_are_read_again(tmp_path):
    assert utf8.argument(os.fsdecode("ü".encode()), "x") == "ü"
    with pytest.raises(TextError, match="x: cannot be read"):
        utf8.read(tmp_path / "none", "x")
    with pytest.raises(TextError, match="x: is closed"):
        utf8.read_stream(None, "x")
