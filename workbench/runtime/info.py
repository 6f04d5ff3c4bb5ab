"""What a model will cost before anything of it is allocated: plan, bytes a token, memory by kind, choices and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Unpack

from wgsl_kernels import Adapter
from workbench.models.architecture import Architecture
from workbench.models.families import architecture_of
from workbench.models.source import notes_of, open_source
from workbench.plan.count import buffer_bytes, kind_bytes, plane_bytes, step_cost
from workbench.plan.plan import Plan, Ring, step_sizes

from .choices import Execution, choose, executing
from .device import Device, aligned
from .lowering import DevicePlan, assign, lower
from .torch_executor import PREFILL
from .tuning.candidates import label
from .tuning.cases import Case, case_of
from .tuning.places import CHOICES
from .tuning.tuned import Tuned
from .wgpu_executor import STEPS, chunk_sizes

MIB = 1 << 20


@dataclass(frozen=True)
class Forecast:
    """Bytes that a backend will hold: weights, cache, and activations for generation and for scoring."""

    weights: int
    cache: int
    generation: int
    scoring: int


@dataclass(frozen=True)
class ModelInfo:
    """Prints as a page; the fields are for programs. variants: (kernel, shape, variant with tunables) ->
    reason."""

    name: str
    config: Architecture
    formats: Mapping[str, int]  # format -> number of matrices
    device: str
    backend: str
    choices: list[tuple[str, str, str]]
    calls: int  # of the semantic plan, one token
    dispatches: int | None  # after lowering, one token; None where nothing is lowered
    weight_bytes_per_token: float
    cache_bytes_per_token: float  # keys and values that attention reads when the cache is full
    cache_bytes_per_position: int  # in all layers, with the scales of an INT8 cache
    flops_per_token: float  # with a full cache
    forecast: Forecast
    variants: Mapping[tuple[str, str, str], str]
    rings: Mapping[int, int]  # slots of a cache that windows bound -> in how many layers
    plan: Plan = field(repr=False)

    def __str__(self) -> str:
        c, f = self.config, self.forecast
        formats = ", ".join(f"{count} {name}" for name, count in self.formats.items())
        lowered = (
            f"lowered to {self.dispatches} dispatches" if self.dispatches else "run one by one by PyTorch"
        )
        lines = [
            f"{self.name}: {', '.join(c.facts().values())}, vocabulary {c.vocab_size}, context {c.context_length}",
            f"matrices: {formats}",
            "",
            f"one token: {self.calls} calls, {lowered}; reads {self.weight_bytes_per_token / MIB:.2f} MiB of weights "
            f"and up to {self.cache_bytes_per_token / MIB:.2f} MiB of cache; "
            f"{self.flops_per_token / 1e6:.1f} MFLOP with a full cache",
            f"memory:    weights {f.weights / MIB:.2f} MiB, cache {f.cache / MIB:.2f} MiB "
            f"({self.cache_bytes_per_position:,} bytes a position{self._bounded()}), "
            f"activations {f.generation / MIB:.2f} MiB to generate, {f.scoring / MIB:.2f} MiB to score",
            "",
            "choices:",
            *(f"  {what}: {chosen} ({reason})" for what, chosen, reason in self.choices),
        ]
        if self.variants:
            lines += ["", "variants:"]
            lines += [
                f"  {kernel} {shape}: {name} ({why})" for (kernel, shape, name), why in self.variants.items()
            ]
        return "\n".join(lines)

    def _bounded(self) -> str:
        return "".join(f", {slots:,} of them in {count} layer(s)" for slots, count in self.rings.items())

    def to_json(self) -> dict[str, Any]:
        """Everything but the plan and the configuration, of which the facts that the page shows."""
        left_out = ("config", "plan", "variants", "forecast")
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left_out}
        variants = [
            {"kernel": kernel, "shape": shape, "variant": variant, "why": why}
            for (kernel, shape, variant), why in self.variants.items()
        ]
        return {
            **values,
            "facts": self.config.facts(),
            "forecast": asdict(self.forecast),
            "variants": variants,
        }

    def _repr_html_(self) -> str:
        import html

        return f"<pre>{html.escape(str(self))}</pre>"


#: What steps of generation end with: one token in, the next one out.
GENERATING = ("greedy", "draw", "told")


def _sizes(tokens: int, capacity: int) -> dict[str, int]:
    return step_sizes(tokens, capacity, steps=STEPS)


def arena_bytes(plans: list[DevicePlan]) -> int:
    """Bytes of one arena that all the plans share slot by slot."""
    slots: list[int] = []
    for plan in plans:
        slots += [0] * (len(plan.slot_bytes) - len(slots))
        for slot, need in enumerate(plan.slot_bytes):
            slots[slot] = max(slots[slot], aligned(need))
    return sum(slots)


def weight_bytes(plan: Plan) -> int:
    return sum(aligned(size) for b in plan.of_kind("weight") for size in plane_bytes(b, {}).values())


def forecast(
    source,
    config: Architecture,
    activations: str,
    capacity: int,
    limits: tuple[Adapter, int],
    cache: str | None = None,
    tuned: Tuned | None = None,
    ring: Ring | None = None,
) -> Forecast:
    """What the wgpu backend will allocate for a cache of `capacity` positions and steps of every size. limits: the
    adapter, and bytes of its largest binding."""
    adapter, binding_bytes = limits
    chunks = chunk_sizes(config, binding_bytes)
    lowered = {}
    for head in ("last", *GENERATING, "score"):
        plan = config.build(source.describe, head=head, activations=activations, cache=cache, ring=ring)
        counts = (1,) if head in GENERATING else chunks
        lowered[head] = [
            lower(plan, _sizes(n, capacity), adapter, binding_bytes, tuned=tuned) for n in counts
        ]
    plan = lowered["last"][0].plan
    sizes = _sizes(1, capacity)
    written = {b.name: b for head in ("told", "score") for b in lowered[head][0].plan.buffers.values()}
    longest = _sizes(chunks[0], capacity)
    inputs = sum(aligned(buffer_bytes(b, longest)) for b in written.values() if b.kind in ("input", "state"))
    return Forecast(
        weights=weight_bytes(plan) + aligned(kind_bytes(plan, "constant", sizes)),
        cache=sum(aligned(n) for b in plan.of_kind("cache") for n in plane_bytes(b, sizes).values()) + inputs,
        generation=arena_bytes([plan for head in ("last", *GENERATING) for plan in lowered[head]]),
        scoring=arena_bytes(lowered["score"]),
    )


def ring_slots(plan: Plan, capacity: int) -> dict[int, int]:
    """Slots of the caches that windows bound below `capacity` positions -> in how many layers."""
    found = Counter(
        ring.slots(capacity)
        for buffer in plan.of_kind("cache")
        for ring in map(Ring.named, buffer.shape)
        if ring is not None
    )
    return {slots: count for slots, count in found.items() if slots < capacity}


def torch_forecast(
    source,
    config: Architecture,
    activations: str,
    capacity: int,
    cache: str | None = None,
    ring: Ring | None = None,
) -> Forecast:
    """What the torch backend will hold: every matrix dequantized to f32, the cache, one step's live activations."""
    step = _sizes(min(capacity, PREFILL), capacity)
    plans = {
        head: config.build(source.describe, head=head, activations=activations, cache=cache, ring=ring)
        for head in ("last", "score")
    }
    plan = plans["last"]
    weights = plan.of_kind("weight")
    matrices = 4 * sum(b.rows * b.columns for b in weights if b.is_matrix)
    vectors = sum(buffer_bytes(b, step) for b in weights if not b.is_matrix)
    live = {head: sum(assign(each, step, ())[1]) for head, each in plans.items()}
    return Forecast(
        weights=matrices + vectors + kind_bytes(plan, "constant", step),
        cache=kind_bytes(plan, "cache", step),
        generation=live["last"],
        scoring=live["score"],
    )


