"""Quantizers by name: `QUANTIZERS["rtn"](weights, format, importance=None) -> Quantized`.

One file a method, imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping


class _ByName(Mapping):
    """Method name -> its `quantize` function, from the module of that name."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __getitem__(self, name: str) -> Callable:
        if name not in self._names:
            raise KeyError(f"no quantizer {name!r}, only {', '.join(self._names)}")
        return importlib.import_module(f"workbench.quantizers.{name}").quantize

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


QUANTIZERS: Mapping[str, Callable] = _ByName("rtn", "grid", "hqq")
