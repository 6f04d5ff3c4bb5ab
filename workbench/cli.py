"""The `workbench` command. Subcommands are in `workbench.commands`, one file each.

Exit status: 0; 2 for input that is wrong; 1 for what fails while running; 130 when interrupted. Errors of our
own are one line on stderr; any other exception is a bug and keeps its traceback. What goes to which stream is in
`workbench.commands.output`.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence

import workbench
from workbench.commands import (
    adapters,
    allocate,
    bench,
    certificates,
    certify,
    chat,
    compare_models,
    demo,
    doctor,
    export,
    export_program,
    fetch,
    generate,
    import_,
    info,
    lm_eval,
    models,
    notebook,
    page,
    perplexity,
    quantize,
    quantizers,
    reproduce,
    routing,
    serve,
    speed,
    sweep,
    table,
    tune,
)
from workbench.commands.output import (
    Parser,
    UsageError,
    check_target,
    complain,
    error_record,
    examples,
    streams,
)
from workbench.errors import (
    CacheFullError,
    DeviceLostError,
    KernelError,
    NoAdapterError,
    OutOfMemoryError,
    SchedulerLostError,
    WorkbenchError,
    WorkbenchWarning,
)
from workbench.files.writing import storage_error
from workbench.formats.errors import FormatError
from workbench.known import known
from workbench.show.lines import end_bars, line

COMMANDS = (
    fetch,
    models,
    quantize,
    import_,
    quantizers,
    allocate,
    generate,
    chat,
    serve,
    perplexity,
    compare_models,
    routing,
    info,
    demo,
    export,
    export_program,
    page,
    bench,
    speed,
    tune,
    notebook,
    doctor,
    adapters,
    certify,
    certificates,
    sweep,
    table,
    reproduce,
    lm_eval,
)
EXAMPLES = (
    "demo",
    "quantize --model DIR_OR_HUB_ID --format int4 --output OUT",
)
RUNTIME_FAILURES = (
    CacheFullError,
    DeviceLostError,
    KernelError,
    NoAdapterError,
    OutOfMemoryError,
    SchedulerLostError,
    OSError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    _write_anything()
    given = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser()
    _complete(parser)
    try:
        arguments = parser.parse_args(given)
    except UsageError as error:
        if "--json" in given:
            print(json.dumps(error_record("UsageError", error.message, 2), indent=2, ensure_ascii=False))
        raise
    with streams(arguments):
        return _status(arguments)


def _status(arguments: argparse.Namespace) -> int:
    """Run the command; what it raises becomes a line and a status."""
    try:
        with spoken_warnings(quiet=getattr(arguments, "quiet", False)), pinned(arguments):
            check_target(arguments)
            status = arguments.run(arguments) or 0
            arguments.answers.flush()  # a full disk behind a redirection is found here, not at exit
            return status
    except BrokenPipeError:
        # The reader (`head`) has gone; nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), arguments.answers.fileno())
        return 1
    except KeyboardInterrupt:
        end_bars()
        print("workbench: interrupted", file=arguments.complaints)
        return 130
    except (WorkbenchError, FormatError) as error:
        return fail(error, arguments)
    except OSError as error:
        if error.filename is not None:
            return fail(error, arguments)
        if not _of_stdout(error):
            raise
        status = fail(storage_error("standard output", error), arguments)
        # What is buffered cannot be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), arguments.answers.fileno())
        return status


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell where it asks what may come next (argcomplete, an extra); it then ends the process."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # pyright: ignore[reportMissingImports]

        argcomplete.autocomplete(parser)


def _of_stdout(error: OSError) -> bool:
    """Whether an error that names no file is that of a print: our own files are named when they are written."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def _write_anything() -> None:
    """What a locale cannot say must not end a command: UTF-8 where it is ASCII (as in a C locale), else escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            ascii_only = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding="utf-8" if ascii_only else None, errors="backslashreplace")


@contextlib.contextmanager
def spoken_warnings(*, quiet: bool) -> Iterator[None]:
    """The workbench's own warnings as one line on stderr, or not at all; others as Python has them."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message, category, *where, **more) -> None:
            if not issubclass(category, WorkbenchWarning):
                before(message, category, *where, **more)
            elif not quiet:
                line(f"workbench: {message}")

        warnings.showwarning = show
        yield


@contextlib.contextmanager
def pinned(arguments: argparse.Namespace) -> Iterator[None]:
    """Whatever runs inside, in this process or in one that it starts, runs on the adapter that `--adapter` names."""
    wanted = getattr(arguments, "adapter", None)
    if wanted is None:
        yield
        return
    if not wanted.strip():
        raise WorkbenchError(
            "--adapter is a part of a name or a place in `workbench adapters`, not an empty text"
        )
    if getattr(arguments, "backend", None) == "torch" and getattr(arguments, "noise_floor", None) != "wgpu":
        raise WorkbenchError(
            f"--backend torch runs on no WebGPU adapter, but --adapter {wanted} was asked for; leave one out"
        )
    before = os.environ.get("WORKBENCH_ADAPTER")
    os.environ["WORKBENCH_ADAPTER"] = wanted
    try:
        yield
    finally:
        if before is None:
            del os.environ["WORKBENCH_ADAPTER"]
        else:
            os.environ["WORKBENCH_ADAPTER"] = before


def fail(error: Exception, arguments: argparse.Namespace) -> int:
    """Say what failed, as one line and where asked for as JSON, and return the exit status."""
    message = " ".join(str(error).split()) or type(error).__name__
    status = 1 if isinstance(error, RUNTIME_FAILURES) else 2
    complain(arguments, type(error).__name__, message, status)
    return status


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands; imports nothing heavy."""
    parser = Parser(
        prog="workbench",
        description="Quantize language models, run them through WebGPU kernels, measure the loss.",
        epilog=examples(EXAMPLES),
    )
    parser.add_argument("--version", action="version", version=f"workbench {workbench.__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2].strip("_").replace("_", "-")
        summary = known(command.__doc__).strip().splitlines()[0]
        sub = subparsers.add_parser(
            name, help=summary, description=summary, epilog=examples(command.EXAMPLES)
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
