"""Certificates: what an adapter computes of every kernel's every variant, beside references in f64.

A case is one call: random inputs of a fixed seed, a variant's module, and what the reference gives of the inputs with
how far off the variant may be. At the end stands a whole model (`model_case`). `pack` writes all cases as one file of
data, which `certificate.js` plays in a browser or in Node; `native` runs the same cases here. A certificate is the JSON
of what came of it, sealed by a checksum: it shows that nobody has changed it since by mistake, and proves nothing of
where it comes from.
"""

from __future__ import annotations

import functools
import hashlib
import json
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import wgsl_kernels
from eval.report import Tabular, finite, ppl_text
from wgsl_kernels import Adapter, Kernel, KernelUsageError
from wgsl_kernels.judge import Expectation, comparable, judge
from wgsl_kernels.numerics import TORCH_TYPES
from workbench.errors import KernelError, WorkbenchError
from workbench.runtime.export import SUBGROUPS, page_adapter
from workbench.runtime.launch import Workload, run_kernel, tensor_bytes
from workbench.runtime.link import Linked, link_kernel
from workbench.runtime.provenance import commit, kernels_hash, versions
from workbench.show.progress import Steps

from .model_case import ModelCase

KIND = "webgpu-quant-workbench/certificate"
CASES_KIND = "webgpu-quant-workbench/cases"
VERSION = 2
#: Versions that are read; the first has no model.
READABLE = (1, 2)
SEED = 1
#: Inputs by what `Kernel.inputs` takes, the first that a variant can run on.
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"block": 64},
    {"x_dtype": "f16"},
    {"head_dim": 32},
    {"sequences": 1, "sequence": 0},
)
#: Where a tensor begins in a file of cases: at a multiple of so many bytes.
ALIGNED = 16


@dataclass(frozen=True)
class Case:
    """One variant on its inputs. lanes: of the subgroups that its module is for; 0: it uses none."""

    linked: Linked
    arguments: Mapping[str, Any]
    expectation: Expectation
    lanes: int

    @property
    def kernel(self) -> Kernel:
        return self.linked.kernel

    def facts(self) -> dict[str, Any]:
        return {"kernel": self.kernel.name, "variant": self.linked.variant, "lanes": self.lanes}


def cases(
    lanes: Sequence[int] = SUBGROUPS,
    dialect: str = "tint",
    kernels: Sequence[str] | None = None,
    steps: Steps = lambda done, total, name: None,
) -> Iterator[Case]:
    """Every variant of every kernel, or of some, on inputs of `SEED`, in f32 where it takes them; with subgroups, for
    each of `lanes`. Raises KernelUsageError for a kernel that there is none of."""
    chosen = [wgsl_kernels.get(name) for name in dict.fromkeys(kernels or wgsl_kernels.names())]
    for done, kernel in enumerate(chosen):
        steps(done, len(chosen), kernel.name)
        call = functools.cache(functools.partial(_Call, kernel))
        taken = [place for place, options in enumerate(OPTIONS) if set(options) <= set(kernel.takes)]
        for variant in kernel.variants:
            found = (list(call(place).cases(variant, lanes, dialect)) for place in taken)
            yield from next(filter(None, found), [])
    steps(len(chosen), len(chosen), "")


class _Call:
    """A kernel's inputs with one of `OPTIONS`, and what the reference gives of them."""

    def __init__(self, kernel: Kernel, place: int):
        self._work = Workload.random(kernel, SEED, **OPTIONS[place])
        self._expectation: Expectation | None = None

    def cases(self, variant: str, lanes: Sequence[int], dialect: str) -> Iterator[Case]:
        """Nothing where the variant takes other inputs."""
        for count in dict.fromkeys((0, *lanes)):
            kernel, types = self._work.kernel, self._work.types
            adapter = page_adapter(count, f16="f16" in types.values())
            try:
                linked = link_kernel(kernel, self._work.sizes, types, adapter, variant, dialect=dialect)
            except KernelUsageError:  # it needs subgroups, or other inputs
                continue
            if linked.module.uses_subgroups == bool(count):
                self._expectation = self._expectation or Expectation(kernel, self._work.arguments)
                yield Case(linked, self._work.arguments, self._expectation, count)


