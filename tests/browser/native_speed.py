"""Decoded tokens a second of a page's modules in Node with Dawn, beside the native engine, on this machine's GPU.

    python -m tests.browser.native_speed --like llama-3-8b --format int4/128 --tokens 256
    python -m tests.browser.native_speed --like llama-3-8b --node NODE --package FOLDER --folder /dev/shm

Random weights in a published shape are written as a page loads them. The engine of `workbench.load` and the modules
continue the same prompt greedily, in turns that begin with the other engine each time, after a round that is not
counted; the rate is that of the tokens behind the first. Prints a table in Markdown for each kind of activations: the
rates; of a step the microseconds from when groups of it were recorded until they have run ("step"), which is what the
device takes where recording is hidden behind it; and what recording a dispatch costs the host, in its three parts.

Needs Node 20 and npm's `webgpu` (FOLDER/node_modules/webgpu, of which package.json, index.js and dist/linux-x64 are
enough). Nothing else should run meanwhile. Each `--dawn` adds a row of Dawn with features that no page can ask for,
such as `disable_robustness`, to see what they cost.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import workbench
from workbench.errors import WorkbenchError
from workbench.formats.text import parse_format
from workbench.formats.writer import ModelWriter
from workbench.model_bench.synthetic import RandomSource, shape_config
from workbench.models.source import open_source
from workbench.runtime.export import export_programs
from workbench.runtime.program import Program
from workbench.runtime.step import Step
from workbench.runtime.wgpu_executor import WgpuExecutor

SUPPORT = Path(__file__).resolve().parent.parent / "support"
SCRIPT = SUPPORT / "native_speed_node.js"
#: What both engines run: prompts, and greedy tokens.
HEADS = ("last", "greedy")
#: Steps of a group that is recorded (in a longer one the processor may be taken away), groups that are recorded before
#: they run, and how often that is done.
STEPS, GROUPS, RECORDINGS = 4, 16, 5
#: The same, of a step without one of its kernels.
LEFT_OUT = 3


class Node:
    """`native_speed_node.js` in a process. Raises `WorkbenchError` with what it says."""

    def __init__(self, node: str, package: Path, toggles: Sequence[str], environment: dict[str, str]):
        self._process = subprocess.Popen(
            [node, str(SCRIPT), str(package), *toggles],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | environment,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with suppress(BrokenPipeError):  # what it has said stands in its stderr
            print(json.dumps({"do": do, **request}), file=stdin, flush=True)
        line = stdout.readline()
        if not line:
            raise WorkbenchError(f"Node ended with status {self._process.wait()}")
        answer = json.loads(line)
        if problem := answer.get("error") or answer.get("missing"):
            raise WorkbenchError(f"Node says: {problem}")
        return answer

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate()


@contextmanager
def started(node: str, package: Path, features: str) -> Iterator[tuple[Node, int]]:
    """Node on this machine's adapter, else on Chromium's software one, and the lanes of the adapter's subgroups.

    features: of Dawn's, with commas between them; "" for those of a page."""
    toggles = [f"enable-dawn-features={features}"] if features else []
    found = Node(node, package, toggles, {})
    try:
        try:
            lanes = found.ask("adapter")["lanes"]
        except WorkbenchError:
            # needs pytest, which machines with a GPU can do without
            from tests.support.dawn import swiftshader

            if (icd := swiftshader()) is None:
                raise
            found.close()
            found = Node(node, package, toggles, {"VK_DRIVER_FILES": icd, "VK_ICD_FILENAMES": icd})
            lanes = found.ask("adapter")["lanes"]
        yield found, lanes
    finally:
        found.close()


@dataclass(eq=False)
class Engine:
    """rates: tokens a second of each round. parts: microseconds a dispatch of encoding, finishing and submitting, of
    each recording; steps: microseconds a step."""

    name: str
    rates: list[float] = field(default_factory=list)
    parts: list[tuple[float, float, float]] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    dispatches: int = 0

    def recorded(self, found: dict[str, Any]) -> None:
        self.parts.append((found["encode"], found["finish"], found["submit"]))
        self.steps.append(found["step"])
        self.dispatches = found["dispatches"]


@dataclass(frozen=True)
class Run:
    """What both engines do: `count` tokens behind a prompt."""

    prompt: tuple[int, ...]
    count: int
    rounds: int

    @property
    def capacity(self) -> int:
        return len(self.prompt) + max(self.count, STEPS * GROUPS) + 1


def write_model(folder: Path, shape: str, format: str) -> None:
    """Random weights, as `convert` would write them."""
    source = RandomSource(shape, shape_config(shape), parse_format(format))
    with ModelWriter(folder, config=source.config) as writer:
        for name in source.names():
            writer.add(source.tensor(name))


