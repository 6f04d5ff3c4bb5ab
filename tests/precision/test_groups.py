"""Groups of a plan, and the bytes that they take in each format."""

from __future__ import annotations

import pytest

from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.text import parse_format
from workbench.precision.groups import fused_groups, unquantized_plan, vector_bytes

LAYER = "model.layers.1"


def test_a_group_is_what_reads_one_input(checkpoints):
    groups = {
        group.name: list(group.tensors) for group in fused_groups(unquantized_plan(checkpoints["untied"]))
    }
    assert len(groups) == 2 + 4 * 2
    assert next(iter(groups)) == "embedding" and list(groups)[-1] == "lm_head"
    assert groups["layers.1.attn.q_k_v"] == [f"{LAYER}.self_attn.{p}_proj.weight" for p in "qkv"]
    assert groups["layers.1.mlp.gate_up"] == [f"{LAYER}.mlp.{p}_proj.weight" for p in ("gate", "up")]
    assert groups["layers.1.attn.o_proj"] == [f"{LAYER}.self_attn.o_proj.weight"]
    assert groups["layers.1.mlp.down_proj"] == [f"{LAYER}.mlp.down_proj.weight"]


def test_a_tied_embedding_is_one_group(checkpoints):
    groups = fused_groups(unquantized_plan(checkpoints["tied"]))
    assert [group.name for group in groups if not group.name.startswith("layers")] == ["embedding"]
    assert list(groups[0].tensors) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("name", ["f16", "int8/64", "int4/32/sym", "int2/channel", "int4/tensor/f32"])
def test_bytes_are_those_of_a_conversion(checkpoints, tmp_path, name):
    source = checkpoints["untied"]
    plan, fmt = unquantized_plan(source), parse_format(name)
    summary = convert(source, tmp_path / "out", ConvertOptions(fmt))
    assert sum(g.nbytes(fmt) for g in fused_groups(plan)) + vector_bytes(plan) == summary.nbytes
    assert sum(g.weights for g in fused_groups(plan)) < summary.weights
