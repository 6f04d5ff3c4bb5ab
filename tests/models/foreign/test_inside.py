"""`workbench info` and `workbench import` of others' files, as a shell sees them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.foreign import write_quantized
from tests.support.gguf_files import Kind, mostly_q4_1, random_blocks, write_gguf
from workbench import cli


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_info_lists_what_a_gguf_file_holds(tmp_path, capsys):
    file = write_gguf(tmp_path / "tiny.gguf")
    status, out, _ = run(capsys, "info", file, "--backend", "torch")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0 and lines[0].startswith("tiny.gguf: Llama, 2 layers")
    assert "model.layers.{0-1}.mlp.down_proj.weight 64x96 Q4_1 -> int4/32/offset" in lines
    assert "model.embed_tokens.weight 264x64 Q8_0 -> int8/32/sym" in lines


def test_info_lists_a_file_that_is_no_model_here_and_says_why(tmp_path, capsys):
    file = write_gguf(tmp_path / "other.gguf", architecture="falcon")
    status, out, err = run(capsys, "info", file)
    assert status == 2 and "general.architecture is 'falcon'" in err
    assert "blk.{0-1}.ffn_up.weight 96x64 Q4_1" in [" ".join(line.split()) for line in out.splitlines()]


def test_info_lists_quantized_checkpoints_and_others_when_asked(tmp_path, capsys):
    write_quantized(tmp_path / "gptq", "gptq-3-rows")
    _, out, _ = run(capsys, "info", tmp_path / "gptq", "--backend", "torch")
    name = "model.layers.{0-1}.self_attn.q_proj.weight 64x64"
    assert f"{name} GPTQ, 3 bits -> int4/channel" in [" ".join(line.split()) for line in out.splitlines()]
    status, out, err = run(capsys, "import", tmp_path / "gptq", tmp_path / "out")
    assert status == 0 and "14 int4/channel" in out and "14 matrices keep their integers" in err
    _, out, _ = run(capsys, "info", tmp_path / "out", "--backend", "torch")
    assert "tensors:" not in out
    _, out, _ = run(capsys, "info", tmp_path / "out", "--backend", "torch", "--tensors")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert f"{name} int4/channel -> int4/channel" in lines
    status, _, err = run(capsys, "import", tmp_path / "gptq", tmp_path / "out", "--quiet")
    assert status == 2 and "exists; --overwrite replaces it" in err


@pytest.mark.parametrize(
    "layout, told",
    [
        ("auto-round-gptq", "GPTQ, 4 bits -> int4/32"),
        ("awq", "AWQ, 4 bits -> int4/32"),
        ("packed-4", "compressed-tensors, 4 bits packed -> int4/32/sym"),
        ("int8", "compressed-tensors, int8 -> int8/channel/sym"),
        ("bnb-nf4", "bitsandbytes, nf4 -> f32"),
        ("hqq-4", "HQQ, 4 bits -> int4/32/offset/f32"),
        ("mlx-4", "MLX, 4 bits -> int4/32/offset"),
        ("onnx", "MatMulNBits, 4 bits -> int4/32/sym"),
    ],
)
def test_info_says_of_each_kind_what_is_inside(tmp_path, capsys, layout, told):
    if layout == "onnx":
        pytest.importorskip("onnx")
        from tests.support.onnx_files import decoder, write_onnx

        write_onnx(tmp_path / layout, decoder("builder"))
    else:
        write_quantized(tmp_path / layout, layout)
    status, out, _ = run(capsys, "info", tmp_path / layout, "--backend", "torch")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0 and f"model.layers.{{0-1}}.self_attn.q_proj.weight 64x64 {told}" in lines


def test_import_stores_floats_as_asked(tmp_path, capsys):
    rng = np.random.default_rng(0)

    def store(name: str, values: np.ndarray):
        if "down_proj" not in name:
            return mostly_q4_1(name, values)
        blocks = random_blocks(values, Kind.MXFP4, rng)
        blocks[:, ::17] = 120  # exponents that f16 reaches
        return blocks, Kind.MXFP4

    file = write_gguf(tmp_path / "tiny.gguf", store=store)
    status, out, _ = run(capsys, "import", file, tmp_path / "out", "--floats", "f16", "--quiet")
    assert status == 0 and "2 f16" in out and "12 int4/32/offset" in out and "1 int8/32/sym" in out
