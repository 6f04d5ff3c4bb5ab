"""Kernels on equal inputs: all within their bounds in models whose backends differ, and a planted fault is found."""

from __future__ import annotations

import dataclasses
import json

import pytest

import wgsl_kernels
from eval import kernel_checks
from eval.kernel_checks import check_kernels
from eval.layers import compare_layers
from tests.runtime.models import Shape, model_on, random_ids, reference_on, write_random
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import ProtocolError
from workbench.formats.spec import WeightFormat
from workbench.runtime.device import open_device
from workbench.runtime.wgpu_executor import WgpuExecutor

#: Matrices are stacked for few tokens, see tests/runtime/test_fusion_a8.py; eight layers, so that noise can grow.
SHAPE = Shape("stackable", 256, 192, 4, 2, 32, layers=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("checks")
    options = ConvertOptions(WeightFormat("int4", block_size=32), overrides={"lm_head*": WeightFormat("f16")})
    convert(write_random(base / "float", SHAPE), base / "int4", options)
    return base / "int4"


def kernels_of(folder, **options):
    return model_on(folder, lambda: open_device(promised=True), **options)


def test_backends_differ_and_their_kernels_agree(folder, adapter):
    """INT8 activations: what differs grows from layer to layer, and each kernel by itself is right."""
    ids = random_ids(SHAPE.vocab, 70)
    model = kernels_of(folder, dtype="int8")
    apart = compare_layers(model, reference_on(folder, dtype="int8"), ids)
    quants = [layer for layer in apart.layers if layer.dtype == "int8"]
    assert len(quants) == 4 * SHAPE.layers and quants[0].differing < 1e-4
    assert max(layer.differing for layer in quants[-4:]) > 0.002
    assert apart["logits"].relative > 3e-4 and "quants that differ" in str(apart)
    found = check_kernels(model, ids)
    assert found.within and found.worst <= 1, str(found)
    outputs = {check.output for check in found.checks}
    assert {"embedded", "layers.7.mlp.hidden.int8_2.quants", "layers.7.kv", "logits"} <= outputs
    assert "layers.7.attn.q_rotated.y" in outputs  # of the device's plan alone: q, k and v side by side
    own = [check for check in found.checks if check.differing is not None]
    assert sum(check.differing for check in own) < 1e-4 * sum(check.elements for check in own)
    assert max(check.relative for check in found.checks if check.differing is None) < 1e-5
    assert found.verdict in str(found) and "0 of" in found.verdict
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["within"] is True


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ({"dtype": "int8"}, "norm_gate_up_a8[int4, a8]"),
        ({"dtype": "f32"}, "norm_gate_up[int4]"),
        ({"dtype": "f32", "cache": "int8"}, "attention[kv8]"),
        ({"dtype": "f16"}, "norm_gate_up[int4]"),
    ],
    ids=str,
)
def test_what_a_gpu_fuses_for_one_token_is_judged_too(folder, adapter, monkeypatch, options, kernel):
    device = open_device(promised=True)
    if options["dtype"] == "f16" and not device.adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=False))
    monkeypatch.setattr(WgpuExecutor, "chunk", lambda self, remaining: 1)
    found = check_kernels(kernels_of(folder, **options), random_ids(SHAPE.vocab, 3))
    assert found.within, str(found)
    assert kernel in {check.kernel for check in found.checks}


def test_several_passes_find_the_same(folder, adapter, monkeypatch):
    ids = random_ids(SHAPE.vocab, 4)
    model = kernels_of(folder, dtype="int8")
    whole = check_kernels(model, ids)
    monkeypatch.setattr(kernel_checks, "PASS_BYTES", 150_000)
    assert check_kernels(model, ids).checks == whole.checks


def test_a_wrong_kernel_is_named(folder, adapter, monkeypatch):
    monkeypatch.setitem(wgsl_kernels.REGISTRY, "silu_mul", wrong_silu())
    found = check_kernels(kernels_of(folder, dtype="int8"), random_ids(SHAPE.vocab, 1))
    assert not found.within
    assert {check.kernel for check in found.beyond()} == {"silu_mul"}
    assert len(found.beyond()) == SHAPE.layers and found.beyond()[0].output == "layers.0.mlp.hidden"


def wrong_silu():
    """`silu_mul` whose result is a thousandth too large."""
    pair = wgsl_kernels.get("silu_mul")
    name = next(iter(pair.variants))
    body = pair.variants[name].body()
    text = body.replace("y_type(activate", "y_type(1.001 * activate")
    assert text != body
    return dataclasses.replace(pair, variants={name: dataclasses.replace(pair.variants[name], text=text)})


def test_references_have_no_kernels_to_check(folder):
    with pytest.raises(ProtocolError, match="backend='wgpu'"):
        check_kernels(reference_on(folder, dtype="int8"), [1, 2])
