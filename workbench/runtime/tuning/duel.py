"""Both sides of a place on the device, on the same random inputs: whether they agree, and which is faster."""

from __future__ import annotations

import math

import numpy as np

from wgsl_kernels.pair import FLOAT_TYPES
from workbench.dtypes import NUMPY
from workbench.errors import OutOfMemoryError
from workbench.plan.count import plane_bytes
from workbench.plan.plan import plane_name, resolve

from ..device import Device
from ..lowering import Choice, DevicePlan, Step, by_rows
from ..native import Recorder
from ..pipelines import compile_kernel
from ..rotation import MOST_COPIES, turns
from .cases import PlannedCase, case_of
from .places import PLANNED, SIDES, Place
from .race import USUAL, OutOfTimeError, RaceOptions, entry_of, race
from .report import MEASURED, NOT_REACHED, SKIPPED, Outcome
from .trial import CannotMakeError, workload_of

#: Two sides agree where numbers differ by less than this share of the largest: they add in other orders, and kernels
#: are judged one by one.
AGREE = 2.0**-7


def measure_place(
    place: Place,
    device: Device,
    tuned: Choice | None = None,
    options: RaceOptions = USUAL,
) -> Outcome:
    """Race the two sides of a place, as `measure_case` does candidates. tuned: measured choices of their kernels."""
    alone = PlannedCase(place.case, {})
    try:
        with Duel(device, place, tuned, options.seed) as duel:
            options.check_time()
            if why := duel.disagreement():
                return Outcome(alone, SKIPPED, detail=why)
            found = race(device, duel.recorders, turns=duel.copies, options=options)
    except OutOfTimeError:
        return Outcome(alone, NOT_REACHED)
    except (CannotMakeError, OutOfMemoryError) as error:
        return Outcome(alone, SKIPPED, detail=str(error))
    usual, winner = ((duel.sides[at], {}) for at in (0, found.winner))
    wgsl = place.digest(device.adapter, device.binding_bytes)
    return Outcome(alone, MEASURED, entry_of(found, place.case.name, wgsl, usual, winner, seed=options.seed))


