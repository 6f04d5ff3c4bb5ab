"""Every module that the pair tests run also compiles under Tint, and gives the same numbers in a browser.

Naga, which the native runtime uses, accepts more than Tint (see tests/support/tint.py), so a kernel that passes its
tests natively says nothing of browsers yet.
"""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.chromium import browser_page, require_chromium, serve
from tests.support.tint import MissingFeatureError, compile_all, compile_all_in_chromium
from tests.wgsl_kernels.cases import Case, all_cases
from tests.wgsl_kernels.compare import comparable, expectation, mismatches, widen
from wgsl_kernels import Adapter
from wgsl_kernels.header import write_module
from wgsl_kernels.numerics import TORCH_TYPES
from workbench.runtime.launch import tensor_bytes

CASES = all_cases()
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
    return {name: code for code, name in found.items()}


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


def first_f32_cases(subgroups: bool) -> list[Case]:
    """One case of each variant that a browser without `shader-f16` can run; with subgroups, those that use them."""
    chosen: dict[tuple[str, str], Case] = {}
    for case in CASES:
        case = replace(in_f32(case), subgroups=subgroups)
        key = (case.kernel, case.variant)
        if key in chosen or case.variant == "broadcast":
            continue
        if not subgroups or case.module(adapter_for(case)).uses_subgroups:
            chosen[key] = case
    return list(chosen.values())


@pytest.mark.browser
@pytest.mark.parametrize("subgroups", [False, True], ids=["tree", "subgroups"])
def test_chromium_compiles_a_module_of_each_variant(subgroups):
    sources = {str(c): c.module(adapter_for(c)).code for c in first_f32_cases(subgroups)}
    assert sources
    try:
        errors = compile_all_in_chromium(sources, features(False, subgroups))
    except MissingFeatureError as error:
        pytest.skip(str(error))
    assert_no_errors(errors, sources)


@pytest.mark.browser
@pytest.mark.parametrize("subgroups", [False, True], ids=["tree", "subgroups"])
def test_chromium_gives_the_numbers_of_the_reference(subgroups):
    cases = first_f32_cases(subgroups)
    require_chromium()
    calls = [call_for_page(case) for case in cases]
    with ThreadPoolExecutor(max_workers=1) as pool:  # playwright refuses threads that run an event loop
        answers = pool.submit(run_in_page, calls, features(False, subgroups)).result()
    if "missing" in answers:
        pytest.skip(f"Chromium does not offer {answers['missing']}")
    problems = []
    for case, outputs in zip(cases, answers["results"], strict=True):
        kernel, arguments = case.pair(), case.arguments()
        for output, (expected, bound) in expectation(kernel, arguments).items():
            dtype = TORCH_TYPES[case.context(adapter_for(case)).types[output]]
            data = bytearray(base64.b64decode(outputs[output]))
            got = torch.frombuffer(data, dtype=dtype)[: kernel_elements(case, output)]
            shape = kernel.output_shape(output, case.context(adapter_for(case)).sizes)
            got = comparable(kernel, output, got.view(shape))
            mask = case.written(arguments, got)
            bound = widen(expected, bound.broadcast_to(expected.shape), dtype)
            problem = mismatches(got[mask], expected[mask], bound[mask])
            if problem:
                problems.append(f"{case.describe()}\n  {output}: {problem}")
    assert not problems, "\n".join(problems)


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
