"""Steps whose rows have different adapters, by the device plan of a GPU: what adapters add is inside of products."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest

import workbench
from tests.models.lora_cases import write_adapter
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.text import parse_format
from workbench.runtime.device import adapter_missing, open_device

from .models import Shape, random_ids, write_random

#: Every plane of every matrix is a multiple of 256 bytes, so that matrices are stacked; a row has two slices.
SHAPE = Shape("stackable", 320, 192, 4, 2, 32, layers=1)
LAYER = "model.layers.0"
ALL = {
    **{f"{LAYER}.self_attn.{part}_proj": 4 for part in "qkvo"},
    **{f"{LAYER}.mlp.{part}_proj": 4 for part in ("gate", "up", "down")},
}
NAMES = ("one", None, "other", "one")
IDS = [random_ids(SHAPE.vocab, 3, seed=seed) for seed in range(len(NAMES))]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """`loaded(backend)`: an INT4 model with two adapters, on a device that says that it is a GPU."""
    if missing := adapter_missing():
        pytest.skip(missing)
    root = tmp_path_factory.mktemp("rows")
    base = write_random(root / "float", SHAPE)
    convert(base, root / "int4", ConvertOptions(parse_format("int4/64")))
    adapters = {
        name: write_adapter(root / name, base, modules, scale=0.8, seed=seed, r=4)
        for seed, (name, modules) in enumerate((("one", ALL), ("other", dict(list(ALL.items())[1:]))))
    }
    with pytest.MonkeyPatch.context() as patch:
        device = open_device()
        patch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=False))
        yield lambda backend: workbench.load(
            root / "int4", backend=backend, dtype="int8", lora=adapters, max_tokens=1024
        )


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """A quant that lies between two values may fall to either side: most tokens agree to rounding."""
    off = np.abs(found - expected).max(axis=-1) / np.abs(expected).max()
    return bool(np.median(off) < 1e-5 and off.max() < 0.05)


def with_adapters(steps) -> list[str]:
    return [step.kernel.op for step in steps if "lora_b" in step.call.inputs]


def test_one_row(loaded):
    found = []
    for model in (loaded("wgpu"), loaded("torch")):
        with closing(model.session(adapter="other")) as session:
            found.append(np.stack([session.feed([int(token)]) for token in IDS[0]]))
            if model.backend == "wgpu":
                steps = model.executor.device_plan("last", 1, session._cache, ()).steps
                products = ["sliced_qkv_a8", "lora_up_norm_slices_a8", "sliced_gate_up_a8", "linear"]
                assert with_adapters(steps) == products
                beside = [step.kernel.name for step in steps if step.call.op.startswith("linear_lora")]
                assert beside == ["linear_lora_down[int4, a8, f32]"]
        with closing(model.session()) as session:
            plain = np.stack([session.feed([int(token)]) for token in IDS[0]])
    assert close(*found)
    assert not close(found[1], plain)


def test_four_rows(loaded):
    found = []
    for model in (loaded("wgpu"), loaded("torch")):
        with closing(model.batch(len(NAMES))) as batch:
            for sequence, name in enumerate(NAMES):
                batch.reset(sequence, name)
            for tokens in zip(*IDS, strict=True):
                logits = batch.feed({n: [int(token)] for n, token in enumerate(tokens)})
                found.append(np.stack([logits[n] for n in range(len(NAMES))]))
            if model.backend == "wgpu":
                steps = model.executor.device_plan("last", 4, batch._cache, ()).steps
                assert with_adapters(steps) == ["linear"] * 4
    half = len(found) // 2
    assert close(np.concatenate(found[:half]), np.concatenate(found[half:]))