class Duel:
    """Buffers of one place on one device; use as a context manager. sides: the usual one first; recorders: of each,
    once over all copies of what the place is given, which take turns on a GPU.

    Inputs are random, as those of the kernels that compute the place as planned. Raises `CannotMakeError`,
    `OutOfMemoryError`, `DeviceLostError`.
    """

    def __init__(self, device: Device, place: Place, tuned: Choice | None = None, seed: int = 0) -> None:
        self._device, self._place = device, place
        self.sides = sorted(SIDES, key=lambda side: side != place.usual)
        lowered = [place.lowered(side, device.adapter, device.binding_bytes, tuned) for side in self.sides]
        self._plans = lowered
        self._arrays = self._made(lowered[self.sides.index(PLANNED)], seed)
        self.copies = min(
            MOST_COPIES, turns(sum(each.nbytes for each in self._arrays.values()), device.adapter.is_cpu)
        )
        self._given: dict[tuple, list] = {key: [] for key in self._arrays}
        self._slots: list[list] = [[] for _ in lowered]
        try:
            self._allocate()
            self.recorders = [self._recorder(at) for at in range(len(lowered))]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Duel:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        for made in (*self._given.values(), *self._slots):
            for buffer in made:
                self._device.release(buffer)
        self._given, self._slots = {}, []

    def disagreement(self) -> str:
        """What differs between the results of the two sides, "" where they agree."""
        one, other = (self._results(at) for at in range(2))
        for name, expected in one.items():
            apart, largest = np.abs(other[name] - expected).max(), np.abs(expected).max()
            limit = AGREE * largest if self._plans[0].plan.arrays[name][2] in FLOAT_TYPES else 0.0
            if not apart <= limit < np.inf:
                return f"the two sides differ by {apart:.3g} in {name}, whose largest number is {largest:.3g}"
        return ""

    # ---- inside ----------------------------------------------------------------------------------------------

    def _made(self, plan: DevicePlan, seed: int) -> dict[tuple, np.ndarray]:
        """What the place is given, by plane and rows; matrices of a stack as one."""
        found: dict[tuple, np.ndarray] = {}
        for step in plan.steps:
            workload = workload_of(step.kernel, case_of(step.kernel, step.sizes, step.types), seed)
            for port, array in workload.arrays.items():
                if _key(step, port)[0] not in plan.slots:
                    found.setdefault(_key(step, port), array)
        for stack in plan.stacks.values():
            members = ([own for own, *_ in member.planes().values()] for member in stack.members)
            for (own, *_), *parts in zip(stack.buffer.planes().values(), *members, strict=True):
                found[own, None] = np.concatenate([found.pop((part, None)) for part in parts])
        return found

    def _allocate(self) -> None:
        steps = [step for plan in self._plans for step in plan.steps]
        uniform = {_key(s, port) for s in steps for port in s.types if s.kernel.ports[port].uniform}
        for key, array in self._arrays.items():
            for _ in range(self.copies):
                buffer = self._device.buffer(array.nbytes, uniform=key in uniform, label=f"duel: {key[0]}")
                self._given[key].append(buffer)
                self._device.write(buffer, array)
        for made, plan in zip(self._slots, self._plans, strict=True):
            for need in plan.slot_bytes:
                made.append(self._device.buffer(need, label="duel"))

    def _recorder(self, at: int) -> Recorder:
        plan, device = self._plans[at], self._device
        compiled = [
            compile_kernel(device, s.kernel, s.sizes, s.types, s.variant, s.tunables) for s in plan.steps
        ]
        return Recorder(
            [
                (each.pipeline, each.bind(device, self._bound(at, step, copy)), each.grid)
                for copy in range(self.copies)
                for step, each in zip(plan.steps, compiled, strict=True)
            ]
        )

    def _bound(self, at: int, step: Step, copy: int) -> dict:
        slots, buffers = self._plans[at].slots, {}
        for port in step.types:
            key = _key(step, port)
            if key[0] in slots:
                buffers[port] = self._slots[at][slots[key[0]]]
            elif key in self._given:
                buffers[port] = self._given[key][copy]
            else:
                buffers[port] = self._part(at, *step.ports[port], copy)
        return buffers

    def _part(self, at: int, name: str, plane: str, copy: int) -> tuple:
        """Where a plane of a matrix lies in its stack's: buffer, offset, bytes."""
        for stack in self._plans[at].stacks.values():
            if name in stack.names:
                whole = self._given[plane_name(stack.name, plane), None][copy]
                return whole, *stack.part(name, whole.size)
        raise CannotMakeError(
            f"{self._place.case.kernel}: no random input can be made for {plane_name(name, plane)}"
        )

    def _results(self, at: int) -> dict[str, np.ndarray]:
        """What one side gives beside what it updates in place, in f64, by plane."""
        plan, device = self._plans[at], self._device
        updated = {name for call in plan.plan.calls for name in call.outputs.values()}
        for key, made in self._given.items():  # as the other side found it
            if key[0] in updated:
                device.write(made[0], self._arrays[key])
        with device.lock, device.errors():
            encoder = device.wgpu.create_command_encoder()
            compute = encoder.begin_compute_pass(label=f"duel: {self._place.case.kernel}")
            self.recorders[at].between(0, len(plan.steps)).encode(compute)
            compute.end()
            device.wgpu.queue.submit([encoder.finish()])
        found = {}
        for name in plan.plan.results:
            for plane in plane_bytes(plan.plan.buffers[name], plan.sizes):
                if plane in plan.slots:
                    _, shape, dtype = plan.plan.arrays[plane]
                    buffer, count = self._slots[at][plan.slots[plane]], math.prod(resolve(shape, plan.sizes))
                    found[plane] = device.read(buffer, NUMPY[dtype], count).astype(np.float64)
        return found


def _key(step: Step, port: str) -> tuple[str, tuple[int, int] | None]:
    """The plane behind a port, and the rows of it that are bound."""
    return plane_name(*step.ports[port]), step.rows if by_rows(step.kernel, port) else None
