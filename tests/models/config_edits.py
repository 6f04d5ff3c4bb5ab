"""Random edits of valid configurations, judged by transformers: the same logits, or a refusal that names a key.

python -m tests.models.config_edits 2000 7      # so many edits, and a seed
"""

from __future__ import annotations

import copy
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import workbench
from tests.models.checkpoints import random_state, write_checkpoint
from workbench.errors import WorkbenchError
from workbench.models.families.llama import Llama
from workbench.models.pretrained_keys import PRETRAINED_KEYS

IDS = [1, 5, 9, 40, 22, 17, 3, 60, 33, 2, 11, 50]
TOLERANCE = 1e-5
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
#: Valid configurations to begin with.
BASES = {
    "plain": BASE,
    "new": {k: v for k, v in BASE.items() if k != "rope_theta"}
    | {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}, "head_dim": 8, "num_key_value_heads": 4},
    "biased": BASE
    | {
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_scaling": {"type": "linear", "factor": 2.0},
    },
}

NAN, INF = float("nan"), float("inf")
#: Values for any key: of all types, at and beyond the edges of each.
WILD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 4, 8, 16, 32, 63, 64, 65, 10**9, 2**31, 2**63, 10**30),
    *(0.0, 0.5, 1.0, 2.0, 8.0, -1.0, 1e-6, 1e-5, 1e30, 1e39, 1e300, NAN, INF, -INF),
    *("", "false", "true", "1", "silu", "llama", "x" * 500, "é\x00"),
    *([], [1], [[2]], [None], {}, {"a": 1}, {"__float__": "NaN"}, [[[[[[[[[[1]]]]]]]]]]),
)
#: Values that mean something to a key, more of them right than wrong.
FITTING: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", "gelu", "SiLU", "relu"),
    "rms_norm_eps": (1e-5, 1e-6, 1e-3, 0.5, 0.0, 1),
    "rope_theta": (10000.0, 500000, 1.0, 3, 1e6, 0.5, 0),
    "partial_rotary_factor": (1, 1.0, 0.5, 0.25),
    "original_max_position_embeddings": (8, 16, 64, 8192),
    "layer_types": (
        ["full_attention"] * 2,
        ["attention", "full_attention"],
        ["sliding_attention"] * 2,
        ["full_attention"],
    ),
    "mlp_layer_types": (["dense"] * 2, ["sparse", "dense"], ["dense"]),
    "sliding_window": (None, 4, 64, 4096),
    "architectures": (
        ["LlamaForCausalLM"],
        ["MistralForCausalLM"],
        "LlamaForCausalLM",
        ["Other", "LlamaForCausalLM"],
    ),
    "model_type": ("llama", "mpt", "Llama"),
    "eos_token_id": (2, [2, 3], [], None, 99999),
    "bos_token_id": (1, None, 99999),
    "pad_token_id": (0, 63, 64, -1, -64, -65),
    "dtype": ("float32", "float16", "bfloat16", "auto", "torch.float16"),
    "torch_dtype": ("float32", "float16", "bfloat16", "int8"),
    "is_causal": (True, False, None, 0),
    "quantization_config": ({"quant_method": "gptq", "bits": 4}, {}, None),
    "id2label": ({"0": "a", "1": "b"}, {"x": "a"}, {"0": 1}),
    "attn_implementation": ("eager", "sdpa", "none"),
    "num_hidden_layers": (1, 2, 3, 5000),
    "num_attention_heads": (2, 4, 8, 3),
    "head_dim": (8, 16, 4, None),
    "per_layer_config": (None, {"0": {"rms_norm_eps": 0.5}}, {}),
    "attribute_map": ({"rms_norm_eps": "initializer_range"}, {}),
    "attention_dropout": (0, 0.0, 0.1, None),
    "pretraining_tp": (1, 2, None),
}
#: Keys of other families, of older files, and made up.
OTHERS = (
    *(
        "final_logit_softcapping",
        "attn_logit_softcapping",
        "qk_norm",
        "use_qk_norm",
        "logit_scale",
        "bias",
        "n_embd",
    ),
    *(
        "embedding_multiplier",
        "residual_multiplier",
        "query_pre_attn_scalar",
        "num_experts",
        "rope_interleaved",
    ),
    *(
        "max_sequence_length",
        "use_sliding_window",
        "tie_encoder_decoder",
        "factor",
        "rope_type",
        "a key",
        "é",
    ),
)
NAMES = tuple(key.name for key in (*Llama.keys, *PRETRAINED_KEYS))
IMPORTANT = (*(key.name for key in Llama.keys), "is_causal", "eos_token_id", "quantization_config", "dtype")
ROPE_KEYS = (
    *("rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor"),
    *(
        "original_max_position_embeddings",
        "partial_rotary_factor",
        "attention_factor",
        "mscale",
        "full_attention",
        "x",
    ),
)


