"""Decoders some of whose layers look back no further than a window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.families.dense import WHERE, Dense, require_a_kind_a_layer
from workbench.models.keys import NULL, TRUTH, Key, integer, list_of, one_of, refused

#: Kinds of attention in `layer_types`.
FULL, SLIDING = "full_attention", "sliding_attention"
LAYER_TYPES = Key("layer_types", list_of(one_of(FULL, SLIDING)) | NULL, None)
SLIDING_WINDOW = Key("sliding_window", integer(1) | NULL, 4096)
USE_SLIDING_WINDOW = Key("use_sliding_window", TRUTH, False)
#: Keys of the families whose last layers have a window.
LAST_LAYERS = (LAYER_TYPES, SLIDING_WINDOW, USE_SLIDING_WINDOW, Key("max_window_layers", integer(0), 28))


@dataclass(frozen=True, kw_only=True)
class Windowed(Dense):
    """window: how far each layer looks back, itself included; 0 for all of the context."""

    window: tuple[int, ...]

    def bounds(self, index: int) -> dict[str, float]:
        cut = {"window": self.window[index]} if self.window[index] else {}
        return {**super().bounds(index), **cut}

    def facts(self) -> dict[str, str]:
        found = super().facts()
        if not any(self.window):
            return found
        count, largest = sum(map(bool, self.window)), max(self.window)
        return {**found, "window": f"{largest} positions in {count} of {self.layers} layers"}


def windows(read: Mapping[str, Any], default: Iterable[str]) -> tuple[int, ...]:
    """The window of each layer. default: kinds of layers where `layer_types` is null.

    Raises UnsupportedModelError for a layer with a window where there is none.
    """
    require_a_kind_a_layer(read, "layer_types")
    window = read["sliding_window"] if read.get("use_sliding_window", True) else None
    kinds = read.get("layer_types") or list(default)
    if SLIDING in kinds and window is None:
        raise refused(WHERE, SLIDING_WINDOW.name, None, f"an integer, as layers are of kind {SLIDING!r}")
    if window is None or window >= read["max_position_embeddings"]:
        window = 0  # cuts nothing within the context
    return tuple(window if kind == SLIDING else 0 for kind in kinds)


def last_layers(read: Mapping[str, Any]) -> tuple[int, ...]:
    """The window of each layer, by the keys of `LAST_LAYERS`."""
    first = read["max_window_layers"] if read["use_sliding_window"] and read["sliding_window"] else None
    kinds = (
        FULL if first is None or index < first else SLIDING for index in range(read["num_hidden_layers"])
    )
    return windows(read, kinds)
