"""The widgets' JavaScript and CSS, read from this package and put together without a build step.

Front ends load a widget's module from a blob, where relative imports lead nowhere. So `NAME.js`, which imports from
`./shared.js` like any ES module (and runs so from a folder), is handed out with shared.js written in front of it.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

SHARED = "shared"
_IMPORT = re.compile(r'^import\s*\{[^}]*\}\s*from\s*"\./shared\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|class)", re.MULTILINE)


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


@cache
def script(name: str) -> str:
    """The ES module of a widget, complete. Raises ValueError if it imports anything but `./shared.js`."""
    own, found = _IMPORT.subn("", _read(f"{name}.js"))
    if found != 1 or re.search(r"^import\b|\bimport\(", own, re.MULTILINE):
        raise ValueError(f"{name}.js must import from ./shared.js, once, and from nothing else")
    return f"{_EXPORT.sub('', _read(f'{SHARED}.js'))}\n{own}"


@cache
def style(name: str) -> str:
    """The CSS of a widget behind the CSS that all share."""
    own = files(__package__) / f"{name}.css"
    return _read(f"{SHARED}.css") + (own.read_text(encoding="utf-8") if own.is_file() else "")
