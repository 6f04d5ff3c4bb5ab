"""Peers: PyTorch for real, onnxruntime's WebGPU on Chromium's software adapter where both are installed."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

import wgsl_kernels
import workbench
from tests.support.chromium import find_chromium
from wgsl_kernels.judge import expectation
from workbench.errors import WorkbenchError
from workbench.kernel_bench.child import Child, ChildEndedError, ChildError, ChildTimeoutError
from workbench.kernel_bench.peers import Guarded, open_peers
from workbench.kernel_bench.peers.layer import layer_of
from workbench.kernel_bench.peers.onnx_chain import nbits_planes
from workbench.kernel_bench.peers.torch_peer import _Chain
from workbench.runtime.timing import WALL

FORMATS = ("int8", "int4", "int2")


def layer(name: str, **options):
    kernel = wgsl_kernels.get(name)
    arguments = kernel.inputs(seed=5, rows=32, columns=256, **options)
    return layer_of(kernel, arguments, expectation(kernel, arguments)["y"][0])


def test_pytorch_takes_part_in_the_same_rounds(adapter):
    found = workbench.compare(
        "linear[int4]", variants=["gemv"], rounds=2, peers=["torch"], rows=32, columns=256, block=128
    )
    names = [peer.variant for peer in found.peers]
    assert [name.split(" (")[0] for name in names] == ["torch bf16", "torch int4 tinygemm"]
    for peer in found.peers:
        assert peer.status == "passed", peer.detail
        assert len(peer.timing.samples) == 2 and peer.timing.median > 0 and peer.timing.clock == WALL
        assert 30 < peer.worst("sqnr") < 80 and "PyTorch" in peer.detail
        ratio = peer.timing.median / found.fastest.timing.median
        assert found.speedup(peer) == pytest.approx(ratio)
        assert f"gemv is {ratio:.2f} times as fast as {peer.variant}" in str(found)
    dense, packed = found.peers
    assert dense.bytes == 2 * 32 * 256 + 2 * (32 + 256) and packed.bytes < dense.bytes / 2
    assert found.fastest.variant == "gemv"
    again = type(found).from_json(found.to_json())
    assert again.peers == found.peers or str(again) == str(found)


@pytest.mark.parametrize("name", [f"linear[{fmt}{more}]" for more in ("", ", a8") for fmt in FORMATS])
def test_peers_are_given_the_layer_of_the_kernel(name):
    """y = x W^T with what a peer is given is what the kernel's reference gives."""
    found = layer(name, tokens=2, block=64)
    product = found.x.double() @ found.weight.double().T
    assert (product - found.expected).abs().max() < 1e-5
    assert layer_of(wgsl_kernels.get("add"), {}, found.expected) is None


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("fmt", FORMATS)
def test_onnx_planes_hold_the_same_weights(fmt, symmetric):
    """Unpacked as MatMulNBits documents it: unsigned, lowest bits first, scale * (q - zero) a block."""
    found = layer(f"linear[{fmt}]", block=64, symmetric=symmetric)
    bits = found.bits
    for block in (32, 64):
        planes = nbits_planes(found, block, "f32")
        blocks = 256 // block
        assert planes["quants"].shape == (32, blocks, block * bits // 8)
        unpacked = np.unpackbits(planes["quants"], axis=-1, bitorder="little").reshape(
            32, blocks, block, bits
        )
        places = 1 << np.arange(bits)
        q = (unpacked * places).sum(-1)
        if symmetric:
            assert "zeros" not in planes
            zeros = np.full((32, blocks), 1 << (bits - 1))
        else:
            spread = np.unpackbits(planes["zeros"], axis=-1, bitorder="little").reshape(32, -1, bits)
            zeros = (spread * places).sum(-1)[:, :blocks]
        weight = planes["scales"][..., None] * (q - zeros[..., None])
        assert np.abs(weight.reshape(32, 256) - found.weight.numpy()).max() < 1e-6


def test_a_wrong_peer_has_no_time(adapter, monkeypatch):
    monkeypatch.setattr(_Chain, "result", lambda self: 2 * self._steps[0]())
    found = workbench.compare("linear[int2]", variants=["gemv"], rounds=1, peers=["torch"], block=64)
    (peer,) = found.peers
    assert (peer.status, peer.timing) == ("wrong numbers", None) and "0.0 dB, less than 25" in peer.detail
    assert found["gemv"].timing is not None


def test_what_no_peer_computes_is_unsupported(adapter):
    found = workbench.compare("rms_norm", rounds=1, peers=["torch", "onnxruntime"])
    assert [(peer.variant, peer.status) for peer in found.peers] == [
        ("torch", "unsupported"),
        ("onnxruntime", "unsupported"),
    ]
    assert "rms_norm is not a linear layer" in found.peers[0].detail and found.fastest is not None
    with pytest.raises(WorkbenchError, match="no peer is named 'jax'"):
        workbench.compare("rms_norm", peers=["jax"])


class Failing:
    span, warm, calls, clock, bytes, detail = 0.0, 0.0, 1, WALL, 1.0, "how"

    def __init__(self, error):
        self.error = error

    def busy(self, seconds):
        pass

    def sample(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("lost"), "runtime error"), (ChildTimeoutError("late"), "timed out")]
)
def test_a_peer_that_fails_while_it_is_timed_ends_alone(error, status):
    from workbench.kernel_bench.comparison import PASSED, VariantResult

    guarded = Guarded(Failing(error))
    assert math.isnan(guarded.sample())
    result = guarded.finished(VariantResult("x", PASSED, "how"), None)
    assert (result.status, result.timing) == (status, None) and str(error) in result.detail


