"""INT8 activations fused into what makes or reads them: six dispatches a layer, and the numbers of the plan unfused."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest

from wgsl_kernels import Adapter
from wgsl_kernels.attention.attention_split import splits_for
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.plan.plan import step_sizes
from workbench.runtime.lowering import lower

from .models import Shape, model_on, random_ids, write_random
from .rewriting import GPU, kernels, rewritten, with_gelu

#: Every plane of every matrix is a multiple of 256 bytes, in blocks of 32 and 64, so that matrices are stacked.
SHAPE = Shape("stackable", 256, 192, 4, 2, 32)
LAYER = [
    "norm_qkv_a8[int4]",
    "attention_split",
    "attention_reduce[a8]",
    "linear[int4, a8]",
    "norm_gate_up_a8[int4, a8]",
    "linear[int4, a8]",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("integers") / "float", SHAPE)


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("integers") / "int4"
    convert(checkpoint, path, ConvertOptions(WeightFormat("int4", block_size=32)))
    return path


@pytest.fixture(scope="module")
def plan(folder):
    source = open_source(folder)
    return architecture_of(source.config).build(source.describe, head="greedy", activations="int8")


#: Of a step of several sequences.
ROWS_LAYER = [
    "rms_norm[a8]",
    "linear[int4, a8]",
    "rope_append",
    "attention_split",
    "attention_reduce[a8]",
    "linear[int4, a8]",
    "rms_norm[a8]",
    "linear[int4, a8]",
    "swiglu[a8]",
    "linear[int4, a8]",
]


def fused(plan, keep=(), adapter=GPU, tokens=1, sequences=1):
    return rewritten(plan, keep, adapter=adapter, tokens=tokens, capacity=1024, sequences=sequences)


def test_a_layer_of_a_decode_step_is_six_dispatches(plan):
    tail = ["norm_argmax_a8[int4]", "argmax_reduce", "advance"]
    assert kernels(fused(plan)) == ["embedding[int4]", *LAYER * SHAPE.layers, *tail]
    sizes = step_sizes(1, 1024, steps=16)
    assert [step.kernel.name for step in lower(plan, sizes, GPU, 128 << 20).steps] == kernels(fused(plan))


def test_a_layer_of_a_step_of_several_sequences_quantizes_where_it_computes(plan):
    tail = ["rms_norm[a8]", "linear[int4, a8]", "argmax", "advance"]
    assert kernels(fused(plan, tokens=8, sequences=8)) == [
        "embedding[int4]",
        *ROWS_LAYER * SHAPE.layers,
        *tail,
    ]


def test_gelu_takes_the_place_of_silu(plan):
    other = {
        "norm_gate_up_a8[int4, a8]": "norm_gate_up_gelu_a8[int4, a8]",
        "swiglu[a8]": "geglu[a8]",
    }
    for rows in ({}, {"tokens": 8, "sequences": 8}):
        expected = [other.get(name, name) for name in kernels(fused(plan, **rows))]
        assert kernels(fused(with_gelu(plan), **rows)) == expected


def test_several_rows_take_fewer_parts_of_the_cache():
    """About as many workgroups as one row of a long cache has, and none with more than 512 positions."""
    assert [splits_for(capacity) for capacity in (20, 640, 8192)] == [1, 20, 64]
    assert [splits_for(640, rows, groups=8) for rows in (2, 8, 16, 32, 64)] == [20, 8, 4, 2, 2]
    assert [splits_for(8192, rows, groups=8) for rows in (1, 8, 32)] == [64, 16, 16]
    assert splits_for(40, 8, groups=8) == 2


@pytest.mark.parametrize(
    ("name", "stays", "goes"),
    [
        ("layers.0.attn.input", "norm_qkv_a8[int4]", "norm_gate_up_a8[int4, a8]"),
        ("layers.0.attn.input.int8_2", "norm_qkv_a8[int4]", "norm_gate_up_a8[int4, a8]"),
        ("layers.0.mlp.hidden", "norm_gate_up_a8[int4, a8]", "norm_qkv_a8[int4]"),
        ("layers.0.attn.context", "attention_reduce[a8]", "norm_qkv_a8[int4]"),
    ],
)
def test_what_is_kept_is_computed_as_the_plan_says(plan, name, stays, goes):
    found = fused(plan, [name])
    assert name in found.buffers
    assert kernels(found).count(stays) == SHAPE.layers - 1
    assert kernels(found).count(goes) == SHAPE.layers


@pytest.mark.parametrize(
    ("adapter", "tokens", "expected"),
    [
        (dataclasses.replace(GPU, is_cpu=True), 1, 0),  # rows of weights are few a workgroup there
        (GPU, 2, 0),
        (Adapter(), 1, SHAPE.layers),
        (GPU, 1, SHAPE.layers),
    ],
)
def test_only_where_it_pays(plan, adapter, tokens, expected):
    assert kernels(fused(plan, adapter=adapter, tokens=tokens)).count("norm_gate_up_a8[int4, a8]") == expected


@pytest.mark.parametrize(
    "fmt",
    [
        pytest.param("int8", marks=pytest.mark.release),
        "int4",
        pytest.param("int2", marks=pytest.mark.release),
    ],
)
def test_decoding_fused_computes_what_the_plan_unfused_does(
    checkpoint, open_promised, tmp_path, monkeypatch, fmt
):
    """By the device plan of a GPU. A quant that lies between two values may fall to either side: most tokens agree to
    rounding, and none is far off."""
    convert(checkpoint, tmp_path / "model", ConvertOptions(WeightFormat(fmt, block_size=64)))
    ids = random_ids(SHAPE.vocab, 12)

    def decode(**adapter) -> tuple[np.ndarray, set[str]]:
        device = open_promised()
        monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, **adapter))
        model = model_on(tmp_path / "model", open_promised, dtype="int8", max_tokens=1024)
        session = model.session()
        found = np.stack([session.feed([int(token)]) for token in ids])
        steps = model.executor.device_plan("last", 1, session._cache, ()).steps
        session.close()
        return found, {step.kernel.name for step in steps}

    plain, unfused = decode(is_cpu=True)
    found, used = decode(is_cpu=False)
    wanted = {f"norm_qkv_a8[{fmt}]", f"norm_gate_up_a8[{fmt}, a8]", "attention_reduce[a8]"}
    assert wanted <= used and not wanted & unfused
    off = np.abs(found - plain).max(axis=1) / np.abs(plain).max()
    assert np.median(off) < 1e-5 and off.max() < 0.05


def test_several_sequences_fused_are_those_of_the_plan_unfused(
    checkpoint, open_promised, tmp_path, monkeypatch
):
    """As above, steps of four rows; the first sequence fills more than a part of the cache."""
    convert(checkpoint, tmp_path / "model", ConvertOptions(WeightFormat("int4", block_size=64)))
    ids = random_ids(SHAPE.vocab, 4 * 13).reshape(13, 4)

    def decode(**adapter) -> tuple[np.ndarray, set[str]]:
        device = open_promised()
        monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, **adapter))
        model = model_on(tmp_path / "model", open_promised, dtype="int8", max_tokens=1024)
        with closing(model.batch(2)) as batch:
            found = [batch.feed({0: row[:3], 1: row[3:]}) for row in ids]
            steps = model.executor.device_plan("last", 4, batch._cache, ()).steps
        return np.stack([row[n] for row in found for n in range(2)]), {step.kernel.name for step in steps}

    plain, unfused = decode(is_cpu=True)
    found, used = decode(is_cpu=False)
    assert set(ROWS_LAYER) <= used and not {"swiglu[a8]", "attention_split"} & unfused
    off = np.abs(found - plain).max(axis=1) / np.abs(plain).max()
    assert np.median(off) < 1e-5 and off.max() < 0.05
