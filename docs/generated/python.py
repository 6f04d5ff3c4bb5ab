"""The reference of the Python interface, from signatures and docstrings, which are Markdown with indented examples."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

OURS = ("workbench", "wgsl_kernels", "eval")
#: Longer than any run of backticks in a docstring.
FENCE = "``````"


def names(*paths: str) -> str:
    """A section for everything that a path names: a module's `__all__`, or a function or class by its full name."""
    return "\n\n".join(entry(name, thing) for path in paths for name, thing in named(path))


def named(path: str) -> Iterator[tuple[str, Any]]:
    """(full name, what it is) of what a path stands for. Raises ImportError or AttributeError for nothing."""
    module, thing = resolved(path)
    if not isinstance(thing, ModuleType):
        yield path, thing
        return
    for name in getattr(module, "__all__", ()):
        if name != "__version__":
            yield f"{path}.{name}", getattr(module, name)


def resolved(path: str) -> tuple[ModuleType, Any]:
    """The innermost module of a dotted path, and what the path names."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        thing: Any = module
        for part in parts[length:]:
            thing = getattr(thing, part)
        return module, thing
    raise ImportError(f"nothing of {path!r} can be imported")


def entry(name: str, thing: Any) -> str:
    """A function, a class with its public members, or a value, in Sphinx's domain of Python."""
    if inspect.isclass(thing):
        kind = "exception" if issubclass(thing, BaseException) else "class"
        members = [] if kind == "exception" else [member(*each) for each in public(thing)]
        return directive(kind, f"{name}{signature(thing)}", "\n\n".join([described(thing), *members]))
    if callable(thing):
        return directive("function", f"{name}{signature(thing)}", described(thing))
    return directive("data", name, "")


def public(cls: type) -> Iterator[tuple[str, Any]]:
    """(name, member) of documented public methods and properties of a class of ours, as they stand in its source."""
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] not in OURS:
            continue
        for name, found in vars(base).items():
            if not name.startswith("_") and inspect.getdoc(unwrapped(found)):
                yield name, found


def unwrapped(found: Any) -> Any:
    """What a decorator of the standard library holds."""
    if isinstance(found, classmethod | staticmethod):
        return found.__func__
    return getattr(found, "func", found) if type(found).__name__ == "cached_property" else found


def member(name: str, found: Any) -> str:
    inner = unwrapped(found)
    if isinstance(found, property) or type(found).__name__ == "cached_property":
        return directive("property", name, described(inner), fence=FENCE[:-1])
    if not callable(inner):
        return ""
    kinds = {classmethod: "classmethod", staticmethod: "staticmethod"}
    kind = kinds.get(type(found), "method")
    text = signature(inner, bound=kind != "staticmethod")
    return directive(kind, f"{name}{text}", described(inner), fence=FENCE[:-1])


def directive(kind: str, title: str, body: str, fence: str = FENCE) -> str:
    return f"{fence}{{py:{kind}}} {title}\n\n{body.strip()}\n{fence}"


def described(thing: Any) -> str:
    return inspect.getdoc(thing) or ""


class _Plain:
    """An annotation that was written as text, without the quotes that `inspect` would put around it, and with the
    classes of ours under their full names, of which Sphinx shows the last part."""

    def __init__(self, text: Any, module: str) -> None:
        self.text = text if isinstance(text, str) else inspect.formatannotation(text)
        self.module = sys.modules[module]

    def __repr__(self) -> str:
        return re.sub(r"(?<![\w.])[A-Za-z_]\w*", self._full, self.text)

    def _full(self, name: re.Match[str]) -> str:
        found = getattr(self.module, name[0], None)
        if not inspect.isclass(found) or found.__module__.partition(".")[0] not in OURS:
            return name[0]
        return f"~{found.__module__}.{found.__qualname__}"


class _Default:
    """A default value as it can be written in a signature: what has no such form is dots."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        text = repr(self.value)
        return "..." if "<" in text or len(text) > 60 else text


def signature(thing: Any, *, bound: bool = False) -> str:
    """`(model: Any, format: str = 'int4') -> Model`; "" for what has none. bound: without its first parameter."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    module = thing.__module__
    parameters = [
        each.replace(
            annotation=each.annotation if each.annotation is each.empty else _Plain(each.annotation, module),
            default=each.default if each.default is each.empty else _Default(each.default),
        )
        for each in list(found.parameters.values())[int(bound) :]
        if not each.name.startswith("_")
    ]
    returned = found.return_annotation
    if inspect.isclass(thing) or returned in (found.empty, None, "None"):
        returned = found.empty
    else:
        returned = _Plain(returned, module)
    return str(inspect.Signature(parameters, return_annotation=returned))
