"""Small random checkpoints with a byte-level tokenizer and a text, for calibration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.eval.conftest import byte_tokenizer
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench.convert.calibration import CalibrationOptions

SMALL = CONFIG | {"vocab_size": 259, "intermediate_size": 80, "max_position_embeddings": 32}
TEXT = "".join(f"{n} squared is {n * n}, and {n} cubed is {n**3}. " for n in range(200))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small matrices run faster on one thread, and the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_checkpoint(folder: Path, **changes) -> Path:
    """A random Llama over bytes, of two layers unless `changes` of its configuration say otherwise."""
    config = SMALL | changes
    write_checkpoint(folder, random_state(config), config)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "numbers.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="session")
def calibration(text) -> CalibrationOptions:
    return CalibrationOptions(str(text), windows=24, length=32)
