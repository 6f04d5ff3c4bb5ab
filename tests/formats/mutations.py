"""Model folders mutated at random, and what reading each of them may do: give a model, or raise `FormatError`.

    python -m tests.formats.mutations 100000 --seed 1     # prints what was found, and the slowest and largest

Half of the mutated folders have their checksums made right again (the seal of the manifest, and half of these those of
planes and tokenizer files too), so that the damage is met by what stands behind the checksums. Where they were not
and any byte differs, the folder must be refused.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.formats.damage import NONSENSE, places
from tests.formats.models import SMALL, write_model
from tests.support.limits import Worst, held
from workbench.errors import LONGEST
from workbench.formats import manifest as rules
from workbench.formats.errors import FormatError
from workbench.formats.reader import StoredModel

TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"\\ud800", b"null", b"true", b"NaN", b"-Infinity",
    b"1e999", b"-1", b"0", b"256", b"4294967296", b"9" * 30, b'"x": 1,', b"[[[[", b"\x00", b"\xff", b"\n", b"..",
)  # fmt: skip


class Base:
    """A whole model in several shards: bytes by file name, never changed."""

    def __init__(self, folder: Path, layout: str) -> None:
        limits = rules.MAX_PLANE, rules.MAX_SHARD
        rules.MAX_PLANE, rules.MAX_SHARD = 1024, 3072
        try:
            write_model(folder, layout, SMALL)
        finally:
            rules.MAX_PLANE, rules.MAX_SHARD = limits
        self.folder = folder
        self.files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        self.places = [path for path in places(json.loads(self.files["manifest.json"])) if path]

    def restore(self) -> None:
        """Write anew what a mutation has changed."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            name = str(path.relative_to(self.folder))
            if name == "tokenizer" and path.is_dir() and not path.is_symlink():
                continue
            whole = path.is_file() and not path.is_symlink() and path.read_bytes() == self.files.get(name)
            if not whole:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, data in self.files.items():
            path = self.folder / name
            if not path.is_file():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)


Files = dict[str, bytes]


def change_bytes(rng: random.Random, data: bytes, words: tuple[bytes, ...] = ()) -> bytes:
    """Flipped, cut out, doubled, exchanged, cut off, added or replaced; `words` are put in too."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at, length = rng.randrange(len(found) + 1), rng.choice((1, 1, 2, 8, 64, 256))
        kind = rng.randrange(7)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[at : at + length]
        elif kind == 2:
            found[at:at] = found[at : at + length]
        elif kind == 3:
            other = rng.randrange(len(found) + 1)
            found[at : at + length], found[other : other + length] = (
                found[other : other + length],
                found[at : at + length],
            )
        elif kind == 4:
            del found[at:]
        elif kind == 5:
            found[at:at] = rng.choice(words) if words else rng.randbytes(length)
        else:
            word = rng.choice(words) if words else rng.randbytes(length)
            found[at : at + len(word)] = word
    return bytes(found)


def manifest_bytes(rng: random.Random, base: Base, files: Files) -> None:
    files["manifest.json"] = change_bytes(rng, files["manifest.json"], TOKENS)


def manifest_values(rng: random.Random, base: Base, files: Files) -> None:
    """Values of the manifest replaced by nonsense, by another place's value, a little changed, or removed."""
    value = json.loads(files["manifest.json"])
    for _ in range(rng.choice((1, 1, 2, 4))):
        path = rng.choice(base.places)
        try:
            inner = value
            for key in path[:-1]:
                inner = inner[key]
            kind = rng.randrange(5)
            if kind == 0:
                inner[path[-1]] = rng.choice(NONSENSE)
            elif kind == 1:
                other = value
                for key in rng.choice(base.places):
                    other = other[key]
                inner[path[-1]] = json.loads(json.dumps(other))
            elif kind == 2 and type(inner[path[-1]]) is int:
                inner[path[-1]] += rng.choice((-256, -1, 1, 2, 31, 256, 4096))
            elif kind == 3:
                del inner[path[-1]]
            elif isinstance(inner, dict):
                inner[rng.choice(("x", "shard", "é", "", "a" * 600, "tensors"))] = inner.pop(path[-1])
            else:
                inner.append(inner[path[-1]])
        except (LookupError, TypeError, AttributeError):  # an earlier change has taken the place away
            continue
    files["manifest.json"] = (json.dumps(value, indent=1) + "\n").encode()


