"""The calls that the pair tests make: a fixed, seeded list for every variant of every kernel.

Each option of a call (sizes, element types, block sizes, tunables, subgroups or not) has a list of values.
`covering` deals them out so that every value occurs for every variant, in combinations that a seed decides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle, islice, product

import torch

import wgsl_kernels
from wgsl_kernels import Adapter, Context, Kernel
from wgsl_kernels.experts.sorted import unsorted
from wgsl_kernels.header import Module, write_module
from wgsl_kernels.numerics import random_tensor
from workbench.runtime.launch import Workload

TYPES = ("f32", "f16")
WIDTHS = (5, 31, 64, 96, 130, 172, 352, 576, 896)
ZERO_POINTS = {
    "int8": ({"symmetric": True}, {}),
    "int4": ({"symmetric": True}, {}, {"zero_frac_bits": 3}),
    "int2": ({"symmetric": True}, {}, {"zero_frac_bits": 5}),
}
#: Dimensions of heads that rotations pass, where they take any.
PASSED = (0, 2, 4)
BLOCKS = (
    *({"block": size} for size in (32, 64, 128, 256)),
    {"granularity": "channel"},
    {"granularity": "tensor"},
)


#: Cases of a variant, since compiling is what a case costs: of an option with more values each variant draws its own.
MOST_CASES = 5
#: Of a fused form, and of its variants with several teams: it loads, scales and sums with the functions of its parts,
#: which have cases of their own.
FUSED_CASES, FUSED_TEAMS = 3, 2


@dataclass(frozen=True)
class Case:
    """One call of one variant. options: for `Kernel.inputs`, beside those that `arguments` handles itself."""

    kernel: str
    variant: str
    number: int
    options: Mapping
    tunables: Mapping[str, int] = field(default_factory=dict)
    y_dtype: str = "f32"
    subgroups: bool = True

    def __str__(self) -> str:
        return f"{self.kernel}-{self.variant}-{self.number:02d}"

    @property
    def uses_f16(self) -> bool:
        return "f16" in (self.y_dtype, self.options.get("x_dtype"), self.options.get("kv_dtype"))

    def describe(self) -> str:
        """Everything needed to repeat the call by hand."""
        given = {**self.options, "tunables": dict(self.tunables), "y_dtype": self.y_dtype}
        return f"{self}: {given}, {'with' if self.subgroups else 'without'} subgroups"

    def pair(self) -> Kernel:
        return wgsl_kernels.get(self.kernel)

    def arguments(self) -> dict:
        """Tensors and parameters of the call, the same each time."""
        options = dict(self.options)
        special = {name: options.pop(name) for name in ("before", "after", "kv_dtype") if name in options}
        arguments = self.pair().inputs(seed=self.number, **options)
        generator = torch.Generator().manual_seed(1000 + self.number)
        if "before" in special:
            rows = options["rows"]
            arguments["row_offset"] = special["before"]
            arguments["out_rows"] = special["before"] + rows + special["after"]
            if "residual" in arguments:
                shape = (options["tokens"], arguments["out_rows"])
                arguments["residual"] = random_tensor(generator, shape)
        if "kv_dtype" in special:  # full of numbers, so that what is touched by mistake shows
            arguments["kv"] = random_tensor(generator, tuple(arguments["kv"].shape), special["kv_dtype"])
        return arguments

    def workload(self) -> Workload:
        return Workload(self.pair(), self.arguments(), self.y_dtype)

    def context(self, adapter: Adapter) -> Context:
        """The context of the call on an adapter, by the way that the launcher takes."""
        return self.workload().context(self.variant, adapter, self.tunables)

    def module(self, adapter: Adapter, dialect: str = "tint") -> Module:
        kernel = self.pair()
        return write_module(kernel, kernel.variants[self.variant], self.context(adapter), dialect)

    def written(self, arguments: Mapping, output: torch.Tensor) -> torch.Tensor:
        """Which elements of an output the kernel writes: the others belong to another part of the tensor."""
        mask = torch.ones(output.shape, dtype=torch.bool)
        if "out_rows" in arguments:
            mask[:, : self.options["before"]] = False
            mask[:, self.options["before"] + self.options["rows"] :] = False
        if self.pair().op in ("expert_linear", "expert_linear_sorted"):
            if "order" in arguments:
                arguments = {**arguments, **unsorted(arguments["order"], arguments["starts"])}
            rows = torch.arange(arguments["expert_rows"])
            rows = (
                arguments["experts"][..., None] * arguments["expert_rows"]
                + rows
                - arguments.get("row_offset", 0)
            )
            mask &= ((rows >= 0) & (rows < self.options["rows"])).flatten(1)
        if self.pair().op == "embedding":
            row = arguments["ids"] - arguments["row_offset"]
            mask &= ((row >= 0) & (row < self.options["rows"])).unsqueeze(-1)
        return mask


def covering(seed: str, count: int, options: Mapping[str, tuple]) -> list[dict]:
    """`count` choices of one value an option, in which every value of every option occurs."""
    rng = random.Random(seed)
    dealt = {}
    for name, values in options.items():
        if len(values) > count:
            raise ValueError(f"{name} has {len(values)} values, more than {count} cases")
        dealt[name] = []
        while len(dealt[name]) < count:
            dealt[name] += rng.sample(values, len(values))
    return [{name: dealt[name][i] for name in options} for i in range(count)]


def forms_with(kernel: str, variant: str) -> list[str]:
    """The forms of a kernel's op, by name, that have a variant of this name."""
    names = [name for name in wgsl_kernels.names() if name.split("[")[0] == kernel.split("[")[0]]
    return [name for name in names if variant in wgsl_kernels.get(name).variants]


