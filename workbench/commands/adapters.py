"""List the WebGPU adapters of this machine with what decides speed and size: features and limits."""

from __future__ import annotations

import argparse

from workbench.commands.common import add_adapter
from workbench.commands.output import add_output, answer

EXAMPLES = (
    "adapters",
    "adapters --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_adapter(parser, "mark this one instead of the one that runs by default")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.errors import NoAdapterError
    from workbench.runtime.adapters import find_adapter, list_adapters, wanted_adapter
    from workbench.show.table import Table

    if wanted_adapter() is not None:
        find_adapter()  # one that was asked for and is not there is an error here too
    found = list_adapters()
    if not found:
        raise NoAdapterError(
            "no WebGPU adapter was found; install a Vulkan driver (mesa-vulkan-drivers has one)"
        )
    notes = ["", "* runs unless --adapter or WORKBENCH_ADAPTER names another; – cannot run kernels"]
    table = Table(HEAD, [cells(each) for each in found], "llllllr", notes=notes)
    answer(arguments, table, [each.to_json() for each in found])
    return 0


HEAD = ["", "#", "adapter", "driver", "through", "features", "binding, MiB", "buffer, MiB", "workgroup, KiB"]


def cells(each) -> list[str]:
    """The table's row of an adapter."""
    limits = each.limits
    return [
        "*" if each.default else "" if each.usable else "–",
        str(each.index),
        f"{each.device}, {each.kind}",
        each.driver,
        each.backend,
        ", ".join(each.features) or "–",
        f"{limits['max-storage-buffer-binding-size'] / 2**20:.0f}",
        f"{limits['max-buffer-size'] / 2**20:.0f}",
        f"{limits['max-compute-workgroup-storage-size'] / 2**10:.0f}",
    ]
