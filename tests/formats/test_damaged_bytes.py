"""The reader against damaged files: bytes flipped, cut off, added or exchanged, and planes whose checksum is right
though their values are not. Nothing but `FormatError` may come out of it, and it must say which file and which field.
"""

from __future__ import annotations

import copy
import hashlib
import random
from pathlib import Path

import pytest

from tests.formats.damage import manifest_of, put, refusal, store
from tests.formats.models import assert_same
from workbench.formats.errors import FormatError
from workbench.formats.reader import StoredModel


def test_the_pristine_model_can_be_read(pristine):
    assert refusal(pristine) is None
    stored = StoredModel.open(pristine)
    assert len(manifest_of(pristine)["shards"]) > 2 and len(stored.stored("block").parts) > 1


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


def test_flipped_bits_of_the_padding(model):
    """No checksum covers the zeros between planes and behind the last; a bit that is set there is found, and named."""
    manifest, found = manifest_of(model), 0
    used = {(shard["file"], at) for shard in manifest["shards"] for at in range(shard["length"])}
    for tensor in manifest["tensors"].values():
        for part in tensor["parts"]:
            for plane in part["planes"].values():
                end = plane["offset"] + plane["length"]
                used -= {(plane["shard"], at) for at in range(plane["offset"], end)}
    places = sorted(used)
    for shard, at in (*random.Random(0).sample(places, 12), places[0], places[-1]):
        data = bytearray((model / shard).read_bytes())
        data[at] ^= 1 << (at % 8)
        (model / shard).write_bytes(data)
        error = refusal(model)
        assert f"byte {at} is" in str(error) and Path(error.file).name == shard and error.tensor
        data[at] = 0
        (model / shard).write_bytes(data)
        found += 1
    assert found == 14 and refusal(model) is None


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
