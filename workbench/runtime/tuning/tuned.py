"""Measured choices as lowering takes them: looked up, checked against the kernel as it is now, never measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wgsl_kernels import Adapter, Kernel, KernelUsageError
from wgsl_kernels.composition import Composition, Rule

from ..lowering import Pick
from ..rewrite import Found
from .candidates import candidates, digest, label, specialise
from .cases import Case, case_of
from .places import REWRITTEN, SIDES, Place, place_of
from .store import Entry, Store, forgetful, open_store


class Tuned:
    """The choices of one file. Callers may share it between plans, not between threads."""

    def __init__(self, entries: Mapping[str, Entry], path: Path | None = None):
        self.path = path
        self._entries = dict(entries)
        self._by_case: dict[str, list[Entry]] = {}
        for entry in entries.values():
            self._by_case.setdefault(entry.case, []).append(entry)
        self._picked: dict[tuple, Pick | None] = {}
        self._sides: dict[tuple, Pick | None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def missing(self) -> str:
        """Why there are no choices."""
        why = forgetful() if self.path is None else None
        return (
            f"tuning is not remembered: {why}"
            if why
            else "nothing was measured on this adapter; `workbench tune` does it"
        )

    @classmethod
    def of(cls, store: Store | None) -> Tuned:
        return cls({}) if store is None else cls(store.read(), store.path)

    def entry(
        self, kernel: Kernel, sizes: Mapping, types: Mapping[str, str], adapter: Adapter
    ) -> Entry | None:
        """The entry for a call, if one was measured with exactly the WGSL that there is now."""
        case = case_of(kernel, sizes, types)
        measured = self._by_case.get(case.name)
        if not measured:
            return None  # no WGSL is written where nothing was measured
        now = digest(candidates(kernel, case.sizes, case.types, adapter))
        return next((entry for entry in measured if entry.wgsl == now), None)

    def side(self, place: Place, adapter: Adapter, binding_bytes: int) -> Entry | None:
        """The entry for a place, if it was measured with exactly the WGSL that there is now."""
        measured = self._by_case.get(place.case.name)
        if not measured:
            return None
        now = place.digest(adapter, binding_bytes)
        return next((each for each in measured if each.wgsl == now and each.variant in SIDES), None)

    def applies(
        self,
        rule: Rule,
        before: Composition,
        found: Found,
        *,
        sizes: Mapping[str, int],
        adapter: Adapter,
        binding_bytes: int,
    ) -> bool | None:
        """Whether the rule was measured to pay at a place; None where nothing was."""
        if not self._entries:
            return None
        place = place_of(rule, before, found, sizes, adapter)
        at = (place.case.name, adapter, binding_bytes)
        if at not in self._sides:
            entry = self.side(place, adapter, binding_bytes)
            self._sides[at] = None if entry is None else Pick(entry.variant, {}, explain(entry))
        pick = self._sides[at]
        return None if pick is None else pick.variant == REWRITTEN

    def pick(self, kernel: Kernel, sizes: Mapping, types: Mapping[str, str], adapter: Adapter) -> Pick | None:
        """The measured choice for a call, None where there is none or where it cannot run."""
        if not self._entries:
            return None
        at = (kernel.name, tuple(sizes.items()), tuple(types.items()), adapter)
        if at not in self._picked:
            self._picked[at] = self._pick(kernel, sizes, types, adapter)
        return self._picked[at]

    def used(self) -> list[dict]:
        """What has been picked so far, for a record: kernel or rule, sizes, variant or side, tunables, why; JSON
        values."""
        kernels = [(name, sizes, pick) for (name, sizes, _, _), pick in self._picked.items()]
        cases = [(Case.named(name), pick) for (name, _, _), pick in self._sides.items()]
        return [
            {
                "kernel": name,
                "sizes": dict(sizes),
                "variant": pick.variant,
                "tunables": dict(pick.tunables),
                "why": pick.reason,
            }
            for name, sizes, pick in (*kernels, *((case.kernel, case.sizes, pick) for case, pick in cases))
            if pick is not None
        ]

    def _pick(self, kernel, sizes, types, adapter) -> Pick | None:
        try:
            entry = self.entry(kernel, sizes, types, adapter)
            if entry is None:
                return None
            # The file may have been edited: a value that the kernel does not have is refused here.
            if specialise(kernel, entry.variant, sizes, types, adapter, entry.tunables) is None:
                return None
        except KernelUsageError:
            return None
        return Pick(entry.variant, dict(entry.tunables), explain(entry))


def explain(entry: Entry) -> str:
    """Why an entry's choice is used, in figures."""
    how = f"{entry.rounds} rounds, {entry.measured} candidates"
    if entry.spread is not None:
        how = f"spread {entry.spread:.1%}, {how}"
    if entry.default_seconds is None:
        return f"measured: the default did not pass its check ({how})"
    if entry.spread is None:
        return f"default, measured: all others were clearly slower ({how})"
    if entry.is_default:
        return f"default, measured: no other was faster by more than the spread ({how})"
    default = label(entry.default_variant, entry.default_tunables)
    return f"tuned: {entry.faster:.1%} faster than the default {default} ({how})"


def open_tuned(device) -> Tuned:
    """What was measured for this device; empty where nothing was, or where `WORKBENCH_TUNING` is off."""
    return Tuned.of(open_store(device))
