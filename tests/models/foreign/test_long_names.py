"""Names and strings of a megabyte in the files of each reader: what is said of them stays short.

Messages quote names whole; `workbench.errors.shortened` cuts them where errors are made.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.formats.damage import LONG, Change, longer_json
from tests.models.foreign.mutations import READERS, make, read
from tests.models.foreign.test_mutations import BY_HAND
from workbench import cli
from workbench.errors import LONGEST, CheckpointError
from workbench.models.families import architecture_of
from workbench.models.hub import INDEX
from workbench.models.source import notes_of, open_source

#: Places of a file that are tried.
TRIED = 5


def of_safetensors(data: bytes) -> Iterator[Change]:
    (size,) = struct.unpack_from("<Q", data)
    for change in longer_json(data[8 : 8 + size].decode()):

        def whole(long: str, change=change) -> bytes:
            header = change(long)
            return struct.pack("<Q", len(header)) + header + data[8 + size :]

        yield whole


def of_gguf(data: bytes) -> Iterator[Change]:
    """Each key and name of its header, which its length in 8 bytes is before."""
    for found in re.finditer(rb"([\x01-\x40])\0{7}([a-z][a-z_.0-9]+)", data):
        if len(found[2]) >= found[1][0]:
            start, stop = found.start(), found.start() + 8 + found[1][0]

            def longer(long: str, start=start, stop=stop) -> bytes:
                name = data[start + 8 : stop] + long.encode()
                return data[:start] + struct.pack("<Q", len(name)) + name + data[stop:]

            yield longer


def of_onnx(data: bytes) -> Iterator[Change]:
    import onnx

    def changed(change: Callable[[Any], Any]) -> Change:
        def whole(long: str) -> bytes:
            model = onnx.load_from_string(data)
            change(model.graph)(long)
            return model.SerializeToString()

        return whole

    def longer(each: Any, field: str) -> Callable[[str], None]:
        return lambda long: setattr(each, field, getattr(each, field) + long)

    graph = onnx.load_from_string(data).graph
    for at, node in enumerate(graph.node):
        for field in ("name", "op_type", "domain"):
            yield changed(lambda graph, at=at, field=field: longer(graph.node[at], field))
        for place in range(len(node.input)):
            yield changed(
                lambda graph, at=at, place=place: (
                    lambda long: graph.node[at].input.__setitem__(place, graph.node[at].input[place] + long)
                )
            )
    for at, tensor in enumerate(graph.initializer):
        yield changed(lambda graph, at=at: longer(graph.initializer[at], "name"))
        for place in range(len(tensor.external_data)):
            yield changed(
                lambda graph, at=at, place=place: longer(graph.initializer[at].external_data[place], "value")
            )


def changes(name: str, data: bytes) -> list[Change]:
    """All that can be longer in a file; nothing in one of weights alone."""
    if name.endswith((".json", INDEX)):
        return list(longer_json(data.decode()))
    makers = {".safetensors": of_safetensors, ".gguf": of_gguf, ".onnx": of_onnx}
    return next((list(made(data)) for end, made in makers.items() if name.endswith(end)), [])


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in BY_HAND])
def test_what_is_said_of_long_names_is_short(tmp_path, reader):
    if reader == "onnx":
        pytest.importorskip("onnx")
    whole, rng, refused = make(reader, tmp_path / reader), random.Random(0), 0
    for name, data in whole.items():
        there = changes(name, data)
        for number, change in enumerate(rng.sample(there, min(TRIED, len(there)))):
            (tmp_path / reader / name).write_bytes(change(LONG[number % len(LONG)]))
            error = read(tmp_path / reader)  # which looks at the length of the message
            refused += error is not None
            if error is None and reader != "lora":
                source = open_source(tmp_path / reader)
                told = notes_of(source, architecture_of(source.config))
                assert sum(len(part) for note in told for part in note) < 2 * LONGEST
        (tmp_path / reader / name).write_bytes(data)
    assert refused >= 4 and read(tmp_path / reader) is None


def test_both_ends_of_a_message_stay(tmp_path, capsys):
    """Where, and what is allowed; by the error, and by the command in one line."""
    make("shards", tmp_path / "m")
    file = tmp_path / "m" / INDEX
    long = {"model." + "x" * 2**20: "../elsewhere.safetensors"}
    file.write_text(json.dumps({"weight_map": json.loads(file.read_text())["weight_map"] | long}))
    with pytest.raises(CheckpointError) as raised:
        open_source(tmp_path / "m")
    said = str(raised.value)
    assert said.startswith(f"{file}: tensor 'model.xxx") and "…(1,048,5" in said and len(said) < 600
    assert said.endswith(
        "points to '../elsewhere.safetensors'; allowed is a .safetensors file inside the folder"
    )
    assert cli.main(["info", str(tmp_path / "m")]) == 2
    assert said in capsys.readouterr().err
