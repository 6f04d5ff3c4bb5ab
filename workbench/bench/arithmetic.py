"""What a kernel computes with, read from its WGSL: which measured rate is its ceiling."""

from __future__ import annotations

import re

#: Arithmetic on vectors of f16; buffers of f16 that are widened as they are read do not count.
F16_VECTORS = re.compile(r"vec[234](<f16>|h|<\w+_type>)\s*\(")
#: What is not code: comments.
REMARKS = re.compile(r"//[^\n]*")


def arithmetic(wgsl: str) -> str | None:
    """What most operations of a module are: "DP4A", "f16 FMA" or "f32 FMA"; None without a module."""
    if not wgsl:
        return None
    code = REMARKS.sub("", wgsl)
    if "dot4I8Packed" in code or "dot4U8Packed" in code:
        return "DP4A"
    return "f16 FMA" if "enable f16;" in code and F16_VECTORS.search(code) else "f32 FMA"
