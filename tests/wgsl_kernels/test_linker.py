"""What the files of lib/ say of themselves is true, and the linker follows it."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest

import wgsl_kernels
from tests.wgsl_kernels.cases import all_cases
from wgsl_kernels import Adapter, KernelUsageError
from wgsl_kernels.ceilings.ceilings import COMPUTE, COPY, READ_SWEEP
from wgsl_kernels.header import write_module
from wgsl_kernels.linker import CALLER, interfaces, link, parse, source
from wgsl_kernels.pair import FOLDER

FILES = tuple(file for files in interfaces().values() for file in files)
BODIES = tuple(
    path.relative_to(FOLDER).with_suffix("").as_posix()
    for path in sorted(FOLDER.rglob("*.wgsl"))
    if path.relative_to(FOLDER).parts[0] != "lib"
)
PATHS = {f"lib/{file}": FOLDER / "lib" / f"{file}.wgsl" for file in FILES}
PATHS |= {body: FOLDER / f"{body}.wgsl" for body in BODIES}
every_file = pytest.mark.parametrize("name", PATHS)

DECLARATION = re.compile(r"\b(?:fn|struct|alias|const|var(?:<[^>]*>)?)\s+([A-Za-z_]\w*)")
NAME = re.compile(r"(?<![.\w])[A-Za-z_]\w*")


@functools.cache
def said(name: str):
    return parse(PATHS[name].read_text("utf-8"), name)


def code(path: Path) -> str:
    return re.sub(r"//[^\n]*", "", path.read_text("utf-8"))


def layers(text: str) -> tuple[str, str]:
    """What stands outside of braces, and what inside."""
    found, depth = ["", ""], 0
    for part in re.split(r"([{}])", text):
        depth += {"{": 1, "}": -1}.get(part, 0)
        found[min(depth, 1)] += part
    return found[0], found[1]


@functools.cache
def declared(name: str) -> set[str]:
    """Functions, types, constants and variables of a module that a file declares."""
    return set(DECLARATION.findall(layers(code(PATHS[name]))[0]))


@functools.cache
def used(name: str) -> set[str]:
    """Names that a file takes from elsewhere: WGSL's own, the header's, and those of other files."""
    text = code(PATHS[name])
    inner = set(re.findall(r"\b(?:let|var|const)\s+([A-Za-z_]\w*)", layers(text)[1]))
    of_functions = re.findall(r"\bfn\s+\w+\(((?:[^()]|\([^()]*\))*)\)", text)
    of_types = re.findall(r"\bstruct\s+\w+\s*\{([^}]*)\}", text)
    inner |= {label for each in (*of_functions, *of_types) for label in re.findall(r"(\w+)\s*:", each)}
    return set(NAME.findall(text)) - inner - declared(name)


@pytest.fixture(scope="module")
def of_headers() -> set[str]:
    """Constants that a generated header has, of some kernel."""
    found = {"SUBGROUP_SIZE"}
    for kernel in {case.kernel: case for case in all_cases()}.values():
        sizes = kernel.context(Adapter(subgroups=True, subgroup_size=8)).sizes
        found |= {size.upper() for size in sizes}
    for pair in (*wgsl_kernels.library(), COPY, READ_SWEEP, *COMPUTE.values()):
        found |= {str(label).upper() for port in pair.ports.values() for label in port.shape}
        found |= {tunable.upper() for variant in pair.variants.values() for tunable in variant.tunables}
    return found


def offered(file: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """What an implementation provides, with what it gets from those that it needs, of several what all have."""
    if file in seen:
        return set()
    own = source(file)
    found = set(own.provides)
    for needed in own.needs or {}:
        if needed != CALLER:
            found |= offered_by(needed, seen | {file})
    return found


def offered_by(needed: str, seen: frozenset[str] = frozenset()) -> set[str]:
    files = (needed,) if "/" in needed else interfaces()[needed]
    return set.intersection(*(offered(file, seen) for file in files))


def names_of(name: str) -> set[str]:
    """What a library file's users call it; nothing of a kernel's own file."""
    file = name.removeprefix("lib/")
    return {file, file.partition("/")[0]} if file != name else set()


@functools.cache
def users(name: str) -> set[str]:
    """A file and those that need it or its interface, directly or not."""
    found, todo = {name}, [name]
    while todo:
        names = names_of(todo.pop())
        more = {each for each in PATHS if names & set(said(each).needs or {})} - found
        found |= more
        todo += more
    return found


def wanted(file: str) -> set[str]:
    """Names that others need of a library file: of its interface, of one that hands them on, or of their caller."""
    found = set()
    for user in users(f"lib/{file}"):
        for name in PATHS:
            needs = said(name).needs or {}
            found |= {each for of in names_of(user) & set(needs) for each in needs[of]}
        for needed in said(user).needs or {}:
            for each in (needed,) if "/" in needed else interfaces().get(needed, ()):
                found |= set((source(each).needs or {}).get(CALLER, ()))
    return found


@every_file
def test_what_a_file_needs_is_provided_by_every_implementation(name):
    for needed, names in (said(name).needs or {}).items():
        if needed != CALLER:
            assert set(names) <= offered_by(needed), needed


@every_file
def test_what_a_file_says_that_it_needs_is_what_it_uses(name, of_headers):
    needs = said(name).needs or {}
    named = [each for names in needs.values() for each in names]
    assert len(named) == len(set(named))
    assert set(named) <= used(name), "it names what it does not use"
    elsewhere = {each for other in PATHS if other != name for each in declared(other)}
    assert used(name) & elsewhere - of_headers <= set(named), "it uses what it does not name"


@pytest.mark.parametrize("file", FILES)
def test_a_library_file_says_what_it_provides_and_then_what_it_is(file):
    text = (FOLDER / "lib" / f"{file}.wgsl").read_text("utf-8")
    assert text.startswith("// provides: ")
    provides = source(file).provides
    assert len(provides) == len(set(provides)) and set(provides) <= declared(f"lib/{file}")
    sentence = re.match(r"(?:// [^\n]*\n(?://\n)?)+", source(file).text)
    assert sentence and sentence[0].endswith((".\n", ":\n")), source(file).text[:80]
    assert set(provides) <= wanted(file), "nobody needs it"


def test_every_library_file_is_linked_for_some_case():
    used = set()
    for case in all_cases():
        cpu = Adapter(subgroups=True, subgroup_size=8, is_cpu=True)
        variant = case.pair().variants[case.variant]
        for adapter in (Adapter(), Adapter(subgroups=True), Adapter(subgroups=True, subgroup_size=8), cpu):
            if case.variant == "broadcast" and adapter.subgroup_size != 8:
                continue
            used |= set(link(variant.body(), variant.file, variant.library(case.context(adapter))))
    assert used == set(FILES)


def test_files_that_comments_and_pages_name_exist():
    pages = [
        FOLDER.parent / "README.md",
        FOLDER.parent / "CONTRIBUTING.md",
        *(FOLDER.parent / "docs").glob("*.md"),
    ]
    files = {path.name for path in PATHS.values()}
    for path in [*PATHS.values(), *FOLDER.rglob("*.py"), *pages]:
        text = path.read_text("utf-8")
        for name in re.findall(r"(?<![\w/.])([a-z_0-9]+\.wgsl)\b", text):
            assert name in files, f"{path} names {name}"
        for name in re.findall(r"(?<![\w/])(?:wgsl_kernels/)?(lib/[a-z_0-9]+(?:/[a-z_0-9]+\.wgsl)?)", text):
            assert (FOLDER / name).exists(), f"{path} names {name}"


def test_files_stand_after_those_that_they_need():
    body = "// A draw.\n// needs: draw_parts (search_on)\n"
    assert list(link(body, "mine", ())) == ["draw/draw", "draw_bins/draw_bins", "draw_parts/draw_parts"]


def test_a_body_that_says_nothing_gets_what_its_variant_chooses():
    """One of somebody's own, or edited in the kernel lab."""
    assert list(link("fn main() {}\n", "mine", ("reduce/tree", "scores/capped"))) == [
        "reduce/tree",
        "tanh/tanh",
        "scores/capped",
    ]
    said = "// needs: reduce (workgroup_sum)\nfn main() {}\n"
    assert list(link(said, "mine", ("reduce/tree", "scores/capped"))) == ["reduce/tree"]


