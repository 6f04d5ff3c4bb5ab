"""Calls of everything that reads weights: products, fused ones, experts, embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import wgsl_kernels
from tests.wgsl_kernels.dealing import (
    BLOCKS,
    FUSED_CASES,
    PASSED,
    TYPES,
    WIDTHS,
    ZERO_POINTS,
    Case,
    cases_of,
    covering,
    deal,
    few_team_cases,
    fitting_cases,
    in_f16,
    team_cases,
    weight_options,
)


def linear_cases() -> Iterator[Case]:
    ranges = ({}, {}, {"before": 0, "after": 7}, {"before": 37, "after": 0}, {"before": 3, "after": 64})
    tokens = {
        "gemv": (1, 2, 3, 4, 7),
        "gemv_f16": (1, 2, 3, 4, 7),
        "batch": (1, 2, 3, 9, 16, 17),
        "batch_f16": (1, 2, 3, 9, 16, 17),
        "tile": (1, 17, 31, 63, 65, 70),
        "broadcast": (1, 5, 8, 9, 31, 70),
    }
    columns = (5, 31, 96, 172, 352, 896)
    for fmt in wgsl_kernels.weights.WEIGHT_FORMATS:
        name = f"linear[{fmt}]"
        for variant in wgsl_kernels.get(name).variants:
            options = {
                "subgroups": (True,) if variant == "broadcast" else (True, False),
                "tokens": tokens[variant],
                "rows": (1, 3, 33, 64, 123, 130),
                "columns": (*columns, 32, 576) if fmt in ZERO_POINTS else columns,
                "x_dtype": TYPES,
                "bias": (False, True),
                "residual": ({}, {"residual": True}, {"residual": True, "factor": 0.22}),
                "part": ranges,
                "adapters": (0, 2),
                **weight_options(fmt),
            }
            yield from deal(name, variant, **(in_f16(options) if variant.endswith("_f16") else options))


def integer_linear_cases() -> Iterator[Case]:
    ranges = ({}, {}, {"before": 0, "after": 7}, {"before": 37, "after": 0}, {"before": 3, "after": 64})
    few = (1, 2, 3, 9, 16, 17)
    tokens = {"gemv": (1, 2, 3, 4, 7), "staged": (1, 2, 3), "batch": few, "tile": (1, 17, 63, 65, 70)}
    for fmt in ZERO_POINTS:
        name = f"linear[{fmt}, a8]"
        for variant in wgsl_kernels.get(name).variants:
            options = {
                "tokens": tokens[variant],
                "rows": (1, 3, 33, 64, 123, 130),
                "columns": (5, 31, 96, 172, 352, 896, 32, 576),
                "bias": (False, True),
                "residual": ({}, {"residual": True}, {"residual": True, "factor": 0.22}),
                "part": ranges,
                "adapters": (0, 2),
                **weight_options(fmt),
            }
            if (fmt, variant) == ("int2", "staged"):  # pieces of 64 columns
                options["columns"] = (64, 123, 172, 250, 576, 896)
                options["blocks"] = tuple(b for b in BLOCKS if b.get("block") != 32)
            yield from deal(name, variant, **options)


def fused_cases() -> Iterator[Case]:
    columns = (8, 36, 64, 96, 172, 352, 896)
    heads = tuple(
        {"heads": h, "kv_heads": k, "head_dim": d}
        for h, k, d in ((1, 1, 8), (2, 1, 16), (3, 3, 32), (4, 2, 64), (5, 1, 24))
    )
    places = (
        {"tokens": 1, "position": 0, "capacity": 1},
        {"tokens": 1, "position": 63, "capacity": 64},
        {"tokens": 3, "position": 61, "capacity": 64},
        {"tokens": 4, "position": 30, "capacity": 32},  # runs over the end of the cache
    )
    written = (
        *places,
        {"tokens": 4, "position": 90, "capacity": 12, "positions": 128, "ring": True, "sinks": 3},
    )
    sequences = (
        {"sequences": 1, "sequence": 0},
        {"sequences": 3, "sequence": 1},
        {"sequences": 3, "scattered": True},
    )
    for fmt in wgsl_kernels.weights.WEIGHT_FORMATS:
        plain = {"columns": columns, "x_dtype": TYPES, **weight_options(fmt)}
        common = {**plain, "adapters": (0, 2), "slices": (1, 3, 11)}
        tokens = (1, 2, 3, 4)
        yield from team_cases(
            f"norm_linear[{fmt}]", fused=True, tokens=tokens, rows=(1, 3, 33, 64, 130), **common
        )
        for name in (f"norm_argmax[{fmt}]", f"norm_linear_max[{fmt}]"):
            yield from team_cases(
                name, fused=True, tokens=tokens, rows=(1, 3, 130, 300), group=(128,), **plain
            )
            # groups as lowering makes them, with what suits the adapter, of a size in turn for each form
            yield from cases_of(
                name, "gemv", 1, first=12, tunables={}, tokens=(1, 2), rows=(33, 130, 300), group=(4, 16, 32)
            )
            # and in turns, as a GPU takes them
            turns = {"workgroup": (32,), "teams": (1,), "rows_per_team": (8,)}
            yield from cases_of(
                name, "gemv", 1, first=15, tunables=turns, tokens=(1,), rows=(130,), group=(16, 32)
            )
        for name in (f"norm_gate_up[{fmt}]", f"norm_gate_up_gelu[{fmt}]"):
            yield from team_cases(name, fused=True, tokens=tokens, width=(1, 3, 33, 64, 130), **common)
        for name in (f"gate_up[{fmt}]", f"gate_up_gelu[{fmt}]"):
            tiled = {
                **plain,
                "tokens": (1, 9, 17, 65),
                "width": (1, 3, 33, 64, 130),
                "columns": (5, 31, 96, 576),
            }
            yield from deal(name, "tile", **tiled)
            yield from cases_of(name, "broadcast", FUSED_CASES, **{**tiled, "subgroups": (True,)})
        yield from team_cases(
            f"norm_qkv[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=written,
            sequence=sequences,
            valid=(None, 0, 2),
            kv_dtype=TYPES,
            **common,
        )
        yield from team_cases(
            f"norm_qkv_rows[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=places,
            sequence=sequences,
            valid=(None, 0, 2),
            **common,
        )


def integer_fused_cases() -> Iterator[Case]:
    heads = tuple(
        {"heads": h, "kv_heads": k, "head_dim": d} for h, k, d in ((1, 1, 8), (3, 3, 32), (4, 2, 64))
    )
    places = (
        {"tokens": 1, "position": 63, "capacity": 64},
        {"tokens": 4, "position": 30, "capacity": 32},  # runs over the end of the cache
    )
    for fmt in ZERO_POINTS:
        plain = {"columns": (8, 36, 64, 96, 172, 896), "x_dtype": TYPES, **weight_options(fmt)}
        common = {**plain, "adapters": (0, 2), "slices": (1, 3, 11)}
        rows = {"tokens": (1, 2), "rows": (3, 33, 130), **plain}
        yield from team_cases(
            f"norm_linear_a8[{fmt}]", fused=True, **rows, adapters=(0, 2), slices=(1, 3, 11)
        )
        for name in (f"norm_argmax_a8[{fmt}]", f"norm_linear_max_a8[{fmt}]"):
            yield from team_cases(name, fused=True, group=(128,), **rows)
        yield from team_cases(
            f"norm_qkv_a8[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=(*places, {"tokens": 1, "position": 90, "capacity": 12, "ring": True, "sinks": 3}),
            scattered=(False, True),
            kv_dtype=TYPES,
            **common,
        )
        yield from team_cases(
            f"norm_qkv_rows_a8[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=places,
            scattered=(False, True),
            **common,
        )
        for name in (f"gate_up[{fmt}, a8]", f"gate_up_gelu[{fmt}, a8]"):
            width, columns = (1, 3, 33, 64, 130), (5, 96, 172, 576)
            yield from deal(
                name,
                "tile",
                tokens=(1, 17, 65),
                width=width,
                columns=columns,
                **weight_options(fmt),
            )
        shapes = {"tokens": (1, 2, 4), "width": (1, 31, 33, 64, 130), "y_stride": (1, 2, 4), **common}
        sliced = {**common, "tokens": (1, 2), "adapters": (1, 2)}
        del sliced["x_dtype"]
        for op in ("sliced_gate_up_a8", "sliced_gate_up_gelu_a8"):
            own = {"width": shapes["width"], "y_stride": shapes["y_stride"], "y_dtype": ("f32",)}
            yield from few_team_cases(f"{op}[{fmt}, a8]", **{**sliced, **own})
        own = {"heads": heads, "passed": PASSED, "place": places, "kv_dtype": TYPES}
        del sliced["tokens"]
        yield from few_team_cases(f"sliced_qkv_a8[{fmt}]", **{**sliced, **own})
        for op in ("norm_gate_up_a8", "norm_gate_up_gelu_a8"):
            yield from team_cases(f"{op}[{fmt}, a8]", fused=True, **{**shapes, "y_dtype": ("f32",)})
    yield from cases_of(
        "attention_reduce[a8]",
        "lanes",
        6,
        tokens=(1, 2, 5),
        heads=(1, 4, 9),
        splits=(1, 2, 7, 64, 130),
        head_dim=(32, 64, 320),
        stride=(1, 2, 4),
        subgroups=(True,),
        y_dtype=("f32",),
    )
    yield from cases_of(
        "attention_reduce[a8]",
        "heads",
        6,
        tokens=(1, 2, 5),
        heads=(1, 4, 9),
        splits=(1, 2, 7, 64),
        head_dim=(32, 64, 320),
        stride=(1, 2, 4),
        y_dtype=("f32",),
    )


def expert_cases() -> Iterator[Case]:
    yield from cases_of(
        "route",
        "row",
        14,
        tokens=(1, 2, 70),
        width=(2, 4, 16, 60, 128, 200),
        k=(1, 2, 8),
        kind=({}, {"normalised": True}, {"sigmoid": True}, {"sigmoid": True, "normalised": True}),
        x_dtype=TYPES,
        y_dtype=("f32",),
    )
    common = {"tokens": (1, 2, 3, 9, 33), "chosen": (1, 2, 3)}
    orders = {"tokens": (1, 3, 70), "chosen": (1, 2, 3), "scores": (False, True)}
    sizes = tuple({"count": count} for count in (1, 4, 130))
    plain = {"subgroups": (False,), "y_dtype": ("f32",)}
    yield from cases_of("expert_order", "experts", 4, **orders, size=sizes, **plain)
    added = ({}, {"residual": True}, {"residual": True, "factor": 0.22})
    sums = {"width": WIDTHS, "more": added, "x_dtype": TYPES, "subgroups": (False,)}
    yield from cases_of("expert_sum", "elements", 9, **common, **sums)
    # ranges of rows as bindings cut them, within experts too
    parts = tuple(
        {"rows": rows, "expert_rows": each, "row_offset": first}
        for rows, each, first in ((48, 12, 0), (6, 3, 0), (130, 130, 0), (40, 33, 36), (100, 64, 4))
    )
    halves = tuple({"rows": 2 * n * each, "expert_rows": each} for n, each in ((2, 3), (4, 33), (3, 130)))
    forms = [(fmt, False) for fmt in wgsl_kernels.weights.WEIGHT_FORMATS] + [
        (fmt, True) for fmt in ZERO_POINTS
    ]
    for number, (fmt, integer) in enumerate(forms):
        form = f"[{fmt}, a8]" if integer else f"[{fmt}]"
        shapes = {
            **common,
            "scores": (False, True),
            **weight_options(fmt),
            "columns": (32, 96, 352, 896) if integer else (5, 36, 96, 172, 352, 896),
            **({} if integer else {"x_dtype": TYPES}),
        }
        yield from _gathered(f"expert_linear{form}", number, **shapes, apart=(False, True), part=parts)
        tiled = {**shapes, "tokens": (17, 70), "apart": (False, True), "part": parts}
        yield from islice(
            fitting_cases(f"expert_linear_sorted{form}", "tile", **tiled), number % 3, number % 3 + 2
        )
        yield from _gathered(f"expert_gate_up{form}", number, **shapes, part=halves)
        # scores beside INT8 activations would be a buffer too many
        added = {"residual": True, "factor": 0.22}
        both = ({}, added) if integer else ({"scores": True, **added}, {})
        rows = tuple({"rows": 4 * each, "expert_rows": each} for each in (3, 33, 130))
        down = {name: values for name, values in shapes.items() if name != "scores"}
        yield from _gathered(f"expert_down{form}", number, **down, part=rows, more=both)


def _gathered(kernel: str, number: int, **options: tuple) -> Iterator[Case]:
    """A case of a form, two of INT4, and one with teams of some; tunables are dealt over forms by their number."""
    op, tunables = kernel.partition("[")[0], wgsl_kernels.get(kernel).variants["gemv"].tunables
    dealt = {name: (None, *tunables[name]) for name in ("workgroup", "rows_per_team")}
    dealt, pieces = covering(f"{op}/tunables", 10, dealt), tunables.get("piece", (None,))
    cases = cases_of(kernel, "gemv", 2, tunables={}, **options)
    for at, (case, piece) in enumerate(zip(cases, pieces, strict=False)):
        chosen = {**dealt[number if at == 0 else 9], "piece": piece, "teams": 1}
        yield replace(case, tunables={name: n for name, n in chosen.items() if n is not None})
    if number < 3:
        case = next(cases_of(kernel, "gemv", 2, tunables={}, **{**options, "subgroups": (True,)}))
        teams = {"workgroup": 64, "teams": (2, 4, 8)[number], "rows_per_team": 4}
        yield replace(case, number=2, tunables=teams)


def weight_cases() -> Iterator[Case]:
    for fmt in wgsl_kernels.weights.WEIGHT_FORMATS:
        columns = (5, 31, 64, 96, 172, 352, 576, 896)
        rows = (1, 3, 33, 50, 123, 130)
        options = {"rows": rows, "columns": columns, "subgroups": (False,), **weight_options(fmt)}
        yield from cases_of(f"dequantize[{fmt}]", "octets", 8, **{**options, "y_dtype": ("f32",)})
        yield from cases_of(
            f"embedding[{fmt}]", "rows", 9, tokens=(1, 3, 9, 70), row_offset=(0, 0, 40), **options
        )


def lora_cases() -> Iterator[Case]:
    """As there are many forms, a case of each, with tunables dealt over them."""
    for fmt in wgsl_kernels.weights.WEIGHT_FORMATS:
        shapes = {"tokens": (1, 3, 5), "ranks": (4, 8, 24, 36), "adapters": (1, 2, 3), **weight_options(fmt)}
        shapes |= {"y_dtype": ("f32",)}
        columns = (36, 96, 172, 896)
        floats = {**shapes, "columns": (5, *columns), "x_dtype": TYPES}
        count = 3 if fmt == "int4" else 1  # it has pieces of two sizes
        yield from cases_of(f"lora_down[{fmt}]", "gemv", count, least=count, **floats)
        normed = {**floats, "columns": columns}
        yield from cases_of(f"norm_lora_down[{fmt}]", "gemv", count, least=count, **normed)
        sliced = {**normed, "columns": (36, 260, 576, 896)}
        yield from few_team_cases(f"norm_lora_slices[{fmt}]", **sliced)
        sliced |= {"rank": (4, 8, 36)}
        yield from few_team_cases(f"lora_up_norm_slices[{fmt}]", **{**sliced, "y_dtype": TYPES})
        strides = {} if fmt in ZERO_POINTS else {"stride": (1, 2, 4)}
        if strides:
            handed = {**sliced, **strides}
            yield from few_team_cases(f"lora_up_norm_slices_a8[{fmt}]", **{**handed, "y_dtype": TYPES})
            del handed["rank"]
            yield from few_team_cases(f"norm_lora_slices_a8[{fmt}]", **handed)
        integers = {**shapes, "columns": (5, *columns), **strides}
        yield from cases_of(f"lora_down[{fmt}, a8]", "gemv", 1, least=1, **integers)
    beside = {
        "tokens": (1, 2, 3),
        "rows": (1, 33, 123, 130),
        "columns": (5, 172, 896, 1156),
        "ranks": (4, 16, 36),
        "adapters": (1, 2, 3),
        "bias": (False, True),
        "residual": ({}, {"residual": True}, {"residual": True, "factor": 0.22}),
    }
    for fmt in ZERO_POINTS:
        yield from few_team_cases(f"linear_lora_down[{fmt}, a8, f32]", **beside, **weight_options(fmt))
    added = {"width": WIDTHS, "tokens": (1, 3, 5), "adapters": (1, 2), "rank": (4, 8, 36), "x_dtype": TYPES}
    yield from cases_of("lora_up", "elements", 3, least=3, subgroups=(False,), **added)
