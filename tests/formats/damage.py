"""What the tests of damaged models share: reading everything of a model, and manifests that lie."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import LONGEST, LONGEST_WORD
from workbench.formats import manifest as rules
from workbench.formats.errors import FormatError
from workbench.formats.reader import StoredModel

NONSENSE = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, 1.0, 0.5, -0.0, 1e300,
    "", "x", "../../etc/passwd", "/etc/passwd", "model.wgpu\n", "a" * 5000, "\x00", "é", "sha256:" + "0" * 64,
    [], [0], [0, 0], [1, 0], [-1, 5], [2**40, 2**40, 2**40], {}, {"x": 1}, [[[[]]]],
)  # fmt: skip


#: What names become longer by: a multiple of GGUF's alignment, as one word and as many.
LONG = ("a" * 2**20, "a b, " * 2**18 + "." * 2**18, "é\n" * 2**19)
Change = Callable[[str], bytes]


def read_everything(path: Path, verify: bool = True) -> None:
    """What a user does with a model. The names in it may be anything, its data must come out as it says."""
    stored = StoredModel.open(path, verify=verify)
    for name in stored.names():
        tensor = stored.tensor(name)
        assert (tensor.shape, tensor.format) == stored.describe(name)
        tensor.dequantize()
    (stored.tokenizer_path / "tokenizer.json").read_bytes()


def refusal(path: Path, verify: bool = True) -> FormatError | None:
    """The error of reading a model, or None if it can be read. Anything but `FormatError` fails the test."""
    try:
        with np.errstate(all="ignore"):
            read_everything(path, verify)
    except FormatError as error:
        assert error.file is not None and Path(error.file).is_relative_to(path), str(error)
        assert error.field, str(error)
        assert error.file in str(error) and len(str(error)) <= LONGEST
        assert error.field in str(error) or len(error.field) > LONGEST_WORD
        if error.tensor is not None and len(error.tensor) <= LONGEST_WORD:
            assert repr(error.tensor) in str(error)
        return error
    return None


def manifest_of(path: Path) -> dict:
    return json.loads((path / "manifest.json").read_text("utf-8"))


def store(path: Path, manifest: dict) -> None:
    """Writes a damaged manifest with its right checksum, so that it must be refused for what it says."""
    (path / "manifest.json").write_bytes(rules.seal(manifest))


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


def places(value: object, path: tuple = ()):
    """The path of everything in a JSON value, but not of what is inside free-form objects."""
    yield path
    if path[:1] in (("config",), ("plan",), ("provenance",), ("precision",)):
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def longer_json(text: str) -> Iterator[Change]:
    """Each key, and each string, made longer."""
    value = json.loads(text)
    for path in places(value):
        found = get(value, path)
        if isinstance(found, str):
            yield lambda long, path=path, found=found: json.dumps(put(value, path, found + long)).encode()
        if path and isinstance(path[-1], str):
            yield lambda long, path=path: json.dumps(_renamed(value, path, long)).encode()


def _renamed(value: Any, path: tuple, long: str) -> Any:
    outer = get(value, path[:-1])
    renamed = {(key + long if key == path[-1] else key): each for key, each in outer.items()}
    return put(value, path[:-1], renamed) if path[:-1] else renamed
