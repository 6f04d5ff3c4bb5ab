"""Rotary embedding in a `config.json`, read as transformers 5 reads it.

Three generations of files say the same thing: `rope_theta` alone, `rope_scaling` beside it, and `rope_parameters` with
`rope_theta` inside. Where several stand in one file, `rope_scaling` (unless null or empty) wins over
`rope_parameters`, of which then nothing counts; `rope_theta` in the winner wins over the one at the top; and
`original_max_position_embeddings` at the top wins over the winner's (`RotaryEmbeddingConfigMixin`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import UnsupportedModelError
from workbench.models.keys import NULL, OBJECT, TEXT, Key, integer, number, one_of, read_keys, refused

DEFAULT_THETA = 10000.0
#: Below 1 frequencies grow beyond a turn a position, and their angles in f32 are noise.
THETA = number(1, 1e30)
_LENGTH = integer(1)
_WHOLE_HEAD = "all of a head is rotated"
_BAND = number(1e-3, 1e6)

#: Keys beside others in config.json.
TOP_KEYS = (
    Key("rope_theta", THETA | NULL, DEFAULT_THETA),
    Key("rope_scaling", OBJECT | NULL, None),
    Key("rope_parameters", OBJECT | NULL, None),
    Key("partial_rotary_factor", one_of(1, None), None, _WHOLE_HEAD),
    Key("original_max_position_embeddings", _LENGTH | NULL, None),
)
#: Keys of `rope_scaling` and `rope_parameters`, whatever the type.
_SHARED = (
    Key("rope_type", TEXT, None),
    Key("type", TEXT, None),
    Key("rope_theta", THETA, None),
    Key("partial_rotary_factor", one_of(1), 1, _WHOLE_HEAD),
    Key("full_attention", NULL, None, "one embedding for all layers"),
    Key("sliding_attention", NULL, None, "one embedding for all layers"),
)
#: And what each known type needs besides.
TYPES: dict[str, tuple[Key, ...]] = {
    "default": (),
    "linear": (Key("factor", number(1, 1e6)),),
    "llama3": (
        Key("factor", number(1, 1e6)),
        Key("low_freq_factor", _BAND),
        Key("high_freq_factor", _BAND),
        Key("original_max_position_embeddings", _LENGTH, None),
    ),
}


@dataclass(frozen=True)
class Rope:
    """theta: base of the wavelengths. scaling: as `inverse_frequencies` of `wgsl_kernels.attention.rope` takes it, None
    for none. notes: what of the file does not count."""

    theta: float
    scaling: dict[str, Any] | None
    notes: tuple[str, ...]


def read_rope(config: Mapping, top: Mapping[str, Any], context_length: int, where: str) -> Rope:
    """config: the file's object; top: the values of `TOP_KEYS`. Raises UnsupportedModelError naming the key."""
    notes = []
    name = "rope_scaling" if top["rope_scaling"] else "rope_parameters"
    given, inside = top[name] or {}, f"{where}: {name}"
    if name == "rope_scaling" and top["rope_parameters"]:
        notes.append("rope_parameters does not count beside rope_scaling, as in transformers")
    shared, _ = read_keys(given, _SHARED, inside)
    named = "rope_type" if "rope_type" in given else "type"
    kind = given.get(named, "default")
    if kind not in TYPES:
        raise refused(inside, named, kind, ", ".join(TYPES))
    values, _ = read_keys(given, TYPES[kind], inside)
    known = {key.name for key in (*_SHARED, *TYPES[kind])}
    if ignored := [str(key) for key in given if key not in known]:
        notes.append(f"{name} has {', '.join(ignored)}, which mean nothing to rope_type {kind!r}")
    theta = shared["rope_theta"]
    if theta is None:
        theta = top["rope_theta"]
    elif config.get("rope_theta", theta) not in (theta, None):
        notes.append(f"rope_theta does not count beside the one in {name}, as in transformers")
    if theta is None:
        raise refused(where, "rope_theta", None, THETA.allowed)
    if kind == "default":
        return Rope(float(theta), None, tuple(notes))
    if kind == "llama3":
        values["original_max_position_embeddings"] = _original_length(config, given, context_length, where)
        if values["high_freq_factor"] <= values["low_freq_factor"]:
            low = values["low_freq_factor"]
            raise refused(
                inside, "high_freq_factor", values["high_freq_factor"], f"more than low_freq_factor {low}"
            )
    return Rope(float(theta), {"rope_type": kind, **values}, tuple(notes))


def _original_length(config: Mapping, given: Mapping, context_length: int, where: str) -> int:
    """Positions that llama3's bands are measured by: of the top, else beside them, else the context."""
    name = "original_max_position_embeddings"
    length = config[name] if name in config else given.get(name, context_length)
    if length is None:
        raise UnsupportedModelError(f"{where}: {name} is null, but rope_type 'llama3' needs it")
    return length
