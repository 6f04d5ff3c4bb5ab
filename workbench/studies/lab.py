"""Versions of a kernel's WGSL beside the variants it came from: written, judged, timed in the same rounds, kept.

    lab = Lab("linear[int4]", rows=1024, columns=1024)
    lab.run()                                   # the library's variants
    lab.edit(text, base="gemv")                 # a version: judged at once, and timed beside the others if it passes
    print(lab)
    print(lab.in_model("runs/demo/models/int4", text=text))     # the last that passed, inside a model

A version is a variant whose WGSL text was changed: it keeps the grid, the tunables and the library files of its base.
All that `run` compares takes its turns in the same rounds, so that ratios of times may be read sample by sample.
"""

from __future__ import annotations

import difflib
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import wgsl_kernels
from wgsl_kernels import Kernel, KernelUsageError, Library, Variant
from workbench.browser.kernels import PageKernels
from workbench.kernel_bench.ceilings import Ceilings, known_ceilings
from workbench.kernel_bench.compare import ROUNDS, compare
from workbench.kernel_bench.comparison import PASSED, Comparison, VariantResult
from workbench.kernel_bench.request import typed
from workbench.kernel_bench.sizes import worthwhile
from workbench.known import known
from workbench.runtime.device import Device, open_device
from workbench.runtime.launch import resolve
from workbench.show.figures import Picture

if TYPE_CHECKING:
    from .in_model import InModel

#: Seconds that one call of a version may take.
BUDGET = 10.0
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,39}")


@dataclass(frozen=True)
class Version:
    """One edited text. base: the variant whose grid, tunables and library files it has. original: the base's text.

    tunables: values that replace the base's defaults. result: of its last run, None before the first.
    """

    name: str
    base: str
    text: str
    original: str
    tunables: Mapping[str, int] = field(default_factory=dict)
    result: VariantResult | None = None

    @property
    def status(self) -> str:
        return self.result.status if self.result else "not run"

    def diff(self, against: Version | None = None) -> str:
        """A unified diff from the original text (or from another version) to this one; empty if they are the same."""
        before, name = (against.text, against.name) if against else (self.original, self.base)
        lines = difflib.unified_diff(
            before.splitlines(), self.text.splitlines(), name, self.name, lineterm=""
        )
        return "\n".join(lines)

    def variant(self, base: Variant) -> Variant:
        """The base with this text, as a variant that a kernel can have."""
        return replace(
            base, text=self.text, defaults=lambda context: {**base.defaults(context), **self.tunables}
        )


