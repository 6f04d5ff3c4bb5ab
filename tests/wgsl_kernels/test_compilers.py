"""Every module that the pair tests run also compiles under Tint, and gives the same numbers in a browser.

Naga, which the native runtime uses, accepts more than Tint (see tests/support/tint.py), so a kernel that passes its
tests natively says nothing of browsers yet.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path

import pytest
import torch

from tests.support.chromium import browser_page, require_chromium, serve
from tests.support.tint import compile_all
from tests.wgsl_kernels.cases import all_cases
from tests.wgsl_kernels.compare import comparable, expectation, mismatches, widen
from tests.wgsl_kernels.dealing import Case, forms_with
from wgsl_kernels import Adapter, Kernel
from wgsl_kernels.ceilings.ceilings import COMPUTE, COPY, FMA_F16, READ_SWEEP, SWEEP_STEPS
from wgsl_kernels.header import write_module
from wgsl_kernels.numerics import TORCH_TYPES
from workbench.runtime.launch import Workload, tensor_bytes

CASES = all_cases()
CEILINGS = (
    *((READ_SWEEP, {"steps": steps}) for steps in SWEEP_STEPS),
    *((pair, {}) for pair in (COPY, *COMPUTE.values())),
)
TESTS = Path(__file__).resolve().parent.parent


#: Sizes of subgroups that modules are compiled for: unknown and a GPU's; else, of what needs it, a software adapter's.
SUBGROUP_SIZES, EIGHT = (0, 32), (8,)
#: Of the software adapter that the browser has here.
SWIFTSHADER_LANES = 4


def adapters(case: Case, sizes: tuple[int, ...]) -> list[Adapter]:
    """Devices that can run a case, with what it needs and no more; none where it binds more than they promise, which
    products to which adapters of low rank add are for."""
    if case.buffers(Adapter(f16=case.uses_f16)) > Adapter().storage_buffers:
        return []
    if case.subgroups:
        made = [Adapter(subgroups=True, subgroup_size=size, f16=case.uses_f16) for size in sizes]
    else:
        made = [Adapter(f16=case.uses_f16)]
    refuse = case.pair().variants[case.variant].refuse
    return [adapter for adapter in made if not refuse(case.context(adapter))]


def in_f32(case: Case) -> Case:
    options = {n: "f32" if n in ("x_dtype", "kv_dtype") else v for n, v in case.options.items()}
    return replace(case, options=options, y_dtype="f32")


def in_f16(case: Case) -> Case | None:
    """The case with some f16 buffers; None if the kernel has no buffer that may be f16."""
    if case.uses_f16:
        return case
    outputs = [port.dtype for name, port in case.pair().writes.items() if name not in case.pair().updates]
    if "x_dtype" not in case.options and "float" not in outputs:
        return None
    options = {n: "f16" if n in ("x_dtype", "kv_dtype") else v for n, v in case.options.items()}
    return replace(case, options=options, y_dtype="f16" if "float" in outputs else "f32")


def modules(*, f16: bool, subgroups: bool) -> dict[str, str]:
    """Sources by case for a device with just these features; equal ones once."""
    found = {}
    for case in CASES:
        case = in_f16(case) if f16 else in_f32(case)
        if case is None:
            continue
        case = replace(case, subgroups=subgroups)
        sizes = (*SUBGROUP_SIZES, case.tunables.get("workgroup", 32))  # also a workgroup of one subgroup
        for adapter in adapters(case, sizes) or adapters(case, EIGHT):
            found.setdefault(case.module(adapter).code, f"{case} ({adapter})")
    if not subgroups:
        for pair, options in CEILINGS:
            if (pair is FMA_F16) == f16:
                for variant, code in ceiling_modules(pair, options, f16):
                    found.setdefault(code, f"{pair.name}/{variant}")
    return {name: code for code, name in found.items()}


def ceiling_modules(pair: Kernel, options: dict, f16: bool) -> Iterator[tuple[str, str]]:
    """(variant, source) of a pair that measures what a device gives at most."""
    workload = Workload.random(pair, **options)
    for name, variant in pair.variants.items():
        context = workload.context(name, Adapter(f16=f16))
        yield name, write_module(pair, variant, context, "tint").code


def features(f16: bool, subgroups: bool) -> list[str]:
    return [name for name, wanted in (("shader-f16", f16), ("subgroups", subgroups)) if wanted]


def assert_no_errors(errors: dict[str, list[str]], sources: dict[str, str]) -> None:
    assert set(errors) == set(sources)
    failed = {name: messages for name, messages in errors.items() if messages}
    shown = "\n".join(f"{name}: {messages[0]}" for name, messages in list(failed.items())[:10])
    assert not failed, f"{len(failed)} of {len(errors)} modules are rejected; first:\n{shown}"


@pytest.mark.parametrize("f16", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("subgroups", [False, True], ids=["tree", "subgroups"])
def test_tint_compiles_every_module(f16, subgroups):
    """On a device without the features that a case does without: nothing may ask for more than it needs."""
    sources = modules(f16=f16, subgroups=subgroups)
    assert_no_errors(compile_all(sources, features(f16, subgroups)), sources)


#: Cases of a variant that the browser computes; one where workgroup memory makes SwiftShader compile for seconds.
CASES_EACH = 2


@cache
def browser_modules(subgroups: bool) -> dict[tuple[str, str], dict[str, tuple[Case, Adapter]]]:
    """By kernel and variant, what a browser without `shader-f16` can run, in f32, by its source; with subgroups, what
    uses them."""
    found: dict[tuple[str, str], dict[str, tuple[Case, Adapter]]] = {}
    for case in CASES:
        case = replace(in_f32(case), subgroups=subgroups)
        for adapter in adapters(case, (0, SWIFTSHADER_LANES))[:1]:
            module = case.module(adapter)
            if not subgroups or module.uses_subgroups:
                found.setdefault((case.kernel, case.variant), {}).setdefault(module.code, (case, adapter))
    return found


def browser_cases(subgroups: bool) -> list[tuple[Case, Adapter]]:
    """Cases of each variant that a browser can run, dealt evenly over what there is.

    Forms of an op share their sums: where a variant runs with subgroups and without, its forms take turns.
    """
    dealt = []
    for (kernel, variant), modules in browser_modules(subgroups).items():
        forms = forms_with(kernel, variant)
        both = len(forms) > 1 and (kernel, variant) in browser_modules(not subgroups)
        if both and forms.index(kernel) % 2 != subgroups:
            continue
        count = 1 if any("var<workgroup>" in code for code in modules) else min(CASES_EACH, len(modules))
        cases = list(modules.values())
        dealt += [cases[at * len(cases) // count] for at in range(count)]
    return dealt


@pytest.mark.browser
@pytest.mark.parametrize(
    "subgroups",
    [pytest.param(False, id="tree"), pytest.param(True, id="subgroups", marks=pytest.mark.release)],
)
def test_chromium_gives_the_numbers_of_the_reference(subgroups):
    cases = browser_cases(subgroups)
    require_chromium()
    calls = [call_for_page(*each) for each in cases]
    with ThreadPoolExecutor(max_workers=1) as pool:  # playwright refuses threads that run an event loop
        answers = pool.submit(run_in_page, calls, features(False, subgroups)).result()
    if "missing" in answers:
        pytest.skip(f"Chromium does not offer {answers['missing']}")
    problems = []
    for (case, adapter), answer in zip(cases, answers["results"], strict=True):
        outputs = answer.get("outputs")
        wrong = [answer["error"]] if outputs is None else differing_outputs(case, adapter, outputs)
        problems += [f"{case.describe()}\n  {problem}" for problem in wrong]
    assert not problems, "\n".join(problems)


def differing_outputs(case: Case, adapter: Adapter, outputs: dict[str, str]) -> list[str]:
    """What is wrong with the outputs (base64 by name) of a case, or nothing."""
    kernel, arguments, context = case.pair(), case.arguments(), case.context(adapter)
    problems = []
    for output, (expected, bound) in expectation(kernel, arguments, case.variant).items():
        dtype = TORCH_TYPES[context.types[output]]
        data = bytearray(base64.b64decode(outputs[output]))
        shape = kernel.output_shape(output, context.sizes)
        got = comparable(kernel, output, torch.frombuffer(data, dtype=dtype)[: prod(shape)].view(shape))
        mask = case.written(arguments, got)
        bound = widen(expected, bound.broadcast_to(expected.shape), dtype)
        problem = mismatches(got[mask], expected[mask], bound[mask])
        if problem:
            problems.append(f"{output}: {problem}")
    return problems


def test_every_variant_that_a_browser_runs_without_f16_is_among_its_cases():
    """All but those that need subgroups of other sizes than SwiftShader's."""
    there = {(case.kernel, case.variant) for with_ in (False, True) for case, _ in browser_cases(with_)}
    for case in CASES:
        if (case.kernel, case.variant) not in there:
            mine = [c for c in CASES if (c.kernel, c.variant) == (case.kernel, case.variant)]
            assert not any(
                adapters(replace(in_f32(c), subgroups=with_), (0, SWIFTSHADER_LANES))
                for c in mine
                for with_ in (False, True)
            ), case


