"""Sizes in config.json that no model has: refused by the key's name, at once, before anything is made of them."""

from __future__ import annotations

import json

import pytest

from tests.models.checkpoints import CONFIG
from tests.models.family_cases import CASES, IDS, config_of
from tests.support.limits import Worst, held
from workbench import cli
from workbench.errors import UnsupportedModelError
from workbench.models.families import architecture_of
from workbench.models.keys import shown

#: What every family reads, and what those with heads of a declared size and with experts read.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size_mlp",
    "moe_intermediate_size",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
)
#: In a context, which costs nothing by itself, more is a size as others are.
CONTEXT = "max_position_embeddings"
NEVER = (-1, -(2**63), 2**31, 2**63, 10**400, 1e9, 8.5, "8", True, float("nan"), float("inf"), [8], {"x": 8})
CONFIGS = {"llama 0": CONFIG} | {f"{family} {index}": config_of(family, index) for family, index in IDS}
#: Of experts, which a Llama 4 without layers of them has not.
UNREAD = ("intermediate_size", "num_local_experts", "num_experts_per_tok")
TABLE = [
    (name, key, value)
    for name, config in CONFIGS.items()
    for key in (*SIZES, CONTEXT)
    if key in config and not (key in UNREAD and config.get("moe_layers") == [])
    for value in (*NEVER, *(() if key == CONTEXT else (10**9,)))
]


@pytest.fixture(scope="module")
def worst():
    return Worst()


@pytest.mark.parametrize("family", ["llama", *CASES])
def test_a_size_that_no_model_has_is_refused(family, worst):
    for name, key, value in (row for row in TABLE if row[0].split()[0] == family):
        with held(f"{name}: {key} = {shown(value)}", worst):
            with pytest.raises(UnsupportedModelError) as raised:
                architecture_of(CONFIGS[name] | {key: value}).tensors()
            said = str(raised.value)
            assert key in said and "allowed: " in said and len(said) < 400


def test_the_table_has_every_size():
    assert {key for _, key, _ in TABLE} == {*SIZES, CONTEXT}


def test_more_heads_than_columns():
    config = {name: value for name, value in config_of("qwen2").items() if name != "head_dim"}
    with pytest.raises(
        UnsupportedModelError, match=r"hidden_size / num_attention_heads = 64/512\) is 0; allowed"
    ):
        architecture_of(config | {"hidden_size": 64, "num_attention_heads": 512, "num_key_value_heads": 8})


@pytest.mark.parametrize("value", ["1e9", "-1", "NaN", '"8"', "true", "1000000000"])
def test_the_commands_say_it_in_one_line(value, tmp_path, capsys):
    """Of a folder, and of a configuration alone, which is all that a shape is."""
    (tmp_path / "model.safetensors").touch()
    text = json.dumps(CONFIG | {"hidden_size": "VALUE"}).replace('"VALUE"', value)
    (tmp_path / "config.json").write_text(text)
    config = str(tmp_path / "config.json")
    for command in (["info", str(tmp_path)], ["speed", "--like", config, "--format", "int4"]):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "hidden_size is" in said and "allowed: an integer from 1 to" in said