def test_a_missing_package_is_unsupported(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with ExitStack() as stack:
        ((result, candidate),) = open_peers(["onnxruntime"], layer("linear[int4]", block=32), "", True, stack)
    assert (result.status, candidate) == (
        "unsupported",
        None,
    ) and "webgpu-quant-workbench[peers]" in result.detail


@pytest.fixture
def onnxruntime_webgpu():
    pytest.importorskip("onnx")
    found = pytest.importorskip("onnxruntime")
    if "WebGpuExecutionProvider" not in found.get_available_providers():
        pytest.skip("this onnxruntime has no WebGPU provider")


@pytest.fixture
def swiftshader(adapter, onnxruntime_webgpu, monkeypatch):
    """Processes that start now see Chromium's software adapter, which onnxruntime's WebGPU takes."""
    chromium = find_chromium()
    places = [Path(chromium).resolve().parent, Path("/usr/lib/chromium")] if chromium else []
    driver = next(
        (p / "vk_swiftshader_icd.json" for p in places if (p / "vk_swiftshader_icd.json").exists()), None
    )
    if driver is None:
        pytest.skip("no Chromium with a Vulkan driver of SwiftShader")
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, str(driver))


@pytest.mark.parametrize(("fmt", "block"), [("int8", 32), ("int4", 64)])
def test_onnxruntime_computes_the_layer(swiftshader, fmt, block):
    found = workbench.compare(
        f"linear[{fmt}]",
        variants=["gemv"],
        rounds=1,
        peers=["onnxruntime"],
        rows=64,
        columns=128,
        block=block,
    )
    kinds = [(32, "f16"), (32, "f32"), (64, "f32")][: 2 + (block == 64)]
    names = [f"onnxruntime MatMulNBits {fmt[3:]} bit, block {size}, {kind}" for size, kind in kinds]
    assert [peer.variant for peer in found.peers] == names
    for peer in found.peers:
        if peer.variant.endswith("f16"):  # SwiftShader has no shader-f16
            assert peer.status == "unsupported" and "requires f16" in peer.detail
        else:
            assert peer.status == "passed" and peer.worst("sqnr") > 35, peer.detail
            assert peer.timing.median > 0 and "accuracy_level 4, chain of 5" in peer.detail


def test_onnxruntime_that_finds_no_adapter_is_unsupported(onnxruntime_webgpu, monkeypatch, tmp_path):
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, str(tmp_path / "none.json"))
    with ExitStack() as stack:
        found = open_peers(["onnxruntime"], layer("linear[int8]", block=32), "", True, stack)
    assert len(found) == 2
    for result, candidate in found:
        assert (result.status, candidate) == ("unsupported", None) and "adapter" in result.detail


def test_children(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    asked = json.loads(line)\n"
        "    if asked['do'] == 'crash': os.write(2, b'last words'); os.abort()\n"
        "    if asked['do'] == 'hang': time.sleep(60)\n"
        "    print(json.dumps({'error': 'no'} if asked['do'] == 'fail' else {'value': 'x' * 100000}), flush=True)\n"
    )
    with Child(script) as child:
        assert child.ask(30, do="answer") == "x" * 100000
        with pytest.raises(ChildError, match="no"):
            child.ask(30, do="fail")
        with pytest.raises(ChildTimeoutError, match=r"child did not answer within 0.2 s"):
            child.ask(0.2, do="hang")
        assert not child.alive
    with Child(script) as child, pytest.raises(ChildEndedError, match="ended with signal 6: last words"):
        child.ask(30, do="crash")


def test_torch_threads_stay(adapter):
    before = torch.get_num_threads()
    workbench.compare("linear[f16]", variants=["gemv"], rounds=1, peers=["torch"])
    assert torch.get_num_threads() == before
