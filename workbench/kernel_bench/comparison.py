"""What comparing a kernel's variants with its reference gives: plain data, shown as a table, HTML or JSON."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from wgsl_kernels.judge import Errors, Mismatch
from workbench.known import known
from workbench.runtime.messages import Place
from workbench.runtime.rotation import ROTATED_BYTES
from workbench.runtime.timing import Timing
from workbench.show.html import folded
from workbench.show.table import Table

from .arithmetic import arithmetic

if TYPE_CHECKING:
    from workbench.show.figures import Picture

PASSED = "passed"
WRONG_NUMBERS = "wrong numbers"
WRONG_SHAPE = "wrong shape"
COMPILE_ERROR = "compile error"
RUNTIME_ERROR = "runtime error"
TIMED_OUT = "timed out"
UNSUPPORTED = "unsupported"
STATUSES = (PASSED, WRONG_NUMBERS, WRONG_SHAPE, COMPILE_ERROR, RUNTIME_ERROR, TIMED_OUT, UNSUPPORTED)


@dataclass(frozen=True)
class VariantResult:
    """One variant. detail: why it has not passed. chosen: whether it is the one used where nothing was measured.

    errors: one entry an output. timing: only of what passed. bytes, flops: of one call, by the kernel's cost model.
    wgsl: the generated module, empty where none could be written. wgsl_sha256: its hash. body_line: how many of its
    lines stand in front of the variant's own file. places: where in that file it does not compile.
    """

    variant: str
    status: str
    detail: str = ""
    chosen: bool = False
    tunables: Mapping[str, int] = field(default_factory=dict)
    errors: tuple[Errors, ...] = ()
    timing: Timing | None = None
    bytes: float = 0.0
    flops: float = 0.0
    wgsl: str = ""
    wgsl_sha256: str = ""
    body_line: int = 0
    places: tuple[Place, ...] = ()

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status is one of {', '.join(STATUSES)}, not {self.status!r}")
        if self.timing is not None and self.status != PASSED:
            raise ValueError(f"{self.variant}: a variant that is {self.status!r} has no time")

    @property
    def seconds(self) -> float:
        """Of a call: the median, of a variant that was timed."""
        return known(self.timing).median

    @property
    def gb_per_s(self) -> float | None:
        """10^9 bytes that must move at least, a second; from the median time."""
        return self.bytes / self.timing.median / 1e9 if self.timing else None

    @property
    def gflop_per_s(self) -> float | None:
        """10^9 operations a second; None where there is no time, or the kernel's cost names no operations."""
        return self.flops / self.timing.median / 1e9 if self.timing and self.flops else None

    def worst(self, name: str) -> float | None:
        """The worst over the outputs of a statistic: `max_abs`, `rms`, `worst` (greatest) or `sqnr` (least)."""
        values = [getattr(each, name) for each in self.errors]
        if not values:
            return None
        return min(values) if name == "sqnr" else max(values)