def cases_of(
    kernel: str,
    variant: str,
    count: int,
    *,
    first: int = 0,
    least: int = MOST_CASES,
    tunables: Mapping | None = None,
    **options: tuple,
) -> Iterator[Case]:
    """Cases of one variant; an option whose values are mappings stands for several of `Kernel.inputs`.

    count: of cases, at most `least`. first: number of the first case. tunables: values to deal, by default all that the
    variant has.
    """
    if tunables is None:
        tunables = wgsl_kernels.get(kernel).variants[variant].tunables
    dealt = {"subgroups": (True, False), "y_dtype": TYPES, **options}
    dealt |= {name: (None, *values) for name, values in tunables.items()}  # None: what suits the adapter
    forms = forms_with(kernel, variant)
    if len(forms) < 3:  # too few to deal them out
        least = max(least, *(len(values) + 1 for values in tunables.values()), 0)
    count = min(count, least)
    rng, turn = random.Random(f"{kernel.split('[')[0]}/{variant}/values"), forms.index(kernel) * count
    for name, values in dealt.items():
        if (
            len(values) > count
        ):  # the next ones of an order that all forms share, so that together they have all
            order = rng.sample(values, len(values))
            dealt[name] = tuple(order[(turn + i) % len(order)] for i in range(count))
    for number, choice in enumerate(covering(f"{kernel}/{variant}", count, dealt), first):
        subgroups, y_dtype = choice.pop("subgroups"), choice.pop("y_dtype")
        chosen = {name: choice.pop(name) for name in tunables}
        plain = {}
        for name, value in choice.items():
            plain |= value if isinstance(value, Mapping) else {name: value}
        yield Case(
            kernel,
            variant,
            number,
            plain,
            {name: value for name, value in chosen.items() if value is not None},
            y_dtype,
            subgroups,
        )


def _weight_options(fmt: str) -> dict[str, tuple]:
    if fmt not in ZERO_POINTS:
        return {}
    return {"blocks": BLOCKS, "zero_points": ZERO_POINTS[fmt], "scale_dtype": ("f16", "f32")}


def _in_f16(options: Mapping[str, tuple]) -> dict[str, tuple]:
    """Those of the options that variants in f16 arithmetic take."""
    whole = tuple(n for n in options["columns"] if n % 8 == 0)
    return {**options, "columns": (*whole, 8, 40, 72), "x_dtype": ("f16",)}


def _team_cases(
    kernel: str, variant: str = "gemv", *, fused: bool = False, **options: tuple
) -> Iterator[Case]:
    """Cases of a variant with teams: one a workgroup anywhere; several need whole subgroups (8 lanes on lavapipe)."""
    tunables = wgsl_kernels.get(kernel).variants[variant].tunables
    least = FUSED_CASES if fused else MOST_CASES
    yield from cases_of(kernel, variant, 9, least=least, tunables={**tunables, "teams": (1,)}, **options)
    several = {
        "workgroup": (64, tunables["workgroup"][-1]),
        "teams": tunables["teams"][1:],
        "rows_per_team": tunables["rows_per_team"][:3],
    }
    dealt, turn = (
        covering(f"{kernel.split('[')[0]}/teams", 3, several),
        forms_with(kernel, variant).index(kernel),
    )
    taken = [dealt[(turn + i) % 3] for i in range(FUSED_TEAMS)] if fused else dealt
    for number, choice in enumerate(taken, 9):
        case = next(cases_of(kernel, variant, 9, tunables={}, **{**options, "subgroups": (True,)}))
        yield replace(case, number=number, tunables=choice)


