"""Pairs with planted variants of `y = a + b`: fast, slow, wrong, broken. All are real WGSL on the real adapter."""

from __future__ import annotations

from dataclasses import replace

import wgsl_kernels
from wgsl_kernels import Kernel, Variant
from workbench.runtime.tuning.cases import Case

TEMPLATE = """
@group(0) @binding(0) var<storage, read> a: array<a_type>;
@group(0) @binding(1) var<storage, read> b: array<b_type>;
@group(0) @binding(2) var<storage, read_write> y: array<y_type>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= WIDTH) { return; }
  let i = id.y * WIDTH + id.x;
  %s
}
"""
FAST = "y[i] = a[i] + b[i];"
#: Hundreds of times as slow; the compiler cannot know that the sum does not change.
SLOW = (
    "var s = a[i] + b[i]; for (var k = 0u; k < 3000u; k++) { s = max(s, a[(i + k) % 4u] - 1e30); } y[i] = s;"
)
#: The fastest of all, since it does less.
WRONG = "y[i] = a[i];"
#: Wrong in the last element alone.
LAST_WRONG = "y[i] = a[i] + b[i]; if (id.x == WIDTH - 1u) { y[i] = y[i] + 1.0; }"
BROKEN = "y[i] = a[i] + missing;"

CASE = Case("add", {"tokens": 2, "width": 512}, {"a": "f32", "b": "f32", "y": "f32"})


def variant(body: str, workgroups: tuple[int, ...] = (64,)) -> Variant:
    return Variant(
        "planted",
        grid=lambda c: (-(-c["width"] // c["workgroup"]), c["tokens"], 1),
        tunables={"workgroup": workgroups},
        text=TEMPLATE % body,
    )


def planted(**bodies: str | Variant) -> Kernel:
    """`add` with variants of these bodies; the first is the default."""
    variants = {n: each if isinstance(each, Variant) else variant(each) for n, each in bodies.items()}
    default = next(iter(variants))
    return replace(
        wgsl_kernels.get("add"),
        variants=variants,
        prefer=lambda context: (default, "it is the test's default"),
    )