#: What is repeated, and the value around it.
CROWDS = (
    (b'{"":{}},', b"[%s0]"), (b"[],", b"[%s0]"), (b"1,", b"[%s0]"), (b'"\xf0\x9f\x98\x80",', b"[%s0]"), (b"[", b"%s"),
    (b'{"a":', b"%s"), (b'"', b"%s"), (b"9", b"%s"), (b"x", b'"%s"'), (b"\\ud83d\\ude00", b'"%s"'),
)  # fmt: skip


def crowd(rng: random.Random, base: Base, files: Files) -> None:
    """A value or a mark repeated up to millions of times, in a place where any value may stand."""
    unit, value = rng.choice(CROWDS)
    count = rng.choice((10_000, 300_000, (30 << 20) // len(unit)))
    config = b'{"x": ' + value % (unit * count) + b', "model_type":'
    files["manifest.json"] = files["manifest.json"].replace(b'{\n  "model_type":', config, 1)


def shards(rng: random.Random, base: Base, files: Files) -> None:
    name = rng.choice([name for name in files if name.endswith(".wgpu")])
    kept = len(files[name])
    files[name] = change_bytes(rng, files[name])
    if rng.random() < 0.7:  # of the right size, so that its contents are looked at
        files[name] = files[name][:kept].ljust(kept, b"\0")


def shard_places(rng: random.Random, base: Base, files: Files) -> None:
    """What a manifest says of its shards (names and lengths, their order and number), and of where planes lie."""
    value = json.loads(files["manifest.json"])
    listed, tensors = value["shards"], value["tensors"]
    for _ in range(rng.choice((1, 1, 2))):
        kind, one = rng.randrange(7), rng.choice(listed)
        plane = rng.choice(
            [p for t in tensors.values() for part in t["parts"] for p in part["planes"].values()]
        )
        if kind == 0:
            one["length"] += rng.choice((-256, -1, 1, 256, 2**40))
        elif kind == 1:
            one["file"] = rng.choice((rng.choice(listed)["file"], "model-00009.wgpu", "../model.wgpu", ""))
        elif kind == 2:
            rng.shuffle(listed)
        elif kind == 3:
            listed.append(dict(one))
        elif kind == 4:
            listed.remove(one)
        elif kind == 5:
            plane["shard"] = rng.choice((one["file"], "tokenizer/vocab.txt", "manifest.json", ""))
        else:
            plane["offset"] = rng.choice((0, 256, plane["offset"] + 256, one["length"], -256))
    files["manifest.json"] = (json.dumps(value, indent=1) + "\n").encode()


def tokenizer(rng: random.Random, base: Base, files: Files) -> None:
    files["tokenizer/tokenizer.json"] = change_bytes(rng, files["tokenizer/tokenizer.json"])


def names(rng: random.Random, base: Base, files: Files) -> None:
    """Files exchanged, missing, or too many."""
    one, other = rng.sample(sorted(files), 2)
    kind = rng.randrange(3)
    if kind == 0:
        files[one], files[other] = files[other], files[one]
    elif kind == 1:
        del files[one]
    else:
        files[f"tokenizer/{rng.choice(('x', 'tokenizer.model', 'é'))}"] = b"x"


def special(rng: random.Random, base: Base, files: Files) -> Callable[[], None]:
    """Something else than a regular file in the place of one: made when all files lie there."""
    path = base.folder / rng.choice([*sorted(files), "tokenizer"])
    kind = rng.choice(("fifo", "socket", "folder", "loop", "zero", "link", "dangling"))

    def make() -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            # A socket's own name must be short, so it is made elsewhere and moved.
            with socket.socket(socket.AF_UNIX) as made, tempfile.TemporaryDirectory(dir="/tmp") as short:
                made.bind(f"{short}/s")
                shutil.move(f"{short}/s", path)
        elif kind == "folder":
            path.mkdir()
        else:
            target = {"loop": path.name, "zero": "/dev/zero", "link": "/etc", "dangling": "nowhere"}[kind]
            path.symlink_to(target)

    return make


MUTATIONS = (manifest_bytes, manifest_values, shard_places, shards, tokenizer, names)
#: How often each is taken.
WEIGHTS = (2, 3, 1, 1, 1, 1)


def made_right(rng: random.Random, files: Files, planes: bool) -> None:
    """Checksums recomputed as far as the manifest still has places for them, then the seal."""
    data = files.get("manifest.json", b"")
    if planes:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError, IndexError):
            value = json.loads(data)
            for tensor in value["tensors"].values():
                for part in tensor["parts"]:
                    for plane in part["planes"].values():
                        start = plane["offset"]
                        found = files[plane["shard"]][start : start + plane["length"]]
                        plane["checksum"] = "sha256:" + hashlib.sha256(found).hexdigest()
            for name, entry in value["tokenizer"].items():
                entry["length"] = len(files[f"tokenizer/{name}"])
                entry["checksum"] = "sha256:" + hashlib.sha256(files[f"tokenizer/{name}"]).hexdigest()
            data = rules.seal(value)
    mark = b'"checksum": "sha256:'
    at = data.rfind(mark) + len(mark)
    if at >= len(mark) and len(data) >= at + 64:
        cleared = data[:at] + b"0" * 64 + data[at + 64 :]
        data = data[:at] + hashlib.sha256(cleared).hexdigest().encode() + data[at + 64 :]
    if "manifest.json" in files:
        files["manifest.json"] = data


def read(folder: Path, verify: bool) -> FormatError | None:
    """Everything of a model; the error that it is refused with, or None."""
    try:
        with np.errstate(all="ignore"):
            stored = StoredModel.open(folder, verify=verify)
            for name in stored.names():
                tensor = stored.tensor(name)
                assert (tensor.shape, tensor.format) == stored.describe(name)
                tensor.dequantize()
    except FormatError as error:
        assert error.file and error.field and len(str(error)) <= LONGEST, str(error)
        return error
    return None


def run(count: int, seed: int, folder: Path) -> Counter:
    """Read `count` mutated folders, within limits. Returns how many were refused, or read; AssertionError names the
    mutation."""
    bases = [Base(folder / layout, layout) for layout in ("planar", "interleaved")]
    told: Counter = Counter()
    worst = Worst()
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        base = rng.choice(bases)
        files, make, done = dict(base.files), None, []
        if (kind := rng.random()) < 0.06:
            make = special(rng, base, files)
        elif kind < 0.062:
            done = [crowd]
            crowd(rng, base, files)
        else:
            done = rng.choices(MUTATIONS, WEIGHTS, k=rng.choice((1, 1, 1, 2)))
            for mutation in done:
                # What an earlier one has removed or spoilt is left alone.
                with contextlib.suppress(LookupError, ValueError, TypeError, AttributeError):
                    mutation(rng, base, files)
        if sealed := rng.random() < 0.5:
            made_right(rng, files, planes=done != [crowd] and rng.random() < 0.5)
        verify = rng.random() < 0.8
        base.restore()
        for name in base.files.keys() | files.keys():
            if files.get(name) != base.files.get(name):
                path = base.folder / name
                path.write_bytes(files[name]) if name in files else path.unlink()
        if make:
            make()
        what = f"mutation {number} of seed {seed} ({[each.__name__ for each in done] or 'special'})"
        with held(what, worst):
            error = read(base.folder, verify)
        changed = make is not None or files != base.files
        if changed and verify and not sealed:
            assert error is not None, f"mutation {number} of seed {seed} was believed"
        told["sealed" if sealed else "not sealed"] += 1
        told["refused" if error else "read"] += 1
        if error:
            told[f"field {error.field.split('.')[0].split('[')[0][:20]}"] += 1
    told["slowest, ms"], told["memory of one reading at most, MiB"] = (
        round(1000 * worst.seconds),
        round(worst.mib),
    )
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        told = run(arguments.count, arguments.seed, Path(folder))
    for name, number in told.most_common():
        print(f"{number:9,}  {name}")
    print(
        f"{arguments.count:,} folders in {time.perf_counter() - began:.0f} s, seed {arguments.seed}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
