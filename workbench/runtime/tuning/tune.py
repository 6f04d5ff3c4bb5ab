"""Tuning a model: check every candidate of a kernel, race those that pass, remember the winner; then race the two ways
to lower a place of its plans, with these kernels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import wgsl_kernels
from wgsl_kernels import Kernel, KernelUsageError
from workbench.errors import OutOfMemoryError, WorkbenchError
from workbench.files.reading import read_bytes
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.strict_json import strict_json
from workbench.models.architecture import Architecture
from workbench.models.families import architecture_of
from workbench.models.keys import shown
from workbench.models.paths import expanded
from workbench.models.source import open_source
from workbench.models.specs import describe_as, described_in

from ..choices import choose
from ..device import Device
from ..pipelines import Compiled
from ..sampling import as_real
from ..wgpu_executor import STEPS, chunk_sizes
from .candidates import Candidate, candidates, differences, digest
from .cases import Case, PlannedCase, planned_cases
from .duel import measure_place
from .places import Place, Places
from .race import FEWEST, ROUNDS, USUAL, OutOfTimeError, RaceOptions, entry_of, race
from .report import MEASURED, NOT_REACHED, ONE_WAY, REMEMBERED, SKIPPED, Outcome, Report
from .store import Store, open_store, warn
from .trial import CannotMakeError, Trial
from .tuned import Tuned

#: What needs so many times the fastest's time, and more than so many seconds, is not raced: its samples would take
#: longest and tell least.
HOPELESS, LONG = 8.0, 0.1
#: (cases done, cases in all, what comes next); a case that the budget leaves out is not done.
Progress = Callable[[int, int, str], None]


def tune(  # many parameters: the options of the command line
    model: str | Path,
    *,
    tokens: Sequence[int] | None = None,
    kernels: Sequence[str] | None = None,
    fmt: WeightFormat | None = None,
    dtype: str = "f32",
    max_tokens: int | None = None,
    cache: str | None = None,
    adapter: str | int | None = None,
    budget: float | None = None,
    force: bool = False,
    rounds: int = ROUNDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Measure the kernels of a model on this machine's adapter; `workbench.load` uses the winners from then on.

        workbench.tune("DIR", tokens=(1,), kernels=["attention"], budget=20)

    model: a folder or hub id, of which only names, shapes and formats are read; or a `config.json` (or a folder that
    holds nothing else), together with `fmt`. fmt: format of every matrix instead of the stored one. tokens: of the
    steps to tune for, by default all that the engine cuts prompts into. kernels: names, also of rules (`places`), by
    default all. dtype, max_tokens, cache, adapter: as for `workbench.load`. budget: seconds after which it stops.
    force: measure again what is remembered. rounds: of the heats and of the final, each.
    Raises `NoAdapterError`, `DeviceLostError`, `WorkbenchError`, and what loading a model raises.
    """
    if rounds < FEWEST:
        raise WorkbenchError(f"rounds are at least {FEWEST}, not {rounds}: fewer have no spread")
    if budget is not None and ((seconds := as_real(budget)) is None or seconds < 0):
        raise WorkbenchError(
            f"budget = {shown(budget)}; allowed: a finite number of seconds from 0 on, or None"
        )
    config, describe = _described(model, fmt)
    chosen = choose(config, "wgpu", dtype, max_tokens, cache, adapter)
    device = chosen.device
    have = chunk_sizes(config, device.binding_bytes)
    if unknown := [n for n in tokens or () if n not in have]:
        raise WorkbenchError(f"no step has {unknown[0]} tokens; steps have {', '.join(map(str, have))}")
    places = Places()
    planned = planned_cases(
        config,
        describe,
        tokens or have,
        activations=chosen.dtype,
        cache=cache,
        capacity=chosen.max_tokens,
        adapter=device.adapter,
        binding_bytes=device.binding_bytes,
        steps=STEPS,
        places=places,
    )
    found = list(places.found.values())
    if kernels is not None:
        there = sorted({each.case.kernel for each in (*planned, *found)})
        asked = {name: {name, *(pair.name for pair in _select(name))} for name in kernels}
        if unknown := [name for name, pairs in asked.items() if not pairs.intersection(there)]:
            raise WorkbenchError(f"this model runs no kernel {unknown[0]!r}; it runs {', '.join(there)}")
        wanted = set().union(*asked.values())
        planned = [each for each in planned if each.case.kernel in wanted]
        found = [each for each in found if each.case.kernel in wanted]
    return tune_cases(
        planned,
        device,
        open_store(device),
        places=found,
        budget=budget,
        force=force,
        options=RaceOptions(rounds, seed),
        progress=progress,
    )


def _described(model: str | Path, fmt: WeightFormat | None) -> tuple[Architecture, Callable]:
    """Configuration and description of the tensors, from the weights' headers or from config.json alone."""
    path = expanded(model)
    if path.is_dir() and not (path / "manifest.json").is_file() and not any(path.glob("*.safetensors")):
        path /= "config.json"
    if path.is_file():
        try:
            values = strict_json(read_bytes(path))
        except FormatError as error:
            raise WorkbenchError(f"{path}: {error}") from error
        if not isinstance(values, dict):
            raise WorkbenchError(f"{path} is not a model's configuration: it holds no object")
        if fmt is None:
            raise WorkbenchError(
                f"{path} does not say how weights are stored: give a format, such as int4/128"
            )
        config = architecture_of(values)
        return config, described_in(config.tensors(), fmt)
    source = open_source(model, verify=False)
    config = architecture_of(source.config)
    return config, source.describe if fmt is None else describe_as(source.describe, fmt)


