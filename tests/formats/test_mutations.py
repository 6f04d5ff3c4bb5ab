"""2,000 folders mutated at random; `python -m tests.formats.mutations 100000` is the same by hand."""

from __future__ import annotations

from tests.formats.mutations import run


def test_mutated_folders_are_read_or_refused(tmp_path):
    # What hangs waits for ever; 20 seconds are for a machine that has other things to do.
    told = run(2000, seed=1, folder=tmp_path, stop_after=20)
    assert told["refused"] > 1500 and told["sealed"] > 800 and told["not sealed"] > 800