def write_native(model: Any, run: Run) -> tuple[list[int], float]:
    """The tokens, and seconds from the first to the last."""
    with closing(model.session()) as session:
        session.feed(run.prompt[:-1])
        tokens, first = [], 0.0
        for drawn in session.stream(run.prompt[-1], run.count):
            first = first or time.perf_counter()
            tokens.append(drawn.id)
        return tokens, time.perf_counter() - first


def labels_of(program: Program) -> list[str]:
    """The kernel of each dispatch."""
    return [program.pipelines[each.pipeline].label for each in program.dispatches]


def record_native(model: Any, run: Run, without: str | None = None) -> dict[str, Any]:
    """What `record` of `native_speed_node.js` gives, of the native engine."""
    executor = model.executor
    assert isinstance(executor, WgpuExecutor)
    device = executor.device
    cache = executor.new_cache(run.capacity)
    try:
        recorders = [executor.recorder("greedy", 1, cache, ())]
        if without is not None:
            labels = labels_of(executor.program("greedy", 1, cache))
            recorders = [r for r, label in zip(recorders[0].apart(), labels, strict=True) if label != without]
        executor.write_inputs(cache, 1, Step.following(np.array(run.prompt[-1:]), len(run.prompt)))
        device.read(cache.buffers["history"], np.uint32, 1)
        encode = finish = 0.0
        commands = []
        for _ in range(GROUPS):
            began = time.perf_counter()
            encoder = device.wgpu.create_command_encoder()
            compute = encoder.begin_compute_pass(label="recorded")
            for _ in range(STEPS):
                for recorder in recorders:
                    recorder.encode(compute)
            compute.end()
            encoded = time.perf_counter()
            commands.append(encoder.finish())
            encode, finish = encode + encoded - began, finish + time.perf_counter() - encoded
        recorded = time.perf_counter()
        device.wgpu.queue.submit(commands)
        submit = time.perf_counter() - recorded
        device.read(cache.buffers["history"], np.uint32, 1)
        ended = time.perf_counter() - recorded
    finally:
        executor.free_cache(cache)
    dispatches = sum(map(len, recorders))
    each = 1e6 / (GROUPS * STEPS * dispatches)
    parts = {"encode": encode * each, "finish": finish * each, "submit": submit * each}
    return {**parts, "step": ended * 1e6 / (GROUPS * STEPS), "dispatches": dispatches}


def compare(
    folder: Path, nodes: dict[str, Node], lanes: int, activations: str, run: Run, kernels: bool = False
) -> str:
    """Markdown of what the engines do with the model in a folder, whose programs are written there. nodes: by the
    features of Dawn's that they have, pages' first. kernels: with what each kernel takes."""
    export_programs(
        open_source(folder / "model"),
        folder / "programs",
        max_tokens=run.capacity,
        heads=HEADS,
        types=(activations,),
        subgroups=(lanes,),
        overwrite=True,
    )
    model = workbench.load(folder / "model", backend="wgpu", dtype=activations, max_tokens=run.capacity)
    request = {"folder": str(folder), "activations": activations, "rows": len(run.prompt)}
    loaded = [node.ask("load", **request) for node in nodes.values()]
    python = Engine("Python")
    dawns = {
        Engine(f"Node with Dawn{features and f', {features}'}"): node for features, node in nodes.items()
    }
    engines = [python, *dawns]
    for turn in range(1 + run.rounds):
        at = turn % len(engines)
        for engine in engines[at:] + engines[:at]:
            if engine is python:
                engine.tokens, seconds = write_native(model, run)
            else:
                found = dawns[engine].ask("write", ids=run.prompt, count=run.count)
                engine.tokens, seconds = found["tokens"], found["seconds"]
            if turn:
                engine.rates.append((run.count - 1) / seconds)
    for _ in range(RECORDINGS):
        python.recorded(record_native(model, run))
        for engine, node in dawns.items():
            engine.recorded(node.ask("record", position=len(run.prompt), steps=STEPS, groups=GROUPS))
    text = told(engines, loaded[0], f"{model.device_name}; activations {activations}")
    if kernels:
        text += by_kernel(engines, model, dawns, run)
    for node in nodes.values():
        node.ask("close")
    return text


