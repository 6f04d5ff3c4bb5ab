"""Random Llama checkpoints of many shapes, models opened on chosen devices, and transformers in f64 as the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.plan.plan import Ring
from workbench.runtime.model import Model
from workbench.runtime.torch_executor import TorchExecutor
from workbench.runtime.wgpu_executor import WgpuExecutor

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,  # so short that all three bands of frequencies occur
}
#: Of a config.json.
LLAMA3_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}


@dataclass(frozen=True)
class Shape:
    """What a random checkpoint looks like; `dtype` is that of its file."""

    name: str
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int = 131
    layers: int = 2
    tied: bool = False
    rope: dict | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    eps: float = 1e-5
    dtype: str = "float32"

    def __str__(self) -> str:
        return self.name


#: Llama 2 and 3 and what lies between: every option, head size and width that a device could get wrong.
SHAPES = (
    Shape("llama2-head8", 72, 172, 9, 9, 8),
    Shape("gqa2-head24-linear-f16", 96, 352, 4, 2, 24, tied=True, rope=LINEAR, dtype="float16"),
    Shape("gqa4-head40-llama3-bf16", 160, 200, 4, 1, 40, rope=LLAMA3, dtype="bfloat16"),
    Shape("gqa4-head64-wide-heads", 128, 172, 8, 2, 64, rope=LLAMA3, attention_bias=True, eps=1e-3),
    Shape("gqa2-head128-mlp-bias", 72, 96, 2, 1, 128, mlp_bias=True, vocab=515, dtype="float16"),
    Shape("all-biases-tied", 64, 72, 8, 4, 8, tied=True, rope=LINEAR, attention_bias=True, mlp_bias=True),
    Shape("wide-hidden-bf16", 352, 72, 8, 8, 40, tied=True, rope=LLAMA3, dtype="bfloat16", layers=1),
    Shape("three-layers-odd", 102, 141, 6, 3, 24, vocab=97, layers=3),
)
#: Without biases, and with planes of 256 bytes and their multiples: all that fusion asks for.
STACKABLE = Shape("stackable", 128, 192, 4, 2, 32)


def write_random(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """A checkpoint as transformers saves it: matrices of deviation 1/sqrt(K), norms in [0.5, 1.5], biases of 0.3.

    The default initialisation is so small that attention and positions hardly matter to the logits.
    """
    from transformers import LlamaConfig as HubConfig
    from transformers import LlamaForCausalLM

    config = HubConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=512,
        rms_norm_eps=shape.eps,
        rope_parameters=dict(shape.rope or {"rope_type": "default", "rope_theta": 10000.0}),
        tie_word_embeddings=shape.tied,
        attention_bias=shape.attention_bias,
        mlp_bias=shape.mlp_bias,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            elif value.ndim == 1:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            else:
                value.copy_(torch.randn(value.shape, generator=generator) / value.shape[1] ** 0.5)
    model.to(getattr(torch, shape.dtype)).save_pretrained(folder)
    return folder


def model_on(
    path: Path,
    open_device,
    *,
    dtype: str = "f32",
    max_tokens: int = 256,
    cache: str | None = None,
    ring: Ring | None = None,
) -> Model:
    """A model whose device comes from `open_device()`, called again when a device is lost."""
    source = open_source(path)
    config = architecture_of(source.config)
    return Model(
        source,
        config,
        lambda: WgpuExecutor(source, config, open_device(), activations=dtype, cache=cache, ring=ring),
        [("backend", "wgpu", "the test's")],
        max_tokens,
    )


def reference_on(
    path: Path,
    *,
    dtype: str = "f32",
    compute=torch.float32,
    max_tokens: int = 256,
    cache: str | None = None,
    ring: Ring | None = None,
) -> Model:
    """A model that runs the references; with f64 the oracle."""
    source = open_source(path)
    config = architecture_of(source.config)
    return Model(
        source,
        config,
        lambda: TorchExecutor(source, config, activations=dtype, cache=cache, ring=ring, compute=compute),
        [("backend", "torch", "the test's")],
        max_tokens,
    )


def transformers_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """Logits f64 [tokens, vocab] of transformers on the same weights."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    with torch.inference_mode():
        return model(torch.as_tensor(ids)[None]).logits[0].numpy()


def random_ids(vocab: int, count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, count)


def check_parity(logits: np.ndarray, oracle: np.ndarray, bound: float = 1e-5) -> float:
    """Assert |error| <= bound * max|oracle|, and the same argmax where the best two differ by twice that or more.

    Returns the largest error in units of the largest logit's magnitude.
    """
    assert logits.shape == oracle.shape
    assert np.isfinite(logits).all()
    scale = np.abs(oracle).max()
    error = float(np.abs(logits - oracle).max() / scale)
    assert error <= bound, f"error {error:.2e} of the largest logit, {bound:.0e} allowed"
    best = np.sort(oracle, axis=-1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 2 * bound * scale
    assert (logits.argmax(-1) == oracle.argmax(-1))[clear].all()
    return error
