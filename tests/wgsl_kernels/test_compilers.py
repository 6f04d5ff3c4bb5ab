"""Every module that the pair tests run also compiles under Tint, and gives the same numbers in a browser.

Naga, which the native runtime uses, accepts more than Tint (see tests/support/tint.py), so a kernel that passes its
tests natively says nothing of browsers yet.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.chromium import browser_page, require_chromium, serve
from tests.support.tint import compile_all
from tests.wgsl_kernels.cases import Case, all_cases
from tests.wgsl_kernels.compare import comparable, expectation, mismatches, widen
from wgsl_kernels import Adapter, Kernel
from wgsl_kernels.ceilings import COMPUTE, COPY, FMA_F16, READ_SWEEP, SWEEP_STEPS
from wgsl_kernels.header import write_module
from wgsl_kernels.numerics import TORCH_TYPES
from workbench.runtime.launch import port_types, sizes_of, tensor_bytes

CASES = all_cases()
CEILINGS = (
    *((READ_SWEEP, {"steps": steps}) for steps in SWEEP_STEPS),
    *((pair, {}) for pair in (COPY, *COMPUTE.values())),
)
TESTS = Path(__file__).resolve().parent.parent


def adapter_for(case: Case, subgroup_size: int = 0) -> Adapter:
    """What the case needs, and no more; `broadcast` runs where subgroups have 8 lanes."""
    if not case.subgroups:
        return Adapter(f16=case.uses_f16)
    size = 8 if case.variant == "broadcast" else subgroup_size
    return Adapter(subgroups=True, subgroup_size=size, f16=case.uses_f16)


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
        if case is None or (case.variant == "broadcast" and not subgroups):
            continue
        case = replace(case, subgroups=subgroups)
        # a workgroup of one subgroup, and one of several
        for size in (0, case.tunables.get("workgroup", 32)) if subgroups else (0,):
            module = case.module(adapter_for(case, size))
            found.setdefault(module.code, f"{case} (subgroups of {size or 'any size'})")
    if not subgroups:
        for pair, options in CEILINGS:
            if (pair is FMA_F16) == f16:
                for variant, code in ceiling_modules(pair, options, f16):
                    found.setdefault(code, f"{pair.name}/{variant}")
    return {name: code for code, name in found.items()}


def ceiling_modules(pair: Kernel, options: dict, f16: bool) -> Iterator[tuple[str, str]]:
    """(variant, source) of a pair that measures what a device gives at most."""
    arguments = pair.inputs(**options)
    sizes, types = sizes_of(pair, arguments), port_types(pair, arguments)
    for name, variant in pair.variants.items():
        context = pair.specialise(name, sizes, types, Adapter(f16=f16))
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


def browser_cases(subgroups: bool) -> list[Case]:
    """Cases of each variant that a browser without `shader-f16` can run; with subgroups, those that use them.

    They are dealt evenly over a variant's cases, in f32.
    """
    found: dict[tuple[str, str], dict[str, Case]] = {}
    for case in CASES:
        case = replace(in_f32(case), subgroups=subgroups)
        if case.variant == "broadcast":  # SwiftShader's subgroups have 4 lanes
            continue
        module = case.module(adapter_for(case))
        if not subgroups or module.uses_subgroups:
            found.setdefault((case.kernel, case.variant), {}).setdefault(module.code, case)
    dealt = []
    for modules in found.values():
        count = 1 if any("var<workgroup>" in code for code in modules) else min(CASES_EACH, len(modules))
        cases = list(modules.values())
        dealt += [cases[at * len(cases) // count] for at in range(count)]
    return dealt


@pytest.mark.browser
@pytest.mark.parametrize("subgroups", [False, True], ids=["tree", "subgroups"])
def test_chromium_gives_the_numbers_of_the_reference(subgroups):
    cases = browser_cases(subgroups)
    require_chromium()
    calls = [call_for_page(case) for case in cases]
    with ThreadPoolExecutor(max_workers=1) as pool:  # playwright refuses threads that run an event loop
        answers = pool.submit(run_in_page, calls, features(False, subgroups)).result()
    if "missing" in answers:
        pytest.skip(f"Chromium does not offer {answers['missing']}")
    problems = []
    for case, answer in zip(cases, answers["results"], strict=True):
        wrong = [answer["error"]] if "error" in answer else differing_outputs(case, answer["outputs"])
        problems += [f"{case.describe()}\n  {problem}" for problem in wrong]
    assert not problems, "\n".join(problems)


def differing_outputs(case: Case, outputs: dict[str, str]) -> list[str]:
    """What is wrong with the outputs (base64 by name) of a case, or nothing."""
    kernel, arguments, context = case.pair(), case.arguments(), case.context(adapter_for(case))
    problems = []
    for output, (expected, bound) in expectation(kernel, arguments).items():
        dtype = TORCH_TYPES[context.types[output]]
        data = bytearray(base64.b64decode(outputs[output]))
        got = torch.frombuffer(data, dtype=dtype)[: kernel_elements(case, output)]
        got = comparable(kernel, output, got.view(kernel.output_shape(output, context.sizes)))
        mask = case.written(arguments, got)
        bound = widen(expected, bound.broadcast_to(expected.shape), dtype)
        problem = mismatches(got[mask], expected[mask], bound[mask])
        if problem:
            problems.append(f"{output}: {problem}")
    return problems


def test_every_variant_that_needs_no_f16_is_among_the_browsers():
    there = {(case.kernel, case.variant) for case in browser_cases(subgroups=False)}
    missing = {(case.kernel, case.variant) for case in CASES if case.variant != "broadcast"} - there
    assert not missing


def kernel_elements(case: Case, output: str) -> int:
    count = 1
    for length in case.pair().output_shape(output, case.context(adapter_for(case)).sizes):
        count *= length
    return count


def call_for_page(case: Case) -> dict:
    """What run_module.js takes: the module, its grid, and the buffers with their contents."""
    kernel, arguments = case.pair(), case.arguments()
    context = case.context(adapter_for(case))
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
            data = b"\xcd" * (kernel_elements(case, port) * TORCH_TYPES[context.types[port]].itemsize)
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
    return {"name": str(case), "code": code, "grid": list(variant.grid(context)), "buffers": buffers}


def run_in_page(calls: list[dict], wanted: list[str]) -> dict:
    with serve(TESTS) as address, browser_page(f"{address}/support/blank.html") as page:
        return page.evaluate(
            """async ({calls, wanted}) => {
                const { runAll } = await import("/wgsl_kernels/run_module.js");
                return runAll(navigator.gpu, calls, wanted);
            }""",
            {"calls": calls, "wanted": wanted},
        )
