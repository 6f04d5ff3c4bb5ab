"""LoRA adapters (Hu et al. 2021) as PEFT saves them: `adapter_config.json` beside `adapter_model.safetensors`.

An adapter changes matrices of a model by products of two small ones: W + scale * B A, with A [rank, columns] and
B [rows, rank]. Here it is read and checked against the model; `workbench.models.adapted` puts it beside the weights, or
into them.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.models.architecture import Architecture
from workbench.models.checkpoint_files import is_there, open_file, read_header, read_json, sha256_of
from workbench.models.contents import Header, some
from workbench.models.finite import require_finite
from workbench.models.hub import resolve
from workbench.models.keys import (
    ANYTHING,
    NULL,
    TRUTH,
    Key,
    Kind,
    integer,
    number,
    object_of,
    one_of,
    read_keys,
    refused,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)(?:\.default)?\.weight")
_FLOATS = ("F32", "F16", "BF16")

_ABSENT = NULL | one_of(False) | Kind("empty", lambda value: value in ([], {}, ""))
_RESIDUAL = "the weights of the model itself are others then"
#: A pattern without groups and with few repetitions, each of which makes matching slower by up to a name's length.
_PATTERN = re.compile(r"[\w.\\^$|*+\[\]-]+")
_MOST_REPETITIONS, _MOST_PATTERNS = 3, 4096
_PATTERNS = Kind(
    f"an object of numbers by patterns of module names, at most {_MOST_PATTERNS:,}, without groups and with at most "
    f"{_MOST_REPETITIONS} repetitions each",
    lambda value: (
        isinstance(value, Mapping)
        and len(value) <= _MOST_PATTERNS
        and all(isinstance(name, str) and _is_pattern(name) for name in value)
        and object_of(number(0, 2**31, above=True)).holds(value)
    ),
)
_BY_PATTERN = ("alpha_pattern", "rank_pattern")


def _is_pattern(text: str) -> bool:
    if not _PATTERN.fullmatch(text) or text.count("*") + text.count("+") > _MOST_REPETITIONS:
        return False
    try:
        with warnings.catch_warnings():
            # What a later Python would read otherwise, as a set in a set.
            warnings.simplefilter("error", FutureWarning)
            re.compile(text)
    except (re.error, FutureWarning):
        return False
    return True


#: Keys of adapter_config.json of training, or told by the names of the tensors.
_WITHOUT_EFFECT = (
    *("base_model_name_or_path", "revision", "task_type", "auto_mapping", "peft_version", "inference_mode"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout"),
    *("megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("qalora_group_size", "runtime_config", "ensure_weight_tying"),
)
#: All keys that are known; those that would change numbers otherwise are refused.
_KEYS = (
    Key("peft_type", one_of("LORA")),
    Key("r", integer(1, 65536), 8),
    Key("lora_alpha", number(0, 2**31), 8),
    Key("use_rslora", TRUTH | NULL, False),
    Key("alpha_pattern", _PATTERNS | NULL, {}),
    Key("rank_pattern", _PATTERNS | NULL, {}),
    Key("bias", one_of("none"), "none", "biases are not read"),
    Key("init_lora_weights", TRUTH | one_of("gaussian", "orthogonal", "eva", "lora_ga"), True, _RESIDUAL),
    *(
        Key(name, _ABSENT, None, why)
        for name, why in (
            ("use_dora", "DoRA scales the rows of the sum"),
            ("fan_in_fan_out", "its matrices are transposed"),
            ("lora_bias", "biases are not read"),
            ("modules_to_save", "whole modules are not replaced"),
            ("layer_replication", "layers are not repeated"),
            ("trainable_token_indices", "rows of embeddings are not replaced"),
            ("target_parameters", "experts have no adapters"),
            ("alora_invocation_tokens", "it holds from a token on"),
            ("use_qalora", "its A reads sums of columns"),
            ("use_bdlora", "its factors are blocks"),
            ("arrow_config", "adapters are not routed"),
            ("kasa_config", "singular values stand between its factors"),
            ("monteclora_config", "its factors are drawn"),
            ("velora_config", "its factors are others"),
        )
    ),
    *(Key(name, ANYTHING, None) for name in _WITHOUT_EFFECT),
)


@dataclass(frozen=True)
class Factors:
    """Of one matrix. down, up: names of A and B in the file; first, rows: which rows of B are the matrix's, where the
    file has them of several under one name; scale: what B A is multiplied by."""

    down: str
    up: str
    rank: int
    first: int
    rows: int
    scale: float


class Lora:
    """An adapter for one architecture, made by `Lora.open`. factors: by the checkpoint's name of the matrix."""

    def __init__(self, path: Path, factors: dict[str, Factors]):
        self.path, self.factors = path, factors

    def __str__(self) -> str:
        ranks = sorted({each.rank for each in self.factors.values()})
        return f"{self.path.name}: LoRA of rank {', '.join(map(str, ranks))} on {len(self.factors)} matrices"

    @classmethod
    def open(cls, folder_or_hub_id: str | Path, model: Architecture) -> Lora:
        """Read configuration and header, and check that they are of this model.

        Raises CheckpointError for what is damaged or missing, UnsupportedModelError for a key that changes numbers and
        is not understood, and for a matrix that the model does not have.
        """
        path = resolve(folder_or_hub_id)
        if not is_there(path / CONFIG):
            raise CheckpointError(f"{path / CONFIG}: the file is missing; an adapter has it beside {WEIGHTS}")
        given = read_json(path / CONFIG)
        config, unknown = read_keys(given, _KEYS, str(path / CONFIG))
        for name in unknown:
            if not _ABSENT.holds(given[name]):
                raise refused(
                    str(path / CONFIG), name, given[name], "absent", "it is not a key of LoRA that is known"
                )
        if not is_there(path / WEIGHTS):
            pickled = ", never its pickle" if (path / "adapter_model.bin").exists() else ""
            raise CheckpointError(f"{path}: no {WEIGHTS}; an adapter is read from safetensors{pickled}")
        config |= {key: _matchers(config[key] or {}) for key in _BY_PATTERN}
        headers = read_header(path / WEIGHTS)
        modules: dict[str, dict[str, str]] = {}
        for name in headers:
            match = _FACTOR.fullmatch(name)
            if match is None:
                raise UnsupportedModelError(
                    f"{path / WEIGHTS}: tensor {name!r} is no factor of LoRA; allowed: "
                    "base_model.model.MODULE.lora_A.weight and lora_B.weight"
                )
            modules.setdefault(match[1], {})[match[2]] = name
        factors: dict[str, Factors] = {}
        for module, pair in modules.items():
            factors |= _factors(path / WEIGHTS, module, pair, headers, config, model)
        if not factors:
            raise CheckpointError(f"{path / WEIGHTS}: it has no tensors")
        return cls(path, factors)

    def down(self, weight: str) -> np.ndarray:
        """A of a matrix, f32 [rank, columns]."""
        return self._read(self.factors[weight].down)

    def up(self, weight: str) -> np.ndarray:
        """B of a matrix, f32 [rows, rank]."""
        each = self.factors[weight]
        return self._read(each.up)[each.first : each.first + each.rows]

    def delta(self, weight: str, first: int, rows: int) -> np.ndarray:
        """Rows of scale * B A of a matrix, f32 [rows, columns]."""
        up = self.up(weight)[first : first + rows]
        return np.float32(self.factors[weight].scale) * (up @ self.down(weight))

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files, by name."""
        return {name: sha256_of(self.path / name, None) for name in (CONFIG, WEIGHTS)}

    def _read(self, name: str) -> np.ndarray:
        with open_file(self.path / WEIGHTS, "pt") as opened:
            values = opened.get_tensor(name).float().numpy()
        require_finite(self.path / WEIGHTS, name, 0, values)
        return values


def _factors(
    file: Path,
    module: str,
    pair: Mapping[str, str],
    headers: Mapping[str, Header],
    config: Mapping[str, Any],
    model: Architecture,
) -> dict[str, Factors]:
    """The factors of a module's matrix, or of each that it is the stack of."""
    if set(pair) != {"A", "B"}:
        raise CheckpointError(
            f"{file}: of {module} there is lora_{min(pair)} alone; allowed: lora_A and lora_B"
        )
    weight, tensors = f"{module}.weight", model.tensors()
    parts = model.stacked().get(weight, (weight,))
    if not all(part in tensors for part in parts) or weight in (model.embedding, model.lm_head):
        allowed = some([name.removesuffix(".weight") for name in model.adaptable()])
        raise UnsupportedModelError(
            f"{file}: an adapter for {module}, which is no linear layer of this model's decoder; "
            f"allowed: {allowed}"
        )
    if any(tensors[part].experts > 1 for part in parts):
        raise UnsupportedModelError(
            f"{file}: an adapter for {module}, which is of experts; they have none here"
        )
    (down, up), rows = (headers[pair[key]] for key in "AB"), [tensors[part].shape[0] for part in parts]
    columns = tensors[parts[0]].shape[1]
    for (shape, dtype), name in ((down, pair["A"]), (up, pair["B"])):
        if dtype not in _FLOATS:
            raise CheckpointError(f"{file}: tensor {name!r} has dtype {dtype}; allowed: {', '.join(_FLOATS)}")
        if len(shape) != 2:
            raise CheckpointError(f"{file}: tensor {name!r} has shape {list(shape)}; allowed: a matrix")
    rank = down[0][0]
    if down[0] != (rank, columns) or up[0] != (sum(rows), rank):
        raise UnsupportedModelError(
            f"{file}: {module} has factors {list(down[0])} and {list(up[0])}; the model asks for [rank, {columns}] and "
            f"[{sum(rows)}, rank]"
        )
    alpha = _by_pattern(config["alpha_pattern"], module, config["lora_alpha"])
    asked = _by_pattern(config["rank_pattern"], module, config["r"])
    if rank != asked:
        raise CheckpointError(f"{file}: {module} has rank {rank}, but {CONFIG} says {asked}")
    scale = alpha / (math.sqrt(rank) if config["use_rslora"] else rank)
    firsts = [sum(rows[:at]) for at in range(len(rows))]
    return {
        part: Factors(pair["A"], pair["B"], rank, first, count, scale)
        for part, first, count in zip(parts, firsts, rows, strict=True)
    }


#: Values by the patterns of modules, compiled once for all modules.
_Matchers = list[tuple[re.Pattern[str], float]]


def _matchers(patterns: Mapping[str, float]) -> _Matchers:
    """What a module's name is matched with: it ends with the pattern (PEFT's `get_pattern_key`)."""
    return [(re.compile(rf"(.*\.)?({pattern})$"), value) for pattern, value in patterns.items()]


def _by_pattern(matchers: _Matchers, module: str, otherwise: float) -> float:
    """The value of the first pattern that a module's name ends with."""
    return next((value for matcher, value in matchers if matcher.match(module)), otherwise)
