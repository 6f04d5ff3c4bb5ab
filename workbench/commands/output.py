"""What a command says and where: its result on stdout as text or JSON, all else on stderr, one form for errors.

`--quiet` and `--json` are declared here, for every command. Nothing is ever coloured.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from workbench.errors import WorkbenchError
from workbench.show.lines import end_bars

#: What `--json` is without a FILE.
STDOUT = "-"
ERROR_KIND = "workbench-error"


def add_output(parser: argparse.ArgumentParser, *, record: bool = True) -> None:
    """`--quiet` and `--json`. record: whether the command has a result that JSON can say."""
    group = parser.add_argument_group("output")
    group.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    if record:
        told = "the result as JSON to FILE, beside the text; without FILE to stdout, in its place, errors too"
        group.add_argument("--json", nargs="?", const=STDOUT, metavar="FILE", help=told)


@contextlib.contextmanager
def streams(arguments: argparse.Namespace) -> Iterator[None]:
    """Sets `arguments.answers` and `arguments.complaints`, the real stdout and stderr. Meanwhile what is printed goes
    to stderr where stdout is to hold JSON alone, and what goes to stderr nowhere where quiet was asked for."""
    arguments.answers, arguments.complaints = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        if getattr(arguments, "quiet", False):
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        if to_stdout(arguments):
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def to_stdout(arguments: argparse.Namespace) -> bool:
    """Whether stdout holds JSON and nothing else."""
    return getattr(arguments, "json", None) == STDOUT


def check_target(arguments: argparse.Namespace) -> None:
    """Raise WorkbenchError where FILE of `--json` has no folder, before minutes are spent on what goes there."""
    file = getattr(arguments, "json", None)
    if file not in (None, STDOUT):
        check_folder(file, "--json ")


def check_folder(file: str, option: str = "") -> None:
    """Raise WorkbenchError where a file that is to be written has no folder. option: that names it, in the message."""
    if not (folder := Path(file).absolute().parent).is_dir():
        raise WorkbenchError(f"{option}{file}: there is no folder {folder}")


def answer(arguments: argparse.Namespace, text: Any, record: Any | Callable[[], Any]) -> None:
    """A command's result: `text` is printed, `record` (JSON values, or what makes them) goes where `--json` says."""
    if arguments.json is None:
        print(text, flush=True)
        return
    from eval.report import finite
    from workbench.files.writing import write_json

    values = finite(record() if callable(record) else record)
    if to_stdout(arguments):
        _dump(values, arguments.answers)
        return
    write_json(Path(arguments.json), values)
    print(text, flush=True)


def complain(arguments: argparse.Namespace, kind: str, message: str, status: int) -> None:
    """An error: one line on stderr, whatever stands there, and an object on stdout where that holds JSON."""
    end_bars()
    print(f"workbench: error: {message}", file=arguments.complaints)
    if to_stdout(arguments):
        _dump(error_record(kind, message, status), arguments.answers)


def error_record(kind: str, message: str, status: int) -> dict[str, Any]:
    """The one form of an error in JSON. kind: the class of the error, "UsageError" for options. status: of the exit."""
    error = {"type": kind, "message": message, "status": status}
    return {"kind": ERROR_KIND, "version": 1, "error": error}


def _dump(values: Any, stream: TextIO) -> None:
    json.dump(values, stream, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    stream.write("\n")
    stream.flush()


class UsageError(SystemExit):
    """The parser takes a command line for wrong; it has said so on stderr. message: why."""

    def __init__(self, message: str) -> None:
        super().__init__(2)
        self.message = message


class Parser(argparse.ArgumentParser):
    """A parser whose errors can be read by programs, and whose help ends with examples."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, formatter_class=_Formatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but what a command does not know is that command's error, with its usage: argparse would leave
        it to the whole program, whose usage names commands alone."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise UsageError(message)


class _Formatter(argparse.HelpFormatter):
    """Keeps the lines of examples, and wraps everything else."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return "\n".join(indent + line for line in text.splitlines())
        return super()._fill_text(text, width, indent)


def examples(lines: tuple[str, ...]) -> str:
    """The end of a command's help."""
    return "\n".join(["examples:", *(f"  workbench {line}" for line in lines)])
