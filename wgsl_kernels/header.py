"""Writes the header that turns a variant's plain WGSL into a complete module for one context and one compiler.

Order: `enable` directives, an alias `<port>_type` for each float port, a constant for each size, the files of
lib/ that it needs (`linker`), then the body exactly as it stands in its file. `Module.body_line` maps line numbers
back to that file.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass

from .linker import link
from .pair import Context, Kernel, Variant

#: Naga (wgpu) enables subgroup operations by a device feature and rejects the directive; Tint requires it.
DIALECTS = ("naga", "tint")
#: Comments may speak of subgroups where the code uses none.
COMMENT = re.compile(r"//[^\n]*")


@dataclass(frozen=True)
class Module:
    """A complete WGSL module. body_line: how many lines stand in front of the variant's own file."""

    code: str
    body_line: int
    uses_subgroups: bool
    uses_f16: bool

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.code.encode()).hexdigest()


def literal(value) -> tuple[str, str]:
    """WGSL type and literal of a Python number; floats keep every digit."""
    if isinstance(value, bool):
        return "bool", "true" if value else "false"
    if isinstance(value, int):
        if 0 <= value < 2**32:
            return "u32", f"{value}u"
        raise ValueError(f"a constant of {value} does not fit u32")
    if not math.isfinite(value) or (value and not 2.0**-126 <= abs(value) < 2.0**128):
        raise ValueError(f"a constant of {value} is not a normal f32")
    return "f32", f"{float(value)!r}f"


def write_module(kernel: Kernel, variant: Variant, context: Context, dialect: str = "naga") -> Module:
    """The complete source of `variant` in `context` for a compiler (`"naga"` or `"tint"`)."""
    if dialect not in DIALECTS:
        raise ValueError(f"dialect is one of {DIALECTS}, not {dialect!r}")
    body = variant.body()
    files = link(body, variant.file or kernel.name, variant.library(context))
    library = [f"// lib/{name}.wgsl\n{file.text}" for name, file in files.items()]
    values = {name: kernel.params.get(name, type(v))(v) for name, v in context.sizes.items()}
    if context.adapter.subgroup_size:
        values["subgroup_size"] = context.adapter.subgroup_size
    lines = [f"const {name.upper()}: {{}} = {{}};".format(*literal(v)) for name, v in values.items()]
    floats = {name: t for name, t in context.types.items() if kernel.ports[name].dtype == "float"}
    aliases = [f"alias {port}_type = {t};" for port, t in floats.items()]
    uses_f16 = "f16" in floats.values()
    text = "\n".join([*aliases, *lines, *library])
    uses_subgroups = "subgroup" in COMMENT.sub("", text + body)
    enables = []
    if uses_f16:
        enables.append("enable f16;")
    if uses_subgroups and dialect == "tint":
        enables.append("enable subgroups;")
    header = "\n".join([*enables, text, ""])
    return Module(header + body, header.count("\n"), uses_subgroups, uses_f16)
