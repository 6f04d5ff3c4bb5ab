"""2,000 folders mutated at random; `python -m tests.formats.mutations 100000` is the same by hand."""

from __future__ import annotations

from tests.formats.mutations import run


def test_mutated_folders_are_read_or_refused(tmp_path):
    told = run(2000, seed=1, folder=tmp_path)
    assert told["refused"] > 1500 and told["sealed"] > 800 and told["not sealed"] > 800
