"""The widgets' JavaScript and CSS, read from this package and put together without a build step.

Front ends load a widget's module from a blob, where relative imports lead nowhere. So `NAME.js`, which imports from
`./shared.js` and other files beside it like any ES module (and runs so from a folder), is handed out with what it uses
of them written in front of it, and without comments and most spaces: the whole of it travels with each widget, and may
be saved with it.

All style sheets of a page are in force together. So each is nested in a block for its own widget, `[data-wb="NAME"]`,
which is what `frame` writes on the section: there `.wb` is that section, and everything else is below it. A rule then
outweighs what it did alone by one class, and all of them alike.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from workbench.known import known

SHARED = "shared"
_IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./(\w+)\.js";\n', re.MULTILINE)
_DECLARED = r"(?:export )?(?:async )?(?:function|const|let|class) "
_TOP = re.compile(rf"^(?={_DECLARED})", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let|class) )")
#: Comments that have their lines to themselves, empty lines, indentation. No string here goes over a line's end.
_COMMENT = re.compile(r"^[ \t]*(?:/\*(?:(?!\*/)[\s\S])*\*/[ \t]*|//[^\n]*)\n", re.MULTILINE)
_SPACE = re.compile(r"^[ \t]+|^[ \t]*\n", re.MULTILINE)
#: A string, or a template with nothing but plain expressions in it; what a line has outside of them that makes its
#: spaces count (other templates, regular expressions, comments); and spaces that no token needs.
_STRING = re.compile(r'("(?:[^"\\\n]|\\.)*"|`(?:[^`$\\\n]|\\.|\$(?!\{)|\$\{[^`{}"\'\n]*\})*`)')
_COUNTS = re.compile(r"[`'/]")
_APART = re.compile(r" *([=,;{}()?:<>|&]) *")
#: Behind these no statement ends, or it has ended: the next line may stand in the same.
_GOES_ON = re.compile(r"(?<=[;{,(])\n$")

#: What a style sheet does not need: space (but in front of a colon), and the last semicolon of a rule.
_BESIDE = re.compile(r"\s*([{};,])\s*|(?<=:)\s+")
_LAST = re.compile(r";(?=})")
#: A property of one's own, declared.
_OWN = re.compile(r"(--[\w-]+):[^;{}]*;?")
#: A rule of shared.css and its selectors; rules are not nested there.
_RULE = re.compile(r"([^{}]+)\{[^{}]*\}")
_CLASS = re.compile(r"\.(wb-[\w-]+)")
#: The section itself, in a selector.
_SECTION = re.compile(r"\.wb(?![\w-])")


def _read(name: str) -> str:
    return (files("workbench.widgets") / name).read_text(encoding="utf-8")


@cache
def script(name: str) -> str:
    """The ES module of a widget, complete. Raises ValueError if it imports anything but names of files beside it."""
    *beside, own = _gathered(name, {}).values()
    lines = _SPACE.sub("", _used("".join(beside), own) + own).splitlines(keepends=True)
    return re.sub(r"(?<=[^\n])(?=export default\b)", "\n", "".join(map(_close, lines)))


def _close(line: str) -> str:
    """A line of code without the spaces that it does not need, nor its end where the next may follow at once."""
    parts = _STRING.split(line)  # code at even places, strings between
    if any(_COUNTS.search(part) for part in parts[::2]):
        return line
    parts[::2] = [_APART.sub(r"\1", part) for part in parts[::2]]
    return _GOES_ON.sub("", "".join(parts))


def _gathered(name: str, found: dict[str, str]) -> dict[str, str]:
    """Texts without imports and comments: first those that a module imports from, the module's own last."""
    text = _read(f"{name}.js")
    for other in _IMPORT.findall(text):
        if other not in found:
            _gathered(other, found)
    own = _IMPORT.sub("", text)
    if re.search(r"^import\b|\bimport\(", own, re.MULTILINE):
        raise ValueError(
            f'{name}.js must import {{ names }} from "./NAME.js" beside it, and from nothing else'
        )
    found[name] = _COMMENT.sub("", own)
    return found


def _used(beside: str, own: str) -> str:
    """The declarations whose names are in a module, and those whose names are in these."""
    parts = [part for part in _TOP.split(beside) if part.strip()]
    named = {known(re.match(rf"{_DECLARED}(\w+)", part))[1]: part for part in parts}
    wanted: set[str] = set()
    text = own
    while found := {name for name in set(named) - wanted if re.search(rf"\b{name}\b", text)}:
        wanted |= found
        text = "".join(named[name] for name in found)
    return "".join(_EXPORT.sub("", part) for name, part in named.items() if name in wanted)


@cache
def style(name: str) -> str:
    """The CSS of a widget behind what it uses of the CSS that all share.

    That is rules whose classes its module names, and properties (`--name`) that either reads; of numbered ones, such as
    `--k0`, all where the module puts their names together (`--k${...}`).
    """
    own = files("workbench.widgets") / f"{name}.css"
    shared, module = _COMMENT.sub("", _read(f"{SHARED}.css")), script(name)
    used = "".join(
        rule[0]
        for rule in _RULE.finditer(shared)
        if all(re.search(rf"{found}(?![\w-])", module) for found in _CLASS.findall(rule[1]))
    )
    both = used + (_COMMENT.sub("", own.read_text(encoding="utf-8")) if own.is_file() else "")
    small = _BESIDE.sub(lambda found: found[1] or "", both)

    def kept(declared: re.Match) -> str:
        name = declared[1]
        read = f"var({name})" in small or f"var({name}," in small or name in module
        return declared[0] if read or f"{name.rstrip('0123456789')}${{" in module else ""

    small = _LAST.sub("", _OWN.sub(kept, small))
    return f'[data-wb="{name}"]{{{_SECTION.sub(".wb&", small)}}}'
