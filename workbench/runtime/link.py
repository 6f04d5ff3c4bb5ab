"""From a device plan to a program, and from one kernel to a complete module. Pure: no device is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wgsl_kernels import Adapter, Context, Kernel, KernelUsageError
from wgsl_kernels.header import Module, write_module
from wgsl_kernels.layout import FLOAT_GROUP
from workbench.errors import OutOfMemoryError
from workbench.plan.count import plane_bytes
from workbench.plan.plan import RING_ROWS, Buffer, plane_name, resolve

from .lowering import DevicePlan, Step, by_rows, row_ranges
from .program import Dispatch, Memory, Pipeline, Program, Target, Upload, Value

#: Inputs that kernels read as uniforms.
UNIFORM = ("state", "options")


@dataclass(frozen=True)
class Linked:
    """A variant for some sizes as a complete module."""

    kernel: Kernel
    variant: str
    context: Context
    module: Module
    grid: tuple[int, int, int]

    @property
    def label(self) -> str:
        """What profilers and debuggers call it."""
        return f"{self.kernel.name}/{self.variant}"

    @property
    def bindings(self) -> tuple[tuple[int, str], ...]:
        """Number and kind of each bound port, in the order of `context.types`."""
        numbers, found = self.kernel.bindings(), []
        for port in self.context.types:
            kind = "storage" if self.kernel.writable(port) else "read-only-storage"
            found.append((numbers[port], "uniform" if self.kernel.ports[port].uniform else kind))
        return tuple(found)

    @property
    def storage_buffers(self) -> int:
        """How many it binds."""
        return sum(kind != "uniform" for _, kind in self.bindings)

    @property
    def own(self) -> bool:
        """Whether its WGSL is not the library's."""
        return self.kernel.variants[self.variant].text is not None


def link_kernel(
    kernel: Kernel,
    sizes: Mapping,
    types: Mapping[str, str],
    adapter: Adapter,
    variant: str | None = None,
    tunables: Mapping[str, int] | None = None,
    dialect: str = "naga",
) -> Linked:
    """types: element type by bound port. Raises `KernelUsageError` for what the variant refuses."""
    name, _ = kernel.choose(Context(kernel.complete(sizes), types, adapter), variant)
    context = kernel.specialise(name, sizes, types, adapter, tunables or {})
    chosen = kernel.variants[name]
    if reason := chosen.refuse(context):
        raise KernelUsageError(f"{kernel.name}/{name} cannot run here: {reason}")
    module = write_module(kernel, chosen, context, dialect)
    return Linked(kernel, name, context, module, chosen.grid(context))


def program_of(
    plan: DevicePlan, head: str, adapter: Adapter, binding_bytes: int, dialect: str = "naga"
) -> Program:
    """The program of a device plan that was lowered for these limits. dialect: the compiler that it is written for."""
    return _Linker(plan, adapter, binding_bytes, dialect).program(head)


