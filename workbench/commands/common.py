"""Arguments and messages that several subcommands share."""

from __future__ import annotations

import argparse
import re
import sys

from workbench import utf8
from workbench.errors import TextError


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def utf8_text(value: str) -> str:
    """An argparse type: text, which is UTF-8 in every locale."""
    try:
        return utf8.argument(value, "the given text")
    except TextError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


#: What a model may be given as.
MODEL_HELP = "converted model or checkpoint, or a name that `workbench models` lists"
#: Of activations (`workbench.runtime.choices` says what auto stands for), and of keys and values in the cache.
DTYPES = ("f32", "f16", "int8", "auto")
CACHES = ("f32", "f16", "int8")
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def size(text: str) -> int:
    """An argparse type: bytes, as in 4000000, 2.5MB (10^6) or 2GiB (2^30)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B|)", text.strip().upper())
    if match is None or not (found := int(float(match[1]) * UNITS[match[2]])):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size; allowed: 4000000, 2.5MB, 2GiB and the like"
        )
    return found


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID", help=MODEL_HELP)


def add_execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=["wgpu", "torch"],
        help="the WGSL kernels or their PyTorch references; by default wgpu where there is an adapter",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="f32",
        help="of activations (default f32); auto: f16 where the adapter has it, else f32",
    )
    add_cache(parser)
    add_adapter(parser)
    parser.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help="positions of the key/value cache (default: the model's context, at most 8192)",
    )


def add_baseline_precision(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "precision of the baseline",
        "It is in f32 unless asked, whatever --dtype and --cache say of the model.",
    )
    group.add_argument("--baseline-dtype", choices=DTYPES, help="of its activations (default f32)")
    group.add_argument("--baseline-cache", choices=CACHES, help="of its keys and values (default f32)")


def add_text(parser: argparse.ArgumentParser) -> None:
    """What is scored, and how it is cut: `--text` or `--dataset`, `--protocol`, `--separator`."""
    text = parser.add_mutually_exclusive_group(required=True)
    text.add_argument("--text", metavar="FILE", help="a UTF-8 text file")
    text.add_argument("--dataset", metavar="NAME", help="a dataset by its short name, such as wikitext2")
    parser.add_argument(
        "--protocol",
        required=True,
        metavar="NAME",
        help="disjoint-L, wikitext2-gptq-L, hf-strided-L-S (L tokens a window, moved by S), llamacpp-L, "
        "lm-eval-wikitext or lm-eval-wikitext-L",
    )
    parser.add_argument(
        "--separator",
        type=utf8_text,
        metavar="TEXT",
        help="what stands between documents; each then gets a BOS of its own",
    )


def add_adapter(parser: argparse.ArgumentParser, help: str = "the WebGPU adapter to run on") -> None:
    """`--adapter`, which holds for all that a command runs, also in processes that it starts (see `workbench.cli`)."""
    parser.add_argument(
        "--adapter",
        metavar="NAME|INDEX",
        help=f"{help}: a part of its name, or its place in `workbench adapters` "
        "(default: WORKBENCH_ADAPTER, else the most powerful)",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        choices=CACHES,
        help="what keys and values are stored as (default: f16 with --dtype f16, else f32)",
    )


def say_choices(model, what: tuple[str, ...] = ("backend",)) -> None:
    """Print on stderr what was chosen automatically, and why."""
    for name, chosen, reason in model.choices:
        if name in what:
            print(f"{name}: {chosen} ({reason})", file=sys.stderr)
