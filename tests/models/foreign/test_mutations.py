"""300 files of each reader mutated at random; `python -m tests.models.foreign.mutations 10000` is the same by hand."""

from __future__ import annotations

import pytest

from tests.models.foreign.mutations import READERS, make, run
from workbench.models.source import open_source

# AutoRound's files are GPTQ's without one tensor, and those with experts are as others.
BY_HAND = ("auto-round", "gguf-experts", "compressed-tensors-experts", "bitsandbytes-int8", "onnx-offsets")


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in BY_HAND])
def test_mutated_files_are_read_or_refused(tmp_path, reader):
    if reader == "onnx":
        pytest.importorskip("onnx")
    told = run(reader, 300, seed=1, folder=tmp_path)
    assert told["refused"] > 100 and told["read"] >= 10


@pytest.mark.parametrize("reader", ["gptq", "gguf", "onnx", "mlc", "shards"])
def test_a_source_knows_the_files_of_its_weights(tmp_path, reader):
    """Sizes in tables, and what tells two models of one configuration apart, are made of them."""
    if reader == "onnx":
        pytest.importorskip("onnx")
    files = make(reader, tmp_path / reader)
    others = (".json", ".jinja", ".txt", ".model")
    wanted = {name for name in files if not name.endswith(others)}
    assert {path.name for path in open_source(tmp_path / reader).weight_files()} == wanted
