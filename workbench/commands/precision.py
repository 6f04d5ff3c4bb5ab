"""Options of a conversion whose formats come from an allocation or from a memory to fit into."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def allocated_options(arguments: argparse.Namespace, given: dict[str, Any], common: dict[str, Any]):
    """ConvertOptions of `--precision FILE`; given: options of formats, which the file decides."""
    from workbench.errors import WorkbenchError
    from workbench.models.source import open_source
    from workbench.precision.allocation import Allocation
    from workbench.precision.requantized import source_hashes

    decided = [*given, *(name for name in ("embedding", "lm_head") if name in common)]
    _refuse(arguments, decided, "--precision", "--set changes single matrices, such as 'embedding=f16'")
    allocation = Allocation.load(arguments.precision)
    source = open_source(arguments.model)
    allocation.check_source(source)
    if allocation.key.get("model") != source_hashes(source):
        print(
            f"{arguments.precision}: measured on other weights than those of {arguments.model}",
            file=sys.stderr,
        )
    if common.get("quantizer", allocation.quantizer) != allocation.quantizer:
        print(
            f"{arguments.precision}: measured with quantizer {allocation.quantizer}, not {common['quantizer']}",
            file=sys.stderr,
        )
    try:
        return allocation.options(**common)
    except TypeError as error:
        raise WorkbenchError(f"{arguments.precision}: {error}") from error


def fitted_options(arguments: argparse.Namespace, given: dict[str, Any], common: dict[str, Any]):
    """ConvertOptions of `--fit-memory SIZE`; says on stderr what was chosen and why."""
    from workbench.convert.options import ConvertOptions
    from workbench.models.families import architecture_of
    from workbench.models.source import open_source
    from workbench.precision.groups import unquantized_plan
    from workbench.precision.memory import fit_memory

    _refuse(arguments, list(given), "--fit-memory", "tiers have their default blocks")
    source = open_source(arguments.model)
    model = architecture_of(source.config)
    shapes = {
        weight.tensor: (weight.rows, weight.columns) for weight in unquantized_plan(source).weights.values()
    }

    def formats(tier) -> dict:
        options = ConvertOptions(tier, **common)
        options.check_overrides(shapes, model)
        return {name: options.choose(name, shape, model)[0] for name, shape in shapes.items()}

    fit = fit_memory(source, arguments.fit_memory, max_tokens=arguments.max_tokens, choose=formats)
    print(f"{fit.format}: {fit.reason}", file=sys.stderr)
    return ConvertOptions(fit.format, reason=f"highest tier that fits: {fit.reason}", **common)


def _refuse(arguments: argparse.Namespace, names: list[str], option: str, instead: str) -> None:
    from workbench.errors import WorkbenchError

    if names:
        flags = ", ".join("--" + name.replace("_", "-") for name in names)
        raise WorkbenchError(f"{flags}: {option} decides the formats; {instead}")