def _value(rng: random.Random, name: str) -> Any:
    return rng.choice(FITTING[name] if name in FITTING and rng.random() < 0.6 else WILD)


def _rope(rng: random.Random, given: Any) -> tuple[dict, list[str]]:
    """A rotary embedding's object with a few keys changed, and their names."""
    fresh = rng.choice((LLAMA3, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "default"}))
    made = dict(given if isinstance(given, dict) else fresh)
    names = rng.sample(ROPE_KEYS, rng.choice((0, 1, 1, 2)))
    for name in names:
        if name in made and rng.random() < 0.3:
            del made[name]
        elif name in ("rope_type", "type"):
            made[name] = rng.choice(("default", "linear", "llama3", "yarn", "dynamic", *WILD[:3]))
        elif name in ("rope_theta", "original_max_position_embeddings", "partial_rotary_factor"):
            made[name] = _value(rng, name)
        else:
            made[name] = rng.choice((1.0, 2, 4.0, 8.0, *WILD))
    return made, names


def edits(seed: int) -> Iterator[tuple[str, dict, set[str]]]:
    """(base, edited configuration, names of the edited keys), without end."""
    rng = random.Random(seed)
    while True:
        base = rng.choice(tuple(BASES))
        config, changed = copy.deepcopy(BASES[base]), set()
        for _ in range(rng.choice((1, 1, 2, 3))):
            if rng.random() < 0.25:
                name = rng.choice(("rope_scaling", "rope_parameters"))
                config[name], inner = _rope(rng, config.get(name))
                changed |= {name, *inner}
                continue
            name = rng.choice(rng.choice((IMPORTANT, IMPORTANT, NAMES, OTHERS)))
            if name in config and rng.random() < 0.2:
                del config[name]
            else:
                config[name] = copy.deepcopy(_value(rng, name))
            changed.add(name)
        yield base, config, changed


class Judge:
    """Folders with the weights of each base, and what transformers makes of a configuration beside them."""

    def __init__(self, folder: Path):
        self.folders = {name: folder / name for name in BASES}
        for index, (name, config) in enumerate(BASES.items()):
            write_checkpoint(self.folders[name], random_state(config, seed=index), config)
        self._known: dict[str, np.ndarray | str] = {}

    def transformers(self, base: str) -> np.ndarray | str:
        """Its logits f64, or why it has none."""
        folder = self.folders[base]
        key = base + (folder / "config.json").read_text()
        if key not in self._known:
            self._known[key] = self._run(folder)
        return self._known[key]

    def _run(self, folder: Path) -> np.ndarray | str:
        from transformers import AutoModelForCausalLM

        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
            )
            if info["missing_keys"]:
                return f"{sorted(info['missing_keys'])} are made up"
            with torch.no_grad():
                return model.double().eval()(torch.tensor([IDS])).logits[0].numpy()
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"

    def __call__(self, base: str, config: dict, changed: set[str]) -> tuple[str, str]:
        """("same" or "refused", "") if all is well, else ("wrong", what is)."""
        (self.folders[base] / "config.json").write_text(json.dumps(config))
        context = config.get("max_position_embeddings", 64)
        ids = IDS[:context] if type(context) is int and context > 0 else IDS
        try:
            logits = workbench.load(self.folders[base], backend="torch").forward(ids).logits
        except WorkbenchError as error:
            named = any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", str(error)) for name in changed)
            return ("refused", str(error)) if named else ("wrong", f"no changed key is named: {error}")
        except Exception as error:
            return "wrong", f"{type(error).__name__}: {error}"
        expected = self.transformers(base)
        if isinstance(expected, str):
            return "wrong", f"accepted, but transformers has no logits: {expected}"
        expected = expected[: len(ids)]
        off = np.abs(logits - expected).max() / np.abs(expected).max()
        return ("same", "") if off <= TOLERANCE else ("wrong", f"off by {off:.3g} of the largest logit")


def main(count: int, seed: int) -> int:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder))
        for (base, config, changed), _ in zip(edits(seed), range(count), strict=False):
            outcome, what = judge(base, config, changed)
            found[outcome] += 1
            if outcome == "wrong":
                edited = {name: config.get(name, "deleted") for name in changed}
                print(base, str(edited)[:300], what[:300], sep="\n  ")
    print(dict(found))
    return found["wrong"] > 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
