"""What kernel benchmarks can be asked for: kernels, formats of weights, shapes, variants, peers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import wgsl_kernels
from wgsl_kernels import Kernel, KernelUsageError
from wgsl_kernels.weights import WEIGHT_FORMATS
from workbench.errors import WorkbenchError
from workbench.formats.spec import DEFAULT_BLOCK

from .compare import ROUNDS
from .comparison import plain

#: Formats of weights whose linear layers are measured unless kernels or formats are asked for.
FORMATS = (("f16", None), ("int8", None), ("int4", None), ("int2", None))
#: Matrices of an 8B Llama (attention output, gate and up, down, LM head), and what a CPU does in a minute.
GPU_SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096))
CPU_SHAPES = ((256, 256), (1024, 1024))
#: The reference of the LM head is computed in f64, which takes so much of the host's memory.
LM_HEAD_HOST_BYTES = 40 << 30


def parse_shape(text: str) -> tuple[int, int]:
    """ "4096x14336" -> (rows, columns); raises ValueError."""
    rows, separator, columns = text.lower().partition("x")
    if not separator or not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise ValueError(f"{text!r} is not a shape such as 4096x14336 (rows, columns)")
    return int(rows), int(columns)


def parse_format(text: str) -> tuple[str, int | None]:
    """ "int4/128" -> ("int4", 128), "f16" -> ("f16", None); raises ValueError."""
    name, separator, block = text.lower().partition("/")
    if name not in WEIGHT_FORMATS:
        raise ValueError(f"{text!r} is not a format of weights; allowed: {', '.join(WEIGHT_FORMATS)}")
    if not separator:
        return name, None
    if name not in DEFAULT_BLOCK:
        raise ValueError(f"{text!r}: {name} has no blocks")
    if not block.isdecimal() or not int(block) or int(block) % 32:
        raise ValueError(f"{text!r}: a block is a multiple of 32 columns, such as int4/128")
    return name, int(block)


def parse_size(text: str) -> tuple[str, int]:
    """ "heads=32" -> ("heads", 32); raises ValueError."""
    name, _, value = text.partition("=")
    if not name.isidentifier() or not value.isdecimal():
        raise ValueError(f"{text!r} is not a name and a whole number such as heads=32")
    return name, int(value)


def format_of(kernel: Kernel) -> str | None:
    """The format of the weights that a kernel reads; None where it reads none."""
    return kernel.form.get("weight")


def sizes_for(
    kernel: Kernel,
    tokens: int | None,
    shapes: Sequence[tuple[int, int]],
    block: int | None,
    more: Mapping[str, int] | None = None,
) -> Iterator[dict[str, int]]:
    """What to call `Kernel.inputs` with: one set of sizes a shape, or one alone where a kernel has no such shape.

    more: sizes by name that replace the others'.
    """
    taken, sizes = set(kernel.takes), {}
    if tokens is not None and "tokens" in taken:
        sizes["tokens"] = tokens
    if (fmt := format_of(kernel)) in DEFAULT_BLOCK:
        sizes["block"] = block or DEFAULT_BLOCK[fmt]
    if not {"rows", "columns"} <= taken:
        yield {**sizes, **(more or {})}
        return
    for rows, columns in shapes:
        yield {**sizes, "rows": rows, "columns": columns, **(more or {})}


def typed(kernel: Kernel, dtype: str) -> dict[str, str]:
    """What a kernel's maker of inputs takes for activations of a type: nothing where it knows but one."""
    floats = any(port.dtype == "float" for port in kernel.reads.values())
    return {"x_dtype": dtype} if dtype != "f32" and floats else {}


@dataclass(frozen=True)
class Request:
    """What to measure. shapes: (rows, columns), default `GPU_SHAPES` or `CPU_SHAPES`. formats: (format, block or
    None), which leave out the kernels of other weights; block: columns a scale where a format names none, default
    `DEFAULT_BLOCK`. dtype: of activations, f32 or f16, of kernels that take either. sizes: by name, for kernels taking
    others than rows and columns. variants: names; a kernel's own of them are compared, all by default. peers: see
    `compare`; they are timed once a layer."""

    kernels: Sequence[str] | None = None
    tokens: int = 1
    shapes: Sequence[tuple[int, int]] | None = None
    formats: Sequence[tuple[str, int | None]] | None = None
    block: int | None = None
    dtype: str = "f32"
    sizes: Mapping[str, int] = field(default_factory=dict)
    variants: Sequence[str] | None = None
    peers: Sequence[str] = ()
    rounds: int = ROUNDS
    seed: int = 0

    def calls(self, shapes: Sequence[tuple[int, int]]) -> Iterator[tuple[Kernel, dict[str, Any]]]:
        """Kernels and the sizes of their inputs; raises WorkbenchError for a name that is not there."""
        names = self.kernels or ("linear",)
        formats = self.formats or (None if self.kernels else FORMATS)
        try:
            library = wgsl_kernels.library()
            pairs = [pair for name in names for pair in library.select(name)]
        except KernelUsageError as error:
            raise WorkbenchError(str(error)) from error
        if formats and not any(format_of(pair) in dict(formats) for pair in pairs):
            asked = ", ".join(name for name, _ in formats)
            raise WorkbenchError(f"none of {', '.join(names)} reads weights in {asked}")
        known = {name for pair in pairs for name in pair.variants}
        if unknown := set(self.variants or ()) - known:
            raise WorkbenchError(
                f"no variant is named {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}"
            )
        for pair in pairs:
            blocks = [b for name, b in formats or [(format_of(pair), None)] if name == format_of(pair)]
            for block in blocks:
                for sizes in sizes_for(pair, self.tokens, shapes, block or self.block, self.sizes):
                    if self.variants is None or set(self.variants) & set(pair.variants):
                        yield pair, sizes | typed(pair, self.dtype)

    def to_json(self) -> dict[str, Any]:
        return plain(asdict(self))
