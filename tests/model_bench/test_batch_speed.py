"""`workbench speed --sequences`: several sequences together."""

from __future__ import annotations

import json

from tests.runtime.models import LLAMA3_8B
from workbench.assets import demo_model_path
from workbench.cli import main

#: Of a config.json, in place of what it says.
SMALL = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


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


def test_random_adapters_beside_random_weights(tmp_path, capsys):
    """Each sequence has one of them in turn."""
    config, file = tmp_path / "config.json", tmp_path / "rates.json"
    config.write_text(json.dumps({**LLAMA3_8B, **SMALL}))
    how = ["--like", str(config), "--format", "int4/32", "--backend", "torch", "--json", str(file)]
    how += ["--prompt-tokens", "2", "--tokens", "2", "--repetitions", "1"]
    adapters = ["--lora-rank", "3", "--adapters", "2"]
    assert main(["speed", *how, *adapters, "--sequences", "3"]) == 0
    [row] = json.loads(file.read_text(encoding="utf-8"))
    assert row["record"]["lora"]["adapters"].keys() == {"adapter 1", "adapter 2"}
    assert "with 2 adapters of rank 3" in capsys.readouterr().out
    assert main(["speed", *how, "--lora-rank", "3"]) == 0
    assert main(["speed", *how, "--adapters", "2"]) == 2
    assert "--adapters says how many there are of --lora-rank" in capsys.readouterr().err
    assert main(["speed", str(demo_model_path()), "--lora-rank", "2"]) == 2
    assert "--lora-rank is of random adapters beside the random weights of --like" in capsys.readouterr().err
