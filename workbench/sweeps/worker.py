"""A local worker process: reads jobs from stdin, one JSON object a line, and answers on stdout.

Answers are {"key", "kind", "value"} with the kinds "progress", "done" and "failed". It ends at once when stdin closes,
so no worker outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings

from workbench.errors import WorkbenchError, WorkbenchWarning
from workbench.formats.errors import FormatError

PROGRESS_SECONDS = 0.25


def error_text(error: BaseException) -> str:
    """One line for errors of our own and of the system; others are bugs and keep their traceback."""
    if isinstance(error, WorkbenchError | FormatError | OSError):
        return str(error) or type(error).__name__
    return "".join(traceback.format_exception(error)).strip()


def throttled(report, seconds: float = PROGRESS_SECONDS):
    """`report(share)`, at most once in so many seconds."""
    last = 0.0

    def told(share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            report(share)

    return told


def _read(jobs: queue.Queue) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # whoever asked is gone: also in the middle of a job


def main() -> None:
    # stdout belongs to the answers; what libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client, who closes stdin
    jobs: queue.Queue = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()

    def answer(key: str, kind: str, value) -> None:
        answers.write(json.dumps({"key": key, "kind": kind, "value": value}) + "\n")
        answers.flush()

    from .jobs import run_job

    # Results keep them, and tables and boards show them; on stderr they would stand in the notebook of whoever asked.
    warnings.simplefilter("ignore", WorkbenchWarning)
    while True:
        job = jobs.get()
        key = job["key"]
        try:
            result = run_job(job, throttled(lambda share, key=key: answer(key, "progress", share)))
        except Exception as error:
            answer(key, "failed", error_text(error))
        else:
            answer(key, "done", result)


if __name__ == "__main__":
    main()
