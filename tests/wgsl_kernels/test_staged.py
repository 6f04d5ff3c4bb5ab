"""Staged products: when they are taken, and what they take of a workgroup's memory."""

from __future__ import annotations

import re

import pytest

import wgsl_kernels
from wgsl_kernels import Adapter, Context
from wgsl_kernels.header import write_module
from wgsl_kernels.linear.staged_a8 import staged_bytes
from wgsl_kernels.tiles import WORKGROUP_BYTES
from workbench.dtypes import BITS

GPU = Adapter(subgroups=True, subgroup_size=32)
BYTES = {"f32": 4, "vec2<f32>": 8, "vec4<f32>": 16, "vec4<u32>": 16}
TYPES = {"x": "u32", "quants": "u32", "scales": "f16", "x_scales": "f32", "y": "f32"}


def sizes_of(fmt: str, rows: int, columns: int, block: int) -> dict:
    padded = -(-columns // block) * block
    return {
        "tokens": 1,
        "rows": rows,
        "columns": columns,
        "block": block,
        "scale_stride": padded // block,
        "scale_rows": rows,
        "scale_blocks": padded // block,
        "zero_unit": 1.0,
        "words": padded * BITS[fmt] // 32,
        "x_groups": -(-columns // 32),
        "x_words": -(-columns // 32) * 8,
    }


def workgroup_bytes(code: str) -> int:
    """Of all arrays in workgroup memory that a module declares."""
    known: dict = {"select": lambda no, yes, test: yes if test else no, "min": min, "max": max}
    known |= {"true": True, "false": False, "countTrailingZeros": lambda n: (n & -n).bit_length() - 1}

    def value(text: str):
        python = re.sub(r"\b(0x[0-9a-f]+|\d+)u\b", r"\1", text).replace("&&", " and ").replace("||", " or ")
        return eval(re.sub(r"(?<!/)/(?!/)", "//", python), {}, known)

    left = {
        n: text for n, kind, text in re.findall(r"^const (\w+): (u32|bool) = ([^;]+);", code, re.MULTILINE)
    }
    while left:  # constants may stand behind those that need them
        for name, text in list(left.items()):
            if not set(re.findall(r"[A-Z]\w+", text)) & set(left):
                known[name] = value(left.pop(name))
    arrays = re.findall(r"^var<workgroup> \w+: array<(.+), ([^,]+)>;", code, re.MULTILINE)
    assert arrays
    return sum(BYTES[kind] * value(count) for kind, count in arrays)


@pytest.mark.parametrize(
    "rows, columns", [(4096, 4096), (14336, 4096), (4096, 14336), (5120, 8192), (4096, 96)]
)
@pytest.mark.parametrize(
    "fmt, block", [("int4", 128), ("int4", 32), ("int2", 256), ("int2", 64), ("int2", 32)]
)
def test_one_token_takes_what_fits_into_a_workgroup(fmt, block, rows, columns):
    kernel = wgsl_kernels.get(f"linear[{fmt}, a8]")
    sizes = sizes_of(fmt, rows, columns, block)
    chosen, _ = kernel.choose(Context(kernel.complete(sizes), TYPES, GPU))
    context = kernel.specialise("staged", sizes, TYPES, GPU)
    refused = kernel.variants["staged"].refuse(context)
    assert chosen == ("gemv" if refused else "staged")
    if fmt == "int2" and (block == 32 or columns == 96):
        assert "no whole pieces of 64" in refused
        return
    assert refused is None or block < 128
    code = write_module(kernel, kernel.variants["staged"], context).code
    assert workgroup_bytes(code) == staged_bytes(fmt, context)
    assert (staged_bytes(fmt, context) <= WORKGROUP_BYTES) == (refused is None)


def test_where_it_was_not_measured_it_is_not_taken():
    kernel = wgsl_kernels.get("linear[int4, a8]")
    sizes = sizes_of("int4", 4096, 4096, 128)
    for adapter in (
        Adapter(),
        Adapter(subgroups=True),
        Adapter(subgroups=True, subgroup_size=64),
        Adapter(subgroups=True, subgroup_size=8, is_cpu=True),
    ):
        assert kernel.choose(Context(kernel.complete(sizes), TYPES, adapter))[0] == "gemv"
    fewer = kernel.complete(sizes_of("int4", 2048, 8192, 128))
    assert kernel.choose(Context(fewer, TYPES, GPU))[0] == "gemv"
    several = {**sizes, "tokens": 2}
    assert kernel.choose(Context(kernel.complete(several), TYPES, GPU))[0] == "batch"
    whole = kernel.complete(sizes_of("int8", 4096, 14336, 128))
    assert wgsl_kernels.get("linear[int8, a8]").choose(Context(whole, TYPES, GPU))[0] == "gemv"