def by_kernel(engines: Sequence[Engine], model: Any, dawns: dict[Engine, Node], run: Run) -> str:
    """Markdown of the microseconds of a step that each kernel takes: by how much less a step without it takes, of
    `LEFT_OUT` each. What kernels of both are called may differ by how they were lowered."""
    cache = model.executor.new_cache(run.capacity)
    found = {engines[0]: Counter(labels_of(model.executor.program("greedy", 1, cache)))}
    model.executor.free_cache(cache)
    found |= {engine: Counter(node.ask("kernels")["labels"]) for engine, node in dawns.items()}

    def taken(engine: Engine, label: str | None) -> float:
        request = {"position": len(run.prompt), "steps": STEPS, "groups": GROUPS, "without": label}

        def once() -> float:
            dawn = dawns.get(engine)
            return (dawn.ask("record", **request) if dawn else record_native(model, run, label))["step"]

        return statistics.median(once() for _ in range(LEFT_OUT))

    whole = {engine: taken(engine, None) for engine in engines}
    lines = [
        "",
        "",
        f"| kernel | {' | '.join(each.name for each in engines)} |",
        f"|:--|{'--:|' * len(engines)}",
    ]
    for label in dict.fromkeys(label for labels in found.values() for label in labels):
        cells = [
            f"{found[e][label]} x {(whole[e] - taken(e, label)) / found[e][label]:.2f}"
            if found[e][label]
            else ""
            for e in engines
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def told(engines: Sequence[Engine], facts: dict[str, Any], native: str) -> str:
    """Markdown of one comparison; the first engine is the one that others are compared with."""

    def spread(values: Sequence[float], digits: int = 1) -> str:
        low, high = min(values), max(values)
        return f"{statistics.median(values):,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"

    features = ", ".join(facts["features"]) or "none"
    lines = [
        native,
        f"{facts['runtime']}: {facts['adapter']}; {facts['bundle']}; features: {features}",
        "",
        "| engine | tokens/s, median (range) | share | tokens | step, us | dispatches | recording, us a dispatch "
        "| encode + finish + submit |",
        "|:--|--:|--:|:--|--:|--:|--:|:--|",
    ]
    first = engines[0]
    for each in engines:
        share = statistics.median(each.rates) / statistics.median(first.rates)
        pairs = enumerate(zip(first.tokens, each.tokens, strict=True))
        parts_at = next((at for at, (one, other) in pairs if one != other), None)
        same = "the same" if parts_at is None else f"others from {parts_at} on"
        apart = " + ".join(f"{statistics.median(part):.2f}" for part in zip(*each.parts, strict=True))
        rates, steps = spread(each.rates), spread(each.steps, 0)
        recording = spread([sum(parts) for parts in each.parts], 2)
        cells = (each.name, rates, f"{share:.1%}", same, steps, each.dispatches, recording, apart)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def missing(node: str | None, package: Path) -> str | None:
    """Why there can be no comparison, or None."""
    if node is None:
        return "no Node was found: name one with --node"
    if not (package / "node_modules" / "webgpu" / "index.js").is_file():
        return f"{package} has no npm package webgpu: npm install --prefix {package} webgpu (see --help)"
    return None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--like", default="llama-3.2-1b", metavar="SHAPE", help="a shape's name, or a config.json"
    )
    parser.add_argument("--format", default="int4/128", help="of the weights")
    parser.add_argument("--activations", nargs="+", default=["f32"], choices=("f32", "f16", "int8"))
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--node", default=shutil.which("node"), metavar="PROGRAM")
    parser.add_argument(
        "--package", type=Path, default=SUPPORT, metavar="FOLDER", help="where npm installed webgpu"
    )
    parser.add_argument(
        "--dawn", action="append", default=[], metavar="FEATURES", help="of Dawn's, with commas between them"
    )
    parser.add_argument(
        "--kernels", action="store_true", help="tell what each kernel takes of a step, in microseconds"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the model is written, and removed (default: among temporary files)"
    )
    given = parser.parse_args(argv)
    if problem := missing(given.node, given.package):
        sys.exit(f"nothing to compare with: {problem}")
    vocab = shape_config(given.like)["vocab_size"]
    ids = np.random.default_rng(0).integers(0, vocab, given.prompt_tokens)
    run = Run(tuple(map(int, ids)), given.tokens, given.rounds)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, ExitStack() as stack:
        nodes = {}
        for features in ("", *given.dawn):
            nodes[features], lanes = stack.enter_context(started(given.node, given.package, features))
        write_model(Path(folder) / "model", given.like, given.format)
        for activations in given.activations:
            print(
                f"{given.like}, {given.format}, {run.count} tokens after {len(run.prompt)}, {run.rounds} rounds"
            )
            print(compare(Path(folder), nodes, lanes, activations, run, given.kernels), flush=True)


if __name__ == "__main__":
    main()