class _Packer:
    """Tensors and modules, each stored once."""

    def __init__(self) -> None:
        self.modules: dict[str, int] = {}
        self.tensors: list[list[int]] = []
        self._parts: list[bytes] = []
        self._known: dict[bytes, int] = {}
        self._at = 0

    def tensor(self, array: np.ndarray) -> int:
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._known:
            self._known[key] = len(self.tensors)
            self.tensors.append([self._at, len(data)])
            padded = data + bytes(-len(data) % ALIGNED)
            self._parts.append(padded)
            self._at += len(padded)
        return self._known[key]

    def module(self, code: str) -> int:
        return self.modules.setdefault(code, len(self.modules))

    def case(self, case: Case) -> dict[str, Any]:
        kernel, context = case.kernel, case.linked.context
        ports = list(context.types)
        return {
            **case.facts(),
            "module": self.module(case.linked.module.code),
            "f16": case.linked.module.uses_f16,
            "grid": case.linked.grid,
            "bindings": case.linked.bindings,
            "buffers": [self.tensor(initial(case.linked, case.arguments, port)) for port in ports],
            "outputs": [
                {
                    "name": name,
                    "buffer": ports.index(kernel.updates.get(name, name)),
                    "dtype": context.types[kernel.updates.get(name, name)],
                    "packed": kernel.writes[name].packed,
                    "expected": self.tensor(expected.numpy()),
                    "bound": self.tensor(bound.broadcast_to(expected.shape).numpy()),
                }
                for name, (expected, bound) in case.expectation.of(case.linked.variant).items()
            ],
        }

    def data(self) -> bytes:
        return b"".join(self._parts)


def initial(linked: Linked, arguments: Mapping[str, Any], port: str) -> np.ndarray:
    """What lies in a port's buffer before the call: outputs are poisoned, so that what is not written shows."""
    if port in arguments:
        return tensor_bytes(arguments[port])
    context = linked.context
    dtype = TORCH_TYPES[context.types[port]]
    poison = float("nan") if dtype.is_floating_point else -0x32323233
    return tensor_bytes(torch.full(linked.kernel.output_shape(port, context.sizes), poison, dtype=dtype))


def pack(
    found: Iterable[Case] | None = None, model: ModelCase | None = None, only: Sequence[str] = ()
) -> bytes:
    """Cases as data: bytes of the head (u32, little-endian), the head in JSON, and tensors behind it. only: names of
    the kernels, where the cases are not those of all.

    Kernels that bind more storage buffers than browsers promise, as those with adapters do, are left out. Raises
    KernelUsageError where no case is left.
    """
    packer, most = _Packer(), Adapter.storage_buffers
    packed = [packer.case(case) for case in found or cases() if case.linked.storage_buffers <= most]
    if not packed:
        raise KernelUsageError(
            f"{', '.join(only)}: they bind more than the {most} storage buffers that browsers promise; certify them "
            "with --in wgpu"
        )
    head = {
        "kind": CASES_KIND,
        "version": VERSION,
        "seed": SEED,
        "about": about(only),
        "modules": list(packer.modules),
        "cases": packed,
        "model": model.packed(packer.tensor) if model else None,
        "tensors": packer.tensors,
    }
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 4) % ALIGNED)
    return struct.pack("<I", len(text)) + text + packer.data()


def about(only: Sequence[str] = ()) -> dict[str, Any]:
    """What was certified. only: the kernels, where not all are."""
    part = {"only": list(only)} if only else {}
    return {"kernels_sha256": kernels_hash(), "workbench": versions()["workbench"], **commit(), **part}


def native(
    device: Any, found_cases: Iterable[Case] | None = None, only: Sequence[str] = ()
) -> dict[str, Any]:
    """The cases on a device of this process, as `certificate.js` gives them. only: as of `pack`."""
    lanes = lanes_of(device)
    found = []
    for case in found_cases or cases((lanes,), dialect="naga"):
        if case.linked.module.uses_f16 and not device.adapter.f16:
            continue
        if case.linked.storage_buffers > device.adapter.storage_buffers:
            continue
        result: dict[str, Any] = {**case.facts(), "status": "within", "worst": 0.0, "elements": 0, "off": 0}
        try:
            began = time.perf_counter()
            got = run_kernel(case.kernel, case.arguments, variant=case.linked.variant, device=device)
            result["us"] = 1e6 * (time.perf_counter() - began)
        except KernelError as error:
            found.append(result | {"status": f"does not compile: {error}", "worst": None, "us": None})
            continue
        for name, (expected, bound) in case.expectation.of(case.linked.variant).items():
            errors = judge(name, comparable(case.kernel, name, got[name]), expected, bound)
            result["worst"] = max(result["worst"], errors.worst)
            result["elements"] += errors.elements
            result["off"] += errors.off
        found.append(result | {"status": "beyond" if result["off"] else "within"})
    where = {"runtime": f"wgpu {versions()['wgpu']}", "adapter": device.name, "lanes": lanes}
    features = sorted(device.wgpu.features)
    head = {"seed": SEED, "about": about(only), "where": where | {"features": features}}
    return {**head, "timed": "one call, with compiling and copies", "cases": found}