def _tile_cases(kernel: str, **options: tuple) -> Iterator[Case]:
    """Cases of `tile`: the default, and as few tiles that fit into a workgroup as have every value among them."""
    tile = wgsl_kernels.get(kernel).variants["tile"]
    every = [dict(zip(tile.tunables, chosen, strict=True)) for chosen in product(*tile.tunables.values())]
    random.Random(kernel).shuffle(every)
    left = [each for each in every if not tile.refuse(Context(each, {}, Adapter()))]
    unseen = {item for each in left for item in each.items()}
    tiles = [{}]
    while unseen:
        tiles.append(max(left, key=lambda each: len(unseen & each.items())))
        unseen -= tiles[-1].items()
    cases = cases_of(kernel, "tile", 9, least=len(tiles), tunables={}, **options)
    yield from (replace(case, tunables=each) for case, each in zip(cases, cycle(tiles), strict=False))


def _deal(kernel: str, variant: str, **options: tuple) -> Iterator[Case]:
    """Cases of a variant of a linear layer, by what its tunables are."""
    if variant == "tile":
        return _tile_cases(kernel, **options)
    teams = "teams" in wgsl_kernels.get(kernel).variants[variant].tunables
    return _team_cases(kernel, variant, **options) if teams else cases_of(kernel, variant, 9, **options)


def _linear_cases() -> Iterator[Case]:
    ranges = ({}, {}, {"before": 0, "after": 7}, {"before": 37, "after": 0}, {"before": 3, "after": 64})
    tokens = {
        "gemv": (1, 2, 3, 4, 7),
        "gemv_f16": (1, 2, 3, 4, 7),
        "batch": (1, 2, 3, 9, 16, 17),
        "batch_f16": (1, 2, 3, 9, 16, 17),
        "tile": (1, 17, 31, 63, 65, 70),
        "broadcast": (1, 5, 8, 9, 31, 70),
    }
    columns = (5, 31, 96, 172, 352, 896)
    for fmt in wgsl_kernels.weights.WEIGHT_FORMATS:
        name = f"linear[{fmt}]"
        for variant in wgsl_kernels.get(name).variants:
            options = {
                "subgroups": (True,) if variant == "broadcast" else (True, False),
                "tokens": tokens[variant],
                "rows": (1, 3, 33, 64, 123, 130),
                "columns": (*columns, 32, 576) if fmt in ZERO_POINTS else columns,
                "x_dtype": TYPES,
                "bias": (False, True),
                "residual": ({}, {"residual": True}, {"residual": True, "factor": 0.22}),
                "part": ranges,
                **_weight_options(fmt),
            }
            yield from _deal(name, variant, **(_in_f16(options) if variant.endswith("_f16") else options))


def _integer_linear_cases() -> Iterator[Case]:
    ranges = ({}, {}, {"before": 0, "after": 7}, {"before": 37, "after": 0}, {"before": 3, "after": 64})
    tokens = {"gemv": (1, 2, 3, 4, 7), "batch": (1, 2, 3, 9, 16, 17), "tile": (1, 17, 63, 65, 70)}
    for fmt in ZERO_POINTS:
        name = f"linear[{fmt}, a8]"
        for variant in wgsl_kernels.get(name).variants:
            yield from _deal(
                name,
                variant,
                tokens=tokens[variant],
                rows=(1, 3, 33, 64, 123, 130),
                columns=(5, 31, 96, 172, 352, 896, 32, 576),
                bias=(False, True),
                residual=({}, {"residual": True}, {"residual": True, "factor": 0.22}),
                part=ranges,
                **_weight_options(fmt),
            )


