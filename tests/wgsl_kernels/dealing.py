"""Dealing out what the calls of a variant vary in: every value of every option occurs, in combinations that a seed
decides."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import cycle, product

import torch

import wgsl_kernels
from wgsl_kernels import Adapter, Context, Kernel
from wgsl_kernels.experts.sorted import unsorted
from wgsl_kernels.header import Module, write_module
from wgsl_kernels.layout import A8
from wgsl_kernels.numerics import random_tensor
from workbench.runtime.launch import Workload

TYPES = ("f32", "f16")
WIDTHS = (5, 31, 64, 96, 130, 172, 352, 576, 896)
ZERO_POINTS = {
    "int8": ({"symmetric": True}, {}, {"offset": True}),
    "int4": ({"symmetric": True}, {}, {"zero_frac_bits": 3}, {"offset": True}),
    "int2": ({"symmetric": True}, {}, {"zero_frac_bits": 5}, {"offset": True}),
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

    def buffers(self, adapter: Adapter) -> int:
        """How many storage buffers the call binds."""
        kernel = self.pair()
        return sum(not kernel.ports[port].uniform for port in self.context(adapter).types)

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
    op, turn = kernel.split("[")[0], forms.index(kernel) * count
    for name, values in dealt.items():
        if (
            len(values) > count
        ):  # the next ones of an order that all forms share, so that together they have all
            order = random.Random(f"{op}/{variant}/{name}").sample(values, len(values))
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


def weight_options(fmt: str) -> dict[str, tuple]:
    if fmt not in ZERO_POINTS:
        return {}
    return {"blocks": BLOCKS, "zero_points": ZERO_POINTS[fmt], "scale_dtype": ("f16", "f32")}


def in_f16(options: Mapping[str, tuple]) -> dict[str, tuple]:
    """Those of the options that variants in f16 arithmetic take."""
    whole = tuple(n for n in options["columns"] if n % 8 == 0)
    return {**options, "columns": (*whole, 8, 40, 72), "x_dtype": ("f16",)}


def team_cases(
    kernel: str, variant: str = "gemv", *, fused: bool = False, **options: tuple
) -> Iterator[Case]:
    """Cases of a variant with teams: one a workgroup anywhere; several need whole subgroups (8 lanes on lavapipe)."""
    tunables = wgsl_kernels.get(kernel).variants[variant].tunables
    least = FUSED_CASES if fused else MOST_CASES
    yield from cases_of(kernel, variant, 9, least=least, tunables={**tunables, "teams": (1,)}, **options)
    several = {
        **{name: values[:3] for name, values in tunables.items()},
        "workgroup": (64, tunables["workgroup"][-1]),
        "teams": tuple(n for n in tunables["teams"] if n > 1),
    }
    dealt, turn = (
        covering(f"{kernel.split('[')[0]}/teams", 3, several),
        forms_with(kernel, variant).index(kernel),
    )
    taken = [dealt[(turn + i) % 3] for i in range(FUSED_TEAMS)] if fused else dealt
    for number, choice in enumerate(taken, 9):
        case = next(cases_of(kernel, variant, 9, tunables={}, **{**options, "subgroups": (True,)}))
        yield replace(case, number=number, tunables=choice)


def few_team_cases(kernel: str, **options: tuple) -> Iterator[Case]:
    """As `team_cases`, of what is made of parts that have cases of their own: a case of each form with one team, and
    one of each number of teams in some form."""
    gemv = wgsl_kernels.get(kernel).variants["gemv"].tunables
    forms = forms_with(kernel, "gemv")
    turn = forms.index(kernel)
    chosen = {name: (*each, None)[turn % (len(each) + 1)] for name, each in gemv.items() if name != "teams"}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    case = next(cases_of(kernel, "gemv", 1, least=1, tunables={}, **options))
    yield replace(case, tunables={**chosen, "teams": 1} if chosen else {})  # {}: what suits the adapter
    for number, teams in enumerate(gemv["teams"][1:], 9):
        if (number - 9) % len(forms) == turn:
            case = next(
                cases_of(kernel, "gemv", 1, least=1, tunables={}, **{**options, "subgroups": (True,)})
            )
            rows = gemv["rows_per_team"]
            threads = {"workgroup": gemv["workgroup"][0], "rows_per_team": rows[number % len(rows)]}
            yield replace(case, number=number, tunables={**threads, "teams": teams})


def fitting_cases(kernel: str, variant: str, lanes: int = 0, **options: tuple) -> Iterator[Case]:
    """Cases of a variant that uses workgroup memory: the default tunables, and as few that fit into it as have every
    value among them. lanes: of a subgroup, where teams are whole ones."""
    adapter = Adapter(subgroups=lanes > 0, subgroup_size=lanes)
    details = wgsl_kernels.get(kernel).variants[variant]
    every = [
        dict(zip(details.tunables, chosen, strict=True)) for chosen in product(*details.tunables.values())
    ]
    random.Random(kernel).shuffle(every)
    left = [each for each in every if not details.refuse(Context(each, {}, adapter))]
    unseen = {item for each in left for item in each.items()}
    chosen = [{}]
    while unseen:
        chosen.append(max(left, key=lambda each: len(unseen & each.items())))
        unseen -= chosen[-1].items()
    cases = cases_of(kernel, variant, 9, least=len(chosen), tunables={}, **options)
    yield from (replace(case, tunables=each) for case, each in zip(cases, cycle(chosen), strict=False))


def integer_batch_cases(kernel: str, **options: tuple) -> Iterator[Case]:
    """Cases of `batch` in integers: teams are subgroups or parts of one (8 lanes on lavapipe); without subgroups a
    workgroup is one team."""
    yield from fitting_cases(kernel, "batch", 8, **{**options, "subgroups": (True,)})
    alone = {**options, "subgroups": (False,)}
    yield from cases_of(kernel, "batch", 2, first=20, least=2, tunables={}, **alone)


def deal(kernel: str, variant: str, **options: tuple) -> Iterator[Case]:
    """Cases of a variant of a linear layer, by what its tunables are."""
    if variant == "tile":
        return fitting_cases(kernel, "tile", **options)
    if variant == "batch" and wgsl_kernels.get(kernel).form.get("x") == A8:
        return integer_batch_cases(kernel, **options)
    teams = "teams" in wgsl_kernels.get(kernel).variants[variant].tunables
    return team_cases(kernel, variant, **options) if teams else cases_of(kernel, variant, 9, **options)
