"""Keys and values in INT8: the same numbers from both executors, at any cut of the prompt, close to a float cache.

A key or value on the edge between two quants may fall to either side, and all that follows from it is then rounded
independently. Two such runs are therefore held to the RMS of what INT8 itself changes, not to the last bits.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest
import torch

import workbench
from wgsl_kernels.cache.kv8 import dequantized
from workbench.assets import demo_model_path, evaluation_text
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import CacheFullError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.info import describe

from .models import SHAPES, Shape, model_on, random_ids, reference_on, write_random

pytestmark = pytest.mark.usefixtures("few_steps")

#: Heads of 24, padded to 32 bytes a position; and of 32, with weights that are stacked.
PADDED, STACKED = SHAPES[7], Shape("stacked", 128, 192, 4, 2, 32)
TOKENS = 300


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference.astype(np.float64) ** 2)))


@pytest.fixture(scope="module")
def ids(shallow):
    tokenizer = load_tokenizer(shallow)
    story = evaluation_text().read_text("utf-8").split("<|endoftext|>")[1]
    return tokenizer(story.strip())["input_ids"][:TOKENS]


@pytest.fixture(scope="module", params=[PADDED, STACKED], ids=str)
def checkpoint(request, tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("cache") / request.param.name, request.param)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_kernels_lose_nothing_beside_their_references(shallow, ids, open_promised, dtype, record_property):
    """Within the bars of f16 (tests/eval/test_losses.py), and well below what the cache itself changes."""
    if dtype == "f16" and not open_promised().adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    options = {"dtype": dtype, "cache": "int8"}
    kernels = model_on(shallow, open_promised, max_tokens=512, **options).score(ids).nll
    references = reference_on(shallow, max_tokens=512, **options).score(ids).nll
    plain = reference_on(shallow, max_tokens=512, dtype=dtype).score(ids).nll
    loss, cost = kernels - references, references - plain
    record_property("rms", (rms(loss), rms(cost)))
    assert abs(loss.mean()) < 1e-3 and 0 < rms(loss) < 2e-2
    assert rms(loss) < 0.5 * rms(cost)
    assert 0 < rms(cost) < 0.05 and abs(cost.mean()) < 5e-3


@pytest.mark.parametrize("dtype", ["f32", pytest.param("f16", marks=pytest.mark.release)])
def test_200_greedy_tokens_of_both_executors(shallow, open_promised, dtype):
    if dtype == "f16" and not open_promised().adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    options = {"dtype": dtype, "cache": "int8", "max_tokens": 256}
    device = model_on(shallow, open_promised, **options)
    # the best two logits are never closer than 0.02, several times what the executors differ by
    prompt = device.encode_prompt("Once upon a time there was a little girl who liked")
    expected = list(reference_on(shallow, **options).generate_ids(prompt, 200))
    assert list(device.generate_ids(prompt, 200)) == expected and len(expected) == 200


def test_what_is_stored_is_what_was_rounded(shallow, ids, open_promised):
    """Both executors' caches after a prompt: quants of the first layer, whose inputs differ by last bits only, and the
    keys and values that they stand for."""
    device = model_on(shallow, open_promised, cache="int8")
    reference = reference_on(shallow, cache="int8")
    count, names = 60, ["layers.0.attn.k_rotated", "layers.0.attn.v"]
    ours, theirs = (model.executor.new_cache(128) for model in (device, reference))
    device.executor.run("all", ids[:count], ours)
    kept = reference.executor.run("all", ids[:count], theirs, keep=names)
    shape = tuple(theirs.tensors["layers.0.kv.quants"].shape)
    words = device.executor.device.read(ours.buffers["layers.0.kv.quants"], np.uint32).reshape(shape)
    scales = device.executor.device.read(ours.buffers["layers.0.kv.scales"], np.float32).reshape(shape[:-1])
    stored = theirs.tensors["layers.0.kv.quants"].contiguous().view(torch.int8).numpy().astype(int)
    away = np.abs(words.view(np.int8).astype(int) - stored)
    assert away.max() <= 1 and (away > 0).mean() < 1e-3
    assert not words[..., count:, :].any() and not scales[..., count:].any()
    held = dequantized(torch.from_numpy(words.view(np.int32)), torch.from_numpy(scales), 64, torch.float32)
    for part, name in enumerate(names):
        exact = kept[name].reshape(count, 2, 64).transpose(1, 0, 2)
        step = scales[0, part, :, :count, None]
        assert (np.abs(held.numpy()[0, part, :, :count] - exact) <= 0.501 * step).all()
        assert (np.abs(exact).max(-1, keepdims=True) <= 127.001 * step).all()
    device.executor.free_cache(ours)


def test_chunks_do_not_matter(checkpoint, open_promised):
    """One step, odd pieces or one by one: exactly alike in f64, where no sum's last bits tip a quant.

    One checkpoint runs with subgroups and the other without, since each size of step is compiled for both."""
    ids, subgroups = random_ids(97, 74), checkpoint.name == PADDED.name
    exact = reference_on(checkpoint, cache="int8", compute=torch.float64)
    rounding = rms(exact.forward(ids).logits - reference_on(checkpoint).forward(ids).logits)
    for model, bound in (
        (exact, 1e-9),
        (model_on(checkpoint, lambda: open_promised(subgroups=subgroups), cache="int8"), rounding),
    ):
        expected = model.forward(ids).logits
        assert rms(expected - exact.forward(ids).logits) <= bound
        session = model.session()
        for first, last in ((0, 3), (3, 64), (64, 73), (73, 74)):
            assert rms(session.feed(ids[first:last]) - expected[last - 1]) <= bound
        session.reset()  # what the sequence before left in the cache is not seen
        for place, token in enumerate(ids[:9]):
            assert rms(session.feed([token]) - expected[place]) <= bound
        session.close()


@pytest.fixture(scope="module")
def int4(tmp_path_factory):
    """INT4 with zero-points, in blocks so small that planes begin at whole 256 bytes and are stacked."""
    folder = tmp_path_factory.mktemp("int4")
    write_random(folder / "source", STACKED)
    convert(folder / "source", folder / "model", ConvertOptions(WeightFormat("int4", block_size=32)))
    return folder / "model"


@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_device_plans_of_a_gpu_and_of_a_cpu_agree(int4, open_promised, monkeypatch, dtype):
    """A GPU's splits attention, and quantizes INT8 activations within the dispatch of q/k/v. A quant that lies
    between two values may fall to either side: most tokens agree to rounding, and none is far off."""
    device = open_promised()
    ids = random_ids(STACKED.vocab, 12)

    def decode(**adapter) -> tuple[np.ndarray, list[str]]:
        monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, **adapter))
        model = model_on(int4, open_promised, dtype=dtype, max_tokens=256, cache="int8")
        with closing(model.session()) as session:
            found = np.stack([session.feed([int(token)]) for token in ids])
            steps = model.executor.device_plan("last", 1, session._cache, ()).steps
        return found, [step.kernel.name for step in steps]

    plain, whole = decode(is_cpu=True)
    found, split = decode(is_cpu=False)
    front = "norm_qkv_rows_a8[int4]" if dtype == "int8" else "norm_qkv_rows[int4]"
    assert split.count(front) == split.count("kv_append_rows[kv8]") == STACKED.layers
    assert "attention_split[kv8]" in split and "attention[kv8]" in whole
    off = np.abs(found - plain).max(axis=1) / np.abs(plain).max()
    assert np.median(off) < 1e-5 and off.max() < 0.05


def test_decoding_fused_and_split(checkpoint, open_promised, monkeypatch):
    """One token at a time by the device plan of a GPU."""
    device = open_promised()
    monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=False))
    model = model_on(checkpoint, open_promised, max_tokens=1024, cache="int8")
    ids = random_ids(97, 40)
    expected = reference_on(checkpoint, cache="int8").forward(ids).logits
    plain = reference_on(checkpoint).forward(ids).logits
    session = model.session()
    found = np.stack([session.feed([int(token)]) for token in ids])
    recorded = [s.kernel.name for s in model.executor.device_plan("last", 1, session._cache, ()).steps]
    session.close()
    assert "attention_split[kv8]" in recorded
    assert rms(found - expected) < 0.5 * rms(expected - plain)


def test_a_full_cache(checkpoint, open_promised):
    ids = random_ids(97, 33)
    for model in (
        model_on(checkpoint, open_promised, max_tokens=32, cache="int8"),
        reference_on(checkpoint, max_tokens=32, cache="int8"),
    ):
        session = model.session()
        session.feed(ids[:30])
        with pytest.raises(CacheFullError, match="holds 30 of 32 tokens, so 3 more do not fit"):
            session.feed(ids[30:])
        session.feed(ids[30:32])
        with pytest.raises(CacheFullError):
            session.feed(ids[32:])
        session.close()


def test_options_and_what_is_said_of_them():
    folder = demo_model_path()
    assert workbench.load(folder, backend="torch").executor.cache == "f32"
    chosen = workbench.load(folder, backend="torch", dtype="int8", cache="int8")
    assert ("cache", "int8", "asked for") in chosen.choices
    assert chosen.describe_provenance()["cache"] == "int8"
    with pytest.raises(WorkbenchError, match="cache is one of f32, f16, int8, not 'int4'"):
        workbench.load(folder, backend="torch", cache="int4")
    # 8 layers, keys and values of 2 heads of 64: bytes and an f32 scale against f32
    sizes = {cache: describe(folder, "torch", cache=cache) for cache in ("f32", "f16", "int8")}
    assert [info.cache_bytes_per_position for info in sizes.values()] == [32 * 256, 32 * 128, 32 * 68]
    assert sizes["int8"].forecast.cache == 512 * 32 * 68
    assert "2,176 bytes a position" in str(sizes["int8"]) and "cache: int8 (asked for)" in str(sizes["int8"])
