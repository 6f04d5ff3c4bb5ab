"""Files that the tools themselves make of two layers of the embedded model, read here: bit for bit what each tool's own
code dequantizes, in f32.

    pip install --target FOLDER auto-round bitsandbytes compressed-tensors gptqmodel hqq llmcompressor
    PYTHONPATH=FOLDER python -m tests.models.foreign.tools [TOOL ...]

Nothing is calibrated: what is compared is how a file is read. A tool that is not installed is left out, and said so.
GPTQModel's whole way takes a GPU or many cores, so its module packs the matrices.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from tests.models.checkpoints import write_checkpoint
from workbench.assets import demo_model_path
from workbench.models.checkpoint_files import read_json
from workbench.models.families import architecture_of
from workbench.models.orders import InPlace
from workbench.models.source import open_source

#: Weights by name, as a tool dequantizes them.
Weights = dict[str, torch.Tensor]
#: Makes files of the checkpoint in a folder: (name, folder of the file, weights).
Make = Callable[[Path, Path], Iterator[tuple[str, Path, Weights]]]


def checkpoint(folder: Path) -> Path:
    """Two layers of the embedded model, in f32."""
    source, config = open_source(demo_model_path()), read_json(demo_model_path() / "config.json")
    names = [
        name for name in source.names() if not name.startswith("model.layers.") or int(name.split(".")[2]) < 2
    ]
    state = {name: torch.from_numpy(source.tensor(name).dequantize().copy()) for name in names}
    return write_checkpoint(
        folder, state, config | {"num_hidden_layers": 2, "dtype": "float32"}, tokenizer=demo_model_path()
    )


def loaded(folder: Path, **how: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **how)


def linear(model: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Linear layers of a decoder by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


def auto_round(plain: Path, folder: Path) -> Iterator[tuple[str, Path, Weights]]:
    """Its own format, which packs as GPTQ or as AWQ; AWQ's and compressed-tensors' by it."""
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    for form, symmetric in (
        ("auto_round", True), ("auto_round", False), ("auto_awq", True), ("llm_compressor", True),
    ):  # fmt: skip
        maker = AutoRound(
            loaded(plain), AutoTokenizer.from_pretrained(plain), bits=4, group_size=32, sym=symmetric, iters=0,
            disable_opt_rtn=True, device_map="cpu",
        )  # fmt: skip
        out = folder / f"{form}-{symmetric}"
        maker.quantize_and_save(str(out), format=form)
        made = next(path.parent for path in out.rglob("config.json"))
        told = json.loads((made / "config.json").read_text("utf-8"))["quantization_config"]
        stored = load_file(made / "model.safetensors")
        if form == "llm_compressor":
            yield form, made, decompressed(made)
        else:
            awq = "awq" in told.get("packing_format", form)
            yield f"{form}, {'AWQ' if awq else 'GPTQ'}", made, (of_awq if awq else of_gptq)(stored)


def of_gptq(stored: dict[str, torch.Tensor]) -> Weights:
    """By AutoRound's own layer on the identity, which adds nothing but zeros."""
    from auto_round_extension.torch.qlinear_torch_zp import QuantLinear

    found = {}
    for name in [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]:
        scales = stored[f"{name}.scales"]
        columns, rows = stored[f"{name}.qweight"].shape[0] * 8, scales.shape[1]
        layer = QuantLinear(4, columns // len(scales), columns, rows, False)
        layer.qweight, layer.qzeros = stored[f"{name}.qweight"], stored[f"{name}.qzeros"]
        layer.scales = scales.float()
        found[f"{name}.weight"] = layer(torch.eye(columns)).T
    return found


def of_awq(stored: dict[str, torch.Tensor]) -> Weights:
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    found = {}
    for name in [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]:
        q, zeros, scales = (stored[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales"))
        found[f"{name}.weight"] = dequantize_gemm(q, zeros, scales.float(), 4, len(q) // len(scales)).T
    return found


def decompressed(folder: Path) -> Weights:
    """By compressed-tensors, with scales in f32, through transformers."""
    from transformers import CompressedTensorsConfig

    model = loaded(folder, quantization_config=CompressedTensorsConfig(run_compressed=False))
    return {f"{name}.weight": module.weight.data for name, module in linear(model).items()}


def llmcompressor(plain: Path, folder: Path) -> Iterator[tuple[str, Path, Weights]]:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    asymmetric = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 32}
    schemes = {
        "W4A16": {"scheme": "W4A16"},
        "4 bits with zero-points": {"config_groups": {"all": {"targets": ["Linear"], "weights": asymmetric}}},
        "W8A16": {"scheme": "W8A16"},
        "INT8": {"scheme": "INT8"},
    }
    for name, how in schemes.items():
        recipe = QuantizationModifier(targets="Linear", ignore=["lm_head"], **how)
        oneshot(model=loaded(plain), recipe=recipe, output_dir=str(folder / name))
        yield name, folder / name, decompressed(folder / name)


def bitsandbytes(plain: Path, folder: Path) -> Iterator[tuple[str, Path, Weights]]:
    from transformers import BitsAndBytesConfig

    kinds = {
        "nf4, nested": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
        "fp4": {"bnb_4bit_quant_type": "fp4"},
    }
    for name, how in kinds.items():
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32, **how)
        model = loaded(plain, quantization_config=config)
        model.save_pretrained(folder / name)
        plainly = model.dequantize(dtype=torch.float32)
        yield (
            name,
            folder / name,
            {f"{each}.weight": m.weight.data.float() for each, m in linear(plainly).items()},
        )


def gptqmodel(plain: Path, folder: Path) -> Iterator[tuple[str, Path, Weights]]:
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    config, group = read_json(plain / "config.json"), 32
    for name, bits, ordered in (("4 bits", 4, False), ("8 bits", 8, False), ("4 bits, act-order", 4, True)):
        tensors: Weights = load_file(plain / "model.safetensors")
        weights: Weights = {}
        for each, layer in linear(loaded(plain)).items():
            rows, columns = layer.weight.shape
            groups = torch.arange(columns) // group
            if ordered:
                groups = groups[torch.randperm(columns, generator=torch.Generator().manual_seed(0))]
            parts = [layer.weight.data[:, groups == g] for g in range(columns // group)]
            low, high = (
                torch.stack([ends(p) for p in parts], 1)
                for ends in (lambda p: p.amin(1), lambda p: p.amax(1))
            )
            scales = ((high - low) / (2**bits - 1)).half().float()
            zeros = (-low / scales).round().clamp(0, 2**bits - 1)
            packed = TorchLinear(bits, group, False, ordered, columns, rows, bias=False)
            packed.pack_original(layer, scales, zeros, groups.int())
            packed.scales = packed.scales.float()
            packed.post_init()
            packed.dequant_dtype = torch.int32 if bits == 8 else torch.int16
            weights[f"{each}.weight"] = packed.dequantize_weight().T
            del tensors[f"{each}.weight"]
            stored = {"qweight": packed.qweight, "qzeros": packed.qzeros, "g_idx": groups.int()}
            tensors |= {f"{each}.{part}": value for part, value in stored.items()}
            tensors[f"{each}.scales"] = packed.scales.half()
        told = {
            "quant_method": "gptq",
            "bits": bits,
            "group_size": group,
            "sym": False,
            "checkpoint_format": "gptq_v2",
        }
        tensors = {each: value.contiguous() for each, value in tensors.items()}
        yield name, write_checkpoint(folder / name, tensors, config | {"quantization_config": told}), weights


def hqq(plain: Path, folder: Path) -> Iterator[tuple[str, Path, Weights]]:
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer

    config = read_json(plain / "config.json")
    half, whole = torch.float16, torch.float32
    for bits, axis, dtype in (
        (8, 1, half),
        (4, 1, half),
        (3, 1, half),
        (2, 1, half),
        (4, 0, half),
        (4, 1, whole),
    ):
        tensors: Weights = load_file(plain / "model.safetensors")
        weights: Weights = {}
        for each, layer in linear(loaded(plain)).items():
            how = BaseQuantizeConfig(nbits=bits, group_size=64, axis=axis)
            made = HQQLinear(layer, how, compute_dtype=dtype, device="cpu", initialize=False)
            made.encoded_state_dict = True
            made.initialize()
            wide = {"compute_dtype": torch.float32} | {
                part: made.meta[part].float() for part in ("scale", "zero")
            }
            weights[f"{each}.weight"] = Quantizer.dequantize(made.W_q, made.meta | wide)
            del tensors[f"{each}.weight"]
            stored = {
                part: value for part, value in made.state_dict().items() if isinstance(value, torch.Tensor)
            }
            tensors |= {f"{each}.{part}": value.contiguous() for part, value in stored.items()}
        out = folder / f"{bits} {axis} {dtype}"
        told = config | {"quantization_config": {"quant_method": "hqq"}}
        yield f"{bits} bits, axis {axis}, {dtype}", write_checkpoint(out, tensors, told), weights


TOOLS: dict[str, Make] = {
    "auto_round": auto_round,
    "bitsandbytes": bitsandbytes,
    "gptqmodel": gptqmodel,
    "hqq": hqq,
    "llmcompressor": llmcompressor,
}


def check(made: Path, weights: Weights) -> str:
    """What matrices were read as, and in how many of them a weight is another."""
    source = open_source(made)
    plain = InPlace(source, architecture_of(source.config).orders)
    read, wrong = Counter[str](), []
    for name, expected in weights.items():
        read[str(source.describe(name)[1])] += 1
        if not np.array_equal(plain.tensor(name).dequantize(), expected.detach().numpy()):
            wrong.append(name)
    told = ", ".join(f"{count} {kind}" for kind, count in read.items())
    return f"{told}: {f'{len(wrong)} DIFFER, {wrong[0]} first' if wrong else 'bit for bit'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", nargs="*", choices=[*TOOLS, []], help="default: all that are installed")
    for tool in parser.parse_args().tool or TOOLS:
        if importlib.util.find_spec(tool) is None:
            print(f"{tool}: not installed")
            continue
        with tempfile.TemporaryDirectory() as folder:
            plain = checkpoint(Path(folder) / "plain")
            for name, made, weights in TOOLS[tool](plain, Path(folder)):
                print(f"{tool}, {name}: {check(made, weights)}", flush=True)


if __name__ == "__main__":
    main()
