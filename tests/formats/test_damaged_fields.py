"""The reader against manifests that lie: whatever a field says, nothing but `FormatError` may come out of it, and it
must say which file and which field.

Every value of the manifest replaced by every kind of nonsense, and lies told by hand, each with the field that the
error must name.
"""

from __future__ import annotations

import json
import random
import re
import resource
from pathlib import Path

import pytest

from tests.formats.damage import LONG, NONSENSE, get, longer_json, manifest_of, places, put, refusal, store
from tests.formats.models import FORMATS
from workbench.formats import manifest as rules
from workbench.formats.errors import FormatError


def same_json(left: object, right: object) -> bool:
    return json.dumps(left) == json.dumps(right)


def is_harmless(path: tuple, new: object) -> bool:
    """Nonsense that happens to be allowed: free-form objects, and null where there may be nothing."""
    if path in (("config",), ("provenance",)):
        return isinstance(new, dict)
    if path == ("plan",):
        return new is None or isinstance(new, dict)
    if path == ("checksum",):  # it is sealed anew
        return True
    if path == ("precision",):
        return new is None or new == {}
    # Another place of the binary point describes the same bytes; it is the checksum that protects it.
    return path[-2:] == ("format", "zero_frac_bits") and new in (0, 1) and type(new) is int


def sampled(manifest: dict) -> list[tuple]:
    """Every place outside the list of tensors, and every place of the first and last part of each tensor."""
    chosen = []
    for path in places(manifest):
        if path[:1] == ("tensors",) and len(path) > 2:
            last = len(manifest["tensors"][path[1]]["parts"]) - 1
            if path[2] == "parts" and len(path) > 3 and path[3] not in (0, last):
                continue
        if path[:1] == ("shards",) and len(path) > 1 and path[1] not in (0, 1):
            continue
        if path:
            chosen.append(path)
    return chosen


def test_names_of_a_megabyte_make_no_long_message(small_model):
    manifest = manifest_of(small_model)
    there = list(longer_json(json.dumps(manifest)))
    refused = 0
    for number, change in enumerate(random.Random(0).sample(there, 24)):
        store(small_model, json.loads(change(LONG[number % len(LONG)])))
        refused += refusal(small_model) is not None  # which looks at the length
    assert refused > 12


def test_every_field_replaced_by_nonsense(small_model):
    """The manifest alone decides here, so that `from_value` can be asked directly, thousands of times."""
    manifest, model = manifest_of(small_model), small_model
    rng = random.Random(0)
    asked = 0
    for path in sampled(manifest):
        for new in rng.sample(NONSENSE, 5):
            if same_json(get(manifest, path), new) or is_harmless(path, new):
                continue
            asked += 1
            damaged = put(manifest, path, new)
            try:
                rules.from_value(rules.strict_json(json.dumps(damaged).encode()))
            except FormatError as error:
                assert error.field, (path, new)
                if path[0] == "tensors" and len(path) > 2:
                    assert error.tensor is not None, (path, new, str(error))
                elif path[0] != "tensors":
                    assert error.tensor is not None or error.field.startswith(path[0]), (
                        path,
                        new,
                        str(error),
                    )
                continue
            store(model, damaged)  # the manifest agrees with itself; the files must not agree with it
            assert refusal(model) is not None, f"{path} = {new!r} was believed"
    assert asked > 400


def test_every_field_removed_added_or_given_twice(small_model):
    manifest, model = manifest_of(small_model), small_model
    for path in sampled(manifest):
        if (
            path == ("checksum",)
            or not isinstance(path[-1], str)
            or path[-2:-1] in (("tokenizer",), ("tensors",))
        ):
            continue
        damaged = put(manifest, path, None)
        del get(damaged, path[:-1])[path[-1]]
        store(model, damaged)
        error = refusal(model)
        assert error is not None, f"{path} is not needed"
        value = get(manifest, path)
        if isinstance(value, dict) and path[0] not in ("config", "plan", "provenance", "precision"):
            store(model, put(manifest, (*path, "colour"), "red"))
            error = refusal(model)
            assert error is not None and "colour" in str(error), f"{path}.colour is let pass"
    text = json.dumps(manifest)
    (model / "manifest.json").write_text(text.replace(', "checksum"', ', "no"'), "utf-8")
    assert refusal(model, verify=False) is not None
    for twice in ('"version": 1, ', '"layout": "planar", ', '"offset": 0, ', '"config": {}, '):
        key = twice.split(":")[0]
        (model / "manifest.json").write_text(text.replace(key, twice + key, 1), "utf-8")
        if key not in text:
            continue
        error = refusal(model, verify=False)
        assert error is not None and "twice" in str(error) and error.field == key.strip('"')


LIES = {
    "path with ..": ("shards[0].file", "../model.wgpu"),
    "absolute path": ("shards[0].file", "/etc/passwd"),
    "shards in another order": ("shards[0].file", "model-00002.wgpu"),
    "a shard of terabytes": ("shards[0].length", 2**43),
    "another version": ("version", 2),
    "another kind": ("kind", "safetensors"),
    "no tensors": ("tensors", {}),
    "no shards": ("shards", []),
    "a config that is a list": ("config", []),
}


