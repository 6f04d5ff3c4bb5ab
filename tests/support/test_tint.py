"""The Tint harness accepts what browsers accept, and rejects what only they reject."""

from __future__ import annotations

import pytest

from tests.support.tint import MissingFeatureError, compile_all, compile_all_in_chromium

SCALE = """
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { x[id.x] = 2.0 * x[id.x]; }
"""

MISTYPED = "@compute @workgroup_size(1) fn main() {\n  let a: u32 = 1.5;\n}"

# Naga accepts this one.
BARRIER_IN_NON_UNIFORM_FLOW = """
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_id) id: vec3u) {
  if (x[id.x] > 0.0) { workgroupBarrier(); }
}
"""

# A valid module: only the pipeline has a limit on invocations, 256.
TOO_MANY_INVOCATIONS = """
@compute @workgroup_size(64) fn fits() {}
@compute @workgroup_size(512) fn too_large() {}
"""

# 9 storage buffers, where browsers promise 8.
NINE_BUFFERS = (
    "".join(f"@group(0) @binding({i}) var<storage, read_write> b{i}: array<u32>;\n" for i in range(9))
    + "@compute @workgroup_size(1) fn main() { "
    + " ".join(f"b{i}[0] = 1u;" for i in range(9))
    + " }"
)

F16 = """enable f16;
@group(0) @binding(0) var<storage, read_write> x: array<f16>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) { x[id.x] *= 2.0h; }
"""
F16_MISTYPED = F16.replace("2.0h", "2.0f")

SUBGROUPS = """enable subgroups;
@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(local_invocation_id) id: vec3u) {
  let sum = subgroupAdd(x[id.x]);
  if (id.x == 0u) { x[0] = sum; }
}
"""
SUBGROUPS_IN_NON_UNIFORM_FLOW = SUBGROUPS.replace(
    "let sum = subgroupAdd(x[id.x]);", "var sum = 0.0; if (id.x > 3u) { sum = subgroupAdd(x[id.x]); }"
)

PLAIN = {
    "scale": SCALE,
    "mistyped": MISTYPED,
    "barrier": BARRIER_IN_NON_UNIFORM_FLOW,
    "invocations": TOO_MANY_INVOCATIONS,
    "buffers": NINE_BUFFERS,
    "no entry point": "fn helper() {}",
}


def check_plain(errors: dict[str, list[str]]) -> None:
    assert list(errors) == list(PLAIN)
    assert errors["scale"] == []
    assert len(errors["mistyped"]) == 1 and errors["mistyped"][0].startswith("2:16: ")
    assert any("uniform control flow" in message for message in errors["barrier"])
    assert len(errors["invocations"]) == 1 and errors["invocations"][0].startswith("too_large: ")
    assert errors["no entry point"] == ["no compute entry point"]


def check_subgroups(errors: dict[str, list[str]]) -> None:
    assert errors["sum"] == []
    assert any("uniform control flow" in message for message in errors["branch"])


def test_node_compiles_and_rejects():
    errors = compile_all(PLAIN)
    check_plain(errors)
    assert len(errors["buffers"]) == 1 and "storage buffers" in errors["buffers"][0]


def test_node_with_f16():
    errors = compile_all({"double": F16, "mistyped": F16_MISTYPED}, ["shader-f16"])
    assert errors["double"] == []
    assert errors["mistyped"]


def test_node_with_subgroups():
    check_subgroups(compile_all({"sum": SUBGROUPS, "branch": SUBGROUPS_IN_NON_UNIFORM_FLOW}, ["subgroups"]))


def test_node_grants_only_the_features_asked_for():
    errors = compile_all({"f16": F16, "subgroups": SUBGROUPS}, ["subgroups"])
    assert errors["subgroups"] == []
    assert any("f16" in message for message in errors["f16"])


def test_node_names_an_unknown_feature():
    with pytest.raises(MissingFeatureError, match="no-such-feature") as caught:
        compile_all({"scale": SCALE}, ["subgroups", "no-such-feature"])
    assert caught.value.features == ["no-such-feature"]


@pytest.mark.browser
def test_chromium_compiles_and_rejects():
    errors = compile_all_in_chromium(PLAIN)
    check_plain(errors)


@pytest.mark.browser
def test_chromium_with_subgroups():
    sources = {"sum": SUBGROUPS, "branch": SUBGROUPS_IN_NON_UNIFORM_FLOW}
    check_subgroups(compile_all_in_chromium(sources, ["subgroups"]))