def _fused_cases() -> Iterator[Case]:
    columns = (8, 36, 64, 96, 172, 352, 896)
    heads = tuple(
        {"heads": h, "kv_heads": k, "head_dim": d}
        for h, k, d in ((1, 1, 8), (2, 1, 16), (3, 3, 32), (4, 2, 64), (5, 1, 24))
    )
    places = (
        {"tokens": 1, "position": 0, "capacity": 1},
        {"tokens": 1, "position": 63, "capacity": 64},
        {"tokens": 3, "position": 61, "capacity": 64},
        {"tokens": 4, "position": 30, "capacity": 32},  # runs over the end of the cache
    )
    written = (
        *places,
        {"tokens": 4, "position": 90, "capacity": 12, "positions": 128, "ring": True, "sinks": 3},
    )
    sequences = (
        {"sequences": 1, "sequence": 0},
        {"sequences": 3, "sequence": 1},
        {"sequences": 3, "scattered": True},
    )
    for fmt in wgsl_kernels.weights.WEIGHT_FORMATS:
        common = {"columns": columns, "x_dtype": TYPES, **_weight_options(fmt)}
        tokens = (1, 2, 3, 4)
        yield from _team_cases(
            f"norm_linear[{fmt}]", fused=True, tokens=tokens, rows=(1, 3, 33, 64, 130), **common
        )
        for name in (f"norm_argmax[{fmt}]", f"norm_linear_max[{fmt}]"):
            yield from _team_cases(
                name, fused=True, tokens=tokens, rows=(1, 3, 130, 300), group=(128,), **common
            )
            yield from cases_of(  # groups as lowering makes them, with what suits the adapter
                name, "gemv", 2, first=12, tunables={}, tokens=(1, 2), rows=(33, 130, 300), group=(16, 32)
            )
            # and in turns, as a GPU takes them
            turns = {"workgroup": (32,), "teams": (1,), "rows_per_team": (8,)}
            yield from cases_of(
                name, "gemv", 2, first=15, tunables=turns, tokens=(1,), rows=(130,), group=(16, 32)
            )
        for name in (f"norm_gate_up[{fmt}]", f"norm_gate_up_gelu[{fmt}]"):
            yield from _team_cases(name, fused=True, tokens=tokens, width=(1, 3, 33, 64, 130), **common)
        for name in (f"gate_up[{fmt}]", f"gate_up_gelu[{fmt}]"):
            tiled = {
                **common,
                "tokens": (1, 9, 17, 65),
                "width": (1, 3, 33, 64, 130),
                "columns": (5, 31, 96, 576),
            }
            yield from _deal(name, "tile", **tiled)
            yield from cases_of(name, "broadcast", FUSED_CASES, **{**tiled, "subgroups": (True,)})
        yield from _team_cases(
            f"norm_qkv[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=written,
            sequence=sequences,
            valid=(None, 0, 2),
            kv_dtype=TYPES,
            **common,
        )
        yield from _team_cases(
            f"norm_qkv_rows[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=places,
            sequence=sequences,
            valid=(None, 0, 2),
            **common,
        )


def _integer_fused_cases() -> Iterator[Case]:
    heads = tuple(
        {"heads": h, "kv_heads": k, "head_dim": d} for h, k, d in ((1, 1, 8), (3, 3, 32), (4, 2, 64))
    )
    places = (
        {"tokens": 1, "position": 63, "capacity": 64},
        {"tokens": 4, "position": 30, "capacity": 32},  # runs over the end of the cache
    )
    for fmt in ZERO_POINTS:
        common = {"columns": (8, 36, 64, 96, 172, 896), "x_dtype": TYPES, **_weight_options(fmt)}
        rows = {"tokens": (1, 2), "rows": (3, 33, 130), **common}
        yield from _team_cases(f"norm_linear_a8[{fmt}]", fused=True, **rows)
        for name in (f"norm_argmax_a8[{fmt}]", f"norm_linear_max_a8[{fmt}]"):
            yield from _team_cases(name, fused=True, group=(128,), **rows)
        yield from _team_cases(
            f"norm_qkv_a8[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=(*places, {"tokens": 1, "position": 90, "capacity": 12, "ring": True, "sinks": 3}),
            scattered=(False, True),
            kv_dtype=TYPES,
            **common,
        )
        yield from _team_cases(
            f"norm_qkv_rows_a8[{fmt}]",
            fused=True,
            heads=heads,
            passed=PASSED,
            place=places,
            scattered=(False, True),
            **common,
        )
        for name in (f"gate_up[{fmt}, a8]", f"gate_up_gelu[{fmt}, a8]"):
            width, columns = (1, 3, 33, 64, 130), (5, 96, 172, 576)
            yield from _deal(
                name,
                "tile",
                tokens=(1, 17, 65),
                width=width,
                columns=columns,
                **_weight_options(fmt),
            )
        shapes = {"tokens": (1, 2, 4), "width": (1, 31, 33, 64, 130), "y_stride": (1, 2, 4), **common}
        for op in ("norm_gate_up_a8", "norm_gate_up_gelu_a8"):
            yield from _team_cases(f"{op}[{fmt}, a8]", fused=True, **{**shapes, "y_dtype": ("f32",)})
    yield from cases_of(
        "attention_reduce[a8]",
        "heads",
        6,
        tokens=(1, 2, 5),
        heads=(1, 4, 9),
        splits=(1, 2, 7, 64),
        head_dim=(32, 64, 320),
        stride=(1, 2, 4),
        subgroups=(False,),
        y_dtype=("f32",),
    )


