"""Reading Python that is not run: its imports, attributes and keywords against what there is."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

OURS = ("workbench", "wgsl_kernels", "eval")


@dataclass(frozen=True)
class Instance:
    """Something of which only the class is known."""

    of: type


@dataclass
class Reader:
    """Blocks of one page, read in order. known: what its names stand for, as far as that can be told."""

    known: dict[str, Any] = field(default_factory=dict)

    def complaints(self, source: str) -> Iterator[str]:
        """What a block says that is not so. Raises SyntaxError."""
        tree = ast.parse(source)
        for statement in ast.walk(tree):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                yield from self._imported(statement)
        for statement in ast.walk(tree):
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                self.known[statement.targets[0].id] = self._made(statement.value)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                owner = self._meaning(node.value)
                if owner is not None and not has(owner, node.attr):
                    yield f"{ast.unparse(node)}: {shown(owner)} has no {node.attr}"
            elif isinstance(node, ast.Call):
                yield from self._called(node)

    def _imported(self, statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
        for each in statement.names:
            name = each.asname or each.name.partition(".")[0]
            if isinstance(statement, ast.Import):
                with contextlib.suppress(ImportError):
                    importlib.import_module(each.name)
                    self.known[name] = importlib.import_module(each.name if each.asname else name)
                continue
            module = statement.module or ""
            if module.partition(".")[0] not in OURS:
                continue
            try:
                self.known[name] = getattr(importlib.import_module(module), each.name)
            except (ImportError, AttributeError):
                yield f"from {module} import {each.name}: there is no such name"

    def _meaning(self, node: ast.expr) -> Any:
        """What an expression stands for: a module, a class, a function or an `Instance`; None for what is not known."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._meaning(node.value)
            found = getattr(owner.of if isinstance(owner, Instance) else owner, node.attr, None)
            return None if owner is None or isinstance(found, property) else found
        return self._made(node) if isinstance(node, ast.Call) else None

    def _made(self, node: ast.expr) -> Any:
        """What a call gives: an instance of a class of ours."""
        if not isinstance(node, ast.Call):
            return self._meaning(node)
        called = self._meaning(node.func)
        if inspect.isclass(called):
            return Instance(called) if called.__module__.partition(".")[0] in OURS else None
        returned = getattr(called, "__annotations__", {}).get("return")
        if not isinstance(returned, str) or not re.fullmatch(r"\w+", returned):
            return None
        owner = inspect.getmodule(called)
        cls = getattr(owner, returned, None) or getattr(owner, "__dict__", {}).get(returned)
        return Instance(cls) if inspect.isclass(cls) else None

    def _called(self, node: ast.Call) -> Iterator[str]:
        called = self._meaning(node.func)
        origin = inspect.getmodule(called)
        if not callable(called) or origin is None or origin.__name__.partition(".")[0] not in OURS:
            return
        if any(isinstance(each, ast.Starred) for each in node.args) or any(
            each.arg is None for each in node.keywords
        ):
            return
        given: list[Any] = [None] * len(node.args)
        if inspect.isfunction(called) and isinstance(node.func, ast.Attribute):
            owner = self._meaning(node.func.value)
            given = [None, *given] if isinstance(owner, Instance) else given
        try:
            inspect.signature(called).bind(*given, **{str(each.arg): None for each in node.keywords})
        except TypeError as error:
            yield f"{ast.unparse(node)}: {error}"


def has(owner: Any, name: str) -> bool:
    """Whether a module, a class or an instance of one has an attribute; fields of dataclasses count."""
    if isinstance(owner, Instance):
        fields = {each for cls in owner.of.__mro__ for each in vars(cls).get("__annotations__", {})}
        return (
            hasattr(owner.of, name)
            or name in fields
            or bool(re.search(rf"self\.{name}\b[^=\n]*=", written(owner.of)))
        )
    if isinstance(owner, ModuleType) or inspect.isclass(owner):
        return hasattr(owner, name)
    return True


def written(cls: type) -> str:
    """The source of a class's `__init__`; "" where it has none of its own, as a dataclass."""
    try:
        return inspect.getsource(vars(cls)["__init__"])
    except (KeyError, OSError):
        return ""


def shown(owner: Any) -> str:
    return owner.of.__name__ if isinstance(owner, Instance) else getattr(owner, "__name__", repr(owner))
