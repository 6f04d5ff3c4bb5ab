"""Arguments and messages that several subcommands share."""

from __future__ import annotations

import argparse
import sys


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="DIR_OR_HUB_ID", help="converted model or checkpoint"
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=["wgpu", "torch"],
        help="the WGSL kernels or their PyTorch references; by default wgpu where there is an adapter",
    )
    parser.add_argument(
        "--dtype", choices=["f32", "f16", "int8"], default="f32", help="of activations (default f32)"
    )
    parser.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help="positions of the key/value cache (default: the model's context, at most 8192)",
    )


def say_choices(model, what: tuple[str, ...] = ("backend",)) -> None:
    """Print on stderr what was chosen automatically, and why."""
    for name, chosen, reason in model.choices:
        if name in what:
            print(f"{name}: {chosen} ({reason})", file=sys.stderr)
