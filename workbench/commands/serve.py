"""Serve a model over HTTP, in the shape of OpenAI's completions and chat endpoints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from workbench.commands.common import (
    MODEL_HELP,
    add,
    add_execution,
    execution_of,
    positive,
    say_choices,
    size,
    utf8_text,
)
from workbench.commands.output import add_output
from workbench.errors import WorkbenchError

#: Where the key is read from, so that no list of processes shows it.
KEY_VARIABLE = "WORKBENCH_API_KEY"


EXAMPLES = (
    "serve OUT",
    "serve OUT --port 0 --sequences 16 --name story",
    "serve OUT --lora pirate=ADAPTERS/pirate poet=ADAPTERS/poet",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--host", default="127.0.0.1", help="to listen at (default 127.0.0.1, which others do not reach)"
    )
    parser.add_argument("--port", type=_port, default=8000, help="default 8000; 0: any that is free")
    parser.add_argument(
        "--api-key",
        type=utf8_text,
        metavar="KEY",
        help=f"what clients must show (default: {KEY_VARIABLE}, else nothing)",
    )
    parser.add_argument("--name", type=utf8_text, help="of the model in requests (default: its folder's)")
    parser.add_argument(
        "--sequences", type=positive, default=8, metavar="N", help="answers side by side (default 8)"
    )
    parser.add_argument(
        "--queue",
        type=positive,
        default=256,
        metavar="N",
        help="answers that may wait for a place (default 256)",
    )
    parser.add_argument(
        "--no-prefix-reuse",
        action="store_true",
        help="read every prompt from its first token on, also where a sequence still holds its beginning",
    )
    parser.add_argument(
        "--max-body", type=size, default=8 << 20, metavar="BYTES", help="of a request (default 8MiB)"
    )
    parser.add_argument(
        "--grace",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="that running answers have when the server is told to stop (default 10)",
    )
    add_execution(parser)
    add(parser, "--window", "--sinks")
    add(
        parser,
        "--lora",
        nargs="+",
        metavar="[NAME=]DIR_OR_HUB_ID",
        help="an adapter as PEFT saves it, which all answers have; or several, or NAME=DIR, of which a request's "
        "`model` names one: MODEL:NAME or NAME",
    )
    add(parser, "--lora-format")
    add_output(parser, record=False)


def run(arguments: argparse.Namespace) -> int:
    try:
        from workbench.serve.server import is_loopback, listen, serve
    except ModuleNotFoundError as error:
        raise WorkbenchError(
            f"the server needs {error.name}; install it: pip install 'webgpu-quant-workbench[serve]'"
        ) from error
    api_key = arguments.api_key if arguments.api_key is not None else os.environ.get(KEY_VARIABLE)
    if api_key is not None and not api_key.strip():
        raise WorkbenchError("--api-key is a key that clients show, not an empty text")
    listen(
        arguments.host, arguments.port
    ).close()  # a port that is taken should not cost the loading of a model
    if not is_loopback(arguments.host):
        key = "whoever has the key" if api_key is not None else "anybody"
        print(
            f"workbench: warning: --host {arguments.host} is open to other machines: {key} can use this server, and "
            "nothing on the way is encrypted",
            file=arguments.complaints,  # also where quiet was asked for
        )

    import workbench

    how = execution_of(arguments) | {"lora": loras_of(arguments.lora)}
    model = workbench.load(arguments.model, **how)
    if not arguments.quiet:
        say_choices(model)
    name = arguments.name or model.source.path.name

    serve(
        model,
        name,
        host=arguments.host,
        port=arguments.port,
        api_key=api_key,
        sequences=arguments.sequences,
        queue=arguments.queue,
        reuse=not arguments.no_prefix_reuse,
        max_body=arguments.max_body,
        grace=arguments.grace,
        ready=lambda address: print(f"{name} at {address}", flush=True),
    )
    return 0


def loras_of(given: Sequence[str] | None) -> str | dict[str, str] | None:
    """What `load` takes of `--lora`: an adapter alone, several by their names, where they have none by their folders'.
    Raises `WorkbenchError` for a name that is there twice."""
    if given is None or (len(given) == 1 and "=" not in given[0]):
        return given[0] if given else None
    found: dict[str, str] = {}
    for each in given:
        name, equals, where = each.partition("=")
        if not equals:
            name, where = Path(each).name, each
        if name in found:
            raise WorkbenchError(
                f"--lora names {name!r} twice: {found[name]} and {where}; allowed: NAME=DIR_OR_HUB_ID"
            )
        found[name] = where
    return found


def _port(text: str) -> int:
    """An argparse type: a port of TCP."""
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is no port; allowed: 0 to 65535")
    return value


def _seconds(text: str) -> float:
    """An argparse type: seconds, 0 or more."""
    value = float(text)
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{value:g} are not 0 to 3600 seconds")
    return value