def chosen_variants(
    decode: Plan, prefill: Plan, counts: Sequence[int], capacity: int, device: Device, tuned: Tuned | None
) -> dict[tuple[str, str, str], str]:
    """(kernel, shape, variant with tunables) -> reason, for steps of one and of the most tokens and of all that was
    measured, where there is something to choose; (rule, shape, side) -> reason of rules that were measured. decode: the
    plan of one token, prefill: that of more."""
    found = {}
    for tokens in sorted(counts):
        plan = decode if tokens == 1 else prefill
        lowered = lower(plan, _sizes(tokens, capacity), device.adapter, device.binding_bytes, tuned=tuned)
        for step in lowered.steps:
            kernel = step.kernel
            measured = not step.reason.startswith("default: ")
            if not measured and (tokens not in (1, max(counts)) or len(kernel.variants) == 1):
                continue
            case = case_of(kernel, step.sizes, step.types)
            context = kernel.specialise(step.variant, step.sizes, step.types, device.adapter, step.tunables)
            name = label(step.variant, {n: context[n] for n in kernel.variants[step.variant].tunables})
            found[kernel.name, f"{case.shape}, {case.tokens} token(s)", name] = step.reason
    for each in tuned.used() if tuned is not None else ():
        if each["kernel"] in CHOICES:
            case = Case(each["kernel"], each["sizes"], {})
            found[case.kernel, f"{case.shape}, {case.tokens} token(s)", each["variant"]] = each["why"]
    return found


