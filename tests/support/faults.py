"""A command stopped at each of its commit points: killed with SIGKILL before every rename, exchange and removal.

    points = Faults(tmp_path).stopped_everywhere(["quantize", ..., "--output", "out"])

The command is started again and again, each time in a forked child of a server that has everything imported. Each child
is killed at the first commit point at which none was killed before, so that the next one finds what it left. The last
one ends by itself. A point is known by what is done there and to which name, without the parts of it that are random.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

#: Functions of `os` that change names: what they do is there, or is not.
RENAMES, REMOVALS = ("replace", "rename"), ("unlink", "rmdir")
_RANDOM = re.compile(r"[0-9a-f]{8}(?=\.part)|(?<=partial-)[0-9a-f]{8}|(?<=replaced-)[0-9a-f]{8}")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.support.preload"])
SECONDS = 120


class Faults:
    """folder: of the notes on points where a child was killed; the command's own files lie elsewhere. repeats: of files
    that are written again and again, so many writings are points."""

    def __init__(self, folder: Path, functions: Sequence[str] = RENAMES + REMOVALS, repeats: int = 1) -> None:
        self.repeats = repeats
        self.notes = folder / "points.txt"
        self.notes.touch()
        self.functions = tuple(functions)

    @property
    def points(self) -> list[str]:
        return self.notes.read_text().splitlines()

    def stopped_everywhere(
        self, argv: Sequence[object], between: Callable[[], None] = lambda: None, run: Callable | None = None
    ) -> list[str]:
        """Run `workbench ARGV` (or `run(*argv)`) until it ends by itself, with status 0. Returns the points.

        between: called after each kill, to look at what is there.
        """
        arguments = [str(each) for each in argv]
        while True:
            before = len(self.points)
            status = run_child(_watched, self, run or command, arguments)
            if status == 0:
                return self.points
            assert status == -signal.SIGKILL, f"status {status} after {self.points}"
            assert len(self.points) == before + 1 < 200
            between()


def run_child(target: Callable, *arguments: object) -> int:
    """The exit status of a function in a child of its own; -9 if it was killed."""
    child = _CONTEXT.Process(target=target, args=arguments)
    child.start()
    child.join(SECONDS)
    if child.exitcode is None:
        child.kill()
        raise AssertionError(f"{arguments} did not end within {SECONDS} s")
    return child.exitcode


def command(*argv: str) -> None:
    """`workbench ARGV` in this process."""
    import torch

    from workbench import cli

    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        sys.stdout = nowhere
        if status := cli.main(argv):
            sys.exit(status)


def _watched(faults: Faults, run: Callable, argv: Sequence[str]) -> None:
    """In the child: run, and be killed in front of the first point at which none was killed before.

    A file that was written once in this run is a further point when it is written again, up to `repeats`.
    """
    from workbench.files import folders

    written: Counter = Counter()

    def stop_before(name: str, real: Callable) -> Callable:
        def stopped(*paths: object, **options: object) -> object:
            # Of two names the new one tells what is done; temporary folders differ from run to run.
            target = os.fsdecode(os.fspath(paths[-1] if len(paths) > 1 else paths[0]))
            point = f"{name} {_RANDOM.sub('*', '/'.join(Path(target).parts[-2:]))}"
            with open(faults.notes, "r+") as known:
                killed = known.read().splitlines().count(point)
                if killed < (faults.repeats if written[point] else 1):
                    known.write(point + "\n")
                    known.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
            written[point] += 1
            return real(*paths, **options)

        return stopped

    for name in faults.functions:
        setattr(os, name, stop_before(name, getattr(os, name)))
    folders.exchange = stop_before("exchange", folders.exchange)
    run(*argv)
