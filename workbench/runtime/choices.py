"""What is chosen before a model is loaded, and why: backend, size of the cache, adapter.

The options that say what a model is run as are here alone: their names and types (`Execution`), their defaults
(`choose`). Functions for users take them as keywords (`executing`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypedDict, TypeVar

from workbench.errors import NoAdapterError, WorkbenchError
from workbench.models.architecture import Architecture
from workbench.models.blocks import ACTIVATIONS, CACHES, cache_type
from workbench.plan.plan import Ring

#: Positions of the cache unless asked for: a model's context may be far larger than a first look needs.
DEFAULT_MAX_TOKENS = 8192
#: The same where a window bounds the cache: a position costs a row of the rotary table, and no keys and values.
DEFAULT_IN_A_WINDOW = 65536
#: Positions are 32-bit integers in kernels.
MOST_TOKENS = 2**31 - 1
#: A dtype that depends on the adapter.
AUTO = "auto"


F = TypeVar("F", bound=Callable[..., Any])


class Execution(TypedDict, total=False):
    """What a model is run as, beside its backend; `workbench.load` says what each means."""

    dtype: str
    max_tokens: int | None
    cache: str | None
    adapter: str | int | None
    window: int | None
    sinks: int | None


def executing(function: F) -> F:
    """A function that takes `**execution: Unpack[Execution]`, with those options in its signature, in the defaults of
    `choose`; for help, completion and the documentation. A misspelt one is a TypeError, as of any function."""
    own = inspect.signature(function)
    places = inspect.signature(choose).parameters
    told = [places[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in Execution.__annotations__]
    kept = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    at = next((n for n, each in enumerate(kept) if each.kind is inspect.Parameter.KEYWORD_ONLY), len(kept))
    whole = own.replace(parameters=[*kept[:at], *told, *kept[at:]])

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            whole.bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}") from None
        return function(*arguments, **options)

    called.__signature__ = whole  # pyright: ignore[reportAttributeAccessIssue]
    return called  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class Choices:
    """backend: "wgpu" or "torch". dtype: of activations, never "auto". max_tokens: positions of the cache. cache: what
    it is asked to be stored as, or None; ring: what bounds it, or None. device: the open device of "wgpu", else None.
    tuned: what was measured on it. reasons: (what, chosen, why)."""

    backend: str
    dtype: str
    max_tokens: int
    cache: str | None
    ring: Ring | None
    device: Any
    tuned: Any
    reasons: list[tuple[str, str, str]]


def choose(
    config: Architecture,
    backend: str | None = None,
    dtype: str = "f32",
    max_tokens: int | None = None,
    cache: str | None = None,
    adapter: str | int | None = None,
    window: int | None = None,
    sinks: int | None = None,
) -> Choices:
    """dtype: of `ACTIVATIONS`, or "auto": f16 where the adapter has it, else f32; the others as of `workbench.load`.

    Raises `NoAdapterError` if wgpu or an adapter is asked for and cannot be had, `WorkbenchError` for other impossible
    wishes.
    """
    if dtype not in (*ACTIVATIONS, AUTO):
        raise WorkbenchError(f"dtype is one of {', '.join((*ACTIVATIONS, AUTO))}, not {dtype!r}")
    if cache is not None and cache not in CACHES:
        raise WorkbenchError(f"cache is one of {', '.join(CACHES)}, not {cache!r}")
    ring = ring_of(window, sinks)
    name, why = _backend(backend, adapter)
    capacity, capacity_why = max_tokens_of(config, max_tokens, ring)
    reasons = [("backend", name, why), *seen_reasons(capacity, capacity_why, ring)]
    device = None
    if name == "wgpu":
        from .device import open_device

        device = open_device(adapter)
    if dtype == AUTO:
        dtype, dtype_why = _dtype(device)
        reasons.append(("dtype", dtype, dtype_why))
    stored = cache or cache_type(dtype)
    reasons.append(("cache", stored, "asked for" if cache else "as the inputs of attention"))
    if device is None:
        return Choices(name, dtype, capacity, cache, ring, None, None, reasons)
    reasons.append(("adapter", device.name, _adapter_reason(adapter)))
    for option, given in (("dtype", dtype), ("cache", stored)):
        if given == "f16" and not device.adapter.f16:
            raise WorkbenchError(
                f"the adapter {device.name} has no shader-f16, so {option}='f16' cannot run on it; {option}='f32' can, "
                f"with twice the bytes, and dtype='auto' takes f16 only where there is shader-f16"
            )
    tuned, kernels_reason = _tuned(device)
    return Choices(name, dtype, capacity, cache, ring, device, tuned, [*reasons, kernels_reason])


def _dtype(device) -> tuple[str, str]:
    """What "auto" stands for, and why."""
    if device is None:
        return "f32", "auto: the references gain nothing from f16"
    if device.adapter.f16:
        return "f16", "auto: the adapter has shader-f16"
    return "f32", "auto: the adapter has no shader-f16"


def _adapter_reason(adapter: str | int | None) -> str:
    from .adapters import VARIABLE, wanted_adapter

    if adapter is not None:
        return "asked for"
    wanted = wanted_adapter()
    return (
        f"{VARIABLE} or --adapter {wanted[0]!r}"
        if wanted
        else f"the most powerful; --adapter or {VARIABLE} picks another"
    )


def _tuned(device) -> tuple[Any, tuple[str, str, str]]:
    """What was measured on a device, and what there is to say about it."""
    from .tuning.tuned import open_tuned

    tuned = open_tuned(device)
    if len(tuned):
        return tuned, (
            "kernels",
            f"{len(tuned)} measured choices",
            f"where they apply, from {tuned.path}",
        )
    return tuned, ("kernels", "defaults", tuned.missing)


def _backend(backend: str | None, adapter: str | int | None) -> tuple[str, str]:
    if backend not in (None, "wgpu", "torch"):
        raise WorkbenchError(f"backend is 'wgpu' or 'torch', not {backend!r}")
    if backend == "torch":
        if adapter is not None:
            raise WorkbenchError(
                f"backend 'torch' runs on no WebGPU adapter, but adapter {adapter!r} was asked for; leave one out"
            )
        return "torch", "asked for"
    if adapter is not None:
        return "wgpu", "an adapter was asked for" if backend is None else "asked for"

    from .device import adapter_missing

    missing = adapter_missing()
    if missing is None:
        return "wgpu", "asked for" if backend else "there is a WebGPU adapter"
    if backend == "wgpu":
        raise NoAdapterError(missing)
    return "torch", f"{missing}; the PyTorch references run instead"


def ring_of(window: int | None, sinks: int | None) -> Ring | None:
    """What `window` and `sinks` of `load` ask for. Raises `WorkbenchError` for what they cannot be."""
    if window is None:
        if sinks:
            raise WorkbenchError(f"sinks = {sinks!r} without a window; sinks are what stays in front of one")
        return None
    for name, value, least in (("window", window, 1), ("sinks", 0 if sinks is None else sinks, 0)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or not least <= value <= MOST_TOKENS:
            raise WorkbenchError(f"{name} is an integer from {least} to {MOST_TOKENS}, not {value!r}")
    return Ring(int(window), int(sinks or 0))


def seen_reasons(max_tokens: int, why: str, ring: Ring | None) -> list[tuple[str, str, str]]:
    """What there is to say about the positions of a text and what a token sees of them."""
    found = [("max_tokens", str(max_tokens), why)]
    if ring is not None:
        seen = f"{ring.window} tokens and the first {ring.sinks}" if ring.sinks else f"{ring.window} tokens"
        found.append(("window", seen, "asked for: no layer sees more of a text"))
    return found


def max_tokens_of(config: Architecture, max_tokens: int | None, ring: Ring | None) -> tuple[int, str]:
    """Positions of a text, and why. Raises `WorkbenchError` for what they cannot be."""
    if max_tokens is None and ring is not None:
        chosen = max(min(config.context_length, DEFAULT_MAX_TOKENS), DEFAULT_IN_A_WINDOW)
        return (
            chosen,
            "positions of a text, of which the cache holds what the window leaves; max_tokens changes it",
        )
    if max_tokens is None:
        chosen = min(config.context_length, DEFAULT_MAX_TOKENS)
        limit = "the model's context" if chosen == config.context_length else f"the default limit {chosen}"
        return chosen, f"{limit}; max_tokens changes it"
    whole = isinstance(max_tokens, Integral) and not isinstance(max_tokens, bool)
    if not whole or not 1 <= max_tokens <= MOST_TOKENS:
        raise WorkbenchError(f"max_tokens is an integer from 1 to {MOST_TOKENS}, not {max_tokens!r}")
    return int(max_tokens), "asked for"