def _expert_cases() -> Iterator[Case]:
    yield from cases_of(
        "route",
        "row",
        14,
        tokens=(1, 2, 70),
        width=(2, 4, 16, 60, 128, 200),
        k=(1, 2, 8),
        kind=({}, {"normalised": True}, {"sigmoid": True}, {"sigmoid": True, "normalised": True}),
        x_dtype=TYPES,
        y_dtype=("f32",),
    )
    common = {"tokens": (1, 2, 3, 9, 33), "chosen": (1, 2, 3)}
    orders = {"tokens": (1, 3, 70), "chosen": (1, 2, 3), "scores": (False, True)}
    sizes = tuple({"count": count} for count in (1, 4, 130))
    yield from cases_of(
        "expert_order", "experts", 4, **orders, size=sizes, subgroups=(False,), y_dtype=("f32",)
    )
    added = ({}, {"residual": True}, {"residual": True, "factor": 0.22})
    sums = {"width": WIDTHS, "more": added, "x_dtype": TYPES, "subgroups": (False,)}
    yield from cases_of("expert_sum", "elements", 9, **common, **sums)
    # ranges of rows as bindings cut them, within experts too
    parts = tuple(
        {"rows": rows, "expert_rows": each, "row_offset": first}
        for rows, each, first in ((48, 12, 0), (6, 3, 0), (130, 130, 0), (40, 33, 36), (100, 64, 4))
    )
    halves = tuple({"rows": 2 * n * each, "expert_rows": each} for n, each in ((2, 3), (4, 33), (3, 130)))
    forms = [(fmt, False) for fmt in wgsl_kernels.weights.WEIGHT_FORMATS] + [
        (fmt, True) for fmt in ZERO_POINTS
    ]
    for number, (fmt, integer) in enumerate(forms):
        form = f"[{fmt}, a8]" if integer else f"[{fmt}]"
        shapes = {
            **common,
            "scores": (False, True),
            **_weight_options(fmt),
            "columns": (32, 96, 352, 896) if integer else (5, 36, 96, 172, 352, 896),
            **({} if integer else {"x_dtype": TYPES}),
        }
        yield from _gathered(f"expert_linear{form}", number, **shapes, apart=(False, True), part=parts)
        tiled = {**shapes, "tokens": (17, 70), "apart": (False, True), "part": parts}
        yield from islice(_tile_cases(f"expert_linear_sorted{form}", **tiled), number % 3, number % 3 + 2)
        yield from _gathered(f"expert_gate_up{form}", number, **shapes, part=halves)
        # scores beside INT8 activations would be a buffer too many
        added = {"residual": True, "factor": 0.22}
        both = ({}, added) if integer else ({"scores": True, **added}, {})
        rows = tuple({"rows": 4 * each, "expert_rows": each} for each in (3, 33, 130))
        down = {name: values for name, values in shapes.items() if name != "scores"}
        yield from _gathered(f"expert_down{form}", number, **down, part=rows, more=both)


def _gathered(kernel: str, number: int, **options: tuple) -> Iterator[Case]:
    """A case of a form, two of INT4, and one with teams of some; tunables are dealt over forms by their number."""
    op, tunables = kernel.partition("[")[0], wgsl_kernels.get(kernel).variants["gemv"].tunables
    dealt = {name: (None, *tunables[name]) for name in ("workgroup", "rows_per_team")}
    dealt = covering(f"{op}/tunables", 10, dealt)
    pieces = tunables.get("piece", (None,))
    for at, (case, piece) in enumerate(
        zip(cases_of(kernel, "gemv", 2, tunables={}, **options), pieces, strict=False)
    ):
        chosen = {**dealt[number if at == 0 else 9], "piece": piece, "teams": 1}
        yield replace(case, tunables={name: n for name, n in chosen.items() if n is not None})
    if number < 3:
        case = next(cases_of(kernel, "gemv", 2, tunables={}, **{**options, "subgroups": (True,)}))
        teams = {"workgroup": 64, "teams": (2, 4, 8)[number], "rows_per_team": 4}
        yield replace(case, number=2, tunables=teams)