def lanes_of(device: Any) -> int:
    """Of a device's subgroups; 0 where it has none of one size."""
    return device.adapter.subgroup_size if device.adapter.subgroups else 0


def certificate(results: Mapping[str, Any]) -> str:
    """The file of a certificate: the content as text, whose sum is the seal."""
    content = json.dumps(finite(results))
    head = {"kind": KIND, "version": VERSION, "seal": hashlib.sha256(content.encode()).hexdigest()}
    return json.dumps({**head, "content": content}, indent=1)


def opened(text: str, where: str) -> dict[str, Any]:
    """The content of a certificate. Raises WorkbenchError for what is none, or was changed after it was sealed."""
    try:
        found = json.loads(text)
        if found["kind"] != KIND:
            raise ValueError("another kind")
        if found["version"] not in READABLE:
            raise WorkbenchError(
                f"{where}: a certificate of version {found['version']}; this workbench reads "
                f"{' and '.join(map(str, READABLE))}"
            )
        content = found["content"]
        if hashlib.sha256(content.encode()).hexdigest() != found["seal"]:
            raise WorkbenchError(f"{where}: was changed after it was sealed; certify again")
        return json.loads(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WorkbenchError(f"{where}: no certificate; `workbench certify` writes them ({error})") from error


class Certificates(Tabular):
    """A row a certificate: where, how many cases are within their bounds, the largest error over its bound."""

    caption = "every variant of every kernel beside its reference in f64"

    def __init__(self, named: Mapping[str, Mapping[str, Any]]):
        self._named = named
        self.notes = tuple(
            f"{name}: of {', '.join(only)} alone"
            for name, found in named.items()
            if (only := found.get("about", {}).get("only"))
        )

    def rows(self) -> list[dict[str, Any]]:
        return [_row(name, found) for name, found in self._named.items()]

    @property
    def models(self) -> CertifiedModels:
        """What the certificates say of whole models; no rows where none was run."""
        return CertifiedModels(
            {name: found["model"] for name, found in self._named.items() if found.get("model")}
        )

    def beyond(self) -> list[str]:
        """Cases that are not within their bounds, or did not run; the model likewise."""
        return [f"{name}: {line}" for name, found in self._named.items() for line in _beyond(found)]


class CertifiedModels(Tabular):
    """A row a certificate with a model: the greedy text, logits and perplexity beside the references'."""

    caption = "a model's greedy text, logits and perplexity beside its references in f64"

    def __init__(self, named: Mapping[str, Mapping[str, Any]]):
        self._named = named
        self.notes = tuple(line for name, found in named.items() for line in _parted(name, found))

    def rows(self) -> list[dict[str, Any]]:
        return [_model_row(name, found) for name, found in self._named.items()]


def _parted(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    """Where a model's text parts from the references', if it does."""
    if first := (found.get("tokens") or {}).get("first"):
        yield (
            f"{name}: token {first['at']} of the text is {first['here']}, and the reference's {first['there']}, whose "
            f"logit stands {first['gap']:.2g} above the next; up to {2 * found['logits']['bound']:.2g} is a tie"
        )


def _beyond(found: Mapping[str, Any]) -> Iterator[str]:
    for case in found["cases"]:
        if case["status"] != "within":
            yield f"{case['kernel']}/{case['variant']}, {case['lanes']} lanes: {case['status']}"
    model = found.get("model")
    if model is not None and model["status"] != "within":
        yield f"{model['name']}: {model['status']}"


def _row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    where, ran = found["where"], found["cases"]
    worst = [case["worst"] for case in ran if case["worst"] is not None]
    times = [case["us"] for case in ran if case["us"]]
    return {
        "certificate": name,
        "runtime": where["runtime"],
        "adapter": where["adapter"],
        "lanes": where["lanes"],
        "cases": len(ran),
        "within": sum(case["status"] == "within" for case in ran),
        "error / bound": max(worst) if worst else None,
        "median, us": float(np.median(times)) if times else None,
        "kernels": found["about"]["kernels_sha256"][:8],
    }


def _model_row(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Only name and status where it did not run."""
    tokens, logits, ppl = (found.get(part) for part in ("tokens", "logits", "perplexity"))
    largest = logits["largest"] if logits else None
    return {
        "certificate": name,
        "model": found["name"],
        "manifest": found["manifest_sha256"][:8],
        "status": found["status"],
        "same tokens": f"{tokens['equal']} of {tokens['count']}" if tokens else None,
        "logit error / bound": largest / logits["bound"] if logits and largest is not None else None,
        "perplexity": ppl_text(ppl["here"]) if ppl else None,
        "the reference's": ppl_text(ppl["there"]) if ppl else None,
        "windows": f"{ppl['windows']} of {ppl['protocol']}" if ppl else None,
    }
