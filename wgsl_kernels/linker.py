"""Finds the files of `lib/` that a kernel's WGSL needs.

A folder of `lib/` is an interface, a file in it an implementation, `lib/reduce/tree.wgsl`. It begins with

    // provides: workgroup_sum, workgroup_max
    // needs: scales (scale_bits, scale_from), x/scalar (x1), caller (state)

which is what others may use of it, and what it uses of others by where that comes from: an interface, a certain
implementation of it, or `caller`, the kernel or the file that needs this one. Of an interface with one implementation
that is taken; of others the variant chooses. What an implementation gets from what it needs itself counts as provided.
Constants that the generated header has (sizes, parameters, tunables) need not be named. A kernel's own file says what
it needs in the same words, after its first comment.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .pair import FOLDER, KernelUsageError

LIB = FOLDER / "lib"
#: Who needs a file, as its needs call it.
CALLER = "caller"
#: A line of the head, and those that go on with it, indented.
_LINE = re.compile(r"^// (provides|needs): (.*\n?(?://   .*\n?)*)", re.MULTILINE)
_NEED = re.compile(r"([\w/]+) \(([\w, ]*)\)")


@dataclass(frozen=True)
class Source:
    """A file of WGSL. provides: names. needs: names by interface, implementation or `caller`, None where nothing is
    said of them. text: all that follows the head of a file of `lib/`."""

    provides: tuple[str, ...]
    needs: dict[str, tuple[str, ...]] | None
    text: str


def parse(text: str, where: str) -> Source:
    """What a file says of itself; raises `KernelUsageError` naming `where` for a line that cannot be understood."""
    said: dict[str, str] = {}
    for kind, rest in _LINE.findall(text):
        if kind in said:
            raise KernelUsageError(f"{where} says twice what it {kind}")
        said[kind] = re.sub(r"\n(//  *)?", " ", rest).strip()
    needs = None
    if "needs" in said:
        if not re.fullmatch(rf"{_NEED.pattern}(, {_NEED.pattern})*", said["needs"]):
            raise KernelUsageError(f"{where}: needs are `interface (name, name), ...`, not {said['needs']!r}")
        needs = {source: tuple(names.split(", ")) for source, names in _NEED.findall(said["needs"])}
    provides = tuple(said["provides"].split(", ")) if "provides" in said else ()
    return Source(provides, needs, _LINE.sub("", text))


@functools.cache
def interfaces() -> dict[str, tuple[str, ...]]:
    """Interface -> its implementations, `("reduce/tree", ...)`."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(LIB.glob("*/*.wgsl")):
        name = path.parent.name
        found[name] = (*found.get(name, ()), f"{name}/{path.stem}")
    return found


def source(name: str) -> Source:
    """The implementation of that name, as in "reduce/tree"; raises `KernelUsageError` listing what there is."""
    _check(name)
    return _parsed(name, (LIB / f"{name}.wgsl").stat().st_mtime_ns)


def _check(name: str) -> None:
    interface = name.partition("/")[0]
    if name not in interfaces().get(interface, ()):
        there = ", ".join(interfaces().get(interface, interfaces()))
        raise KernelUsageError(f"lib/ has no {name!r}; it has {there}")


@functools.cache
def _parsed(name: str, changed: int) -> Source:
    """changed: when the file was written, so that one that is edited is read again."""
    return parse((LIB / f"{name}.wgsl").read_text("utf-8"), f"lib/{name}.wgsl")


def link(body: str, where: str, choices: Sequence[str]) -> dict[str, Source]:
    """The files that `body` needs by name, each after those that it needs itself.

    choices: implementations, of interfaces that have several. A body that does not say what it needs gets all of them.
    Raises `KernelUsageError` where a choice is missing, unknown or made twice; `where` names the body.
    """
    chosen: dict[str, str] = {}
    for choice in choices:
        _check(choice)
        _settle(chosen, choice, where)
    found: dict[str, Source] = {}
    started: set[str] = set()

    def add(names: Iterable[str], needed_by: str) -> None:
        for name in names:
            if name == CALLER:
                continue
            file = name if "/" in name else _implementation(name, chosen, needed_by)
            if file not in started:
                started.add(file)
                _settle(chosen, file, needed_by)
                read = source(file)
                add(read.needs or (), f"lib/{file}.wgsl")
                found[file] = read

    needs = parse(body, where).needs
    add(choices if needs is None else needs, where)
    return found


def _settle(chosen: dict[str, str], file: str, where: str) -> None:
    interface = file.partition("/")[0]
    if chosen.setdefault(interface, file) != file:
        raise KernelUsageError(f"{where}: lib/{interface} cannot be both {chosen[interface]} and {file}")


def _implementation(interface: str, chosen: dict[str, str], where: str) -> str:
    there = interfaces().get(interface, ())
    if interface in chosen:
        return chosen[interface]
    if len(there) != 1:
        problem = f"the variant chooses none of {', '.join(there)}" if there else "there is no such folder"
        raise KernelUsageError(f"{where} needs lib/{interface}: {problem}")
    return there[0]
