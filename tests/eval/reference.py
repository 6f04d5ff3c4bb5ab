"""A reference: `transformers`' own LlamaForCausalLM behind the surface that evaluation asks of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers


@dataclass(frozen=True)
class Scores:
    nll: np.ndarray
    top1: np.ndarray


@dataclass(frozen=True)
class Forward:
    logits: np.ndarray


class ReferenceModel:
    """Scores by `transformers` on the CPU, f32. `calls` counts what was asked of it."""

    backend = "transformers"

    def __init__(self, model: transformers.LlamaForCausalLM, tokenizer) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.vocab_size = model.config.vocab_size
        self.context_length = model.config.max_position_embeddings
        self.calls = {"score": 0, "forward": 0}

    @classmethod
    def load(cls, folder: Path) -> ReferenceModel:
        model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return cls(model, transformers.AutoTokenizer.from_pretrained(folder))

    @torch.no_grad()
    def _logits(self, ids) -> torch.Tensor:
        return self.model(torch.as_tensor(np.asarray(ids))[None], use_cache=False).logits[0].float()

    def forward(self, ids, keep=()) -> Forward:
        self.calls["forward"] += 1
        return Forward(self._logits(ids).numpy())

    def score(self, ids) -> Scores:
        self.calls["score"] += 1
        log_p = self._logits(ids[:-1]).double().log_softmax(-1)
        targets = torch.as_tensor(np.asarray(ids))[1:, None]
        return Scores(-log_p.gather(1, targets)[:, 0].numpy(), log_p.argmax(-1).numpy())

    def describe_provenance(self) -> dict:
        return {"versions": {"torch": torch.__version__, "transformers": transformers.__version__}}

    def perturbed(self, noise: float, seed: int) -> ReferenceModel:
        """A copy with Gaussian noise of that share of their RMS on the decoder's linear weights."""
        import copy

        generator = torch.Generator().manual_seed(seed)
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for module in model.model.layers.modules():
                if isinstance(module, torch.nn.Linear):
                    w = module.weight
                    w += noise * w.square().mean().sqrt() * torch.randn(w.shape, generator=generator)
        return ReferenceModel(model, self.tokenizer)
