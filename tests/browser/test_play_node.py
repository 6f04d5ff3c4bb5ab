"""Programs played by the browser's modules in Node give what the native engine gives."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

import workbench
from tests.models.family_cases import write_family
from tests.support.dawn import play
from tests.support.foreign import write_quantized
from tests.support.steps import sizes_of_steps
from workbench.convert.convert import convert
from workbench.convert.imported import import_model
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.formats.text import parse_format
from workbench.models.checkpoint import Checkpoint
from workbench.models.source import open_source
from workbench.plan import plan
from workbench.quantizers.rtn import quantize
from workbench.runtime import export, link
from workbench.runtime.export import TOGETHER, export_programs, read_bundle

from .conftest import CAPACITY
from .engines import compare

#: Rows of a step that rings have slots for, so few that a short text goes round.
ROWS = 8
#: Positions of a cache that is soon full.
ROOM = 24

pytestmark = pytest.mark.usefixtures("adapter")


def played(folder):
    return lambda request: play({"folder": str(folder), **request})


class WithOffsets(Checkpoint):
    """A checkpoint whose down projections have offsets in place of zero-points, as others' files do."""

    FORMAT = WeightFormat("int4", block_size=32, offset=True)

    def describe(self, name):
        shape, fmt = super().describe(name)
        return shape, self.FORMAT if "down_proj" in name else fmt

    def parts(self, name):
        if "down_proj" not in name:
            yield from super().parts(name)
            return
        weights = Checkpoint.open(self.path).tensor(name).dequantize()
        q, scales, zeros = quantize(weights, WeightFormat("int4", block_size=32))
        yield (
            0,
            quantized_tensor(
                name, weights.shape, self.FORMAT, q, scales, -scales * zeros.astype(scales.dtype)
            ),
        )


def test_rows_that_are_no_whole_words_and_frequencies_for_long_texts(tmp_path):
    """Phi-3: three blocks a row, so three bytes of zero-points, or six of offsets; LongRoPE; stacked tensors; sampled
    tokens too."""
    source = WithOffsets.open(write_family(tmp_path / "phi3", "phi3", 1))
    options = ConvertOptions(parse_format("int4/32"), overrides={"*.down_proj.*": WithOffsets.FORMAT})
    convert(source, tmp_path / "model", options)
    export_programs(open_source(tmp_path / "model"), tmp_path / "programs", max_tokens=CAPACITY)
    index = json.loads((tmp_path / "programs" / "f32-0.json").read_text())
    assert any(buffer.get("initial", {}).get("long") for buffer in index["programs"][0]["buffers"])
    compare(tmp_path, played(tmp_path), 8, sampled=True)


@pytest.mark.release
def test_columns_in_an_order_of_their_own(tmp_path):
    """Act-order: the order is a vector beside the matrix, and what the matrix reads is gathered."""
    write_quantized(tmp_path / "in", "gptq-act-order")
    import_model(tmp_path / "in", tmp_path / "model")
    export_programs(open_source(tmp_path / "model"), tmp_path / "programs", max_tokens=CAPACITY)
    compare(tmp_path, played(tmp_path), 8)


def test_a_sequence_whose_cache_is_a_ring_goes_back(site, tmp_path, monkeypatch):
    """Further than the ring reaches: what it has lost is fed again, and no step runs without it."""
    for module in (plan, link):
        monkeypatch.setattr(module, "RING_ROWS", ROWS)
    checkpoint = write_family(tmp_path / "mistral", "mistral")
    folder = site("int4/32", checkpoint)
    program = json.loads((folder / "programs" / "f32-0.json").read_text())["programs"][0]
    assert program["target"]["back"] == ROWS
    ids, count = [5, 6, 7, 8], 16
    found = played(folder)({"ids": ids, "count": count, "back": ids[:3]})
    assert "error" not in found
    model = workbench.load(folder / "model", backend="torch", max_tokens=CAPACITY)
    for prompt, tokens in ((ids, found["tokens"]), (ids[:3], found["again"])):
        with closing(model.session()) as session:
            session.feed(prompt)
            assert session.greedy(count) == tokens
    assert found["refused"].startswith(f"context: windows bound the cache, which has come to {3 + count}")


@pytest.mark.parametrize(
    "file, damage, kind, says",
    [
        ("model/model.wgpu", lambda data: data[:-700], "damaged", "ends in the middle of"),
        ("model/model.wgpu", lambda data: data[:9] + b"\xff" + data[10:], "damaged", "does not have its checksum"),
        ("model/manifest.json", lambda data: data + b" ", "damaged", "not the bytes that were written"),
        ("programs/f32-*.json", lambda data: data[:-1] + b" ", "damaged", "not the bytes that were written"),
        ("programs/programs.json", lambda data: data.replace(b'n": 2,', b'n": 9,'), "unsupported", "of version 9"),
        ("programs/programs.json", lambda data: data[:50], "damaged", "is no JSON"),
    ],
)  # fmt: skip
def test_damage_is_named(small_site, file, damage, kind, says):
    before = {path: path.read_bytes() for path in small_site.glob(file)}
    try:
        for path, data in before.items():
            path.write_bytes(damage(data))
        said = play({"folder": str(small_site), "ids": [1], "count": 1})["error"]
    finally:
        for path, data in before.items():
            path.write_bytes(data)
    assert said["kind"] == kind and says in said["message"]


