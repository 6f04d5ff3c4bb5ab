"""Adapters as PEFT saves them, with random factors, and the models that they make, merged by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

#: What PEFT 0.21 writes for a plain adapter.
PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "base",
    "peft_version": "0.21.2",
    "inference_mode": True,
    "r": 4,
    "lora_alpha": 10,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj"],
    "bias": "none",
    "init_lora_weights": True,
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "loftq_config": {},
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
}


def write_adapter(
    folder: Path,
    base: Path,
    modules: Mapping[str, int],
    *,
    scale: float = 0.4,
    dtype: torch.dtype = torch.float32,
    seed: int = 3,
    **config: Any,
) -> Path:
    """modules: name in the model -> rank. scale: of the entries of A B, against weights of 1/sqrt(columns)."""
    folder.mkdir()
    weights, generator = load_file(base / "model.safetensors"), torch.Generator().manual_seed(seed)
    factors = {}
    for module, rank in modules.items():
        rows, columns = weights[f"{module}.weight"].shape
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        up = scale * torch.randn(rows, rank, generator=generator) / rank**0.5
        factors[f"base_model.model.{module}.lora_A.weight"] = down.to(dtype)
        factors[f"base_model.model.{module}.lora_B.weight"] = up.to(dtype)
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**PLAIN, **config}))
    return folder


def merge(
    folder: Path,
    base: Path,
    adapter: Path,
    scales: Mapping[str, float],
    dtype: torch.dtype = torch.float64,
) -> Path:
    """The checkpoint with W + scale * B A, computed in f64. scales: of modules whose scale is not lora_alpha / r."""
    folder.mkdir()
    weights = {name: value.double() for name, value in load_file(base / "model.safetensors").items()}
    factors = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for name, down in factors.items():
        if "lora_A" in name:
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = factors[name.replace("lora_A", "lora_B")]
            scale = scales.get(module, config["lora_alpha"] / len(down))
            weights[f"{module}.weight"] += scale * up.double() @ down.double()
    stored = {name: value.to(dtype) for name, value in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    for each in base.iterdir():
        if each.name != "model.safetensors":
            (folder / each.name).write_bytes(each.read_bytes())
    return folder


def square_root_scale(alpha: float, rank: int) -> float:
    """Of rank-stabilised LoRA (Kalajdzievski 2023)."""
    return alpha / math.sqrt(rank)
