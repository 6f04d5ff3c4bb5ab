"""Manifests that are no JSON, or more JSON than a manifest can be: refused by name, at once, in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.formats.damage import manifest_of, refusal
from workbench.formats import manifest as rules
from workbench.formats.spec import WeightFormat
from workbench.formats.strict_json import check_size


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"[]", "list, not an object"),
        (b"null", "not an object"),
        (b'{"kind": NaN}', "NaN"),
        (b'{"kind": -Infinity}', "-Infinity"),
        (b'{"kind": 1e999}', "too large"),
        (b'{"kind": "\\ud800"}', "UTF-8"),
        (b'{"kind": "\xff"}', "UTF-8"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"kind": 1, "kind": 2}', "twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"version": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b'{"version": 1} {"version": 1}', "Extra data"),
    ],
)
def test_traps_of_json(model, text, complaint):
    (model / "manifest.json").write_bytes(text)
    assert complaint in str(refusal(model, verify=False))
    assert refusal(model).field == "checksum"  # which is looked at before anything is parsed


def test_a_deep_config_is_either_read_or_refused(model):
    text = json.dumps(manifest_of(model))
    for depth in (100, 500, 900, 990, 1100, 5000):
        deep = '{"a":' * depth + "1" + "}" * depth
        (model / "manifest.json").write_text(
            text.replace('"provenance": {', f'"provenance": {{"deep": {deep}, ', 1)
        )
        error = refusal(model, verify=False)
        assert error is None or "deep" in str(error)
    assert error is not None


def test_a_huge_manifest_is_not_read(model):
    os.truncate(model / "manifest.json", rules.MAX_MANIFEST + 1)
    assert "are allowed" in str(refusal(model))


# What comes first, what is repeated and how often, and what comes last.
CROWDED = {
    "empty objects": (b'{"tensors": [', b'{"":{}},', 3_000_000, b"{}]}"),
    "empty lists": (b"[", b"[],", 8_000_000, b"0]"),
    "numbers": (b"[", b"1,", 12_000_000, b"0]"),
    "strings": (b"[", b'"",', 8_000_000, b"0]"),
    "brackets alone": (b"", b"[", 30_000_000, b""),
    "quotes alone": (b"", b'"', 30_000_000, b""),
    "escaped quotes": (b'"', b'\\"', 15_000_000, b""),
    "escapes": (b'{"a": "', b"\\ud83d\\ude00", 2_600_000, b'"}'),
    "a string without end": (b'["', "\N{GRINNING FACE}".encode(), 7_000_000, b""),
}
# In a process of its own, whose largest memory is then this manifest's: MiB beyond the file's size, and seconds.
MEASURE = """
import resource, sys, time
from workbench.formats.errors import FormatError
from workbench.formats.strict_json import strict_json
data = open(sys.argv[1], "rb").read()
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
try:
    strict_json(data)
except FormatError as error:
    print(str(error)[:100])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10, time.perf_counter() - began)
"""


@pytest.mark.parametrize("crowd", CROWDED)
def test_more_values_than_a_manifest_has_are_counted_and_not_made(tmp_path, crowd):
    file = tmp_path / "manifest.json"
    head, unit, count, tail = CROWDED[crowd]
    file.write_bytes(head + unit * count + tail)
    assert file.stat().st_size <= rules.MAX_MANIFEST
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(file)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    why, figures = done.stdout.strip().splitlines()
    assert "field '(whole file)'" in why
    assert int(figures.split()[0]) < 400


def test_the_largest_model_there_is_has_a_manifest_that_is_read():
    """128 experts in 24 layers, each of three matrices, as tensors of their own: 9,216, with plan and precision."""
    plane = {
        "shard": "model-00001.wgpu",
        "offset": 1 << 27,
        "length": 1 << 25,
        "checksum": "sha256:" + "0" * 64,
    }
    form = WeightFormat("int4", block_size=128).to_json()
    planes = {"quants": plane, "scales": plane, "zeros": plane}
    tensor = {
        "shape": [8192, 5120],
        "format": form,
        "layout": "planar",
        "parts": [{"rows": [0, 1], "planes": planes}],
    }
    call = {
        "kernel": "linear[int4]",
        "inputs": {"x": "a", "w": "b"},
        "outputs": {"y": "c"},
        "params": {"n": 8192},
    }
    names = [
        f"model.layers.{layer}.experts.{n}.{which}"
        for layer in range(24)
        for n in range(128)
        for which in "abc"
    ]
    record = {"quantizer": "gptq", "output_error": 0.1, "notes": ["a note"]}
    value = {
        "tensors": dict.fromkeys(names, tensor),
        "precision": {name: {"format": "int4/128", "reason": "default"} for name in names},
        "provenance": {"tensors": dict.fromkeys(names, record)},
        "plan": {"calls": [call] * (5 * len(names) // 3)},
    }
    data = rules.seal(value)
    assert len(data) < rules.MAX_MANIFEST
    check_size(data)