@executing
def describe(path_or_hub_id, backend: str | None = None, **execution: Unpack[Execution]) -> ModelInfo:
    """Everything about a model that can be known before its weights are read.

        info = workbench.describe("DIR", dtype="auto")
        info.forecast.weights, info.dispatches, info.plan

    Options as in `workbench.load`. The result prints as a page: the calls of a token and how they were lowered, bytes
    that a token reads, memory by kind in bytes (`forecast`), and every automatic choice with its reason. Raises what
    `workbench.load` raises.
    """
    source = open_source(path_or_hub_id)
    config = architecture_of(source.config)
    chosen = choose(config, backend, **execution)
    dtype, cache, ring = chosen.dtype, chosen.cache, chosen.ring
    capacity, device = chosen.max_tokens, chosen.device
    decode, prefill = (
        config.build(source.describe, head=head, activations=dtype, cache=cache, ring=ring)
        for head in ("greedy", "last")
    )
    dispatches, variants = None, {}
    if device is None:
        expected = torch_forecast(source, config, dtype, capacity, cache, ring)
    else:
        limits = (device.adapter, device.binding_bytes)
        expected = forecast(source, config, dtype, capacity, limits, cache, chosen.tuned, ring)
        chunks = chunk_sizes(config, device.binding_bytes)
        variants = chosen_variants(decode, prefill, chunks, capacity, device, chosen.tuned)
        lowered = lower(decode, _sizes(1, capacity), *limits, tuned=chosen.tuned)
        dispatches = len(lowered.steps)
    cost = step_cost(decode, _sizes(1, capacity))
    return ModelInfo(
        name=source.path.name,
        config=config,
        formats=dict(Counter(str(w.format) for w in decode.weights.values())),
        device=device.name if device else "the CPU, through PyTorch",
        backend=chosen.backend,
        choices=[*chosen.reasons, *notes_of(source, config)],
        calls=cost.dispatches,
        dispatches=dispatches,
        weight_bytes_per_token=cost.weight_bytes,
        flops_per_token=cost.flops,
        cache_bytes_per_token=kind_bytes(decode, "cache", _sizes(1, capacity)),
        cache_bytes_per_position=kind_bytes(decode, "cache", _sizes(1, 1)),
        forecast=expected,
        variants=variants,
        rings=ring_slots(decode, capacity),
        plan=decode,
    )
