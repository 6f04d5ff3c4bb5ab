"""The reader against damaged models: whatever is done to the files, nothing but `FormatError` may come out of
it, and it must say which file and which field.

Three kinds of damage: every value of the manifest replaced by every kind of nonsense; bytes of the files
flipped, cut off, added or exchanged; and lies told by hand, each with the field that the error must name.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.formats.models import FORMATS, assert_same, write_model
from workbench.formats import manifest as rules
from workbench.formats.errors import FormatError
from workbench.formats.reader import StoredModel

NONSENSE = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, 1.0, 0.5, -0.0, 1e300,
    "", "x", "../../etc/passwd", "/etc/passwd", "model.wgpu\n", "a" * 5000, "\x00", "é", "sha256:" + "0" * 64,
    [], [0], [0, 0], [1, 0], [-1, 5], [2**40, 2**40, 2**40], {}, {"x": 1}, [[[[]]]],
)  # fmt: skip


@pytest.fixture(scope="module", params=["planar", "interleaved"])
def pristine(request, tmp_path_factory) -> Path:
    """A model of several shards and parts, never changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "MAX_PLANE", 1024)
        patch.setattr(rules, "MAX_SHARD", 8192)
        return write_model(tmp_path_factory.mktemp("pristine") / "model", request.param)