@pytest.mark.parametrize(
    ("body", "choices", "message"),
    [
        (
            "// needs: reduce (workgroup_sum)\n",
            (),
            "mine needs lib/reduce: the variant chooses none of reduce/one_sub",
        ),
        ("// needs: reduces (workgroup_sum)\n", (), "mine needs lib/reduces: there is no such folder"),
        (
            "// needs: reduce/bush (workgroup_sum)\n",
            (),
            "lib/ has no 'reduce/bush'; it has reduce/one_subgroup",
        ),
        ("// needs: x/scalar (x1)\n", ("x/vec4",), "mine: lib/x cannot be both x/vec4 and x/scalar"),
        ("", ("x/vec4", "x/scalar"), "mine: lib/x cannot be both x/vec4 and x/scalar"),
        ("", ("tanh",), "lib/ has no 'tanh'; it has tanh/tanh"),
        (
            "// needs: reduce (workgroup_sum)\n// needs: x (x4)\n",
            ("reduce/tree", "x/vec4"),
            "mine says twice what it needs",
        ),
        ("// needs: reduce\n", (), r"mine: needs are `interface \(name, name\), ...`, not 'reduce'"),
    ],
)
def test_what_cannot_be_linked_is_named(body, choices, message):
    with pytest.raises(KernelUsageError, match=message):
        link(body, "mine", choices)


def test_a_module_says_where_its_functions_come_from():
    case = next(case for case in all_cases() if case.kernel == "softmax")
    code = case.module(Adapter()).code
    for file in ("reduce/tree", "logits/logits", "bins/bins", "exp_log/exp_log"):
        assert f"\n// lib/{file}.wgsl\n// " in code
    assert "provides:" not in code
    kernel = case.pair()
    text = kernel.variants["row"].body().replace("// needs: ", "// needs: softness (f), ")
    edited = replace(kernel.variants["row"], text=text)
    with pytest.raises(KernelUsageError, match="logits/softmax needs lib/softness"):
        write_module(kernel, edited, case.context(Adapter()))