def _select(name: str) -> list[Kernel]:
    try:
        return wgsl_kernels.library().select(name)
    except KernelUsageError:
        return []


def tune_cases(
    planned: Iterable[PlannedCase],
    device: Device,
    store: Store | None,
    *,
    places: Iterable[Place] = (),
    budget: float | None = None,
    force: bool = False,
    options: RaceOptions = USUAL,
    progress: Progress | None = None,
) -> Report:
    """Measure cases in the given order, then places; each winner is written to the store at once, if there is one."""
    by_name, began = {place.case.name: place for place in places}, time.perf_counter()
    planned = [*planned, *(PlannedCase(place.case, {}) for place in by_name.values())]
    options = replace(options, deadline=None if budget is None else began + budget)
    known = Tuned.of(store)
    outcomes: list[Outcome] = []

    def tell(doing: str) -> None:
        if progress:
            done = sum(each.status != NOT_REACHED for each in outcomes)
            progress(done, len(planned), doing)

    for each in planned:
        tell(f"{each.case.kernel} {each.case.shape}, {each.case.tokens} token(s)")
        case, place = each.case, by_name.get(each.case.name)
        entry = None
        if not force and place is not None:
            entry = known.side(place, device.adapter, device.binding_bytes)
        elif not force:
            entry = known.entry(wgsl_kernels.get(case.kernel), case.sizes, case.types, device.adapter)
        if entry is not None:
            outcomes.append(Outcome(each, REMEMBERED, entry))
        elif options.deadline is not None and time.perf_counter() >= options.deadline:
            outcomes.append(Outcome(each, NOT_REACHED))
        else:
            if place is not None:  # between kernels as they are chosen by now
                outcome = measure_place(place, device, Tuned.of(store), options)
            else:
                outcome = replace(measure_case(case, device, options), planned=each)
            outcomes.append(outcome)
            if outcome.entry is not None and store is not None:
                try:
                    store.add([outcome.entry])
                except OSError as error:  # what was measured is still worth a table
                    warn(f"{store.path} cannot be written ({error}); nothing more is remembered")
                    store = None
    tell("")
    return Report(
        tuple(outcomes),
        device=device.name,
        path=store.path if store is not None else None,
        seconds=time.perf_counter() - began,
    )


def measure_case(
    case: Case,
    device: Device,
    options: RaceOptions = USUAL,
    *,
    kernel: Kernel | None = None,
) -> Outcome:
    """Check and race the candidates of one case. kernel: the pair, by default the registered one of that name.

    A default that fails its check is never kept: the fastest of the others is then taken, and `Outcome.detail` says
    so. Raises `DeviceLostError`.
    """
    kernel = kernel or wgsl_kernels.get(case.kernel)
    alone = PlannedCase(case, {})
    try:
        found = candidates(kernel, case.sizes, case.types, device.adapter)
    except KernelUsageError as error:
        return Outcome(alone, SKIPPED, detail=str(error))
    if len(found) < 2:
        return Outcome(alone, SKIPPED, detail=ONE_WAY)
    failed: list[str] = []
    try:
        with Trial(device, case, options.seed, kernel) as trial:
            passed, compiled = _checked(trial, found, failed, options)
            if not passed:
                return Outcome(alone, SKIPPED, detail=f"no candidate passed; {failed[0]}")
            result = race(device, trial.recorders(compiled), options=options)
    except OutOfTimeError:
        return Outcome(alone, NOT_REACHED)
    except (CannotMakeError, OutOfMemoryError) as error:
        return Outcome(alone, SKIPPED, detail=str(error))
    default = found[0]
    if passed[0] is default:
        winner = passed[result.winner]
    else:
        winner = passed[result.rival if result.faster > 0 else result.default]
    sides = [(each.variant, each.tunables) for each in (default, winner)]
    entry = entry_of(result, case.name, digest(found), *sides, failed=failed, seed=options.seed)
    if passed[0] is default:
        return Outcome(alone, MEASURED, entry)
    entry = replace(entry, default_seconds=None)
    return Outcome(alone, MEASURED, entry, detail=f"the default did not pass: {failed[0]}")


def _checked(
    trial: Trial, found: list[Candidate], failed: list[str], options: RaceOptions
) -> tuple[list[Candidate], list[Compiled]]:
    """Candidates worth racing, with their pipelines; why others failed goes into `failed`.

    A value of a tunable that alone makes its variant hopelessly slow is not tried together with others.
    """
    passed, compiled, best = [], [], math.inf
    defaults = {each.variant: each.tunables for each in reversed(found)}
    hopeless: set[tuple[str, str, int]] = set()
    for candidate in found:
        options.check_time()
        changed = [
            (candidate.variant, *each)
            for each in differences(candidate.tunables, defaults[candidate.variant])
        ]
        if hopeless.intersection(changed):
            continue
        checked = trial.check(candidate)
        if checked.compiled is None:
            failed.append(f"{candidate}: {checked.wrong}")
            continue
        best = min(best, checked.seconds)
        if candidate is not found[0] and checked.seconds > max(LONG, HOPELESS * best):
            hopeless.update(changed[:1] if len(changed) == 1 else ())
            continue
        passed.append(candidate)
        compiled.append(checked.compiled)
    return passed, compiled
