"""The calls that the pair tests make: a fixed, seeded list for every variant of every kernel.

Each option of a call (sizes, element types, block sizes, tunables, subgroups or not) has a list of values, which
`dealing` deals out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import wgsl_kernels
from tests.wgsl_kernels.dealing import PASSED, TYPES, WIDTHS, Case, cases_of
from tests.wgsl_kernels.weight_cases import (
    expert_cases,
    fused_cases,
    integer_fused_cases,
    integer_linear_cases,
    linear_cases,
    lora_cases,
    weight_cases,
)


def _elementwise_cases() -> Iterator[Case]:
    common = {"tokens": (1, 2, 3, 9, 33, 70), "width": WIDTHS, "x_dtype": TYPES, "subgroups": (False,)}
    for kernel in ("silu_mul", "gelu_mul"):
        yield from cases_of(kernel, "elements", 9, **common)
    factors = {"factor": (1.0, 0.22, -12.0)}
    yield from cases_of("scale", "elements", 9, **common, **factors)
    factors = tuple({"factor": factor} for factor in factors["factor"])
    yield from cases_of("add", "elements", 9, **common, more=({}, *factors))
    yield from cases_of("softcap", "elements", 9, **common, cap=(0.5, 30.0, 1000.0))
    yield from cases_of("gelu", "elements", 12, tanh=(False, True), **common)
    yield from cases_of("select_rows", "elements", 9, **{**common, "results": (1, 2, 40)})
    yield from cases_of("select_columns", "elements", 6, **common)
    words = tuple(
        {"block": b, "stride": s} for b, s in ((4, 1), (32, 1), (64, 2), (128, 4), (32, 2), (32, 4))
    )
    blocks = {"words": words, "static_scale": (0.0, 0.0, 0.01, 0.05)}
    yield from cases_of(
        "rms_norm[a8]",
        "row",
        12,
        tokens=(1, 3, 33),
        hidden=(32, 96, 352, 4128),
        stride=(1, 2, 4),
        x_dtype=TYPES,
        y_dtype=("f32",),
    )
    for name in ("silu_mul[a8]", "gelu_mul[a8]", "swiglu[a8]", "geglu[a8]"):
        yield from cases_of(
            name,
            "elements",
            6,
            tokens=(1, 3, 33),
            width=(32, 96, 172, 576, 1060),
            stride=(1, 2, 4),
            x_dtype=TYPES,
            y_dtype=("f32",),
        )
    yield from cases_of("quantize_activations[a8]", "blocks", 12, **{**common, **blocks, "y_dtype": ("f32",)})
    yield from cases_of(
        "advance",
        "one",
        4,
        tokens=(1, 3, 8),
        steps=(1, 6),
        step=(0, 2, 5, 9),
        subgroups=(False,),
        y_dtype=("f32",),
    )


def _row_cases() -> Iterator[Case]:
    common = {"tokens": (1, 2, 9, 70), "width": (1, *WIDTHS, 1000), "x_dtype": TYPES}
    yield from cases_of("softmax", "row", 14, **common)
    yield from cases_of("argmax", "row", 14, **{**common, "y_dtype": ("f32",)})
    yield from cases_of("target_log_likelihood", "row", 14, **{**common, "y_dtype": ("f32",)})
    plain = {**common, "y_dtype": ("f32",)}
    yield from cases_of("divergence", "row", 14, apart=(0.0, 1e-3, 0.1, 3.0), **plain)
    yield from cases_of("log_probabilities", "row", 14, k=(1, 5, 40), counted=(0, 3, 40), **plain)
    yield from cases_of(
        "tail_priorities", "elements", 14, k=(1, 4, 64), strata=(1, 3, 64), **{**plain, "subgroups": (False,)}
    )
    groups = {"tokens": common["tokens"], "groups": (1, *WIDTHS, 1000), "y_dtype": ("f32",)}
    yield from cases_of("argmax_reduce", "row", 14, **groups)
    parts = {**common, "width": (1, *WIDTHS, 5000), "group": (64, 1000, 2048), "y_dtype": ("f32",)}
    yield from cases_of("argmax_parts", "groups", 14, **parts)
    largest = {**common, "k": (1, 2, 5, 40, 64), "y_dtype": ("f32",)}
    yield from cases_of("top_k", "knockout", 14, **largest)
    yield from cases_of("top_k_reduce", "knockout", 14, group=(8, 16, 32), **largest)
    hidden = {"hidden": common["width"], "eps": (1e-5, 1e-6)}
    yield from cases_of("rms_norm", "row", 14, tokens=common["tokens"], x_dtype=TYPES, **hidden)


FILTERS = (
    {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 0, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 3, "top_p": 1.0, "step": 0.5},
    {"temperature": 2.0, "top_k": 40, "top_p": 0.7, "min_p": 0.02, "step": 1.0},
    {"temperature": 1.5, "top_k": 0, "top_p": 0.0},
    {"temperature": 30.0, "top_k": 0, "top_p": 0.3, "repetition_penalty": 0.4},
    {"temperature": 1e6, "top_k": 20, "top_p": 0.5, "step": 0.25},
    {"temperature": 1e-37, "top_k": 5, "top_p": 0.9, "masked": 3},
    {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": 1.3, "masked": 60},
)


def _sampling_cases() -> Iterator[Case]:
    common = {
        "width": (1, 5, 31, 257, 1000, 4001),
        "filters": FILTERS,
        "position": (0, 1, 500, 2**31 - 2),
        "seen": (0, 1, 50),
        "y_dtype": ("f32",),
        "subgroups": (False,),
    }
    parts = {**common, "parts": (1, 2, 7, 32)}
    yield from cases_of("sample", "radix", 14, **common)
    stateless = {name: values for name, values in parts.items() if name != "position"}
    yield from cases_of("sample_first", "radix", 11, **stateless)
    yield from cases_of("sample_tally", "radix", 22, round=(1, 2, 3, 4, 5, 6, 7), **stateless)
    yield from cases_of("sample_sums", "radix", 11, **stateless)
    yield from cases_of("sample_draw", "radix", 11, **parts)
    widths = {"width": common["width"], "parts": parts["parts"], "y_dtype": ("f32",)}
    yield from cases_of("exp_sums", "parts", 8, **widths)
    steps = {"steps": (1, 6), "step": (0, 2, 5, 9), "k": (1, 5), "subgroups": (False,)}
    yield from cases_of("tell", "one", 6, **{**widths, **steps})


def _cache_cases() -> Iterator[Case]:
    """Kernels over the cache in f32, f16 and INT8."""
    heads = tuple(
        {"heads": kv * group, "kv_heads": kv, "head_dim": size}
        for kv, group, size in (
            (1, 1, 8),
            (2, 1, 16),
            (3, 2, 24),
            (2, 2, 40),
            (1, 4, 64),
            (2, 4, 128),
            (5, 1, 8),
            (2, 2, 64),
            (1, 2, 256),
        )
    )
    places = (
        {"tokens": 1, "position": 0, "capacity": 1},
        {"tokens": 1, "position": 63, "capacity": 64},
        {"tokens": 3, "position": 61, "capacity": 64},
        {"tokens": 33, "position": 0, "capacity": 40},
        {"tokens": 70, "position": 5, "capacity": 130},
        {"tokens": 1, "position": 299, "capacity": 512},
        {"tokens": 9, "position": 120, "capacity": 129},
        {"tokens": 4, "position": 30, "capacity": 32},  # runs over the end of the cache
    )
    sequences = (
        {"sequences": 1, "sequence": 0},
        {"sequences": 2, "sequence": 1},
        {"sequences": 3, "sequence": 1},
        {"sequences": 3, "scattered": True},
    )
    bounds = (
        {},
        {"window": 1},
        {"window": 7},
        {"window": 40},
        {"chunk": 8},
        {"chunk": 33},
        {"softcap": 2.0},
        {"window": 100, "softcap": 50.0},
        {"window": 12, "chunk": 16},
    )
    # rings that have come round, and some that have not yet; sinks with and without queries of their own
    rings = (
        {"tokens": 1, "position": 3, "capacity": 20, "window": 8, "sinks": 4, "q_sinks": True},
        {"tokens": 9, "position": 1000, "capacity": 71, "window": 50, "sinks": 5, "q_sinks": True},
        {"tokens": 12, "position": 0, "capacity": 15, "window": 4, "sinks": 0},
        {
            "tokens": 33,
            "position": 95,
            "capacity": 80,
            "window": 7,
            "sinks": 40,
            "q_sinks": True,
            "softcap": 2.0,
        },
        {"tokens": 4, "position": 130, "capacity": 70, "chunk": 64, "sinks": 2},
    )
    # where a tile of tokens is full, is not, and has rows of several sequences; and rings that it can read
    tiles = (
        {"tokens": 130, "position": 60, "capacity": 200},
        {"tokens": 33, "position": 0, "capacity": 40},
        {"tokens": 70, "position": 5, "capacity": 130},
        {"tokens": 9, "position": 120, "capacity": 125},  # runs over the end of the cache
        {"tokens": 70, "position": 130, "capacity": 140, "chunk": 64},
        {"tokens": 40, "position": 95, "capacity": 80, "window": 17, "softcap": 2.0},
    )
    for cache, more in (("", {"kv_dtype": TYPES}), ("[kv8]", {})):
        yield from cases_of(
            f"attention{cache}",
            "tile",
            8,
            first=40,
            subgroups=(False,),
            heads=heads,
            place=tiles,
            sequence=sequences,
            x_dtype=TYPES,
            **more,
        )
        for variant in [v for v in wgsl_kernels.get(f"attention{cache}").variants if v != "tile"]:
            yield from cases_of(
                f"attention{cache}",
                variant,
                3,
                first=12,
                subgroups=(True,),
                heads=heads,
                place=rings,
                sequence=sequences[: 1 if variant == "broadcast" else 3],
                x_dtype=TYPES,
                **more,
            )
            yield from cases_of(
                f"attention{cache}",
                variant,
                12,
                subgroups=(True,) if variant == "broadcast" else (True, False),
                heads=heads,
                place=places,
                sequence=sequences[:1] if variant == "broadcast" else sequences,
                bounds=bounds,
                x_dtype=TYPES,
                **more,
            )
        yield from cases_of(
            f"attention_split{cache}",
            "teams",
            3,
            first=12,
            subgroups=(True,),
            heads=heads,
            place=rings,
            sequence=sequences[:3],
            splits=(2, 3, 7),
            x_dtype=TYPES,
            y_dtype=("f32",),
            **more,
        )
        yield from cases_of(  # parts of more positions than are read, and kept, at a time
            f"attention_split{cache}",
            "teams",
            2,
            first=15,
            least=2,
            tunables={},
            subgroups=(True,),
            heads=heads[4:6],
            place=({"tokens": 1, "position": 700, "capacity": 704},),
            sequence=sequences[:1],
            splits=(1, 2),
            x_dtype=TYPES,
            y_dtype=("f32",),
            **more,
        )
        yield from cases_of(
            f"attention_split{cache}",
            "teams",
            12,
            subgroups=(True,),
            heads=heads,
            place=places,
            sequence=sequences,
            bounds=bounds,
            splits=(1, 2, 3, 7, 16),
            x_dtype=TYPES,
            y_dtype=("f32",),
            **more,
        )
    yield from cases_of(
        "attention_reduce",
        "lanes",
        6,
        tokens=(1, 2, 5),
        heads=(1, 4, 9),
        splits=(1, 2, 7, 64, 130),
        head_dim=(8, 16, 64, 320),
        subgroups=(True,),
    )
    yield from cases_of(
        "attention_reduce",
        "heads",
        6,
        tokens=(1, 2, 5),
        heads=(1, 4, 9),
        splits=(1, 2, 7, 64),
        head_dim=(8, 16, 64, 320),
        subgroups=(False,),
    )
    writers = tuple({k: v for k, v in shape.items() if k != "heads"} for shape in heads)
    written = (
        *places,
        {"tokens": 70, "position": 300, "capacity": 130, "ring": True, "sinks": 4},
        {"tokens": 9, "position": 2, "capacity": 12, "ring": True, "sinks": 3},
    )
    yield from cases_of(
        "kv_append",
        "elements",
        12,
        heads=writers,
        place=written,
        sequence=sequences,
        valid=(None, 0, 1, 2, 20, 99),
        x_dtype=TYPES,
        kv_dtype=TYPES,
        y_dtype=("f32",),
        subgroups=(False,),
    )
    for kernel in ("kv_append[kv8]", "kv_append_rows[kv8]"):
        yield from cases_of(
            kernel,
            "heads",
            12,
            heads=writers,
            place=written,
            sequence=sequences,
            valid=(None, 0, 1, 2, 20, 99),
            x_dtype=TYPES,
            y_dtype=("f32",),
        )
    biases = {"biases": ({}, {"q_bias": True, "k_bias": True, "v_bias": True})}
    norms = {"weight": (True, False)}
    for kernel, more in (
        ("rope_append", {"kv_dtype": TYPES, **biases}),
        ("rope_append[kv8]", biases),
        ("norm_rope_append", {"kv_dtype": TYPES, **norms}),
        ("norm_rope_append[kv8]", norms),
    ):
        yield from cases_of(
            kernel,
            "heads",
            12,
            heads=heads,
            passed=PASSED,
            interleaved=(False, True),
            place=written,
            sequence=sequences,
            valid=(None, 0, 1, 2, 20, 99),
            x_dtype=TYPES,
            **more,
        )
    turners = tuple({k: v for k, v in shape.items() if k != "kv_heads"} for shape in heads)
    turned = tuple({"positions": each["capacity"], **each} for each in places)
    rotations = {
        "heads": turners,
        "passed": PASSED,
        "place": tuple({k: v for k, v in each.items() if k != "capacity"} for each in turned),
        "scattered": (False, True),
        "x_dtype": TYPES,
    }
    yield from cases_of(
        "rope", "pairs", 16, subgroups=(False,), interleaved=(False, True), back_to=(0, 0, 9), **rotations
    )
    yield from cases_of(
        "position_scale",
        "elements",
        12,
        subgroups=(False,),
        width=WIDTHS,
        tokens=(1, 3, 70),
        position=(0, 6, 7, 100),
        floor=(1.0, 8.0, 8192.0),
        scale=(0.1, 3.0),
        x_dtype=TYPES,
    )
    yield from cases_of("head_norm_rope", "heads", 12, **rotations)
    yield from cases_of(
        "head_norm", "heads", 12, heads=turners, tokens=(1, 2, 70), weight=(True, False), x_dtype=TYPES
    )


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case; covers all registered variants, which `test_pairs.py` checks."""
    makers = (
        _elementwise_cases,
        _row_cases,
        _sampling_cases,
        _cache_cases,
        weight_cases,
        linear_cases,
        integer_linear_cases,
        fused_cases,
        integer_fused_cases,
        expert_cases,
        lora_cases,
    )
    return tuple(case for maker in makers for case in maker())
