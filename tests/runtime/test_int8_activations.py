"""Plans whose linear layers read INT8 activations: the same numbers from both executors, close to f32's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import workbench
from wgsl_kernels.quantized.quantize_activations import unpack_activations
from workbench.assets import evaluation_text
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat

pytestmark = pytest.mark.usefixtures("few_steps")

TOKENS = 130


@pytest.fixture(scope="module", params=["int8", "int4", "int2"])
def folder(request, shallow, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / request.param
    convert(shallow, path, ConvertOptions(WeightFormat(request.param)))
    return path


@pytest.fixture(scope="module")
def ids(folder):
    tokenizer = workbench.load(folder, backend="torch").tokenizer
    story = evaluation_text().read_text("utf-8").split("<|endoftext|>")[0]
    return tokenizer(story.strip())["input_ids"][:TOKENS]


def test_both_executors_agree_and_stay_close_to_f32(folder, ids):
    quantized = {b: workbench.load(folder, backend=b, dtype="int8") for b in ("wgpu", "torch")}
    assert any(call.op == "quantize_activations" for call in quantized["wgpu"].plan().calls)
    nll = {backend: model.score(ids).nll for backend, model in quantized.items()}
    plain = workbench.load(folder, backend="torch").score(ids).nll
    # A quant on the edge between two values may fall to either side, and all that follows from it is then rounded
    # independently: two such runs differ by up to sqrt(2) of what quantizing the activations changes.
    rounding = np.sqrt(np.mean((nll["torch"] - plain) ** 2))
    between = np.sqrt(np.mean((nll["wgpu"] - nll["torch"]) ** 2))
    assert 0 < between < 2 * rounding
    assert abs((nll["torch"] - plain).mean()) < 0.01 * plain.mean()


def test_a_quantized_activation_is_the_activation_rounded(folder, ids):
    model = workbench.load(folder, backend="wgpu", dtype="int8")
    call = next(c for c in model.plan().calls if c.op == "quantize_activations")
    rows = model.plan().buffers[call.outputs["y"]]
    names = [call.inputs["x"], f"{rows.name}.quants", f"{rows.name}.scales"]
    kept = model.forward(ids, keep=names).kept
    x, words, scales = (kept[name] for name in names)
    quants = unpack_activations(torch.from_numpy(words.view(np.int32).copy()), rows.type.stride).numpy()
    restored = (quants.reshape(len(ids), -1, 32) * scales[:, :, None]).reshape(len(ids), -1)
    step = np.repeat(scales, 32, axis=1)
    assert (np.abs(restored - x) <= 0.501 * step).all()
    assert np.abs(quants).max() == 127
