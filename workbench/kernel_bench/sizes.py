"""Which sizes a kernel's inputs are made of, and sizes worth measuring: a layer of an 8B Llama, or less on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from wgsl_kernels import Kernel, KernelUsageError
from wgsl_kernels.pair import ORIGINS
from wgsl_kernels.weights import WEIGHT_FORMATS
from workbench.formats.spec import DEFAULT_BLOCK

from .request import format_of

#: Arguments of input makers that are no sizes.
OTHERS = ("seed", "x_dtype", "y_dtype", "zero_frac_bits")
GPU = {
    **{"rows": 4096, "columns": 4096, "width": 4096, "hidden": 4096},
    **{"heads": 32, "kv_heads": 8, "head_dim": 128, "splits": 8},
    **{"capacity": 4096, "positions": 4096, "position": 4000},
}
CPU = {
    **{"rows": 1024, "columns": 1024, "width": 1024, "hidden": 1024},
    **{"heads": 8, "kv_heads": 2, "head_dim": 64, "splits": 4},
    **{"capacity": 512, "positions": 512, "position": 500},
}


def family_of(kernel: Kernel) -> str:
    """The name without the format of the weights: "linear" of "linear[int4]", "linear[a8]" of "linear[int4, a8]"."""
    return replace(kernel, form={name: label for name, label in kernel.form.items() if name != "weight"}).name


def families(kernels: Iterable[Kernel]) -> dict[str, dict[str, str]]:
    """Family -> format of the weights -> name of the kernel; "" for kernels that read no weights."""
    found: dict[str, dict[str, str]] = {}
    for kernel in sorted(
        kernels, key=lambda each: (family_of(each), WEIGHT_FORMATS.index(format_of(each) or "f32"))
    ):
        found.setdefault(family_of(kernel), {})[format_of(kernel) or ""] = kernel.name
    return found


def own_sizes(kernel: Kernel) -> dict[str, Any]:
    """Sizes and number parameters that `Kernel.inputs` takes, with its own defaults; None where it has none."""
    named = [each for each in kernel.takes.values() if each.name not in OTHERS]
    found = {each.name: each.default for each in named if _is_number(each.default)}
    return found | {each.name: None for each in named if each.default is each.empty}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def worthwhile(kernel: Kernel, is_cpu: bool, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`own_sizes` at which a measurement says something, `given` ones taking their places.

    Pairs of the library get those of a layer; pairs of one's own keep their defaults. Raises `KernelUsageError` for
    lengths that no tensor has.
    """
    own = own_sizes(kernel)
    usual = CPU if is_cpu else GPU
    if fmt := format_of(kernel):
        usual = {**usual, "block": DEFAULT_BLOCK.get(fmt)}
    library = ORIGINS.get(kernel.name, "").startswith("wgsl_kernels.")
    found = {name: usual[name] if library and usual.get(name) else value for name, value in own.items()}
    found.update(given or {})
    found = {name: value for name, value in found.items() if value is not None}
    labels = {label for port in kernel.reads.values() for label in port.shape}
    for name, value in found.items():
        if name in labels and not (isinstance(value, int) and value > 0):
            raise KernelUsageError(f"{kernel.name}: {name} = {value!r} is not a whole number above 0")
    if format_of(kernel) in DEFAULT_BLOCK and found.get("block", 32) % 32:
        raise KernelUsageError(f"{kernel.name}: block = {found['block']} is not a multiple of 32 columns")
    return found
