"""Programs as data: written, read and played they give the same bits; what a page gets compiles under both
compilers."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest

import workbench
from tests.models.family_cases import write_family
from tests.support.tint import compile_all
from wgsl_kernels import Adapter
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.formats.text import parse_format
from workbench.model_bench.synthetic import RandomSource, shape_config
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.plan.plan import step_sizes
from workbench.runtime.device import PROMISED_LIMITS
from workbench.runtime.export import SUBGROUPS, export_programs, page_adapter, read_bundle, types_for
from workbench.runtime.link import program_of
from workbench.runtime.lowering import lower
from workbench.runtime.pipelines import build
from workbench.runtime.player import Player
from workbench.runtime.program import Program, ProgramError
from workbench.runtime.step import Step

from .models import STACKABLE, random_ids, write_random

IDS = random_ids(STACKABLE.vocab, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A converted model, INT4, whose matrices are stacked."""
    folder = tmp_path_factory.mktemp("program")
    convert(
        write_random(folder / "source", STACKABLE), folder / "out", ConvertOptions(parse_format("int4/32"))
    )
    return folder / "out"


def again(program: Program) -> Program:
    return Program.from_json(json.loads(json.dumps(program.to_json())))


@pytest.mark.parametrize("dtype, cache", [("f32", "f32"), ("f16", None), ("int8", "int8")])
@pytest.mark.parametrize("head, size", [("all", 16), ("last", 1)])
def test_a_program_that_was_written_and_read_gives_the_same_bits(
    model, open_promised, dtype, cache, head, size
):
    if dtype == "f16" and not open_promised().adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    loaded = workbench.load(model, backend="wgpu", dtype=dtype, cache=cache, max_tokens=32)
    executor = loaded.executor
    state = executor.new_cache(32)
    expected = executor.run(head, IDS[:size], state)["logits"]
    program = executor.program(head, size, state)
    assert again(program) == program

    player, given = Player(executor.device, loaded.source), executor.new_cache(32)
    built = player.pipelines(again(program))
    recorder = player.record(again(program), built, given.buffers)
    executor.write_inputs(given, size, Step.following(IDS[:size], 0))
    executor._submit(recorder, "read")
    [logits] = player.read(program, ["logits"], size)
    assert np.array_equal(logits, expected)


def test_rows_in_ranges_are_uploaded_where_they_are_bound(tmp_path, open_promised):
    """With a binding so small that a vocabulary is split, as on a page with a large one."""
    source = open_source(write_family(tmp_path / "qwen", "qwen3", 1))
    model = architecture_of(source.config)
    plan = model.build(source.describe, head="all")
    sizes = step_sizes(1, 16, steps=1)
    program = program_of(lower(plan, sizes, Adapter(), 16 << 10), "all", Adapter(), 16 << 10)
    ranges = [each for each in program.uploads if each.tensor == model.embedding]
    assert len(ranges) > 3 and [each.first for each in ranges[1:]] == [each.stop for each in ranges[:-1]]
    assert ranges[-1].stop == model.vocab_size and all(each.at == 0 for each in ranges)
    assert all(memory.nbytes <= 16 << 10 for memory in program.of_kind("weight").values())


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda data: data.update(version=99), "version"),
        (
            lambda data: data["pipelines"][0].update(module=99),
            r"pipelines\[0\].module: there is no module 99",
        ),
        (lambda data: data["dispatches"][0].__setitem__(0, 99), "there is no pipeline 99"),
        (lambda data: data["dispatches"][0][1].pop(), "buffers for"),
        (lambda data: data["dispatches"][0][1][0].__setitem__(2, 1 << 40), "bytes that no buffer has"),
        (lambda data: data["dispatches"][0].__setitem__(2, [1, 2, 70000]), r"dispatches\[0\]\[2\]\[2\]"),
        (lambda data: data["buffers"][0].update(kind="magic"), r"buffers\[0\].kind"),
        (lambda data: data["uploads"][0].__setitem__(6, "rot13"), r"uploads\[0\]\[6\]"),
        (lambda data: data.pop("target"), "target"),
    ],
)
def test_what_is_no_program_is_refused_with_its_place(model, damage, says):
    source = open_source(model)
    plan = architecture_of(source.config).build(source.describe, head="last")
    sizes = step_sizes(1, 16, steps=1)
    data = json.loads(
        json.dumps(program_of(lower(plan, sizes, Adapter(), 1 << 27), "last", Adapter(), 1 << 27).to_json())
    )
    damage(data)
    with pytest.raises(ProgramError, match=says):
        Program.from_json(data)


def test_a_program_of_an_8b_model_is_small_and_quickly_written_and_read():
    source = RandomSource("8b", shape_config("llama-3-8b"), parse_format("int4"))
    plan = architecture_of(source.config).build(source.describe, head="greedy")
    sizes = step_sizes(1, 2048, steps=16)
    adapter = Adapter(True, 32)
    program = program_of(lower(plan, sizes, adapter, 1 << 30), "greedy", adapter, 1 << 30)
    best = min(_round_trip(program) for _ in range(3))
    assert best < 3  # idle it takes a tenth
    assert len(json.dumps(program.to_json(), separators=(",", ":"))) < 2_000_000


