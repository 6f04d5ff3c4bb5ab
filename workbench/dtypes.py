"""The numbers that weights and buffers are made of: kernels and files call them the same."""

from __future__ import annotations

import numpy as np

#: Bits of one weight, by the dtype of its format.
BITS = {"f32": 32, "f16": 16, "bf16": 16, "int8": 8, "int4": 4, "int2": 2}
#: The zero-point of a symmetric format.
IMPLIED_ZERO = {"int8": 0, "int4": 8, "int2": 2}
#: One element as it lies in a buffer or a file; numpy has the bits of a bf16 alone.
NUMPY = {
    name: np.dtype(code)
    for name, code in {
        "f32": "<f4",
        "f16": "<f2",
        "bf16": "<u2",
        "u32": "<u4",
        "i32": "<i4",
        "i8": "<i1",
    }.items()
}
ELEMENT_BYTES = {name: dtype.itemsize for name, dtype in NUMPY.items()}
