"""A program that ends while its widgets work ends well: their threads are stopped, and waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import REPOSITORY

#: What is under way when the program ends. PyTorch aborts a process whose interpreter goes away beneath its threads.
PROGRAMS = {
    "writing": """
        from workbench.widgets import Generator
        widget = Generator({"a": load(demo_model_path(), backend="torch")}, max_new_tokens=400)
        widget.start()
        while not widget.run.continuations[0].tokens: time.sleep(0.01)
    """,
    "writing, closed": """
        from workbench.widgets import Generator
        widget = Generator({"a": load(demo_model_path(), backend="torch")}, max_new_tokens=400)
        widget.start()
        while not widget.run.continuations[0].tokens: time.sleep(0.01)
        widget.close()
    """,
    "exploring": """
        from workbench.widgets import QuantizationExplorer
        widget = QuantizationExplorer(demo_model_path())
    """,
    "waiting": """
        import threading
        from workbench.widgets.background import Task, wait
        began = threading.Event()
        def work(stopped):
            began.set()
            wait(threading.Event(), None, stopped)
        task = Task(work, print)
        after = Task(lambda stopped: print("never"), print, task)
        began.wait()
    """,
    "in an error": """
        from workbench.widgets.background import Task
        def work(stopped):
            import torch
            while not stopped(): torch.ones(200, 200) @ torch.ones(200, 200)
        task = Task(work, print)
        time.sleep(0.1)
        raise SystemExit(3)
    """,
}


@pytest.mark.parametrize("under_way", PROGRAMS)
def test_a_program_ends_while_something_is_under_way(under_way):
    head = "import time\nfrom workbench.assets import demo_model_path\nfrom workbench.runtime.loading import load\n"
    done = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(PROGRAMS[under_way])],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (3 if under_way == "in an error" else 0), done.stderr
    assert done.stdout == "" and "Fatal" not in done.stderr and "terminate" not in done.stderr
