"""The comparison of both engines, on a small shape: what it prints, and what it says where it cannot run."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.dawn import require_node

from . import native_speed

SHAPE = {
    **{
        "model_type": "llama",
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
    },
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512},
}


@pytest.mark.parametrize("activations", ["f32", pytest.param("int8", marks=pytest.mark.release)])
def test_both_engines_write_the_same_tokens_and_their_rates_stand_in_a_table(
    adapter, tmp_path, capsys, monkeypatch, activations
):
    node = require_node()
    for name in ("GROUPS", "RECORDINGS", "LEFT_OUT"):
        monkeypatch.setattr(native_speed, name, 2)
    shape = tmp_path / "config.json"
    shape.write_text(json.dumps(SHAPE))
    work = tmp_path / "work"
    work.mkdir()
    options = [
        "--like",
        str(shape),
        "--format",
        "int4/32",
        "--prompt-tokens",
        "3",
        "--tokens",
        "6",
        "--rounds",
        "2",
    ]
    more = ["--node", node, "--folder", str(work), "--dawn", "skip_validation", "--kernels"]
    native_speed.main([*options, *more, "--activations", activations])
    told = capsys.readouterr().out
    assert f"{activations}-" in told and "features: " in told
    rows = [line.strip("|").split("|") for line in told.splitlines() if re.match(r"\| (Python|Node)", line)]
    assert [row[0].strip() for row in rows] == ["Python", "Node with Dawn", "Node with Dawn, skip_validation"]
    for _, rate, _, tokens, step, dispatches, recording, parts in rows:
        assert tokens.strip() == "the same"
        assert int(dispatches) >= 6
        assert all(float(each.split()[0].replace(",", "")) > 0 for each in (rate, step, recording))
        assert parts.count("+") == 2
    kernels = re.findall(r"^\| ([^|/]+)/\S+((?: \| \d+ x -?[\d.]+){3}) \|$", told, re.MULTILINE)
    linear, best = (
        ("linear[int4]", "argmax_reduce") if activations == "f32" else ("linear[int4, a8]", "argmax")
    )
    assert {"embedding[int4]", linear, best, "advance"} <= {name for name, _ in kernels}
    assert not any(work.iterdir())


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(SystemExit, match="npm install"):
        native_speed.main(["--node", "node", "--package", str(tmp_path)])


def test_what_node_says_is_told():
    """Where a folder holds no model."""
    with native_speed.started(require_node(), native_speed.SUPPORT, "") as (node, _):
        with pytest.raises(native_speed.WorkbenchError, match=r"Node says: .*no such file"):
            node.ask("load", folder="/nowhere", activations="f32", rows=1)
        assert "lanes" in node.ask("adapter")