def _weight_cases() -> Iterator[Case]:
    for fmt in wgsl_kernels.weights.WEIGHT_FORMATS:
        columns = (5, 31, 64, 96, 172, 352, 576, 896)
        rows = (1, 3, 33, 50, 123, 130)
        options = {"rows": rows, "columns": columns, "subgroups": (False,), **_weight_options(fmt)}
        yield from cases_of(f"dequantize[{fmt}]", "octets", 8, **{**options, "y_dtype": ("f32",)})
        yield from cases_of(
            f"embedding[{fmt}]", "rows", 9, tokens=(1, 3, 9, 70), row_offset=(0, 0, 40), **options
        )


def _elementwise_cases() -> Iterator[Case]:
    common = {"tokens": (1, 2, 3, 9, 33, 70), "width": WIDTHS, "x_dtype": TYPES, "subgroups": (False,)}
    for kernel in ("silu_mul", "gelu_mul"):
        yield from cases_of(kernel, "elements", 9, **common)
    factors = {"factor": (1.0, 0.22, -12.0)}
    yield from cases_of("scale", "elements", 9, **common, **factors)
    factors = tuple({"factor": factor} for factor in factors["factor"])
    yield from cases_of("add", "elements", 9, **common, more=({}, *factors))
    yield from cases_of("softcap", "elements", 9, **common, cap=(0.5, 30.0, 1000.0))
    yield from cases_of("gelu", "elements", 12, tanh=(False, True), **common)
    yield from cases_of("select_rows", "elements", 9, **{**common, "results": (1, 2, 40)})
    words = tuple(
        {"block": b, "stride": s} for b, s in ((4, 1), (32, 1), (64, 2), (128, 4), (32, 2), (32, 4))
    )
    blocks = {"words": words, "static_scale": (0.0, 0.0, 0.01, 0.05)}
    yield from cases_of(
        "rms_norm[a8]",
        "row",
        12,
        tokens=(1, 3, 33),
        hidden=(32, 96, 352, 4128),
        stride=(1, 2, 4),
        x_dtype=TYPES,
        y_dtype=("f32",),
    )
    yield from cases_of("quantize_activations[a8]", "blocks", 12, **{**common, **blocks, "y_dtype": ("f32",)})
    yield from cases_of(
        "advance",
        "one",
        4,
        tokens=(1, 3, 8),
        steps=(1, 6),
        step=(0, 2, 5, 9),
        subgroups=(False,),
        y_dtype=("f32",),
    )


def _row_cases() -> Iterator[Case]:
    common = {"tokens": (1, 2, 9, 70), "width": (1, *WIDTHS, 1000), "x_dtype": TYPES}
    yield from cases_of("softmax", "row", 14, **common)
    yield from cases_of("argmax", "row", 14, **{**common, "y_dtype": ("f32",)})
    yield from cases_of("target_log_likelihood", "row", 14, **{**common, "y_dtype": ("f32",)})
    plain = {**common, "y_dtype": ("f32",)}
    yield from cases_of("divergence", "row", 14, apart=(0.0, 1e-3, 0.1, 3.0), **plain)
    yield from cases_of("log_probabilities", "row", 14, k=(1, 5, 40), counted=(0, 3, 40), **plain)
    yield from cases_of(
        "tail_priorities", "elements", 14, k=(1, 4, 64), strata=(1, 3, 64), **{**plain, "subgroups": (False,)}
    )
    groups = {"tokens": common["tokens"], "groups": (1, *WIDTHS, 1000), "y_dtype": ("f32",)}
    yield from cases_of("argmax_reduce", "row", 14, **groups)
    largest = {**common, "k": (1, 2, 5, 40, 64), "y_dtype": ("f32",)}
    yield from cases_of("top_k", "knockout", 14, **largest)
    yield from cases_of("top_k_reduce", "knockout", 14, group=(8, 16, 32), **largest)
    hidden = {"hidden": common["width"], "eps": (1e-5, 1e-6)}
    yield from cases_of("rms_norm", "row", 14, tokens=common["tokens"], x_dtype=TYPES, **hidden)