def test_a_browser_without_webgpu_and_an_adapter_without_f16_are_named(small_site):
    said = play({"folder": str(small_site), "ids": [1], "count": 1, "without": "nothing"})["error"]
    assert said["kind"] == "no-webgpu" and "Firefox 141" in said["message"]
    answer = play({"folder": str(small_site), "ids": [1], "count": 1, "activations": "f16"})
    if "error" in answer:
        assert (
            answer["error"]["kind"] == "missing-feature"
            and "f32 runs everywhere" in answer["error"]["message"]
        )


def test_activations_in_int8_are_the_native_engines_and_f32_plays_where_they_cannot(small, site):
    """The first that programs are there for is played, if the adapter has what it needs."""
    with sizes_of_steps(1):
        folder = site("int4/32", small, types=("int8", "f32"), heads=("last", "greedy"))
        compare(folder, played(folder), 16, activations="int8")
    request = {"ids": [5, 6], "count": 1, "without": "features"}
    needed = "packed_4x8_integer_dot_product"
    found = played(folder)(request)
    assert found["bundle"].startswith("f32-") and found["offered"] == {"int8": needed, "f32": ""}
    said = played(folder)(request | {"activations": "int8"})["error"]
    assert (
        said["kind"] == "missing-feature" and f"in int8 need {needed}, which is not here" in said["message"]
    )


def test_what_cannot_be_fed_and_logits_that_are_no_numbers_are_named(small_site):
    """In greedy text, in drawn text and where logits are handed out; the sequence is then what it was."""
    refused = [[4096], [5] * 129, []]
    answer = play({"folder": str(small_site), "ids": [5, 6, 7], "count": 3, "refused": refused})
    assert answer["feeds"] == [
        "input: token id 4096 at place 0 is outside the vocabulary of 4096",
        "context: 129 tokens do not fit behind 0: there is room for 128 in all",
        "input: at least one token is fed",
    ]
    for how in ("fed", "greedy", "drawn"):
        assert answer[how].startswith("not-finite: the logits are not finite at or before position"), how
    assert answer["position"] == 0


def test_two_settings_together_write_what_each_writes_alone(small, tmp_path):
    """Drawn in the page from logits of shared steps, against the device's own draws; a text that ends lets the other go
    on, and prompts that share a beginning share its keys and values."""
    convert(small, tmp_path / "model", ConvertOptions(parse_format("int4/32")))
    heads = ("last", "greedy", "draw", TOGETHER)
    export_programs(open_source(tmp_path / "model"), tmp_path / "programs", max_tokens=ROOM, heads=heads)
    settings = [{}, {"temperature": 0.9, "topK": 50, "repetitionPenalty": 1.2, "seed": 11}]
    ids, full = [5, 6, 7, 8, 9], [5] * (ROOM - 3)
    answer = played(tmp_path)({"prompts": [ids, full, ids], "count": 8, "settings": settings})
    whole, cut, ended = answer["runs"]
    for run in answer["runs"]:
        assert run["both"] == run["alone"]
    assert whole["reasons"] == ["length", "length"] and whole["both"][0] != whole["both"][1]
    assert cut["reasons"] == ["context", "context"] and [len(each) for each in cut["both"]] == [4, 4]
    first, second = whole["both"]
    assert ended["both"] == [first[: first.index(answer["end"])], second]
    assert ended["reasons"] == ["eos", "length"]
    assert answer["wrong"] == "input: 2 settings, 1 sequences; allowed: 2 of both"


def greedy_labels(programs) -> list[str]:
    [greedy] = [each for each in programs if each.target.head == "greedy"]
    return [greedy.pipelines[each.pipeline].label for each in greedy.dispatches]


def test_an_adapter_that_binds_more_plays_programs_with_fewer_dispatches(small, tmp_path, monkeypatch):
    """Of two bundles Node takes the one in which no matrix is cut, and it gives what the native engine gives."""
    few = export.Bindings(1 << 16, 256)
    monkeypatch.setitem(export.LIMITS, "browser", few)
    monkeypatch.setattr(export, "WIDE", export.Bindings(1 << 27, 256))
    convert(small, tmp_path / "model", ConvertOptions(parse_format("int4/32")))
    heads = ("last", "greedy")
    export_programs(open_source(tmp_path / "model"), tmp_path / "programs", max_tokens=CAPACITY, heads=heads)
    cut, whole = (
        greedy_labels(read_bundle(tmp_path / "programs", "f32", 4, each)) for each in (few, export.WIDE)
    )
    assert len(whole) < len(cut)
    answers = []

    def play_it(request: dict) -> dict:
        answers.append(played(tmp_path)(request))
        return answers[-1]

    compare(tmp_path, play_it, 8)
    assert answers[0]["bundle"].endswith("-wide.json")


def test_matrices_that_begin_at_no_multiple_of_256_bytes_are_one_product_where_32_suffice(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "WIDE", export.Bindings(export.PROMISED.nbytes, 32))
    convert(small, tmp_path / "model", ConvertOptions(parse_format("int4/32")))
    source = open_source(tmp_path / "model")
    assert export.bindings(source) == (export.PROMISED, export.WIDE)
    export_programs(source, tmp_path / "programs", max_tokens=CAPACITY, heads=("greedy",))
    apart, together = (
        greedy_labels(read_bundle(tmp_path / "programs", "f32", 4, each))
        for each in (export.PROMISED, export.WIDE)
    )
    assert len(together) < len(apart)
    assert not any("qkv" in each for each in apart) and any("qkv" in each for each in together)
