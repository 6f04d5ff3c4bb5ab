"""What could run a case on an adapter: every variant with every allowed combination of its tunables."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass

from wgsl_kernels import Adapter, Context, Kernel, KernelUsageError
from wgsl_kernels.header import Module, write_module

#: Combinations tried of one variant; of more, all that differ from the default in one tunable and a random rest.
MOST_COMBINATIONS = 64


@dataclass(frozen=True)
class Candidate:
    """A variant with its tunables, specialised."""

    variant: str
    tunables: Mapping[str, int]
    context: Context
    module: Module

    def __str__(self) -> str:
        return label(self.variant, self.tunables)


def label(variant: str, tunables: Mapping[str, int]) -> str:
    """ "gemv (workgroup 32, rows_per_team 4)"."""
    inside = ", ".join(f"{name} {value}" for name, value in tunables.items())
    return f"{variant} ({inside})" if inside else variant


def candidates(kernel: Kernel, sizes: Mapping, types: Mapping[str, str], adapter: Adapter) -> list[Candidate]:
    """All that are valid, the default first; those whose WGSL and grid are equal count once.

    Raises `KernelUsageError` if not even a default can run on this adapter.
    """
    default, _ = kernel.choose(Context(kernel.complete(sizes), types, adapter))
    found: dict[tuple, Candidate] = {}
    for variant in sorted(kernel.variants, key=lambda name: name != default):
        for tunables in _combinations(kernel, variant, sizes, types, adapter):
            candidate = specialise(kernel, variant, sizes, types, adapter, tunables)
            if candidate is not None:
                grid = kernel.variants[variant].grid(candidate.context)
                found.setdefault((candidate.module.digest, grid), candidate)
    return list(found.values())


def specialise(
    kernel: Kernel,
    variant: str,
    sizes: Mapping,
    types: Mapping[str, str],
    adapter: Adapter,
    tunables: Mapping[str, int],
) -> Candidate | None:
    """The candidate, or None where it cannot run: refused, or written with a feature that the adapter lacks.

    Raises `KernelUsageError` for a variant or value that the kernel does not have.
    """
    if variant not in kernel.variants:
        raise KernelUsageError(f"{kernel.name} has no variant {variant!r}")
    context = kernel.specialise(variant, sizes, types, adapter, tunables)
    if kernel.variants[variant].refuse(context):
        return None
    module = write_module(kernel, kernel.variants[variant], context)
    if (module.uses_subgroups and not adapter.subgroups) or (module.uses_f16 and not adapter.f16):
        return None
    return Candidate(
        variant, {name: context[name] for name in kernel.variants[variant].tunables}, context, module
    )


def _combinations(kernel: Kernel, variant: str, sizes, types, adapter) -> list[dict[str, int]]:
    """The variant's own choice first, then what differs from it in one tunable. At most `MOST_COMBINATIONS`, the same
    ones at every call."""
    tunables = kernel.variants[variant].tunables
    plain = kernel.specialise(variant, sizes, types, adapter)
    default = {name: plain[name] for name in tunables}
    every = [dict(zip(tunables, values, strict=True)) for values in itertools.product(*tunables.values())]
    chosen = kernel.variants[variant]
    every = [e for e in every if not chosen.refuse(kernel.specialise(variant, sizes, types, adapter, e))]
    near = [each for each in every if len(differences(each, default)) <= 1]
    far = [each for each in every if len(differences(each, default)) > 1]
    room = max(0, MOST_COMBINATIONS - len(near))
    if len(far) > room:
        far = random.Random(0).sample(far, room)
    return [default, *(each for each in near if each != default), *far]


def differences(tunables: Mapping[str, int], default: Mapping[str, int]) -> list[tuple[str, int]]:
    """(name, value) of the tunables that are not the default's."""
    return [(name, value) for name, value in tunables.items() if value != default[name]]


def digest(found: list[Candidate]) -> str:
    """sha256 over the generated WGSL of all candidates, with their variants and tunables."""
    parts = sorted((c.variant, json.dumps(dict(c.tunables), sort_keys=True), c.module.digest) for c in found)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
