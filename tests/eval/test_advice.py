"""Warnings that teach: each once, with what to do, kept by the result that it is of and shown with it."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import warnings

import pytest

from eval import advice
from eval.perplexity import perplexities, perplexity
from eval.statistics import tokens_to_tell
from eval.texts import Text, encode
from tests.eval.conftest import byte_tokenizer
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench import cli, quantize
from workbench.convert.suited import padding
from workbench.errors import WorkbenchWarning


def said(found) -> list[str]:
    return [str(each.message) for each in found if issubclass(each.category, WorkbenchWarning)]


def test_marks_between_documents_are_said_and_counted():
    tokenizer = byte_tokenizer()
    text = Text("one<|endoftext|>two<|endoftext|>three</s>")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        tokens = [encode(tokenizer, text, "disjoint-4") for _ in range(3)]
    [message] = said(found)  # once
    assert message == tokens[0].warnings[0]
    assert "<|endoftext|> 2 times" in message and "--separator '<|endoftext|>'" in message
    assert "</s>" not in message  # the tokenizer's own token: no characters of it are scored
    assert found[0].filename == __file__
    apart = encode(tokenizer, Text("one<|endoftext|>two"), "disjoint-4", separator="<|endoftext|>")
    assert apart.warnings == () and encode(tokenizer, "plain", "disjoint-4").warnings == ()


#: A `with` in a module of ours, as conversions have one.
WITHIN = """
import contextlib
from eval import advice

@contextlib.contextmanager
def opened():
    advice.advise(["from within"])
    yield

def convert():
    with opened():
        pass
"""


def test_advice_from_within_a_with_is_of_the_line_that_called_us():
    module = {"__name__": "workbench.convert.some"}
    exec(compile(WITHIN, "some.py", "exec"), module)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        module["convert"]()
    assert said(found) == ["from within"] and found[0].filename == __file__


def test_a_result_keeps_what_is_said_of_its_text_and_shows_it(tiny, prose):
    with pytest.warns(WorkbenchWarning, match="1 time, which"):
        result = perplexity(tiny, f"{prose}<eos>{prose}", "disjoint-64")
    assert len(result.warnings) == 1 and "<eos> 1 time" in result.summary()


def test_how_many_tokens_would_tell(tiny, prose):
    """The number at which the error, which falls with the root of the tokens, is half of the change."""
    with pytest.warns(WorkbenchWarning, match=r"are too few to tell .* from none; about [\d,]+ would"):
        result = perplexity(tiny, prose, "disjoint-64", baseline=tiny.perturbed(0.002, 1))
    found = result.baseline
    se = max(found.ln_ratio_se, found.ln_ratio_se_clustered)
    assert abs(found.ln_ratio) < 2 * se
    needed = tokens_to_tell(result.tokens_scored, found.ln_ratio, se)
    assert 2 * se * math.sqrt(result.tokens_scored / needed) == pytest.approx(abs(found.ln_ratio), rel=0.01)
    text = advice.few_tokens(result)
    count = int(re.search(r"about ([\d,]+) would", text)[1].replace(",", ""))
    assert needed <= count <= 1.1 * needed + 1 and "(a longer text)" in text and text in result.summary()
    part = dataclasses.replace(result, windows_available=99)
    assert "(more windows)" in advice.few_tokens(part)
    told = dataclasses.replace(found, ln_ratio=0.5)
    assert advice.few_tokens(dataclasses.replace(result, baseline=told)) is None
    same = dataclasses.replace(found, ln_ratio=0.0, ln_ratio_se=0.0, ln_ratio_se_clustered=0.0)
    assert advice.few_tokens(dataclasses.replace(result, baseline=same)) is None
    assert tokens_to_tell(100, 0.0, 1.0) is None and tokens_to_tell(100, 1.0, math.nan) is None


def test_a_baseline_of_another_precision_is_said_once(tiny, prose, monkeypatch):
    other = tiny.perturbed(0.5, 1)
    monkeypatch.setattr(tiny, "describe_provenance", lambda: {"activations": "f16", "cache": "f16"})
    monkeypatch.setattr(other, "describe_provenance", lambda: {"activations": "f32", "cache": "f32"})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        results = perplexities({"a": tiny, "b": tiny, "base": other}, prose, "disjoint-64", baseline="base")
    wanted = (
        "the model ran with f16 activations and f16 cache, its baseline with f32 activations and f32 cache"
    )
    assert [message for message in said(found) if wanted in message] == [results["a"].warnings[0]]
    assert results["base"].warnings == () and "--baseline-dtype" in results["b"].warnings[0]
    assert advice.other_precision({"activations": "f32", "cache": "f32"}, {}) is None  # unknown


def test_a_notebook_is_not_told_what_its_result_shows(monkeypatch):
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setitem(
        sys.modules, "IPython", type("IPython", (), {"get_ipython": staticmethod(lambda: shell)})
    )
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        advice.advise(["shown", "shown"], shown=True)
        advice.advise(["not shown", "not shown"])
    assert said(found) == ["not shown"]


def test_blocks_that_do_not_divide_the_rows(tmp_path):
    """A block that was given is kept, and what padding costs is said where another block costs less."""
    model = write_checkpoint(tmp_path / "model", random_state(CONFIG), CONFIG)
    with pytest.warns(
        WorkbenchWarning, match=r"rows of \d+ are padded to 256 for blocks of 256: .* would take"
    ):
        quantize(model, "int4/256", execution={"backend": "torch"}, progress=False)
    fitted = "blocks of 96, which divide rows of 576, in place of 128: 4.3 bits a weight in place of 4.4"
    hopeless = "rows of 48 are padded to 128 for blocks of 128: 11.167 bits a weight"
    assert padding([fitted, hopeless, f"{hopeless}; blocks of 64 would take 8.1"]) == [
        f"{hopeless}; blocks of 64 would take 8.1"
    ]


def test_a_command_says_it_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(cli.info, "run", lambda arguments: advice.advise(["look here"]))
    assert cli.main(["info", "x"]) == 0 and capsys.readouterr().err == "workbench: look here\n"
    assert cli.main(["info", "x", "--quiet"]) == 0 and capsys.readouterr().err == ""