FILTERS = (
    {"temperature": 0.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.8, "top_k": 0, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 3, "top_p": 1.0, "step": 0.5},
    {"temperature": 2.0, "top_k": 40, "top_p": 0.7, "min_p": 0.02, "step": 1.0},
    {"temperature": 1.5, "top_k": 0, "top_p": 0.0},
    {"temperature": 30.0, "top_k": 0, "top_p": 0.3, "repetition_penalty": 0.4},
    {"temperature": 1e6, "top_k": 20, "top_p": 0.5, "step": 0.25},
    {"temperature": 1e-37, "top_k": 5, "top_p": 0.9, "masked": 3},
    {"temperature": 1.0, "min_p": 0.1, "repetition_penalty": 1.3, "masked": 60},
)


def _sampling_cases() -> Iterator[Case]:
    common = {
        "width": (1, 5, 31, 257, 1000, 4001),
        "filters": FILTERS,
        "position": (0, 1, 500, 2**31 - 2),
        "seen": (0, 1, 50),
        "y_dtype": ("f32",),
        "subgroups": (False,),
    }
    parts = {**common, "parts": (1, 2, 7, 32)}
    yield from cases_of("sample", "radix", 14, **common)
    stateless = {name: values for name, values in parts.items() if name != "position"}
    yield from cases_of("sample_first", "radix", 11, **stateless)
    yield from cases_of("sample_tally", "radix", 22, round=(1, 2, 3, 4, 5, 6, 7), **stateless)
    yield from cases_of("sample_sums", "radix", 11, **stateless)
    yield from cases_of("sample_draw", "radix", 11, **parts)
    widths = {"width": common["width"], "parts": parts["parts"], "y_dtype": ("f32",)}
    yield from cases_of("exp_sums", "parts", 8, **widths)
    steps = {"steps": (1, 6), "step": (0, 2, 5, 9), "k": (1, 5), "subgroups": (False,)}
    yield from cases_of("tell", "one", 6, **{**widths, **steps})


