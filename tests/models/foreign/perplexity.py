"""Perplexity of the embedded model in others' layouts, through WGSL, and of its dequantized weights in transformers.

    python -m tests.models.foreign.perplexity

What is dequantized comes from whoever wrote the file (`tests/support/foreign.py`, the package `gguf`), not from the
readers that are tested. Two windows of 512 tokens of the embedded evaluation text, each token scored but the first of a
window; both compute in f32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch

import workbench
from tests.models.checkpoints import write_checkpoint
from tests.support.foreign import write_quantized
from workbench.assets import demo_model_path, evaluation_text
from workbench.models.checkpoint_files import read_json
from workbench.models.foreign.export import export
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer

LAYOUTS = ("gptq-4", "gptq-act-order", "awq", "packed-4-zeros", "gguf")
WINDOWS, LENGTH = 2, 512


def write(layout: str, folder: Path) -> tuple[Path, Path]:
    """The model in a layout, and a checkpoint of its weights in f32."""
    origin = demo_model_path()
    source, config = open_source(origin), read_json(origin / "config.json")
    state = {name: torch.from_numpy(source.tensor(name).dequantize().copy()) for name in source.names()}
    if layout != "gguf":
        made = folder / "in"
        weights = write_quantized(made, layout, state, config, tokenizer=origin)
    else:
        made, weights = folder / "q4_1.gguf", _write_gguf(folder, state, config)
    floats = {name: torch.from_numpy(np.array(values)) for name, values in weights.items()}
    return made, write_checkpoint(folder / "floats", floats, config | {"dtype": "float32"}, tokenizer=origin)


def _write_gguf(folder: Path, state: dict[str, torch.Tensor], config: dict) -> dict[str, np.ndarray]:
    """A file whose matrices `gguf` makes Q4_1 of a file of floats; its weights in f32, in the order of a checkpoint."""
    write_checkpoint(folder / "plain", state, config, tokenizer=demo_model_path())
    export(open_source(folder / "plain"), "gguf", folder / "floats.gguf", floats="f32")
    reader = gguf.GGUFReader(folder / "floats.gguf")
    kind = gguf.GGMLQuantizationType.Q4_1
    writer = gguf.GGUFWriter(folder / "q4_1.gguf", "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], inner)
    weights = {}
    for tensor in reader.tensors:
        values = np.array(tensor.data)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
        else:
            packed = gguf.quantize(values, kind)
            writer.add_tensor(tensor.name, packed, raw_dtype=kind)
            values = gguf.dequantize(packed, kind)
        weights[tensor.name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return _named(weights, config)


def _named(weights: dict[str, np.ndarray], config: dict) -> dict[str, np.ndarray]:
    """Tensors under their names in a checkpoint; rows of q and k, whose halves GGUF interleaves, in its order."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    found = {}
    for name in open_source(demo_model_path()).names():
        values = weights[names.get_name(name, try_suffixes=(".weight",))]
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                halves = values.reshape(config[heads], -1, 2, values.shape[1])
                values = halves.swapaxes(1, 2).reshape(values.shape)
        found[name] = values
    return found


def perplexities(
    layout: str, folder: Path, windows: int = WINDOWS, length: int = LENGTH
) -> tuple[float, float]:
    """Through WGSL and in transformers, of the model in a layout of `LAYOUTS`."""
    from transformers import AutoModelForCausalLM

    made, floats = write(layout, folder)
    text = evaluation_text().read_text("utf-8")[: 8 * windows * length]
    ids = np.array(load_tokenizer(demo_model_path())(text).input_ids[: windows * length]).reshape(
        windows, length
    )
    model = workbench.load(made, backend="wgpu", dtype="f32", max_tokens=length)
    ours = np.concatenate([model.score(window).nll for window in ids])
    other = AutoModelForCausalLM.from_pretrained(floats, dtype=torch.float32).eval()
    with torch.inference_mode():
        likely = other(torch.from_numpy(ids)).logits.double().log_softmax(-1)[:, :-1]
    theirs = -likely.gather(2, torch.from_numpy(ids[:, 1:, None]))
    assert theirs.numel() == ours.size
    return float(np.exp(ours.mean())), float(theirs.mean().exp())


def main() -> None:
    print("| layout | WGSL | transformers, dequantized |\n|:--|--:|--:|")
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = perplexities(layout, Path(folder))
        print(f"| {layout} | {ours:.6f} | {theirs:.6f} |", flush=True)


if __name__ == "__main__":
    main()
