"""A library of kernels as a value: which pairs there are, and which of them computes an op on operands of given types.

`library()` is what is registered now: this package's pairs, those of installed packages and of a notebook's cells.
`with_variant` and `with_kernels` give another library and leave this one as it is, so that an edited kernel runs
inside a model that asks for it and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

from .pair import REGISTRY, Context, Kernel, KernelUsageError, Variant


class Library:
    """Pairs by name.

        [pair.name for pair in wgsl_kernels.library().of("linear")]

    Compared by identity; never changed once made.
    """

    def __init__(self, kernels: Iterable[Kernel]) -> None:
        self._kernels = {kernel.name: kernel for kernel in kernels}

    def __iter__(self):
        return iter(self._kernels.values())

    def names(self) -> list[str]:
        """Names of all pairs, sorted."""
        return sorted(self._kernels)

    def get(self, name: str) -> Kernel:
        """The pair of that name, as in "linear[int4, a8]"; raises `KernelUsageError` listing the names there are."""
        if name in self._kernels:
            return self._kernels[name]
        raise KernelUsageError(f"no kernel is named {name!r}; there are {', '.join(self.names())}")

    def select(self, text: str) -> list[Kernel]:
        """What somebody asks for by a pair's name, or all forms of an op; raises `KernelUsageError` for neither."""
        name = ", ".join(part.strip() for part in text.split(","))
        return [kernel for kernel in self if kernel.op == name] or [self.get(name)]

    def of(self, op: str) -> list[Kernel]:
        """All forms of an op; raises `KernelUsageError` listing the ops there are."""
        if op not in self._by_op:
            raise KernelUsageError(f"there is no op {op!r}; there are {', '.join(sorted(self._by_op))}")
        return list(self._by_op[op])

    def kernel(self, op: str, form: Mapping[str, str]) -> Kernel:
        """The pair that computes `op` where these operands are more than plain numbers: operand -> label of its type.

        Raises `KernelUsageError` naming the forms there are.
        """
        found = self._by_form.get((op, frozenset(form.items())))
        if found is None:
            given = ", ".join(f"{operand} {label}" for operand, label in form.items()) or "plain operands"
            there = ", ".join(kernel.name for kernel in self.of(op))
            raise KernelUsageError(f"no form of {op} takes {given}; there are {there}")
        return found

    @cached_property
    def _by_op(self) -> dict[str, list[Kernel]]:
        found: dict[str, list[Kernel]] = {}
        for kernel in self:
            found.setdefault(kernel.op, []).append(kernel)
        return found

    @cached_property
    def _by_form(self) -> dict[tuple[str, frozenset], Kernel]:
        return {(kernel.op, frozenset(kernel.form.items())): kernel for kernel in self}

    def changed(self) -> dict[str, dict[str, Variant]]:
        """By pair, the variants that are not what is registered: what `with_variant` and `with_kernels` put in."""
        found = {}
        for kernel in self:
            registered = REGISTRY.get(kernel.name)
            if kernel is not registered:
                there = registered.variants if registered else {}
                found[kernel.name] = {
                    name: each for name, each in kernel.variants.items() if each is not there.get(name)
                }
        return found

    def with_kernels(self, *kernels: Kernel) -> Library:
        """This library with pairs added, or in place of those of the same names."""
        return Library({**self._kernels, **{kernel.name: kernel for kernel in kernels}}.values())

    def with_variant(
        self, kernel: str, name: str, variant: Variant, *, instead_of: str | None = None
    ) -> Library:
        """This library with a variant of a pair added or replaced, which is then the one that is used.

        kernel: name of the pair. instead_of: a variant of the pair, so that the new one is used only where that one
        would be; by default wherever the new one can run. Raises `KernelUsageError` for an unknown pair or variant.
        """
        pair = self.get(kernel)
        if instead_of is not None and instead_of not in pair.variants:
            raise KernelUsageError(
                f"{kernel} has no variant {instead_of!r}; it has {', '.join(pair.variants)}"
            )

        def prefer(context: Context) -> tuple[str, str]:
            usual = pair.choose(context)
            if variant.refuse(context) or instead_of not in (None, usual[0]):
                return usual
            return name, "put into this library" + (f" instead of {instead_of}" if instead_of else "")

        return self.with_kernels(replace(pair, variants={**pair.variants, name: variant}, prefer=prefer))
