"""What a kernel is: a WGSL source and a PyTorch function that computes the same thing.

A `Kernel` is plain data and knows no device. Its decorated function *is* the reference; the WGSL stands in a file
beside it, one file a variant. Shapes are written with names (`("tokens", "hidden")`); the names become WGSL
constants in upper case, as do parameters and tunables.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from .makers import Maker, options_of

FOLDER = Path(__file__).parent

#: What "float" ports take.
FLOAT_TYPES = ("f32", "f16")


class KernelUsageError(ValueError):
    """A kernel was called with shapes, types or parameters that it does not take.

        wgsl_kernels.get("linear[int3]")

    Its text names what there is instead.
    """


@dataclass(frozen=True)
class Port:
    """One buffer that a kernel reads or writes.

    shape: names or numbers, outermost first. dtype: an element type (`workbench.dtypes`); or "float" where the buffer
    decides between f32 and f16 and the WGSL says `<port>_type`; or "scale", the same without a WGSL type, since a
    library file reads it. uniform: bound as a uniform buffer. optional: may be left out; the header then has a
    function with the neutral value instead of a binding. binding: its number, by default its place in the order;
    optional ports of one number exclude each other. packed: where words hold several signed numbers, the bits of each;
    they are then compared one by one. of: the value that this is one plane of, where an operand takes several buffers
    (the quants of `weight`); plane: which, by default the port's own name.

        wgsl_kernels.Port(("tokens", "hidden"))
    """

    shape: tuple[str | int, ...]
    dtype: str = "float"
    uniform: bool = False
    optional: bool = False
    binding: int | None = None
    packed: int = 0
    of: str = ""
    plane: str = ""


@dataclass(frozen=True)
class Cost:
    """Bytes that must move through memory at least, and floating-point operations (flops), for one call.

        wgsl_kernels.Cost(read=8, written=4, flops=2).bytes == 12

    It is of the op, not of a variant.
    """

    read: float
    written: float
    flops: float

    @property
    def bytes(self) -> float:
        return self.read + self.written


@dataclass(frozen=True)
class Adapter:
    """Facts about a device that variants and rules depend on; data, so that headers can be written without one.

    offset_alignment: what offsets of bindings are multiples of, storage_buffers: what one kernel may bind; by default
    what every WebGPU device takes.

        wgsl_kernels.Adapter(subgroups=True, subgroup_size=32)
    """

    subgroups: bool = False
    subgroup_size: int = 0  # 0: unknown or not constant
    f16: bool = False
    is_cpu: bool = False
    offset_alignment: int = 256
    storage_buffers: int = 8


@dataclass(frozen=True)
class Context:
    """Everything that specialises a variant: sizes, parameters, element types, which optional ports are bound.

    sizes: shape names, parameters and tunables together. types: port -> concrete element type, of bound ports only.

        wgsl_kernels.Context({"n": 100}, {"x": "f32", "y": "f32"}, wgsl_kernels.Adapter())["n"] == 100
    """

    sizes: Mapping[str, int]
    types: Mapping[str, str]
    adapter: Adapter

    def __getitem__(self, name: str):
        return self.sizes[name]


@dataclass(frozen=True)
class Variant:
    """One WGSL source of a kernel.

    file: of the `.wgsl`, as in "norm/rms_norm". tunables: name -> allowed values, the default first. grid: workgroups
    for a context. library: the implementations that a context decides, of what the WGSL needs (`linker`). refuse: says
    why the variant cannot run in a context, or None. defaults: tunables that suit an adapter better than the first
    values. tolerance: as the kernel's, of a variant that computes with less precision. why: when it wins, one line.

        wgsl_kernels.Variant("norm/rms_norm", grid=lambda c: (c["tokens"], 1, 1)).body()
    """

    file: str
    grid: Callable[[Context], tuple[int, int, int]]
    tunables: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    library: Callable[[Context], tuple[str, ...]] = lambda context: ()
    refuse: Callable[[Context], str | None] = lambda context: None
    defaults: Callable[[Context], Mapping[str, int]] = lambda context: {}
    tolerance: Callable[..., dict] | None = None
    why: str = ""
    text: str | None = None  # a source given in place of a file

    def body(self) -> str:
        """The WGSL as it stands in the file."""
        return self.text if self.text is not None else (FOLDER / f"{self.file}.wgsl").read_text("utf-8")


@dataclass(frozen=True)
class Kernel:
    """A pair. See the module's docstring; `kernel` below makes one from a reference function.

    op: what it computes, as plans say it. form: of operands that are more than plain numbers, what they are stored as
    (operand -> the label of its type); of one op there is a kernel for each form. Operands are ports, or several ports
    that name the same `of`.
    values: the reference on what operands stand for, rather than on their planes, where that differs. commutes: two
    inputs that may change places where parameters have their defaults.
    make_inputs: random inputs from a seed; its signature names every option (`makers.handing_on`).
    prepare: computes what depends on weights alone (dequantized weights); the reference takes its result as `weight`,
    so that an executor may cache it. updates: output -> input that both WGSL and reference overwrite in place.
    defaults: of parameters that a call may leave out, as in the reference's signature. derive: sizes that follow from
    others (constants of a format). prefer: the variant to use in a context unless measurement says otherwise, and why.
    tolerance(arguments, expected): bounds of the absolute error by output, from the arithmetic.

        pair = wgsl_kernels.get("silu_mul")
        pair.run_reference(pair.inputs(seed=0, width=100))
    """

    op: str
    reference: Callable
    reads: Mapping[str, Port]
    writes: Mapping[str, Port]
    variants: Mapping[str, Variant]
    make_inputs: Maker
    tolerance: Callable[..., dict]
    cost: Callable[[Mapping[str, int]], Cost]
    form: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, type] = field(default_factory=dict)
    defaults: Mapping[str, int | float | bool] = field(default_factory=dict)
    prepare: Callable | None = None
    prepared_ports: tuple[str, ...] = ()
    updates: Mapping[str, str] = field(default_factory=dict)
    derive: Callable[[Mapping], Mapping] = lambda sizes: {}
    prefer: Callable[[Context], tuple[str, str]] | None = None
    values: Callable | None = None
    commutes: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """ "linear[int4, a8]": the op, and what its operands are stored as."""
        return f"{self.op}[{', '.join(self.form.values())}]" if self.form else self.op

    def operands(self) -> dict[str, dict[str, str]]:
        """Operand -> its planes' ports by the planes' names; of plain numbers the one plane is ""."""
        found: dict[str, dict[str, str]] = {}
        for name, port in {**self.reads, **self.writes}.items():
            found.setdefault(port.of or name, {})[(port.plane or name) if port.of else ""] = name
        return found

    def params_of(self, operand: str, facts: Mapping) -> dict:
        """Parameters that follow from the type of an operand: `<operand>_<fact>` or `<fact>`, where there is one."""
        found = {}
        for fact, value in facts.items():
            for name in (f"{operand}_{fact}", fact):
                if name in self.params:
                    found[name] = value
                    break
        return found

    @property
    def ports(self) -> dict[str, Port]:
        """Inputs, then outputs that are not updates in place: the order of the bindings."""
        fresh = {name: port for name, port in self.writes.items() if name not in self.updates}
        return {**self.reads, **fresh}

    def bindings(self) -> dict[str, int]:
        """Port -> binding number; an optional port keeps its number when it is left out."""
        return {
            name: position if port.binding is None else port.binding
            for position, (name, port) in enumerate(self.ports.items())
        }

    def complete(self, sizes: Mapping) -> dict:
        """Shape names and parameters, with those that follow from them."""
        return {**self.defaults, **self.derive(sizes), **sizes}

    def output_shape(self, name: str, sizes: Mapping) -> tuple[int, ...]:
        return tuple(label if isinstance(label, int) else sizes[label] for label in self.writes[name].shape)

    def choose(self, context: Context, variant: str | None = None) -> tuple[str, str]:
        """The variant to use in a context, and why; raises `KernelUsageError` if `variant` cannot run there."""
        if variant is not None:
            if variant not in self.variants:
                raise KernelUsageError(
                    f"{self.name} has no variant {variant!r}; it has {', '.join(self.variants)}"
                )
            reason = self.variants[variant].refuse(context)
            if reason:
                raise KernelUsageError(f"{self.name}/{variant} cannot run here: {reason}")
            return variant, "asked for"
        if self.prefer is not None:
            return self.prefer(context)
        alone = "the only variant" if len(self.variants) == 1 else "the first variant that can run here"
        for name, candidate in self.variants.items():
            if not candidate.refuse(context):
                return name, candidate.why or alone
        raise KernelUsageError(f"no variant of {self.name} can run on this adapter")

    def specialise(
        self, variant: str, sizes: Mapping, types: Mapping, adapter: Adapter, tunables: Mapping = {}
    ) -> Context:
        """A context with the variant's tunables filled in: given ones, then the adapter's, then the first values."""
        chosen = self.variants[variant]
        plain = Context({**self.complete(sizes)}, types, adapter)
        values = {name: allowed[0] for name, allowed in chosen.tunables.items()}
        values.update(chosen.defaults(plain))
        for name, value in tunables.items():
            if value not in chosen.tunables.get(name, ()) and value != values.get(name):
                allowed = {n: list(v) for n, v in chosen.tunables.items()}
                raise KernelUsageError(f"{self.name}/{variant}: {name}={value} where {allowed} are allowed")
            values[name] = value
        return Context({**plain.sizes, **values}, types, adapter)

    def writable(self, port: str) -> bool:
        return port in self.writes or port in self.updates.values()

    @property
    def takes(self) -> dict[str, inspect.Parameter]:
        """What `inputs` takes by name, with its defaults: sizes, number parameters, types, and which optional ports.

        Raises `KernelUsageError` where make_inputs hides some behind `**`.
        """
        try:
            return options_of(self.make_inputs)
        except ValueError as error:
            raise KernelUsageError(f"{self.name}: make_inputs {error}") from error

    def inputs(self, seed: int = 0, **options) -> dict:
        """Random inputs (torch tensors) and parameters from a seed. Raises `KernelUsageError` for an option that it
        does not take."""
        taken = self.takes
        if unknown := [name for name in options if name not in taken]:
            known = ", ".join(taken)
            raise KernelUsageError(f"{self.name}: inputs take no {unknown[0]!r}; they take {known}")
        return self.make_inputs(seed=seed, **options)

    def run_reference(self, arguments: Mapping) -> dict:
        """The reference on tensors and parameters by name -> outputs by name; the given tensors stay as they are."""
        arguments = dict(arguments)
        for name in self.updates.values():
            arguments[name] = arguments[name].clone()
        if self.prepare is not None:
            names = [n for n in (*self.prepared_ports, *self.params) if n in arguments]
            arguments["weight"] = self.prepare(**{n: arguments[n] for n in names})
            for name in self.prepared_ports:
                arguments.pop(name, None)
        result = self.reference(**arguments)
        results = result if isinstance(result, tuple) else (result,)
        return dict(zip(self.writes, results, strict=True))


REGISTRY: dict[str, Kernel] = {}
#: Name of a pair -> the module that registered it: one of this package, "__main__" for a notebook's cell, ...
ORIGINS: dict[str, str] = {}


def register(pair: Kernel) -> Kernel:
    """Make a pair known by its name, and give it back.

    A name belongs to the module that registers it first. That module may register it again, as a notebook's cell does
    when it is run again: the new pair replaces the old one. Raises `KernelUsageError` for a name that this library or
    another module holds.

        wgsl_kernels.register(dataclasses.replace(wgsl_kernels.get("silu_mul"), op="mine"))
    """
    origin = _registering_module()
    package = __name__.rpartition(".")[0]
    if not origin.startswith(f"{package}."):
        importlib.import_module(package).load_library()  # its names are taken, loaded or not
    holder = ORIGINS.setdefault(pair.name, origin)
    if holder.startswith(f"{package}.") and pair.name in REGISTRY:
        raise KernelUsageError(f"{pair.name!r} is a kernel of {package}; give yours another name")
    if holder != origin:
        raise KernelUsageError(f"{pair.name!r} is a kernel of {holder}, which {origin} cannot replace")
    REGISTRY[pair.name] = pair
    return pair


def forget(name: str) -> None:
    """Take a pair of one's own off the registry.

        wgsl_kernels.forget("mine")

    Raises `KernelUsageError` for the library's and for unknown ones.
    """
    if ORIGINS.get(name, __name__).startswith(__name__.rpartition(".")[0] + "."):
        raise KernelUsageError(f"{name!r} is not a kernel of one's own")
    del REGISTRY[name], ORIGINS[name]


def _registering_module() -> str:
    """Name of the module whose code called into this one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    return frame.f_globals.get("__name__", "__main__") if frame is not None else "__main__"