TENSOR_LIES = {
    "a negative shape": ("embedding", "shape[0]", -70),
    "a shape of no rows": ("embedding", "shape[0]", 0),
    "a float shape": ("embedding", "shape[0]", 70.0),
    "an unknown dtype": ("norm.f32", "format.dtype", "f64"),
    "a block size that is none": ("block", "format.block_size", 48),
    "a block size of a channel": ("channel", "format.block_size", 64),
    "too many fraction bits": ("block", "format.zero_frac_bits", 4),
    "an interleaved float": ("norm.f32", "layout", "interleaved"),
    "a gap between parts": ("block", "parts[1].rows[0]", 49, "parts[1].rows"),
    "a part without rows": ("block", "parts[0].rows", [0, 0]),
    "no parts": ("block", "parts", []),
    "a huge shape": ("embedding", "shape", [2**40, 2**40], "parts[0].planes.values.length"),
    "fewer rows than parts": ("embedding", "shape", [10, 24], "parts[0].rows"),
    "more rows than parts": ("embedding", "shape", [71, 24], "parts"),
    "another dtype": ("norm.f32", "format.dtype", "f16", "parts[0].planes.values.length"),
    "quantized, but a vector": ("norm.f32", "format", FORMATS["block"].to_json(), "shape"),
    "another block size": ("block", "format.block_size", 32, "length"),
    "symmetric with zeros": ("block", "format.symmetric", True, "parts[0].planes"),
}


def steps(field: str) -> tuple:
    """`parts[0].rows` -> ("parts", 0, "rows")."""
    return tuple(int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", field))


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named(model, lie):
    field, new = LIES[lie]
    store(model, put(manifest_of(model), steps(field), new))
    error = refusal(model)
    assert (Path(error.file).name, error.tensor, error.field) == ("manifest.json", None, field), str(error)


@pytest.mark.parametrize("lie", TENSOR_LIES)
def test_lies_about_tensors_are_named(model, lie):
    tensor, field, new, *named = TENSOR_LIES[lie]
    store(model, put(manifest_of(model), ("tensors", tensor, *steps(field)), new))
    error = refusal(model)
    assert (Path(error.file).name, error.tensor) == ("manifest.json", tensor), str(error)
    assert (named or [field])[0] in error.field, str(error)


def test_a_tokenizer_file_elsewhere_is_refused(model):
    entry = {"length": 0, "checksum": "sha256:" + "0" * 64}
    for name in ("../x", "/etc/passwd", "a/b", "", "x\n", ".."):
        store(model, put(manifest_of(model), ("tokenizer", name), entry))
        error = refusal(model)
        assert error.field.startswith("tokenizer") and Path(error.file).name == "manifest.json"


PLANE_LIES = {
    "unaligned": ("offset", 255),
    "negative": ("offset", -256),
    "behind the shard": ("offset", 2**28),
    "behind any shard": ("offset", 2**62),
    "one byte more": ("length", 1),
    "no bytes": ("length", 0),
    "a length of exabytes": ("length", 2**62),
    "an unknown shard": ("shard", "model-00099.wgpu"),
    "a shard elsewhere": ("shard", "../model.wgpu"),
    "no checksum": ("checksum", ""),
    "a weak checksum": ("checksum", "crc32:00000000"),
}


@pytest.mark.parametrize("lie", PLANE_LIES)
def test_lies_about_planes_are_named(model, lie):
    key, new = PLANE_LIES[lie]
    manifest = manifest_of(model)
    plane = next(iter(manifest["tensors"]["block"]["parts"][1]["planes"]))
    store(model, put(manifest, ("tensors", "block", "parts", 1, "planes", plane, key), new))
    error = refusal(model)
    assert (error.tensor, error.field) == ("block", f"parts[1].planes.{plane}.{key}"), str(error)


def test_overlapping_planes_are_refused(model):
    manifest = manifest_of(model)
    tensor = manifest["tensors"]["norm.f32"]["parts"][0]["planes"]["values"]
    other = manifest["tensors"]["norm.f16"]["parts"][0]["planes"]["values"]
    tensor.update(shard=other["shard"], offset=other["offset"])
    store(model, manifest)
    error = refusal(model)
    assert error.tensor in ("norm.f32", "norm.f16") and "overlaps" in str(error)
    assert error.field == "parts[0].planes.values.offset"


@pytest.mark.parametrize("where", ["between planes", "behind the last"])
def test_bytes_that_belong_to_no_plane_are_refused(model, where):
    """Whatever is not a plane is its padding: a file holds nothing that its manifest does not tell of."""
    manifest = manifest_of(model)
    last = manifest["shards"][-1]
    with (model / last["file"]).open("ab") as file:
        file.write(bytes(512))
    last["length"] += 512
    if where == "between planes":
        planes = [
            (plane["offset"], name, plane)
            for name, tensor in manifest["tensors"].items()
            for part in tensor["parts"]
            for plane in part["planes"].values()
            if plane["shard"] == last["file"]
        ]
        _, name, plane = max(planes)
        plane["offset"] += 512
    store(model, manifest)
    error = refusal(model)
    if where == "between planes":
        assert error.tensor == name and error.field.endswith(".offset") and "belong to no plane" in str(error)
    else:
        assert error.field == f"shards[{len(manifest['shards']) - 1}].length" and "lies no plane" in str(
            error
        )


def test_nothing_is_allocated_for_a_liar(model):
    """Tensors of 2^80 weights, blocks of 2^30 and shards of 256 MiB that are not there cost no memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    manifest = manifest_of(model)
    plane = {"shard": "model.wgpu", "offset": 0, "length": 2**26, "checksum": "sha256:" + "0" * 64}
    for path, new in (
        (("tensors", "block", "shape"), [2**40, 2**40]),
        (("tensors", "block", "format", "block_size"), 2**30),
        (("tensors", "block", "parts", 0, "planes"), {"blocks": plane}),
        (("tensors", "norm.f32", "parts", 0, "planes"), {"values": plane}),
        (("shards", 0, "length"), 2**28),
    ):
        store(model, put(manifest, path, new))
        assert refusal(model) is not None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