class _Linker:
    def __init__(self, plan: DevicePlan, adapter: Adapter, binding_bytes: int, dialect: str):
        self.lowered, self.plan, self.adapter = plan, plan.plan, adapter
        self.binding_bytes, self.dialect = binding_bytes, dialect
        self.modules: dict[str, int] = {}
        self.pipelines: dict[Pipeline, int] = {}
        self.buffers: dict[str, Memory] = {}
        self.uploads: list[Upload] = []
        #: Matrix -> the stack that it lies in.
        self.stacked = {name: stack for stack in plan.stacks.values() for name in stack.names}

    def program(self, head: str) -> Program:
        plan, sizes = self.plan, self.lowered.sizes
        dispatches = [self.dispatch(step) for step in self.lowered.steps]
        values = {
            name: Value(self.arena(name), resolve(shape, sizes), dtype, shape[0] == "tokens")
            for name, (_, shape, dtype) in plan.arrays.items()
            if name in self.lowered.slots
        }
        target = Target(
            head,
            **{name: sizes[name] for name in ("tokens", "capacity", "sequences", "results", "steps")},
            subgroup_size=self.adapter.subgroup_size if self.adapter.subgroups else 0,
            f16=self.adapter.f16,
            binding_bytes=self.binding_bytes,
            back=RING_ROWS
            if any(ring.slots(sizes["capacity"]) < sizes["capacity"] for ring in plan.rings)
            else 0,
        )
        return Program(
            target,
            tuple(self.modules),
            tuple(self.pipelines),
            self.buffers,
            tuple(self.uploads),
            tuple(dispatches),
            values,
            plan.results,
        )

    def dispatch(self, step: Step) -> Dispatch:
        linked = link_kernel(
            step.kernel, step.sizes, step.types, self.adapter, step.variant, step.tunables, self.dialect
        )
        module = self.modules.setdefault(linked.module.code, len(self.modules))
        pipeline = Pipeline(linked.label, module, linked.bindings, linked.module.body_line, linked.own)
        bound = tuple(
            self.bound(*step.ports[port], step.rows if by_rows(step.kernel, port) else None)
            for port in step.types
        )
        writes = tuple(name for name in step.call.outputs.values() if name in self.lowered.slots)
        index = self.pipelines.setdefault(pipeline, len(self.pipelines))
        x, y, z = linked.grid
        return Dispatch(index, bound, (x, y, z), writes)

    # ---- buffers -----------------------------------------------------------------------------------------------

    def bound(self, name: str, plane: str, rows: tuple[int, int] | None) -> tuple[str, int, int]:
        """The bytes behind a plane of a buffer, or behind a range of its rows."""
        buffer = self.plan.buffers[name]
        own = plane_name(name, plane)
        if buffer.kind == "activation":
            arena = self.arena(own)
            return arena, 0, self.buffers[arena].nbytes
        if buffer.kind != "weight":
            return self.whole(buffer, own)
        if not buffer.is_matrix:
            return self.vector(buffer, rows)
        if name in self.stacked:
            stack = self.stacked[name]
            whole, _, size = self.matrix(stack.buffer, plane, None)
            return whole, *stack.part(name, size)
        return self.matrix(buffer, plane, rows)

    def arena(self, own: str) -> str:
        slot = self.lowered.slots[own]
        name = f"activations {slot}"
        self.buffers.setdefault(name, Memory(self.lowered.slot_bytes[slot], "activation"))
        return name

    def whole(self, buffer: Buffer, own: str) -> tuple[str, int, int]:
        size = plane_bytes(buffer, self.lowered.sizes)[own]
        if own not in self.buffers:
            if buffer.initial is None:
                self.buffers[own] = Memory(size, buffer.kind, own in UNIFORM)
            else:
                shape = buffer.resolved(self.lowered.sizes)
                self.buffers[own] = Memory(size, buffer.kind, False, shape, buffer.initial)
        return own, 0, size

    def vector(self, buffer: Buffer, rows: tuple[int, int] | None) -> tuple[str, int, int]:
        first, stop = rows or (0, buffer.rows)
        name = buffer.name if rows is None else f"{buffer.name}[{first}:{stop}]"
        size = 4 * (stop - first)
        if size > self.binding_bytes:
            raise OutOfMemoryError(
                f"{buffer.name} takes {size} bytes, and a binding holds {self.binding_bytes}; load fewer adapters"
            )
        if name not in self.buffers:
            self.buffers[name] = Memory(size, "weight")
            self.uploads.append(
                Upload(buffer.tensor, "values", first, stop, name, 0, "to f32", buffer.offset)
            )
        return name, 0, size

    def matrix(self, buffer: Buffer, plane: str, rows: tuple[int, int] | None) -> tuple[str, int, int]:
        """Of a plane, of all its rows or a range; all planes and ranges of a matrix are declared together, since a
        tensor is read once."""
        own = plane_name(buffer.name, plane)
        name = own if rows is None else f"{own}[{rows[0]}:{rows[1]}]"
        if name not in self.buffers:
            self.declare(buffer)
        return name, 0, self.buffers[name].nbytes

    def declare(self, matrix: Buffer) -> None:
        ranges = row_ranges(matrix, self.binding_bytes)
        sizes = plane_bytes(matrix, {})
        for plane, (own, shape, _) in matrix.planes().items():
            shared = shape[0] != matrix.shape[0]  # one scale for all rows
            row_bytes = sizes[own] if shared else sizes[own] // matrix.rows
            for first, stop in ranges:
                name = own if len(ranges) == 1 else f"{own}[{first}:{stop}]"
                self.buffers[name] = Memory(row_bytes * (1 if shared else stop - first), "weight")
                self.upload(matrix, plane, None if shared else (first, stop), name, row_bytes)

    def upload(
        self, matrix: Buffer, plane: str, rows: tuple[int, int] | None, name: str, row_bytes: int
    ) -> None:
        """Rows of a matrix, from the tensors that lie in it one under the other."""
        padded = not matrix.format.is_quantized and matrix.shape[1] % FLOAT_GROUP
        transform = "padded rows" if padded else "as stored"
        if rows is None:
            self.uploads.append(Upload(matrix.tensor, plane, 0, 0, name, 0, transform))
            return
        above, at = 0, 0
        for tensor, height in self.tensors(matrix):
            first, stop = max(rows[0], above), min(rows[1], above + height)
            if first < stop:
                self.uploads.append(Upload(tensor, plane, first - above, stop - above, name, at, transform))
                at += (stop - first) * row_bytes
            above += height

    def tensors(self, matrix: Buffer) -> list[tuple[str, int]]:
        """Tensors of a matrix or stack, and their rows."""
        if matrix.name in self.lowered.stacks:
            return [(m.tensor, m.rows) for m in self.lowered.stacks[matrix.name].members]
        return [(matrix.tensor, matrix.rows)]
