"""The browser's modules as one script, for workers that are made from a text: relative imports lead nowhere there."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function\*?|const|let|class) (\w+))", re.MULTILINE)
_LEFT = re.compile(r"^(?:import|export)\b", re.MULTILINE)


@cache
def script(name: str) -> str:
    """A module and what it imports, each in a scope of its own. Raises ValueError for forms of imports and exports that
    the modules do not use."""
    found: dict[str, str] = {}
    _gather(name, found)
    return "".join(found.values())


def _gather(name: str, found: dict[str, str]) -> None:
    text = (files("workbench.browser") / f"{name}.js").read_text(encoding="utf-8")
    for _, other in _IMPORT.findall(text):
        if other not in found:
            _gather(other, found)
    exported = [name for _, name in _EXPORT.findall(text)]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const {\1} = module_\2;\n", text))
    if _LEFT.search(body) or " as " in "".join(names for names, _ in _IMPORT.findall(text)):
        raise ValueError(f"{name}.js: an import or export of another form than the modules have")
    found[name] = f"const module_{name} = (() => {{\n{body}\nreturn {{ {', '.join(exported)} }};\n}})();\n"
