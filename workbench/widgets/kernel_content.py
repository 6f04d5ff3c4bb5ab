"""What the page of a `KernelLab` is told of a kernel and of results, as JSON values."""

from __future__ import annotations

from typing import Any

from workbench.kernel_bench.arithmetic import arithmetic
from workbench.kernel_bench.compare import reference_source
from workbench.kernel_bench.comparison import Comparison, VariantResult
from workbench.kernel_bench.request import format_of
from workbench.kernel_bench.sizes import family_of
from workbench.studies.lab import Lab


def kernel_content(lab: Lab) -> dict[str, Any]:
    """The kernel under study: its family, the types that it can run with, its variants and its reference."""
    kernel = lab.kernel
    either = any(port.dtype == "float" for port in kernel.ports.values())
    return {
        "family": family_of(kernel),
        "format": format_of(kernel) or "",
        "types": ["f32", *(["f16"] if either and lab.device.adapter.f16 else [])],
        "variants": {
            name: {
                "text": variant.body(),
                "why": variant.why,
                "tunables": {key: list(values) for key, values in variant.tunables.items()},
            }
            for name, variant in kernel.variants.items()
        },
        "reference": reference_source(kernel),
    }


def row_content(each: VariantResult, found: Comparison | None) -> dict[str, Any]:
    """A row of the table. found: the comparison that it is of, if any."""
    timing = each.timing
    return {
        **{"name": each.variant, "status": each.status, "detail": each.detail, "chosen": each.chosen},
        "errors": [vars(e) | {"first": [vars(m) for m in e.first]} for e in each.errors],
        "places": [vars(place) for place in each.places],
        "header": "\n".join(each.wgsl.splitlines()[: each.body_line]),
        "tunables": each.tunables,
        "samples": timing.samples if timing else [],
        "median": timing.median if timing else None,
        "bytes": each.bytes,
        "flops": each.flops,
        "arithmetic": arithmetic(each.wgsl) or "",
        "share": found.share(each) if found else None,
    }
