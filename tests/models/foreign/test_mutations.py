"""300 files of each reader mutated at random; `python -m tests.models.foreign.mutations 10000` is the same by hand."""

from __future__ import annotations

import pytest

from tests.models.foreign.mutations import READERS, run

# AutoRound's files are GPTQ's without one tensor, and those with experts are as others.
BY_HAND = ("auto-round", "gguf-experts", "compressed-tensors-experts", "bitsandbytes-int8", "onnx-offsets")


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in BY_HAND])
def test_mutated_files_are_read_or_refused(tmp_path, reader):
    if reader == "onnx":
        pytest.importorskip("onnx")
    told = run(reader, 300, seed=1, folder=tmp_path)
    assert told["refused"] > 100 and told["read"] >= 10
