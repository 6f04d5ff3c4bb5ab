"""`workbench speed --sequences`: several sequences together."""

from __future__ import annotations

import json

from workbench.assets import demo_model_path
from workbench.cli import main


def test_a_row_for_each_number_of_sequences(tmp_path, capsys):
    options = ["--backend", "torch", "--prompt-tokens", "5", "--tokens", "3", "--repetitions", "2"]
    file = tmp_path / "rates.json"
    assert (
        main(["speed", str(demo_model_path()), *options, "--sequences", "1", "3", "--json", str(file)]) == 0
    )
    note, head, *rows = capsys.readouterr().out.splitlines()
    assert "5 tokens fed to each sequence, 3 decoded" in note and head.split()[3] == "sequences"
    assert [row.split()[3] for row in rows] == ["1", "3"]
    for row, count in zip(json.loads(file.read_text(encoding="utf-8")), (1, 3), strict=True):
        assert row["sequences"] == count and row["record"]["versions"]
        assert row["prefill"]["tokens"] == 5 * count and row["decode"]["tokens"] == 3 * count
        assert len(row["decode"]["seconds"]) == 2 and min(row["decode"]["seconds"]) > 0


def test_what_it_does_not_measure_is_refused(capsys):
    assert main(["speed", str(demo_model_path()), "--sequences", "2", "--trace", "t.json"]) == 2
    assert "--sequences measures rates alone" in capsys.readouterr().err
