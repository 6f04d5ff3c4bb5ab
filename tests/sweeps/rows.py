"""Rows of results that no model has to run for: a model in several formats by two quantizers."""

from __future__ import annotations

from typing import Any

from workbench.sweeps.cells import UNCONVERTED
from workbench.sweeps.rows import Conditions, Row
from workbench.sweeps.table import Table

CONDITIONS = Conditions("disjoint-512", "a" * 64, "b" * 64, "c" * 64, None, "none", 12_000, "prose.txt")
#: format -> bits a weight, and of each quantizer change, its error and KL.
FOUND: dict[str, tuple[float, dict[str, tuple[float, float, float]]]] = {
    "int8": (8.2, {"rtn": (0.02, 0.009, 4e-5), "gptq": (0.008, 0.008, 3.1e-5)}),
    "int4": (4.2, {"rtn": (0.99, 0.15, 1.1e-2), "gptq": (-0.02, 0.12, 9e-3)}),
    "int4/32": (4.6, {"rtn": (0.71, 0.11, 8e-3), "gptq": (0.05, 0.1, 7e-3)}),
    "int2": (2.1, {"rtn": (64.8, 1.8, 0.64), "gptq": (10.7, 0.7, 0.2)}),
}


def row(**changes: Any) -> Row:
    """The unconverted model, with changes."""
    known = {
        **{
            "model": "tiny",
            "format": UNCONVERTED,
            "quantizer": "",
            "bits_per_weight": 16.0,
            "file_bytes": 16_000_000,
        },
        **{"ppl": 7.36, "ppl_se": 0.164, "ppl_se_clustered": 0.2, "backend": "torch", "source": "f16.json"},
        **{"note": "", "conditions": CONDITIONS, "activations": "f32", "cache": "f32"},
    }
    nothing = dict.fromkeys(Row.__dataclass_fields__)
    return Row(**{**nothing, **known, **changes})


def study() -> Table:
    """The unconverted model and four formats by two quantizers."""
    rows = [row()]
    for name, (bits, found) in FOUND.items():
        for quantizer, (change, se, kl) in found.items():
            rows.append(
                row(
                    format=name,
                    quantizer=quantizer,
                    bits_per_weight=bits,
                    file_bytes=int(bits * 1e6),
                    ppl=7.36 * (1 + change / 100),
                    change=change,
                    change_se=se,
                    kl=kl,
                    kl_se=kl / 20,
                    same_top1=1 - kl / 2,
                    same_top1_se=0.001,
                    source=f"{name}-{quantizer}.json",
                )
            )
    return Table(tuple(rows))
