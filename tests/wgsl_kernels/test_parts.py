"""A kernel is complete only with all of its parts: source, reference, inputs, tolerance, cost, reasons."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from dataclasses import replace

import pytest
import torch

import wgsl_kernels
from tests.wgsl_kernels.cases import all_cases
from tests.wgsl_kernels.compare import doubles
from wgsl_kernels import Adapter, Context, KernelUsageError, Variant
from wgsl_kernels.ceilings.ceilings import COMPUTE, COPY, READ_SWEEP
from wgsl_kernels.header import write_module
from wgsl_kernels.layout import cache_words
from wgsl_kernels.lora.lent import BUFFERS
from wgsl_kernels.lora.low_rank import LOW_RANK
from wgsl_kernels.pair import FOLDER
from wgsl_kernels.shapes import sizes_of
from workbench.runtime.launch import run_kernel

NAMES = wgsl_kernels.names()
every_kernel = pytest.mark.parametrize("name", NAMES)


def head_comment(source: str) -> str:
    lines = []
    for line in source.splitlines():
        if not line.startswith("//") or line.startswith("// needs:"):
            break
        lines.append(line[2:].strip())
    return " ".join(lines)


def plain_function(function):
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return function


@every_kernel
def test_every_variant_has_a_source_with_a_head_comment(name):
    kernel = wgsl_kernels.get(name)
    assert kernel.variants
    for variant in kernel.variants.values():
        assert variant.text is None
        assert (FOLDER / f"{variant.file}.wgsl").is_file()
        comment = head_comment(variant.body())
        assert len(comment) > 20 and comment.endswith("."), f"{variant.file}.wgsl: {comment!r}"


@every_kernel
def test_variants_beside_each_other_say_when_they_are_chosen(name):
    kernel = wgsl_kernels.get(name)
    if len(kernel.variants) > 1:
        assert kernel.prefer is not None, f"{name} has several variants and no prefer="
        for label, variant in kernel.variants.items():
            assert variant.why, f"{name}/{label}: a variant beside others needs why="


def test_without_a_preference_the_first_that_can_run_is_used():
    plain = wgsl_kernels.get("add")
    elements = plain.variants["elements"]
    never = replace(elements, refuse=lambda context: "never")
    context = Context({}, {}, Adapter())
    assert plain.choose(context) == ("elements", "the only variant")
    several = replace(plain, variants={"never": never, "mine": elements, "elements": elements})
    assert several.choose(context) == ("mine", "the first variant that can run here")


@every_kernel
def test_the_reference_is_documented(name):
    reference = plain_function(wgsl_kernels.get(name).reference)
    assert inspect.getdoc(reference), name


@every_kernel
def test_inputs_come_from_the_seed(name):
    kernel = wgsl_kernels.get(name)
    first, again, other = (kernel.inputs(seed=seed) for seed in (7, 7, 8))
    assert first.keys() == again.keys() == other.keys()
    tensors = [n for n, v in first.items() if isinstance(v, torch.Tensor)]
    for label in first:
        assert torch.equal(first[label], again[label]) if label in tensors else first[label] == again[label]
    assert any(not torch.equal(first[label], other[label]) for label in tensors)


@pytest.mark.parametrize(
    ("name", "tile", "why"),
    [
        ("linear[int4]", {"tile_tokens": 128, "tile_rows": 128}, "512 threads are more than 256"),
        (
            "linear[f32]",
            {"tile_tokens": 128, "tile_columns": 32},
            "24576 bytes of workgroup memory are more than 16384",
        ),
        (
            "linear[int2, a8]",
            {"tile_tokens": 32},
            "128 threads are fewer than the 32 tokens and 128 rows that they load",
        ),
    ],
)
def test_tiles_beyond_a_workgroup_are_refused(name, tile, why):
    kernel = wgsl_kernels.get(name)
    plain = kernel.specialise("tile", {}, {}, Adapter())
    assert kernel.variants["tile"].refuse(plain) is None
    chosen = kernel.specialise("tile", {}, {}, Adapter(), tile)
    assert kernel.variants["tile"].refuse(chosen) == why


@every_kernel
def test_makers_take_what_their_signatures_name(name):
    """All of it at once: a name that is not handed on, or is handed on twice, would be refused."""
    kernel = wgsl_kernels.get(name)
    usual = {n: each.default for n, each in kernel.takes.items() if each.default is not each.empty}
    assert usual.keys() == kernel.takes.keys()
    given, plain = kernel.inputs(**usual), kernel.inputs()
    assert given.keys() == plain.keys()
    for label, value in plain.items():
        assert torch.equal(given[label], value) if isinstance(value, torch.Tensor) else given[label] == value
    with pytest.raises(KernelUsageError, match=r"inputs take no 'anything'; they take .*seed"):
        kernel.inputs(anything=1)


def test_a_maker_that_hides_what_it_takes_is_refused():
    hiding = replace(wgsl_kernels.get("add"), make_inputs=lambda **rest: rest)
    with pytest.raises(KernelUsageError, match=r"add: make_inputs hides what it takes behind \*\*rest"):
        hiding.inputs(seed=1)


@every_kernel
def test_tolerance_and_cost(name):
    kernel = wgsl_kernels.get(name)
    arguments = kernel.inputs(seed=1)
    expected = kernel.run_reference(doubles(arguments))
    less_precise = {v.tolerance for v in kernel.variants.values() if v.tolerance}
    for tolerance, most in ((kernel.tolerance, 1e-3), *((each, 5e-2) for each in less_precise)):
        bounds = tolerance(arguments, expected)
        assert set(bounds) == set(expected) == set(kernel.writes)
        for output, bound in bounds.items():
            assert (bound >= 0).all() and bound.isfinite().all()
            if expected[output].dtype.is_floating_point and bound.max() > 0:
                # a bound as large as the numbers would accept anything
                assert (bound.max() / expected[output].abs().max()).item() < most, output
    shapes = {n: tuple(v.shape) for n, v in arguments.items() if isinstance(v, torch.Tensor)}
    params = {n: v for n, v in arguments.items() if n not in shapes}
    cost = kernel.cost(kernel.complete({**sizes_of(kernel, shapes), **params}))
    assert cost.read > 0 and cost.written > 0 and cost.flops >= 0
    assert all(math.isfinite(number) for number in (cost.read, cost.written, cost.flops))


@every_kernel
def test_every_parameter_and_port_is_used(name):
    """Names that no source mentions are mistakes. `scales` and the like are read by library files."""
    kernel = wgsl_kernels.get(name)
    case = next((c for c in all_cases() if c.kernel == name), None)
    assert case is not None, f"tests/wgsl_kernels/cases.py has no case of {name}"
    numbers = kernel.bindings()
    alternatives = {"zeros", "offsets"} & set(numbers)  # the one pair of ports that exclude each other
    assert len(set(numbers.values())) == len(numbers) - bool(alternatives)
    context = case.context(Adapter(subgroups=True, subgroup_size=8, f16=True))
    code = write_module(kernel, kernel.variants[case.variant], context, "tint").code
    for port in context.types:
        assert f"@binding({numbers[port]})" in code, port
    buffers = {numbers[name] for name, port in kernel.ports.items() if not port.uniform}
    added = {numbers[name] for name in ("lora_a", *LOW_RANK) if name in kernel.ports}
    assert len(buffers - added) <= 8, "browsers promise 8 storage buffers"
    assert len(buffers) <= BUFFERS, "adapters of low rank are added where so many are bound"


def test_every_source_file_is_used():
    used = {v.file for name in NAMES for v in wgsl_kernels.get(name).variants.values()}
    used |= {v.file for pair in (READ_SWEEP, COPY, *COMPUTE.values()) for v in pair.variants.values()}
    bodies = {path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("*.wgsl")}
    assert used == {path.as_posix() for path in bodies if path.parts[0] != "lib"}


def bare(source: str) -> list[str]:
    """Variables that a loop declares without a value and reads before it has given them one for certain."""
    loops: list[bool] = []
    found, waiting = [], {}
    for line in source.splitlines():
        code = line.split("//")[0]
        for name in [name for name in waiting if re.search(rf"\b{name}\b", code)]:
            given = re.search(rf"(?<!if )(?:^|[{{;])\s*{name}(\[[^\]]*\])*(\.\w+)? = ", code)
            if not given or re.search(rf"\bif \(.*\b{name}\b", code):
                found.append(name)
            del waiting[name]
        if any(loops) and (declared := re.match(r"\s*var (\w+)\s*:[^=]*;", code)):
            waiting[declared[1]] = True
        loop = re.search(r"\b(for|while)\s*\(|\bloop\b", code) is not None
        for c in code:
            if c == "{":
                loops.append(loop)
                loop = False
            elif c == "}":
                loops.pop()
    return found


def test_what_a_loop_declares_has_a_value_in_each_turn():
    """Naga (29) makes variables of a loop anew with zeros in the first turn alone, where WGSL promises every one."""
    found = {path.name: bare(path.read_text("utf-8")) for path in FOLDER.rglob("*.wgsl")}
    assert {name: names for name, names in found.items() if names} == {}
    loop = "for (var t = 0u; t < 4u; t++) {\n  var v: array<f32, 2>;\n  %s\n}\n"
    assert bare(loop % "for (var i = 0u; i < 2u; i++) { v[i] += 1.0; }") == ["v"]
    assert bare(loop % "if (t < 2u) { v[t] = 1.0; }") == ["v"]
    assert bare(loop % "for (var i = 0u; i < 2u; i++) { v[i] = 1.0; }") == []


def test_a_comment_about_subgroups_asks_for_no_feature():
    kernel = wgsl_kernels.get("add")
    context = Context({"width": 4, "tokens": 1}, {"a": "f32", "b": "f32", "y": "f32"}, Adapter())
    body = kernel.variants["elements"].body()
    silent = write_module(
        kernel,
        Variant("", grid=lambda c: (1, 1, 1), text=body + "// subgroups\n"),
        context,
        "tint",
    )
    assert not silent.uses_subgroups and "enable" not in silent.code
    spoken = write_module(
        kernel,
        Variant(
            "",
            grid=lambda c: (1, 1, 1),
            text=body + "fn f() -> f32 { return subgroupAdd(1.0); }\n",
        ),
        context,
        "tint",
    )
    assert spoken.uses_subgroups and spoken.code.startswith("enable subgroups;")
    assert (
        "enable"
        not in write_module(kernel, Variant("activations/add", grid=lambda c: (1, 1, 1)), context).code
    )


def test_wrong_calls_are_named():
    with pytest.raises(KernelUsageError, match="no kernel is named 'rms'"):
        wgsl_kernels.get("rms")
    kernel = wgsl_kernels.get("add")
    with pytest.raises(KernelUsageError, match=r"add.b: width is 5 here and 4 elsewhere"):
        sizes_of(kernel, {"a": (2, 4), "b": (2, 5)})
    with pytest.raises(KernelUsageError, match="add needs b"):
        sizes_of(kernel, {"a": (2, 4)})
    with pytest.raises(KernelUsageError, match="no port 'c'"):
        sizes_of(kernel, {"a": (2, 4), "c": (2, 4)})
    case = next(c for c in all_cases() if c.kernel == "rms_norm")
    with pytest.raises(KernelUsageError, match=r"workgroup=7 where .*128, 8, 16"):
        wgsl_kernels.get("rms_norm").specialise("row", {"hidden": 4}, {}, Adapter(), {"workgroup": 7})
    linear = next(c for c in all_cases() if (c.kernel, c.variant) == ("linear[int4]", "broadcast"))
    with pytest.raises(KernelUsageError, match="subgroups of exactly 8 lanes"):
        linear.pair().choose(linear.context(Adapter()), "broadcast")
    assert case.context(Adapter())["workgroup"] in case.pair().variants["row"].tunables["workgroup"]


@pytest.mark.parametrize("name", ["attention_split", "attention_split[kv8]"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("lanes", [8, 32])
def test_attention_split_fits_the_promised_workgroup_memory(name, head_dim, lanes):
    """Its arrays, counted from the WGSL, for every choice that is not refused; some choice is left."""
    kernel = wgsl_kernels.get(name)
    variant, adapter = kernel.variants["teams"], Adapter(subgroups=True, subgroup_size=lanes)
    sizes = {"width": 4 * head_dim, "kv_heads": 2, "head_dim": head_dim, "splits": 4, "tokens": 1}
    if name.endswith("[kv8]"):  # a thread loads 16 dimensions: no more lanes than that takes
        sizes["words"] = cache_words(head_dim)
        assert kernel.specialise("teams", sizes, {}, adapter)["lanes"] == min(head_dim // 16, 16, lanes)
    allowed = 0
    for values in itertools.product(*variant.tunables.values()):
        chosen = dict(zip(variant.tunables, values, strict=True))
        context = kernel.specialise("teams", sizes, {}, adapter, chosen)
        if variant.refuse(context) is None:
            allowed += 1
            teams = chosen["workgroup"] // chosen["lanes"]
            queries = 4 * max(4 * chosen["lanes"], head_dim // 4)  # four of them, turned by lane
            quads = teams * head_dim // 4  # of one vector a thread; of two where they are few
            assert 16 * max(queries, quads if quads > 256 else 2 * quads) + 32 * teams <= 16384
    assert allowed > 0
    for capacity, kv in itertools.product((64, 640, 32768), ("f32", "f16")):
        context = kernel.specialise("teams", {**sizes, "capacity": capacity}, {"kv": kv}, adapter)
        assert variant.refuse(context) is None, context.sizes


@pytest.mark.parametrize("name", [pair.name for pair in wgsl_kernels.library().of("linear")])
@pytest.mark.parametrize("x", ["f32", "f16"])
@pytest.mark.parametrize("tokens", [1, 3, 16, 64])
@pytest.mark.parametrize("columns", [36, 64])
def test_what_is_preferred_is_there_and_runs(name, x, tokens, columns):
    """On GPUs with and without f16 and subgroups, and on a software adapter."""
    kernel = wgsl_kernels.get(name)
    sizes = {"tokens": tokens, "rows": 64, "columns": columns, "block": 32, "scale_stride": 2}
    sizes |= {"x_groups": 2, "padded": 64}
    types = {"x": "u32" if "a8" in name else x, "scales": "f16", "zeros": "i8", "y": "f32"}
    for lanes, f16, is_cpu in itertools.product((0, 8, 32, 64), (False, True), (False, True)):
        adapter = Adapter(subgroups=lanes > 0, subgroup_size=lanes, f16=f16, is_cpu=is_cpu)
        variant, reason = kernel.choose(Context(kernel.complete(sizes), types, adapter))
        context = kernel.specialise(variant, sizes, types, adapter)
        assert kernel.variants[variant].refuse(context) is None and reason
        if variant.endswith("_f16"):
            assert f16 and not is_cpu and x == "f16" and columns % 8 == 0


def test_an_adapters_own_default_may_be_named():
    """As tuning does with what it has raced against, though no other adapter has it among its values."""
    kernel = wgsl_kernels.get("rms_norm")
    work = ({"tokens": 1, "width": 64, "columns": 64}, {"x": "f32", "weight": "f32", "y": "f32"})
    software = Adapter(True, 4, is_cpu=True)
    own = kernel.specialise("row", *work, software)["workgroup"]
    assert own == 4 == kernel.specialise("row", *work, software, {"workgroup": own})["workgroup"]
    with pytest.raises(KernelUsageError, match="workgroup=4 where"):
        kernel.specialise("row", *work, Adapter(), {"workgroup": own})


def test_teams_that_are_not_whole_subgroups_are_not_compiled(device_with):
    kernel = wgsl_kernels.get("linear[f32]")
    arguments = kernel.inputs(tokens=1, rows=8, columns=64)
    with pytest.raises(KernelUsageError, match="8 teams in 96 threads"):
        run_kernel(
            kernel,
            arguments,
            variant="gemv",
            tunables={"workgroup": 96, "teams": 8},
            device=device_with(False),
        )


@pytest.mark.parametrize("cache", ["", "[kv8]"])
@pytest.mark.parametrize("head_dim", [8, 64, 128, 256])
def test_attention_fits_the_promised_workgroup_memory(cache, head_dim):
    """Its arrays and those of the reduction, counted from the WGSL."""
    kernel = wgsl_kernels.get(f"attention{cache}")
    quads, load = (cache_words(head_dim), 4) if cache else (head_dim // 4, 1)
    for workgroup in kernel.variants["online"].tunables["workgroup"]:
        groups = workgroup // min(quads // load, workgroup)
        assert 16 * quads + 4 * workgroup + 16 * groups * quads + 16 * workgroup <= 16384


@pytest.mark.parametrize("name", [pair.name for pair in wgsl_kernels.library() if "weight" in pair.form])
@pytest.mark.parametrize(("rows", "columns"), [(4096, 4096), (28672, 4096), (4096, 14336)])
def test_no_adapter_is_given_tunables_that_it_refuses(name, rows, columns):
    """Matrices of an 8B Llama: defaults run wherever the variant does at all."""
    kernel = wgsl_kernels.get(name)
    sizes = {"tokens": 1, "rows": rows, "columns": columns, "block": 256, "x_groups": columns // 32}
    sizes |= {
        "group": 128,
        "groups": rows // 128,
        "head_dim": 128,
        "kv_heads": 8,
        "width": rows,
        "padded": columns,
    }
    types = {"scales": "f16", "zeros": "i8", "x": "f32"}
    known = [Adapter(subgroups=True, subgroup_size=lanes) for lanes in (8, 16, 32, 64)]
    for variant in {"gemv", "batch"} & set(kernel.variants):
        for adapter in (Adapter(), Adapter(subgroups=True), *known):
            context = kernel.specialise(variant, sizes, types, adapter)
            refused = kernel.variants[variant].refuse(context)
            assert refused is None or (columns > 8192 and "workgroup memory" in refused), (adapter, refused)