def _cache_cases() -> Iterator[Case]:
    """Kernels over the cache in f32, f16 and INT8."""
    heads = tuple(
        {"heads": kv * group, "kv_heads": kv, "head_dim": size}
        for kv, group, size in (
            (1, 1, 8),
            (2, 1, 16),
            (3, 2, 24),
            (2, 2, 40),
            (1, 4, 64),
            (2, 4, 128),
            (5, 1, 8),
            (2, 2, 64),
            (1, 2, 256),
        )
    )
    places = (
        {"tokens": 1, "position": 0, "capacity": 1},
        {"tokens": 1, "position": 63, "capacity": 64},
        {"tokens": 3, "position": 61, "capacity": 64},
        {"tokens": 33, "position": 0, "capacity": 40},
        {"tokens": 70, "position": 5, "capacity": 130},
        {"tokens": 1, "position": 299, "capacity": 512},
        {"tokens": 9, "position": 120, "capacity": 129},
        {"tokens": 4, "position": 30, "capacity": 32},  # runs over the end of the cache
    )
    sequences = (
        {"sequences": 1, "sequence": 0},
        {"sequences": 2, "sequence": 1},
        {"sequences": 3, "sequence": 1},
        {"sequences": 3, "scattered": True},
    )
    bounds = (
        {},
        {"window": 1},
        {"window": 7},
        {"window": 40},
        {"chunk": 8},
        {"chunk": 33},
        {"softcap": 2.0},
        {"window": 100, "softcap": 50.0},
        {"window": 12, "chunk": 16},
    )
    # rings that have come round, and some that have not yet; sinks with and without queries of their own
    rings = (
        {"tokens": 1, "position": 3, "capacity": 20, "window": 8, "sinks": 4, "q_sinks": True},
        {"tokens": 9, "position": 1000, "capacity": 71, "window": 50, "sinks": 5, "q_sinks": True},
        {"tokens": 12, "position": 0, "capacity": 15, "window": 4, "sinks": 0},
        {
            "tokens": 33,
            "position": 95,
            "capacity": 80,
            "window": 7,
            "sinks": 40,
            "q_sinks": True,
            "softcap": 2.0,
        },
        {"tokens": 4, "position": 130, "capacity": 70, "chunk": 64, "sinks": 2},
    )
    for cache, more in (("", {"kv_dtype": TYPES}), ("[kv8]", {})):
        for variant in wgsl_kernels.get(f"attention{cache}").variants:
            yield from cases_of(
                f"attention{cache}",
                variant,
                3,
                first=12,
                subgroups=(True,),
                heads=heads,
                place=rings,
                sequence=sequences[: 1 if variant == "broadcast" else 3],
                x_dtype=TYPES,
                **more,
            )
            yield from cases_of(
                f"attention{cache}",
                variant,
                12,
                subgroups=(True,) if variant == "broadcast" else (True, False),
                heads=heads,
                place=places,
                sequence=sequences[:1] if variant == "broadcast" else sequences,
                bounds=bounds,
                x_dtype=TYPES,
                **more,
            )
        yield from cases_of(
            f"attention_split{cache}",
            "teams",
            3,
            first=12,
            subgroups=(True,),
            heads=heads,
            place=rings,
            sequence=sequences[:3],
            splits=(2, 3, 7),
            x_dtype=TYPES,
            y_dtype=("f32",),
            **more,
        )
        yield from cases_of(
            f"attention_split{cache}",
            "teams",
            12,
            subgroups=(True,),
            heads=heads,
            place=places,
            sequence=sequences,
            bounds=bounds,
            splits=(1, 2, 3, 7, 16),
            x_dtype=TYPES,
            y_dtype=("f32",),
            **more,
        )
    yield from cases_of(
        "attention_reduce",
        "heads",
        6,
        tokens=(1, 2, 5),
        heads=(1, 4, 9),
        splits=(1, 2, 7, 64),
        head_dim=(8, 16, 64, 320),
        subgroups=(False,),
    )
    writers = tuple({k: v for k, v in shape.items() if k != "heads"} for shape in heads)
    written = (
        *places,
        {"tokens": 70, "position": 300, "capacity": 130, "ring": True, "sinks": 4},
        {"tokens": 9, "position": 2, "capacity": 12, "ring": True, "sinks": 3},
    )
    yield from cases_of(
        "kv_append",
        "elements",
        12,
        heads=writers,
        place=written,
        sequence=sequences,
        valid=(None, 0, 1, 2, 20, 99),
        x_dtype=TYPES,
        kv_dtype=TYPES,
        y_dtype=("f32",),
        subgroups=(False,),
    )
    for kernel in ("kv_append[kv8]", "kv_append_rows[kv8]"):
        yield from cases_of(
            kernel,
            "heads",
            12,
            heads=writers,
            place=written,
            sequence=sequences,
            valid=(None, 0, 1, 2, 20, 99),
            x_dtype=TYPES,
            y_dtype=("f32",),
        )
    biases = {"biases": ({}, {"q_bias": True, "k_bias": True, "v_bias": True})}
    for kernel, more in (
        ("rope_append", {"kv_dtype": TYPES, **biases}),
        ("rope_append[kv8]", biases),
        ("norm_rope_append", {"kv_dtype": TYPES}),
        ("norm_rope_append[kv8]", {}),
    ):
        yield from cases_of(
            kernel,
            "heads",
            12,
            heads=heads,
            passed=PASSED,
            place=written,
            sequence=sequences,
            valid=(None, 0, 1, 2, 20, 99),
            x_dtype=TYPES,
            **more,
        )
    turners = tuple({k: v for k, v in shape.items() if k != "kv_heads"} for shape in heads)
    turned = tuple({"positions": each["capacity"], **each} for each in places)
    rotations = {
        "heads": turners,
        "passed": PASSED,
        "place": tuple({k: v for k, v in each.items() if k != "capacity"} for each in turned),
        "scattered": (False, True),
        "x_dtype": TYPES,
    }
    yield from cases_of(
        "rope", "pairs", 16, subgroups=(False,), interleaved=(False, True), back_to=(0, 0, 9), **rotations
    )
    yield from cases_of(
        "position_scale",
        "elements",
        12,
        subgroups=(False,),
        width=WIDTHS,
        tokens=(1, 3, 70),
        position=(0, 6, 7, 100),
        floor=(1.0, 8.0, 8192.0),
        scale=(0.1, 3.0),
        x_dtype=TYPES,
    )
    yield from cases_of("head_norm_rope", "heads", 12, **rotations)
    yield from cases_of(
        "head_norm", "heads", 12, heads=turners, tokens=(1, 2, 70), weight=(True, False), x_dtype=TYPES
    )


def all_cases() -> list[Case]:
    """Every case; covers all registered variants, which `test_pairs.py` checks."""
    makers = (
        _elementwise_cases,
        _row_cases,
        _sampling_cases,
        _cache_cases,
        _weight_cases,
        _linear_cases,
        _integer_linear_cases,
        _fused_cases,
        _integer_fused_cases,
        _expert_cases,
    )
    return [case for maker in makers for case in maker()]
