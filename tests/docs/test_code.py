"""Python of the README and of the documentation: all of it is read against what there is, the quick part is run."""

from __future__ import annotations

import pytest

import wgsl_kernels
import workbench
from tests.docs.names import Instance, Reader
from tests.docs.pages import PAGES, named, python_blocks
from workbench.runtime.model import Model

WITH_PYTHON = [page for page in PAGES if python_blocks(page)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_names_attributes_and_keywords_exist(page):
    """A page may use what stands in a block before, and `m` or `model` for a loaded model."""
    loaded = Instance(Model)
    reader = Reader({"workbench": workbench, "wgsl_kernels": wgsl_kernels, "m": loaded, "model": loaded})
    assert [complaint for block in python_blocks(page) for complaint in reader.complaints(block)] == []


def test_the_reader_finds_what_is_wrong():
    source = (
        "import workbench\nfrom eval.texts import Text, Books\nm = workbench.load('DIR', speed=2)\n"
        "m.generate('a', max_new_tokens=3)\nm.compose('a')\nworkbench.perplexity({}, 'a', protocols=1)\n"
        "Text('a').sha256, Text('a').colour\nworkbench.quantise\n"
    )
    found = list(Reader().complaints(source))
    wrong = ("Books", "'speed'", "compose", "'protocols'", "colour", "quantise")
    assert len(found) == len(wrong) and all(any(word in each for each in found) for word in wrong)