def _round_trip(program: Program) -> float:
    began = time.perf_counter()
    assert again(program) == program
    return time.perf_counter() - began


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder, told = tmp_path_factory.mktemp("exported") / "programs", []
    done = export_programs(
        open_source(model), folder, max_tokens=64, progress=lambda *each: told.append(each)
    )
    assert [each[:2] for each in told] == [(n, done.programs) for n in range(1, done.programs + 1)]
    assert told[0][2] == "f32-0" and told[-1][2] == ""
    return folder, done


def test_exported_programs_are_those_that_lowering_gives(exported, model):
    folder, done = exported
    source = open_source(model)
    index = json.loads((folder / "programs.json").read_text())
    assert done.programs == sum(
        len(read_bundle(folder, each["activations"], each["subgroup_size"])) for each in index["bundles"]
    )
    plan = architecture_of(source.config).build(source.describe, head="greedy")
    sizes = step_sizes(1, 64, steps=16)
    most = PROMISED_LIMITS["max-storage-buffer-binding-size"]
    for lanes in SUBGROUPS:
        adapter = page_adapter(lanes)
        expected = program_of(lower(plan, sizes, adapter, most), "greedy", adapter, most, "tint")
        [found] = [each for each in read_bundle(folder, "f32", lanes) if each.target.head == "greedy"]
        assert found == expected


def test_a_token_on_a_browsers_software_adapter_crosses_no_barrier(exported):
    """Each is a switch of every invocation there: a step of the embedded model took 2 s with them, 0.03 s without."""
    folder, _ = exported
    [greedy] = [each for each in read_bundle(folder, "f32", 4) if each.target.head == "greedy"]
    products = [each for each in greedy.pipelines if "linear" in each.label or "argmax" in each.label]
    assert len(products) > 2
    for each in products:
        assert "workgroupBarrier" not in greedy.modules[each.module], each.label


def test_exported_modules_compile_under_tint(exported):
    folder, _ = exported
    sources = {}
    for activations in ("f32", "f16", "int8"):
        for lanes in (0, 4, 32):
            for program in read_bundle(folder, activations, lanes):
                for each in program.pipelines:
                    code = program.modules[each.module]
                    sources[f"{each.label} {activations} {lanes} {hash(code)}"] = code
    plain = {name: code for name, code in sources.items() if "enable" not in code}
    assert len(plain) > 20
    assert {name: found for name, found in compile_all(plain).items() if found} == {}
    rest = {name: code for name, code in sources.items() if name not in plain}
    found = compile_all(rest, ["shader-f16", "subgroups"])
    assert {name: errors for name, errors in found.items() if errors} == {}


def test_exported_modules_compile_on_a_device_with_promised_limits(exported, open_promised):
    folder, _ = exported
    device = open_promised()
    for program in read_bundle(folder, "f32", 0):
        for each in program.pipelines:
            build(device, program.modules[each.module], each.bindings, each.label)
            kinds = [kind for _, kind in each.bindings]
            assert (
                len(kinds) - kinds.count("uniform") <= PROMISED_LIMITS["max-storage-buffers-per-shader-stage"]
            )


def test_activations_are_those_that_a_model_can_have(model, tmp_path, capsys):
    source = open_source(model)
    assert types_for([source]) == ("f32", "f16", "int8")
    assert types_for([source], ["int8", "f32"]) == ("int8", "f32")
    convert(model.parent / "source", tmp_path / "floats", ConvertOptions(parse_format("f16")))
    floats = open_source(tmp_path / "floats")
    assert types_for([source, floats]) == ("f32", "f16") and types_for([floats], ["f16"]) == ("f16",)
    with pytest.raises(WorkbenchError, match="floats has no linear layer with integer weights"):
        types_for([source, floats], ["f32", "int8"])
    for wrong, says in (
        (["f64"], "'f64'; allowed: f32, f16, int8"),
        (["f32", "f32"], "f32, f32"),
        ([], "none"),
    ):
        with pytest.raises(WorkbenchError, match=re.escape(f"activations = {says}")):
            types_for([source], wrong)
    command = ["export-program", str(tmp_path / "floats"), str(tmp_path / "out"), "--activations", "int8"]
    assert main(command) == 2 and "no linear layer with integer weights" in capsys.readouterr().err


def test_damage_and_what_cannot_be_exported_is_named(exported, model, tmp_path, capsys):
    folder, _ = exported
    assert main(["export-program", str(model), str(folder)]) == 2
    assert "exists; give --overwrite" in capsys.readouterr().err
    assert main(["export-program", str(model.parent / "source"), str(tmp_path / "new")]) == 2
    assert "only a converted model" in capsys.readouterr().err and not (tmp_path / "new").exists()
    bundle = folder / "f32-8.json"
    before = bundle.read_bytes()
    try:
        bundle.write_bytes(before[:-1] + b" ")
        with pytest.raises(ProgramError, match="not the bytes"):
            read_bundle(folder, "f32", 8)
    finally:
        bundle.write_bytes(before)
    with pytest.raises(ProgramError, match="no programs for f32 and subgroups of 7"):
        read_bundle(folder, "f32", 7)
    with pytest.raises(WorkbenchError, match="limits = 'moon'; allowed: browser"):
        export_programs(open_source(model), tmp_path / "other", limits="moon")
    interleaved = tmp_path / "interleaved"
    options = ConvertOptions(parse_format("int4/32"), layout="interleaved")
    convert(model.parent / "source", interleaved, options)
    with pytest.raises(WorkbenchError, match="is stored interleaved"):
        export_programs(open_source(interleaved), tmp_path / "other")
