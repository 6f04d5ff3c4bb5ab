"""What a kernel computes with, read from its WGSL: which measured rate is its ceiling."""

from __future__ import annotations

import re

#: Numbers made in f16 to compute with; buffers that are widened when read or rounded to when written do not count.
F16_VECTORS = re.compile(r"vec[234](<f16>|h|<(?!y_type)\w+_type>)\s*\(")
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
