"""How large programs are, as docs/programs.md says it.

python -m tests.runtime.program_sizes OUT                                  # of `workbench export-program MODEL OUT`
python -m tests.runtime.program_sizes --like llama-3-8b --format int4/128  # a greedy step of that shape
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import time
from pathlib import Path

from workbench.formats.text import parse_format
from workbench.model_bench.synthetic import shape_config
from workbench.models.families import architecture_of
from workbench.models.specs import described_in
from workbench.plan.plan import step_sizes
from workbench.runtime.export import PROMISED, STEPS, WIDE, page_adapter
from workbench.runtime.link import program_of
from workbench.runtime.lowering import lower
from workbench.runtime.program import Program


def sizes_of(data: bytes) -> str:
    return f"{len(data) / 1e3:,.0f} kB ({len(gzip.compress(data)) / 1e3:,.0f} kB gzipped)"


def of_folder(folder: Path) -> None:
    """A line for each bundle, and one for all."""
    files = sorted(path for path in folder.glob("*.json") if path.name != "programs.json")
    count = 0
    for path in files:
        data = path.read_bytes()
        bundle = json.loads(data)
        count += len(bundle["programs"])
        greedy = next(each for each in bundle["programs"] if each["target"]["head"] == "greedy")
        print(
            f"{path.name}: {len(bundle['programs'])} programs, {len(bundle['modules'])} modules, {sizes_of(data)}; "
            f"a greedy step has {len(greedy['pipelines'])} pipelines and {len(greedy['dispatches'])} dispatches"
        )
    print(
        f"{count} programs in {len(files)} bundles, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB"
    )


def of_shape(name: str, form: str, lanes: int = 32) -> None:
    """A greedy step of a published shape, for the least bindings and for wide ones."""
    model = architecture_of(shape_config(name))
    describe = described_in(model.tensors(), parse_format(form))
    for activations in ("f32", "int8"):
        plan = model.build(describe, head="greedy", activations=activations)
        for bound in (PROMISED, WIDE):
            adapter = dataclasses.replace(page_adapter(lanes), offset_alignment=bound.alignment)
            lowered = lower(
                plan, step_sizes(1, 2048, sequences=1, results=1, steps=STEPS), adapter, bound.nbytes
            )
            began = time.process_time()
            program = program_of(lowered, "greedy", adapter, bound.nbytes, dialect="tint")
            linked = time.process_time()
            data = json.dumps(program.to_json(), separators=(",", ":")).encode()
            Program.from_json(json.loads(data))  # the first one reads the schema
            before = time.process_time()
            Program.from_json(json.loads(data))
            print(
                f"{name}, {form}, {activations}, bindings of {bound.nbytes >> 20} MiB: "
                f"{len(program.dispatches)} dispatches ({len(program.dispatches) / model.layers:.1f} a layer), "
                f"{len(program.pipelines)} pipelines, "
                f"{sizes_of(data)}, linked in {linked - began:.2f} s, read in {time.process_time() - before:.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--like", metavar="SHAPE")
    parser.add_argument("--format", default="int4/128")
    arguments = parser.parse_args()
    if arguments.folder is not None:
        of_folder(arguments.folder)
    if arguments.like is not None:
        of_shape(arguments.like, arguments.format)


if __name__ == "__main__":
    main()