@dataclass(frozen=True, repr=False)
class Comparison:
    """All variants of a kernel on the same inputs on one device. `print` it, or leave it at a cell's end.

    sizes: everything the shapes were made of. types: element type of the buffers by port. label: "CPU" where the
    adapter is software, else "GPU": what the times are times of. copies, rotated_bytes: so many copies of the weights
    (or inputs) took turns, so large together. read_ceiling: bytes a second of a read-only sweep, where one was
    measured; compute_ceilings: operations a second by arithmetic, likewise; ceilings_when: as the legend says it.
    peers: other people's kernels for the same work.
    """

    kernel: str
    seed: int
    sizes: Mapping[str, float]
    device: str
    label: str
    results: tuple[VariantResult, ...]
    reference_source: str
    copies: int
    rotated_bytes: int
    provenance: Mapping[str, Any]
    read_ceiling: float | None = None
    compute_ceilings: Mapping[str, float] = field(default_factory=dict)
    ceilings_when: str = "in the same run"
    peers: tuple[VariantResult, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, variant: str) -> VariantResult:
        for result in self.results:
            if result.variant == variant:
                return result
        raise KeyError(f"{variant!r} was not compared; {', '.join(r.variant for r in self.results)} were")

    @property
    def reference_sha256(self) -> str:
        return hashlib.sha256(self.reference_source.encode()).hexdigest()

    @property
    def shape(self) -> str:
        """The sizes in short."""
        return shape_of(self.sizes, self.types)

    @property
    def fastest(self) -> VariantResult | None:
        """The variant with the least median time, None where none was timed."""
        timed = [result for result in self.results if result.timing]
        return min(timed, key=lambda result: result.seconds) if timed else None

    def share(self, result: VariantResult) -> float | None:
        """Of the read bandwidth measured in the same run."""
        if self.read_ceiling is None or result.gb_per_s is None:
            return None
        return result.gb_per_s * 1e9 / self.read_ceiling

    def compute_share(self, result: VariantResult) -> float | None:
        """Of the rate measured in the same run of the arithmetic that the variant's WGSL uses.

        None for peers, and where the kernel's cost names no operations.
        """
        ceiling = self.compute_ceilings.get(arithmetic(result.wgsl) or "")
        if ceiling is None or result.gflop_per_s is None:
            return None
        return result.gflop_per_s * 1e9 / ceiling

    def plot(self, kind: str = "timing") -> Picture:
        """A figure of "timing" (every sample), "roofline" or "errors" (relative to their bounds), in matplotlib.

        Raises ValueError where there is nothing to draw: no times, no ceilings or operations, no errors.
        """
        from .variant_plots import FIGURES

        if kind not in FIGURES:
            raise ValueError(f"kind is one of {', '.join(FIGURES)}, not {kind!r}")
        return FIGURES[kind](self)

    def speedup(self, peer: VariantResult) -> float | None:
        """How many times as fast the fastest variant is as a peer; None where either has no time."""
        if self.fastest is None or peer.timing is None:
            return None
        return peer.seconds / self.fastest.seconds

    def to_json(self) -> dict[str, Any]:
        """JSON values; infinities and NaN are the strings "inf", "-inf" and "nan"."""
        return plain(asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_json` gave these values of."""
        both = {name: tuple(map(_result, values.get(name, ()))) for name in ("results", "peers")}
        return cls(**{**values, **both})

    def head(self) -> list[str]:
        """The table's columns."""
        share = ["share of reads"] if self.read_ceiling is not None else []
        compute = ["share of compute"] if self.compute_ceilings else []
        errors = ["max error", "RMS", "SQNR, dB", "error/bound"]
        return [
            "variant",
            "status",
            *errors,
            f"us a call ({self.label})",
            "spread",
            "GB/s",
            *share,
            "GFLOP/s",
            *compute,
        ]

    def cells(self, result: VariantResult) -> list[str]:
        """The table's row of one variant."""
        timed = ["–"] * (4 + (self.read_ceiling is not None) + bool(self.compute_ceilings))
        if timing := result.timing:
            low, high = timing.spread
            share = [f"{self.share(result):.1%}"] if self.read_ceiling is not None else []
            compute = [_number(self.compute_share(result), ".1%")] if self.compute_ceilings else []
            timed = [
                f"{timing.median * 1e6:.2f}",
                f"{low * 1e6:.2f} to {high * 1e6:.2f}",
                f"{result.gb_per_s:.2f}",
                *share,
                _number(result.gflop_per_s, ".2f"),
                *compute,
            ]
        return [
            result.variant + (" *" if result.chosen else ""),
            result.status,
            *(_number(result.worst(name), ".2e") for name in ("max_abs", "rms")),
            _number(result.worst("sqnr"), ".1f"),
            _number(result.worst("worst"), ".3g"),
            *timed,
        ]

    def legend(self) -> list[str]:
        """What the table's figures mean, one line each."""
        lines = ["* is used where nothing was measured; errors are against the reference in f64"]
        timings = [result.timing for result in self.results if result.timing]
        if timings:
            if self.copies == 1:
                turns = "the weights stay where they are, in the cache if they fit"
            else:
                turns = f"{self.copies} copies of the weights in turns ({self.rotated_bytes / 1e6:.2g} MB)"
                if self.label == "GPU" and self.rotated_bytes < ROTATED_BYTES:
                    turns += "; a cache may hold them"
            lines.append(
                f"times: median and range of up to {max(len(t.samples) for t in timings)} interleaved rounds, "
                f"clock: {timings[0].clock}, {timings[0].warm * 1e3:.0f} ms of the same work before each; {turns}"
            )
        if self.read_ceiling is not None:
            software = (
                "; software computes, so this is not a limit of the memory" if self.label == "CPU" else ""
            )
            lines.append(
                f"a read-only sweep {self.ceilings_when}: {self.read_ceiling / 1e9:.1f} GB/s{software}"
            )
        if self.compute_ceilings:
            rates = ", ".join(f"{name} {rate / 1e9:.1f}" for name, rate in self.compute_ceilings.items())
            lines.append(f"arithmetic {self.ceilings_when}, 10^9 operations a second: {rates}")
        megahertz = [mhz for timing in timings for mhz in timing.mhz]
        if megahertz:
            lines.append(f"GPU clock after the samples: {min(megahertz):.0f} to {max(megahertz):.0f} MHz")
        return lines

    def notes(self) -> list[str]:
        """The legend, and why a variant has not passed."""
        return [
            *self.legend(),
            *self.standings(),
            *(f"{r.variant}: {r.detail}" for r in (*self.results, *self.peers) if r.detail),
        ]

    def standings(self) -> list[str]:
        """How the fastest variant stands against each peer, one line each."""
        lines = []
        for peer in self.peers:
            times = self.speedup(peer)
            if times is None or self.fastest is None:
                continue
            lines.append(f"{self.fastest.variant} is {times:.2f} times as fast as {peer.variant}")
        return lines

    @property
    def heading(self) -> str:
        """The title with the sizes in short, for figures."""
        return f"{self.kernel}, {self.shape}, on {self.device.split(' (')[0]}"

    @property
    def title(self) -> str:
        sizes = ", ".join(f"{name}={value:g}" for name, value in self.sizes.items())
        return f"{self.kernel} ({sizes}; seed {self.seed}) on {self.device}"

    def __repr__(self) -> str:
        statuses = ", ".join(f"{r.variant} {r.status}" for r in (*self.results, *self.peers))
        return f"<Comparison of {self.kernel}: {statuses}>"

    def table(self) -> Table:
        """A row a variant and a peer."""
        rows = [self.cells(result) for result in (*self.results, *self.peers)]
        return Table(self.head(), rows, "llr", self.title, self.notes())

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        texts = {f"{self.kernel}: the reference": self.reference_source}
        texts |= {f"{each.variant}: generated WGSL": each.wgsl for each in self.results if each.wgsl}
        return "".join([self.table()._repr_html_(), *(folded(title, text) for title, text in texts.items())])


def shape_of(sizes: Mapping[str, float], types: Mapping[str, str]) -> str:
    """ "1024x1024, block 128, x f16", or all sizes of a kernel without rows and columns."""
    halves = ", x f16" if types.get("x") == "f16" else ""
    if not {"rows", "columns"} <= set(sizes):
        return ", ".join(f"{name}={value:g}" for name, value in sizes.items()) + halves
    block = f", block {sizes['block']}" if "block" in sizes else ""
    tokens = f"{sizes['tokens']} x " if sizes.get("tokens", 1) != 1 else ""
    return f"{tokens}{sizes['rows']}x{sizes['columns']}{block}{halves}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def plain(value: Any) -> Any:
    """Dataclass contents as JSON values."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _result(values: Mapping[str, Any]) -> VariantResult:
    timing = values["timing"]
    if timing is not None:
        timing = Timing(
            **{**timing, "samples": tuple(timing["samples"]), "mhz": tuple(timing.get("mhz", ()))}
        )
    found = tuple(_errors(each) for each in values["errors"])
    places = tuple(Place(**each) for each in values.get("places", ()))
    return VariantResult(**{**values, "errors": found, "timing": timing, "places": places})


def _errors(values: Mapping[str, Any]) -> Errors:
    floats = {name: float(values[name]) for name in ("max_abs", "rms", "sqnr", "worst")}
    first = tuple(
        Mismatch(tuple(each["at"]), *(float(each[name]) for name in ("got", "expected", "bound")))
        for each in values["first"]
    )
    return Errors(**{**values, **floats, "first": first, "ratios": tuple(values.get("ratios", ()))})