@pytest.fixture
def model(pristine, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def read_everything(path: Path) -> None:
    """What a user does with a model. The names in it may be anything, its data must come out as it says."""
    stored = StoredModel.open(path)
    for name in stored.names():
        tensor = stored.tensor(name)
        assert (tensor.shape, tensor.format) == stored.describe(name)
        tensor.dequantize()
    (stored.tokenizer_path / "tokenizer.json").read_bytes()


def refusal(path: Path) -> FormatError | None:
    """The error of reading a model, or None if it can be read. Anything but `FormatError` fails the test."""
    try:
        with np.errstate(all="ignore"):
            read_everything(path)
    except FormatError as error:
        assert error.file is not None and Path(error.file).is_relative_to(path), str(error)
        assert error.field, str(error)
        assert error.field in str(error) and error.file in str(error) and len(str(error)) < 2000
        if error.tensor is not None:
            assert repr(error.tensor) in str(error)
        return error
    return None


def manifest_of(path: Path) -> dict:
    return json.loads((path / "manifest.json").read_text("utf-8"))


def small_manifest_of(path: Path) -> dict:
    """A manifest of four tensors of different kinds alone: as good as the whole, and faster to check."""
    manifest = manifest_of(path)
    manifest["tensors"] = {
        name: manifest["tensors"][name] for name in ("block", "symmetric", "norm.bf16", "scalar")
    }
    return manifest


def store(path: Path, manifest: dict) -> None:
    """Writes a damaged manifest with its right checksum, so that it must be refused for what it says."""
    (path / "manifest.json").write_bytes(rules.seal(manifest))


def places(value: object, path: tuple = ()):
    """The path of everything in a JSON value, but not of what is inside free-form objects."""
    yield path
    if path[:1] in (("config",), ("plan",), ("provenance",), ("precision",)):
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value: object, path: tuple, new: object) -> object:
    """A copy of `value` with another value at `path`."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def get(value: object, path: tuple) -> object:
    for key in path:
        value = value[key]
    return value


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


def test_the_pristine_model_can_be_read(pristine):
    assert refusal(pristine) is None
    stored = StoredModel.open(pristine)
    assert len(manifest_of(pristine)["shards"]) > 2 and len(stored.stored("block").parts) > 1


def test_every_field_replaced_by_nonsense(model):
    """The manifest alone decides here, so that `from_value` can be asked directly, thousands of times."""
    manifest = small_manifest_of(model)
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


def test_every_field_removed_added_or_given_twice(model):
    manifest = small_manifest_of(model)
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
    assert refusal(model) is not None
    for twice in ('"version": 1, ', '"layout": "planar", ', '"offset": 0, ', '"config": {}, '):
        key = twice.split(":")[0]
        (model / "manifest.json").write_text(text.replace(key, twice + key, 1), "utf-8")
        if key not in text:
            continue
        error = refusal(model)
        assert error is not None and "twice" in str(error) and error.field == key.strip('"')


@pytest.mark.parametrize("seed", range(3))
def test_flipped_bits_of_planes(model, seed):
    """A flipped bit in a plane is always found, and named."""
    rng = random.Random(seed)
    planes = [
        (plane["shard"], plane["offset"] + rng.randrange(plane["length"]), name)
        for name, tensor in manifest_of(model)["tensors"].items()
        for part in tensor["parts"]
        for plane in part["planes"].values()
    ]
    for shard, at, name in rng.sample(planes, 20):
        data = bytearray((model / shard).read_bytes())
        data[at] ^= (bit := 1 << rng.randrange(8))
        (model / shard).write_bytes(data)
        error = refusal(model)
        assert error is not None and error.tensor == name
        assert Path(error.file).name == shard and error.field.endswith(".checksum")
        data[at] ^= bit
        (model / shard).write_bytes(data)
    assert refusal(model) is None


def test_flipped_bits_of_the_tokenizer(model):
    (model / "tokenizer" / "tokenizer.json").write_bytes(b'{"model": {|}')
    error = refusal(model)
    assert error.field == "tokenizer.tokenizer.json.checksum" and error.file.endswith("tokenizer.json")


@pytest.mark.parametrize("seed", range(2))
def test_flipped_bits_of_the_manifest(model, seed):
    """Each is found, since the manifest has a checksum of its own, and none is worse than a `FormatError`."""
    rng = random.Random(seed)
    original = (model / "manifest.json").read_bytes()
    for _ in range(60):
        data = bytearray(original)
        for _ in range(rng.choice((1, 1, 1, 3))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (model / "manifest.json").write_bytes(data)
        error = refusal(model)
        assert data == original or error is not None
        try:
            StoredModel.open(model, verify=False)
        except FormatError:
            continue


def test_truncated_extended_missing_and_emptied_files(model):
    for name in ("manifest.json", "model.wgpu", "model-00002.wgpu", "tokenizer/tokenizer.json"):
        original = (model / name).read_bytes()
        for data in (
            original[:-1],
            original[: len(original) // 2],
            b"",
            original + b"\0" * 256,
            b"\0" * len(original),
        ):
            (model / name).write_bytes(data)
            error = refusal(model)
            assert error is not None and error.file.endswith(name), (name, len(data))
        (model / name).unlink()
        assert refusal(model).file.endswith(name)
        (model / name).mkdir()
        assert refusal(model).file.endswith(name)
        (model / name).rmdir()
        (model / name).write_bytes(original)
    assert refusal(model) is None


def test_swapped_shards(model):
    names = [entry["file"] for entry in manifest_of(model)["shards"]]
    sizes = {name: (model / name).stat().st_size for name in names}
    swapped = 0
    for left in names:
        for right in names:
            if left < right:
                swapped += 1
                a, b = (model / left).read_bytes(), (model / right).read_bytes()
                (model / left).write_bytes(b)
                (model / right).write_bytes(a)
                error = refusal(model)
                assert error is not None and Path(error.file).name in (left, right)
                assert (error.tensor is None) == (
                    sizes[left] != sizes[right]
                )  # found by size, or by checksum
                (model / left).write_bytes(a)
                (model / right).write_bytes(b)
    assert swapped >= 3


def test_swapped_planes_of_equal_length(model):
    """Two planes of the right lengths under each other's names: only the checksums, which move along, fit
    them.
    """
    manifest = manifest_of(model)
    parts = manifest["tensors"]["block"]["parts"]
    plane = next(iter(parts[0]["planes"]))
    for field in ("offset", "checksum"):
        damaged = copy.deepcopy(manifest)
        first, second = (damaged["tensors"]["block"]["parts"][index]["planes"][plane] for index in (0, 1))
        first[field], second[field] = second[field], first[field]
        store(model, damaged)
        assert refusal(model) is not None


# Lies told by hand: the field that lies and what it says; behind it, if another field is named, that one.

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
    assert complaint in str(refusal(model))


def test_a_deep_config_is_either_read_or_refused(model):
    text = json.dumps(manifest_of(model))
    for depth in (100, 500, 900, 990, 1100, 5000):
        deep = '{"a":' * depth + "1" + "}" * depth
        (model / "manifest.json").write_text(text.replace('"plan": {', f'"plan": {{"deep": {deep}, ', 1))
        error = refusal(model)
        assert error is None or "deep" in str(error)
    assert error is not None


def test_a_huge_manifest_is_not_read(model):
    os.truncate(model / "manifest.json", rules.MAX_MANIFEST + 1)
    assert "are allowed" in str(refusal(model))


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


def test_values_no_converter_writes_are_refused_though_their_checksum_is_right(model):
    manifest = manifest_of(model)
    part = manifest["tensors"]["block"]["parts"][0]
    name = "blocks" if "blocks" in part["planes"] else "scales"
    plane = part["planes"][name]
    for value in (b"\x00\x7e", b"\x00\x7c"):  # NaN, infinity
        data = bytearray((model / plane["shard"]).read_bytes())
        data[plane["offset"] : plane["offset"] + 2] = value
        (model / plane["shard"]).write_bytes(data)
        digest = hashlib.sha256(data[plane["offset"] : plane["offset"] + plane["length"]]).hexdigest()
        store(
            model,
            put(manifest, ("tensors", "block", "parts", 0, "planes", name, "checksum"), f"sha256:{digest}"),
        )
        error = refusal(model)
        assert (error.tensor, error.field) == (
            "block",
            f"parts[0].planes.{name}",
        ) and "row 0, block 0" in str(error)


def test_unlisted_tokenizer_files_are_refused(model):
    (model / "tokenizer" / "added_tokens.json").write_text("{}")
    assert refusal(model).field == "tokenizer.added_tokens.json"


def test_parts_that_disagree_about_the_one_scale(model):
    manifest = manifest_of(model)
    stored = StoredModel.open(model).stored("whole")
    name = "scales" if stored.layout == "planar" else "blocks"
    plane = manifest["tensors"]["whole"]["parts"][1]["planes"][name]
    data = bytearray((model / plane["shard"]).read_bytes())
    data[plane["offset"]] ^= 1
    (model / plane["shard"]).write_bytes(data)
    plane["checksum"] = "sha256:" + hashlib.sha256(data[plane["offset"] :][: plane["length"]]).hexdigest()
    store(model, manifest)
    error = refusal(model)
    assert (error.tensor, error.field) == ("whole", "parts[1].planes.scales") and "differs" in str(error)


def test_without_verification_structure_is_still_checked(model):
    data = bytearray((model / "model.wgpu").read_bytes())
    data[0] ^= 1
    (model / "model.wgpu").write_bytes(data)
    stored = StoredModel.open(model, verify=False)
    for name in stored.names():
        stored.tensor(name)
    store(model, put(manifest_of(model), ("tensors", "block", "shape"), [50, 9000]))
    with pytest.raises(FormatError):
        StoredModel.open(model, verify=False)


def test_a_plane_is_verified_once_and_never_given_out_unverified(model):
    stored = StoredModel.open(model)
    good = stored.tensor("block")
    data = bytearray((model / "model.wgpu").read_bytes())
    plane = manifest_of(model)["tensors"]["block.int8"]["parts"][-1]["planes"]
    plane = plane.get("zeros") or plane["blocks"]
    raw = bytearray((model / plane["shard"]).read_bytes())
    raw[plane["offset"]] ^= 1
    with open(model / plane["shard"], "r+b") as file:
        file.write(raw)
    for _ in range(2):  # the second time as well
        with pytest.raises(FormatError, match="checksum"):
            stored.tensor("block.int8")
    assert len(data) and good.dequantize().shape == (50, 90)
    assert_same(stored.tensor("block"), good)


def test_what_is_no_model_folder(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        error = refusal(path)
        assert error is not None
    (tmp_path / "file").write_text("x")
    assert "not a folder" in str(refusal(tmp_path / "file"))


def test_an_unknown_tensor_names_its_neighbours(pristine):
    stored = StoredModel.open(pristine)
    for ask in (stored.tensor, stored.describe, lambda name: list(stored.parts(name))):
        with pytest.raises(FormatError, match=r"tensor 'norm\.f33'.*norm\.f32"):
            ask("norm.f33")
