"""Two small random Llamas, tokens to measure on, and a table measured on one of them."""

from __future__ import annotations

import numpy as np
import pytest

from eval.texts import Tokens
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench.formats.text import parse_format
from workbench.models.source import open_source
from workbench.precision.sensitivity import sensitivity

FORMATS = tuple(map(parse_format, ("f32", "int8/32", "int4/32", "int2/32")))
SCHEME = "disjoint-16"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Opened checkpoints by name: "untied" (f32) and "tied"."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        name: open_source(write_checkpoint(folder / name, random_state(config), config))
        for name, config in (("untied", CONFIG), ("tied", CONFIG | {"tie_word_embeddings": True}))
    }


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    return Tokens(np.random.default_rng(4).integers(0, CONFIG["vocab_size"], 16 * 3))


@pytest.fixture(scope="session")
def table(checkpoints, tokens):
    return sensitivity(checkpoints["untied"], tokens, SCHEME, formats=FORMATS)
