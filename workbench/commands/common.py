"""Arguments and messages that several subcommands share."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from eval.protocol_names import LISTED
from eval.report import LARGER_ERROR
from workbench import utf8
from workbench.errors import TextError, shortened
from workbench.quantizers import QUANTIZERS_OF_ONE_MATRIX
from workbench.show.table import FORMS


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
#: Forms of a table of results.
TABLE_FORMS = (*FORMS[1:], "json")
CACHES = ("f32", "f16", "int8")
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MOST_BYTES = 2**62


def size(text: str) -> int:
    """An argparse type: bytes, as in 4000000, 2.5MB (10^6) or 2GiB (2^30)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B|)", text.strip().upper())
    if match is None or not 1 <= (found := float(match[1]) * UNITS[match[2]]) <= MOST_BYTES:
        raise argparse.ArgumentTypeError(
            f"{shortened(repr(text))} is not a size; allowed: 4000000, 2.5MB, 2GiB and the like"
        )
    return int(found)


#: Options that several commands have, as argparse takes them. What one of them says otherwise, it gives to `add`.
OPTIONS: dict[str, dict[str, Any]] = {
    "--model": {"metavar": "DIR_OR_HUB_ID", "help": MODEL_HELP},
    "--backend": {
        "choices": ["wgpu", "torch"],
        "help": "the WGSL kernels or their PyTorch references; by default wgpu where there is an adapter",
    },
    "--dtype": {
        "choices": DTYPES,
        "default": "f32",
        "help": "of activations (default f32); auto: f16 where the adapter has it, else f32",
    },
    "--activations": {
        "nargs": "+",
        "choices": DTYPES[:-1],
        "help": "that pages can play; they begin with the first that the adapter has (default: f32 f16, and int8 where "
        "weights are integers)",
    },
    "--cache": {
        "choices": CACHES,
        "help": "what keys and values are stored as (default: f16 with --dtype f16, else f32)",
    },
    "--max-tokens": {
        "type": positive,
        "metavar": "N",
        "help": "positions of the key/value cache (default: the model's context, at most 8192)",
    },
    "--window": {
        "type": positive,
        "metavar": "W",
        "help": "positions that every token sees, itself included, so that a text can outgrow the context",
    },
    "--sinks": {
        "type": int,
        "metavar": "S",
        "help": "first positions of a text that every token sees beside its --window (default 0; 4 are usual)",
    },
    "--lora": {
        "metavar": "DIR_OR_HUB_ID",
        "help": "an adapter as PEFT saves it, beside whose products the weights stay as they are",
    },
    "--lora-format": {
        "metavar": "FORMAT",
        "help": "what its factors are stored as, such as int4 or f16 (default f32)",
    },
    "--baseline-dtype": {"choices": DTYPES, "help": "of its activations (default f32)"},
    "--baseline-cache": {"choices": CACHES, "help": "of its keys and values (default f32)"},
    "--quantizer": {"choices": QUANTIZERS_OF_ONE_MATRIX, "default": "rtn", "help": "default rtn"},
    "--text": {"metavar": "FILE", "help": "a UTF-8 text file"},
    "--dataset": {"metavar": "NAME", "help": "a dataset by its short name, such as wikitext2"},
    "--protocol": {
        "default": "disjoint-512",
        "metavar": "NAME",
        "help": "how texts are cut (default disjoint-512)",
    },
    "--separator": {
        "type": utf8_text,
        "metavar": "TEXT",
        "help": "what stands between documents; each then gets a BOS of its own",
    },
    "--tokens": {"type": positive, "default": 12_000, "metavar": "N", "help": "to score (default 12000)"},
    "--repetitions": {"type": positive, "default": 5, "metavar": "N", "help": "of each timing (default 5)"},
    "--processes": {
        "type": positive,
        "metavar": "N",
        "help": "worker processes here (default: half of the CPUs)",
    },
    "--format": {"choices": TABLE_FORMS, "default": "md", "help": "of the table (default md)"},
    "--adapter": {"metavar": "NAME|INDEX", "help": "the WebGPU adapter to run on"},
}


def add_errors(parser: argparse.ArgumentParser) -> None:
    """What the help of a command says of the errors that it prints."""
    parser.add_argument_group("errors", f"{LARGER_ERROR}; JSON and CSV have both.")


def add(parser: Any, *names: str, **changes: Any) -> None:
    """Options of `OPTIONS` by name, with changes. parser: of argparse, or a group of one."""
    for name in names:
        parser.add_argument(name, **{**OPTIONS[name], **changes})


def add_execution(parser: argparse.ArgumentParser) -> None:
    add(parser, "--backend", "--dtype", "--cache")
    add_adapter(parser)
    add(parser, "--max-tokens")


#: Options of `workbench.load` that commands have, by their own names. (`--adapter` is set for the whole process.)
EXECUTION = ("backend", "dtype", "max_tokens", "cache", "window", "sinks", "lora", "lora_format")


def execution_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a model is run as: those of `EXECUTION` that the command has."""
    return {name: getattr(arguments, name) for name in EXECUTION if hasattr(arguments, name)}


def add_baseline_precision(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "precision of the baseline",
        "It is in f32 unless asked, whatever --dtype and --cache say of the model.",
    )
    add(group, "--baseline-dtype", "--baseline-cache")


def add_text(parser: argparse.ArgumentParser) -> None:
    """What is scored, and how it is cut: `--text` or `--dataset`, `--protocol`, `--separator`."""
    add(parser.add_mutually_exclusive_group(required=True), "--text", "--dataset")
    told = f"{LISTED} (L tokens a window, moved by S)"
    add(parser, "--protocol", default=None, required=True, help=told)
    add(parser, "--separator")


def add_formats(parser: argparse.ArgumentParser, default: Sequence[str], such: str, more: str = "") -> None:
    """`--formats`. such: examples; more: what else to say of them."""
    told = f"such as {such} (default {' '.join(default)}){more}"
    parser.add_argument("--formats", nargs="+", default=list(default), metavar="FORMAT", help=told)


def add_adapter(parser: argparse.ArgumentParser, help: str = OPTIONS["--adapter"]["help"]) -> None:
    """`--adapter`, which holds for all that a command runs, also in processes that it starts (see `workbench.cli`)."""
    told = "a part of its name, or its place in `workbench adapters`"
    add(parser, "--adapter", help=f"{help}: {told} (default: WORKBENCH_ADAPTER, else the most powerful)")


def say_choices(model, what: tuple[str, ...] = ("backend",)) -> None:
    """Print on stderr what was chosen automatically, and why."""
    for name, chosen, reason in model.choices:
        if name in what:
            print(f"{name}: {chosen} ({reason})", file=sys.stderr)
