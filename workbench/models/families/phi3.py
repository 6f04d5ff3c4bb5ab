"""Phi-3, 3.5 and 4-mini (Abdin et al. 2024): q, k and v in one tensor, gate and up in another, part of each head
rotated, and angles of LongRoPE (Ding et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wgsl_kernels.attention.rope import inverse_frequencies
from workbench.models.families.dense import HEAD_DIM, WHERE, keys_of, named
from workbench.models.families.windows import FULL, SLIDING, Windowed, windows
from workbench.models.keys import NULL, TEXT, Key, integer, list_of, number, read_keys, real, refused
from workbench.models.rope_config import THETA
from workbench.plan.constants import RotaryTable

_PART = number(0, 1, above=True)
_FACTORS = list_of(number(1e-3, 1e6))
_NO_DROPOUT = number(0, 1)
#: Of `rope_scaling` and `rope_parameters`.
ROPE_KEYS = (
    Key("rope_type", TEXT, None),
    Key("type", TEXT, None),
    Key("rope_theta", THETA, None),
    Key("partial_rotary_factor", _PART, None),
)
LONG_KEYS = (
    Key("short_factor", _FACTORS),
    Key("long_factor", _FACTORS),
    Key("factor", number(1e-3, 1e6) | NULL, None),
    Key("attention_factor", number(0, 1e3) | NULL, None),
    Key("original_max_position_embeddings", integer(1) | NULL, None),
)
#: "su" and "yarn" are what older files call it.
LONG = ("longrope", "su", "yarn")


@dataclass(frozen=True, kw_only=True)
class Phi3(Windowed):
    """rotated: channels of a head that are. short, long: what divides their frequencies where the cache holds at most
    `original` positions, and where it holds more; empty for none. stretch: what cosines and sines are multiplied by."""

    family = "Phi3"
    keys = keys_of(
        *named("phi3", "Phi3ForCausalLM"),
        HEAD_DIM,
        Key("max_position_embeddings", integer(1), 4096),
        Key("original_max_position_embeddings", integer(1), 4096),
        Key("rms_norm_eps", real(0, 1, above=True), 1e-5),
        Key("partial_rotary_factor", _PART, None),
        Key("sliding_window", integer(1) | NULL, None),
        Key("layer_types", NULL, None, "all layers of Phi-3 are alike"),
        Key("resid_pdrop", _NO_DROPOUT, 0.0),
        Key("embd_pdrop", _NO_DROPOUT, 0.0),
    )

    rotated: int
    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    stretch: float

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        given = read["rope_scaling"] or read["rope_parameters"] or {}
        where = f"{WHERE}: {'rope_scaling' if read['rope_scaling'] else 'rope_parameters'}"
        shared, _ = read_keys(given, ROPE_KEYS, where)
        kind = shared["rope_type"] or shared["type"] or "default"
        if kind not in (*LONG, "default"):
            raise refused(where, "rope_type", kind, f"default, {', '.join(LONG)}")
        theta = shared["rope_theta"] or read["rope_theta"]
        plain = {**read, "rope_scaling": None, "rope_parameters": None, "partial_rotary_factor": None}
        fields = super().fields({}, {**plain, "rope_theta": theta})
        part = shared["partial_rotary_factor"] or read["partial_rotary_factor"] or 1.0
        rotated = int(fields["head_dim"] * part)
        if rotated % 2:
            raise refused(
                where, "partial_rotary_factor", part, f"an even share of heads of {fields['head_dim']}"
            )
        layer = FULL if read["sliding_window"] is None else SLIDING
        found = {
            **fields,
            "rotated": rotated,
            "window": windows(read, [layer] * fields["layers"]),
            "short": (),
            "long": (),
            "original": 0,
            "stretch": 1.0,
        }
        return found if kind == "default" else {**found, **_long(given, where, read, found)}

    def stacked(self) -> dict[str, tuple[str, ...]]:
        found = {}
        for layer in (f"model.layers.{index}" for index in range(self.layers)):
            qkv = tuple(f"{layer}.self_attn.{part}_proj.weight" for part in "qkv")
            found[f"{layer}.self_attn.qkv_proj.weight"] = qkv
            gate_up = tuple(f"{layer}.mlp.{part}_proj.weight" for part in ("gate", "up"))
            found[f"{layer}.mlp.gate_up_proj.weight"] = gate_up
        return found

    @cached_property
    def rotary(self) -> RotaryTable:
        plain = inverse_frequencies(self.rotated, self.rope_theta)
        short, long = (
            tuple((plain / np.array(factors, np.float32)).tolist()) if factors else ()
            for factors in (self.short, self.long)
        )
        return RotaryTable(short or tuple(plain.tolist()), self.stretch, long, self.original)


def _long(given: Mapping, where: str, read: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of LongRoPE."""
    values, _ = read_keys(given, LONG_KEYS, where)
    for name in ("short_factor", "long_factor"):
        if len(values[name]) != fields["rotated"] // 2:
            raise refused(where, name, values[name], f"a list of {fields['rotated'] // 2} numbers")
    original, stretch = read["original_max_position_embeddings"], values["attention_factor"]
    if stretch is None:
        factor = values["factor"] or read["max_position_embeddings"] / original
        stretch = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    note = (
        f"rotary frequencies are those for long texts where the cache holds more than {original} positions "
        "(original_max_position_embeddings)"
    )
    return {
        "short": tuple(map(float, values["short_factor"])),
        "long": tuple(map(float, values["long_factor"])),
        "original": original,
        "stretch": float(stretch),
        "notes": (*fields["notes"], note),
    }