def call_for_page(case: Case, adapter: Adapter) -> dict:
    """What run_module.js takes: the module, its grid, and the buffers with their contents."""
    kernel, arguments = case.pair(), case.arguments()
    context = case.context(adapter)
    numbers, buffers = kernel.bindings(), []
    for port in context.types:
        kind = "read-only-storage"
        if kernel.ports[port].uniform:
            kind = "uniform"
        elif kernel.writable(port):
            kind = "storage"
        if port in arguments:
            data = tensor_bytes(arguments[port]).tobytes()
        else:
            count = prod(kernel.output_shape(port, context.sizes))
            data = b"\xcd" * (count * TORCH_TYPES[context.types[port]].itemsize)
        data += b"\0" * (-len(data) % 16)
        buffers.append(
            {
                "name": port,
                "binding": numbers[port],
                "type": kind,
                "data": base64.b64encode(data).decode(),
                "read": port in kernel.writes,
            }
        )
    variant = kernel.variants[case.variant]
    code = write_module(kernel, variant, context, "tint").code
    call = {"name": str(case), "code": code, "grid": list(variant.grid(context)), "buffers": buffers}
    return {**call, "lanes": adapter.subgroup_size}


def run_in_page(calls: list[dict], wanted: list[str]) -> dict:
    with serve(TESTS) as address, browser_page(f"{address}/support/blank.html") as page:
        return page.evaluate(
            """async ({calls, wanted}) => {
                const { runAll } = await import("/wgsl_kernels/run_module.js");
                return runAll(navigator.gpu, calls, wanted);
            }""",
            {"calls": calls, "wanted": wanted},
        )