class Lab:
    """One kernel under study. sizes: as for `Kernel.inputs`; those not given are those of a layer of an 8B Llama, less
    on a CPU (`workbench.kernel_bench.sizes`).

    device: of this process, or the page's (`workbench.browser.kernels.PageKernels`), where kernels then run; its
    ceilings are not measured. variants: names that `run` compares (default: all that the kernel has). budget: seconds
    that one call may take; versions are tried in another process first, so one that never ends costs this long and
    nothing else. `comparison` is the last run, `versions` everything that was edited, in order. Raises
    `KernelUsageError` for names and sizes that the kernel does not have, `NoAdapterError`.
    """

    def __init__(
        self,
        kernel: Kernel | str,
        *,
        variants: Sequence[str] | None = None,
        seed: int = 0,
        rounds: int = ROUNDS,
        budget: float = BUDGET,
        dtype: str = "f32",
        device: Device | PageKernels | None = None,
        **sizes: Any,
    ):
        self.kernel, self.device = resolve(kernel), device or open_device()
        self.seed, self.rounds, self.budget, self.dtype = seed, rounds, budget, dtype
        self.sizes = worthwhile(self.kernel, self.device.adapter.is_cpu, sizes)
        self.ceilings: Ceilings | None = None
        self._versions: dict[str, Version] = {}
        self._comparison: Comparison | None = None
        self.chosen: list[str] = list(self.kernel.variants)
        self.choose(list(self.kernel.variants) if variants is None else variants)

    # ---- what there is ---------------------------------------------------------------------------------------

    @property
    def versions(self) -> tuple[Version, ...]:
        return tuple(self._versions.values())

    def __getitem__(self, name: str) -> Version:
        if name not in self._versions:
            raise KeyError(f"no version is named {name!r}; there are {', '.join(self._versions) or 'none'}")
        return self._versions[name]

    @property
    def in_page(self) -> bool:
        """Whether kernels run on the adapter of the page that shows a widget."""
        return isinstance(self.device, PageKernels)

    @property
    def pair(self) -> Kernel:
        """The kernel with its versions as further variants: for `workbench.run_kernel` and `workbench.compare`."""
        own = {v.name: v.variant(self.kernel.variants[v.base]) for v in self.versions}
        return replace(self.kernel, variants={**self.kernel.variants, **own})

    @property
    def comparison(self) -> Comparison | None:
        """The last run, with the ceilings if they were measured; None before the first."""
        if self._comparison is None or self.ceilings is None:
            return self._comparison
        return replace(
            self._comparison,
            read_ceiling=self.ceilings.read,
            compute_ceilings=self.ceilings.compute,
            ceilings_when="at another time in this process",
        )

    def text(self, name: str) -> str:
        """The WGSL of a variant's own file, or of a version."""
        self._check([name])
        version = self._versions.get(name)
        return version.text if version else self.kernel.variants[name].body()

    # ---- what is done ----------------------------------------------------------------------------------------

    def choose(self, names: Sequence[str]) -> None:
        """What `run` compares."""
        self._check(names)
        self.chosen = list(dict.fromkeys(names))

    def resize(self, *, seed: int | None = None, dtype: str | None = None, **sizes: Any) -> None:
        """Other sizes, another seed or element type from the next run on; what was measured before is dropped.

        The inputs are made once, to see whether the kernel takes them. Where it does not, its `KernelUsageError` comes
        through, and everything stays as it was.
        """
        seed, dtype = self.seed if seed is None else seed, dtype or self.dtype
        sizes = worthwhile(self.kernel, self.device.adapter.is_cpu, {**self.sizes, **sizes})
        self.kernel.inputs(seed=seed, **{**typed(self.kernel, dtype), **sizes})
        self.sizes, self.seed, self.dtype = sizes, seed, dtype
        self._comparison = None
        self._versions = {name: replace(each, result=None) for name, each in self._versions.items()}

    def run(self, names: Sequence[str] | None = None) -> Comparison:
        """Compare `names` (default: the chosen ones) in the same rounds; one of them at least."""
        names = self.chosen if names is None else names
        self.check_some(names)
        self.choose(names)
        found = self._compare(self.chosen, self.rounds)
        # Another thread may have forgotten a version meanwhile.
        known = [each for each in found.results if each.variant in self._known]
        found = self._comparison = replace(found, results=tuple(known))
        self._keep(found)
        return found

    def check_some(self, names: Sequence[str]) -> None:
        """Raises `KernelUsageError` where there is nothing for `run` to compare."""
        if not names:
            raise KernelUsageError(
                f"nothing is chosen to compare; {self.kernel.name} has {', '.join(self._known)}"
            )

    def edit(
        self,
        text: str,
        base: str | None = None,
        *,
        name: str | None = None,
        tunables: Mapping[str, int] | None = None,
        time: bool = True,
    ) -> Version:
        """Judge a new text, and if it passes and `time` is set, run it in the same rounds as the chosen ones.

        base: a variant, or a version whose base and tunables it shares (default: the first variant). tunables: those
        that differ from the base's. name: by default v1, v2, ... A version that passes is among the chosen ones from
        now on.
        """
        base = base if base is not None else next(iter(self.kernel.variants))
        self._check([base])
        parent = self._versions.get(base)
        variant = parent.base if parent else base
        values = {**(parent.tunables if parent else {}), **(tunables or {})}
        self._check_tunables(variant, values)
        name = self._new_name(name)
        self._versions[name] = Version(name, variant, text, self.kernel.variants[variant].body(), values)
        try:
            self._keep(self._compare([name], 0))
        except BaseException:
            del self._versions[name]
            raise
        if self[name].status == PASSED:
            self.chosen.append(name)
            if time:
                self.run()
        return self[name]

    def forget(self, name: str) -> None:
        """Drop a version."""
        self[name]
        del self._versions[name]
        self.chosen = [each for each in self.chosen if each != name]
        if self._comparison is not None:
            left = tuple(each for each in self._comparison.results if each.variant != name)
            self._comparison = replace(self._comparison, results=left)

    def library(self, name: str | None = None, *, everywhere: bool = False) -> Library:
        """The registered kernels with one version in the place of its base, for `workbench.load`.

        name: default, the last version that passed. everywhere: also where another variant would be used. Raises
        `KernelUsageError` for one that did not pass, or where there is none.
        """
        if name is None:
            name = next((each.name for each in reversed(self.versions) if each.status == PASSED), None)
            if name is None:
                raise KernelUsageError(f"no version of {self.kernel.name} has passed; edit() makes one")
        self._check([name])
        version = self._versions.get(name)
        if version is None:
            raise KernelUsageError(
                f"{name!r} is a variant of {self.kernel.name}, and no version that was edited"
            )
        if version.status != PASSED:
            raise KernelUsageError(f"{name} of {self.kernel.name} has not passed: {version.status}")
        variant = version.variant(self.kernel.variants[version.base])
        library = wgsl_kernels.library().with_kernels(self.kernel)
        base = None if everywhere else version.base
        return library.with_variant(self.kernel.name, name, variant, instead_of=base)

    def in_model(
        self, model: Any, name: str | None = None, *, everywhere: bool = False, **options: Any
    ) -> InModel:
        """What a version does to a whole model's speed and perplexity: `workbench.studies.in_model.in_model`."""
        from .in_model import in_model

        return in_model(model, self.library(name, everywhere=everywhere), **options)

    def measure_ceilings(self) -> Ceilings:
        """What this device reaches at most (`workbench.kernel_bench.ceilings`); `KernelUsageError` for a page's."""
        if isinstance(self.device, PageKernels):
            raise KernelUsageError("ceilings are measured on devices of this process, not on a page's")
        self.ceilings = known_ceilings(self.device)
        return self.ceilings

    # ---- what is shown ---------------------------------------------------------------------------------------

    @property
    def results(self) -> tuple[VariantResult, ...]:
        """Those of the last run, then the versions that were not in it."""
        ran = self._comparison.results if self._comparison else ()
        names = {each.variant for each in ran}
        return (*ran, *(v.result for v in self.versions if v.result and v.name not in names))

    def speedup(self, name: str, against: str | None = None) -> tuple[float, float, float] | None:
        """How many times as fast a version is as its base (or as `against`): median, least, greatest over the rounds.

        Of samples taken in the same round; None where either was not timed in the last run.
        """
        against = against or (self[name].base if name in self._versions else None)
        timed = {each.variant: each.timing for each in self.results if each.timing}
        if against is None or name not in timed or against not in timed:
            return None
        pairs = zip(timed[against].samples, timed[name].samples, strict=False)
        ratios = [before / after for before, after in pairs]
        return statistics.median(ratios), min(ratios), max(ratios)

    def data(self) -> Any:
        """A pandas DataFrame, one row a variant or version; times in seconds, bandwidth in byte/s."""
        import pandas

        return pandas.DataFrame([self._row(each) for each in self.results])

    def plot(self, kind: str = "timing") -> Picture:
        """`Comparison.plot` of the last run; "roofline" measures the ceilings first. Raises ValueError before one."""
        if self._comparison is None:
            raise ValueError("nothing has run; run() first")
        if kind == "roofline" and self.ceilings is None:
            self.measure_ceilings()
        return known(self.comparison).plot(kind)

    def notes(self) -> list[str]:
        """What the last run's table leaves unsaid, and how the versions stand."""
        lines = self.comparison.legend() if self.comparison else []
        for each in self.versions:
            ratio = self.speedup(each.name)
            if ratio:
                median, low, high = ratio
                lines.append(
                    f"{each.name} is {median:.2f} ({low:.2f} to {high:.2f}) times as fast as {each.base}"
                )
        if self.versions and not self.device.adapter.is_cpu and not self.in_page:
            lines.append("versions keep the checks of array bounds that files of the library go without")
        return lines

    def __repr__(self) -> str:
        names = [*self.kernel.variants, *self._versions]
        return f"<Lab of {self.kernel.name}: {', '.join(names)}>"

    def __str__(self) -> str:
        parts = [str(self.comparison)] if self.comparison else [f"{self.kernel.name}: nothing has run"]
        for each in self.versions:
            places = each.result.places if each.result else ()
            parts.append(f"{each.name} (from {each.base}): {each.status}")
            parts += [f"    {place}" for place in places]
        return "\n".join(parts)

    # ---- inside ----------------------------------------------------------------------------------------------

    def _compare(self, names: Sequence[str], rounds: int) -> Comparison:
        device = self.device
        run = device.compare if isinstance(device, PageKernels) else partial(compare, device=device)
        return run(
            self.pair,
            self.seed,
            names,
            rounds=rounds,
            budget=self.budget,
            y_dtype=self.dtype,
            **typed(self.kernel, self.dtype),
            **self.sizes,
        )

    def _keep(self, found: Comparison) -> None:
        for each in found.results:
            if each.variant in self._versions:
                self._versions[each.variant] = replace(self._versions[each.variant], result=each)

    @property
    def _known(self) -> list[str]:
        return [*self.kernel.variants, *self._versions]

    def _check(self, names: Sequence[str]) -> None:
        if unknown := [name for name in names if name not in self._known]:
            raise KernelUsageError(
                f"{self.kernel.name} has no variant or version {unknown[0]!r}; it has {', '.join(self._known)}"
            )

    def _check_tunables(self, variant: str, values: Mapping[str, int]) -> None:
        allowed = self.kernel.variants[variant].tunables
        for name, value in values.items():
            if value not in allowed.get(name, ()):
                there = {n: list(v) for n, v in allowed.items()}
                raise KernelUsageError(f"{variant}: {name}={value!r} where {there} are allowed")

    def _new_name(self, name: str | None) -> str:
        taken = self._known
        if name is None:
            count = 1 + sum(re.fullmatch(r"v\d+", each) is not None for each in self._versions)
            while f"v{count}" in taken:
                count += 1
            return f"v{count}"
        if not NAME.fullmatch(name):
            raise KernelUsageError(f"{name!r} is not a name: letters, digits, space, _ . and -, 40 at most")
        if name in taken:
            raise KernelUsageError(f"there is a {name!r} already; forget it first, or take another name")
        return name

    def _row(self, each: VariantResult) -> dict[str, Any]:
        timing, version = each.timing, self._versions.get(each.variant)
        found = self.comparison
        ratio = self.speedup(each.variant) if version else None
        return {
            "name": each.variant,
            "base": version.base if version else each.variant,
            "status": each.status,
            "detail": each.detail,
            **{name: each.worst(name) for name in ("max_abs", "rms", "sqnr")},
            "error_over_bound": each.worst("worst"),
            "median_s": timing.median if timing else None,
            "low_s": timing.spread[0] if timing else None,
            "high_s": timing.spread[1] if timing else None,
            "bytes_per_s": each.bytes / timing.median if timing else None,
            "share_of_reads": found.share(each) if found else None,
            "flop_per_s": each.flops / timing.median if timing and each.flops else None,
            "times_as_fast": ratio[0] if ratio else None,
        }
