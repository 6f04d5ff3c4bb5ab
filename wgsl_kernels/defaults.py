"""What a pair of one's own need not say: random inputs, a bound of the error, and what it costs.

They suit a first look. A pair that is to be trusted gets bounds from its arithmetic and its own cost.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from workbench.dtypes import ELEMENT_BYTES

from .numerics import TORCH_TYPES, random_tensor
from .pair import FLOAT_TYPES, Cost, KernelUsageError, Port

#: A size that is not given.
SIZE = 64
#: Error allowed, as a share of the largest expected number: what about 2^7 roundings to f32 may add up to.
RELATIVE = 2.0**-17


def defaults_of(
    reference: Callable, reads: Mapping[str, Port], writes: Mapping[str, Port], params: Mapping[str, type]
) -> dict[str, Callable]:
    """make_inputs, tolerance and cost for `Kernel`, by name. The signature of make_inputs names the sizes."""
    make_inputs: Any = partial(_inputs, reference, reads, params)  # which takes a signature
    make_inputs.__signature__ = _signature(reference, reads, params)
    return {
        "make_inputs": make_inputs,
        "tolerance": _tolerance,
        "cost": partial(_cost, [*reads.values(), *writes.values()], len(reads)),
    }


def _labels(reads: Mapping[str, Port]) -> dict[str, None]:
    """Names in the ports' shapes, in their order."""
    return dict.fromkeys(label for port in reads.values() for label in port.shape if isinstance(label, str))


def _signature(
    reference: Callable, reads: Mapping[str, Port], params: Mapping[str, type]
) -> inspect.Signature:
    given = inspect.signature(reference).parameters
    defaults = {"seed": 0, "x_dtype": "f32", "y_dtype": "f32"} | dict.fromkeys(_labels(reads), SIZE)
    defaults |= {name: given[name].default if name in given else inspect.Parameter.empty for name in params}
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature([inspect.Parameter(n, kind, default=v) for n, v in defaults.items()])


def _inputs(
    reference: Callable,
    reads: Mapping[str, Port],
    params: Mapping[str, type],
    seed: int = 0,
    x_dtype: str = "f32",
    y_dtype: str = "f32",
    **sizes,
) -> dict:
    """Normal numbers in floats, all values in integers; sizes that are not given are `SIZE`; parameters as given, else
    the reference's own defaults. Ports of either float type have `x_dtype`. Raises `KernelUsageError`."""
    generator = torch.Generator().manual_seed(seed)
    arguments = {}
    for name, port in reads.items():
        if port.optional:
            continue
        shape = tuple(label if isinstance(label, int) else sizes.get(label, SIZE) for label in port.shape)
        kind = x_dtype if port.dtype in ("float", "scale") else port.dtype
        if TORCH_TYPES[kind].is_floating_point:
            arguments[name] = random_tensor(generator, shape, kind)
        else:
            limits = torch.iinfo(TORCH_TYPES[kind])
            arguments[name] = torch.randint(
                limits.min, limits.max, shape, generator=generator, dtype=TORCH_TYPES[kind]
            )
    given = inspect.signature(reference).parameters
    for name in params:
        if name in sizes:
            arguments[name] = sizes[name]
        elif name in given and given[name].default is not inspect.Parameter.empty:
            arguments[name] = given[name].default
        else:
            raise KernelUsageError(f"the parameter {name!r} has no default and was not given")
    return arguments


def _tolerance(arguments: Mapping, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`RELATIVE` of the largest expected number for floats, nothing for integers."""
    bounds = {}
    for name, values in expected.items():
        largest = values.abs().max() if values.numel() and values.dtype.is_floating_point else 0
        bounds[name] = torch.full((1,), float(largest) * RELATIVE, dtype=torch.float64)
    return bounds


def _cost(ports: list[Port], reads: int, sizes: Mapping[str, int]) -> Cost:
    """Every input is read once and every output written once; operations are unknown."""
    amounts = []
    for port in ports:
        width = ELEMENT_BYTES.get(port.dtype, ELEMENT_BYTES[FLOAT_TYPES[0]])
        count = 0 if port.optional else 1
        for label in port.shape:
            count *= label if isinstance(label, int) else sizes[label]
        amounts.append(count * width)
    return Cost(sum(amounts[:reads]), sum(amounts[reads:]), 0)