def kernel(
    *,
    reads: Mapping[str, Port],
    writes: Mapping[str, Port],
    op: str | None = None,
    variants: Mapping[str, Variant] | None = None,
    wgsl: str | None = None,
    grid: Callable[[Context], tuple[int, int, int]] | None = None,
    **parts,
) -> Callable[[Callable], Kernel]:
    """Decorator: the function is the reference, its name the kernel's op unless `op` is given.

        @wgsl_kernels.kernel(wgsl=WGSL, grid=lambda c: (1, 1, 1), reads={"x": Port(("n",))}, writes={"y": Port(("n",))})
        def doubled(x):
            return 2 * x

    variants, or `wgsl` and `grid` for a single one, named "wgsl". The other parts are those of `Kernel`; make_inputs,
    tolerance and cost have defaults (see defaults.py). Raises `KernelUsageError` as `register` does.
    """
    if variants is None and wgsl is not None and grid is not None:
        variants = {"wgsl": Variant("", grid, text=wgsl)}
    elif variants is None or wgsl is not None or grid is not None:
        raise KernelUsageError("a kernel takes variants, or wgsl and grid")

    def make(reference: Callable) -> Kernel:
        given = parts
        if not {"make_inputs", "tolerance", "cost"} <= set(parts):
            from .defaults import defaults_of  # it stands on this module

            given = {**defaults_of(reference, reads, writes, parts.get("params", {})), **parts}
        return register(
            Kernel(op or reference.__name__, reference, dict(reads), dict(writes), dict(variants), **given)
        )

    return make


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def spread(workgroups: int, y: int = 1) -> tuple[int, int, int]:
    """A long first dimension over x and z, since no dimension may exceed 65535 workgroups.

    Kernels recover the index as `id.x + id.z * 32768`, and skip what lies past the end.
    """
    if workgroups <= 32768:
        return (workgroups, y, 1)
    return (32768, y, ceil_div(workgroups, 32768))
