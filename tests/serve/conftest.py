"""A small model with words and a chat template; a server of it in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)
CONTEXT, SEQUENCES = 256, 4


class Server:
    """`workbench serve` in a process. at: where clients find it."""

    def __init__(self, folder: Path, *options: object) -> None:
        argv = ["-m", "workbench.cli", "serve", folder, "--port", 0, "--max-tokens", CONTEXT, "--quiet"]
        argv += ["--sequences", SEQUENCES, "--name", "stories", *options]
        self.process = subprocess.Popen(
            [sys.executable, *map(str, argv)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said.startswith("stories at http"):
            raise AssertionError(f"{said}{self.process.communicate()[1]}")
        self.at = said.split()[-1]
        self.root = self.at.removesuffix("/v1")

    def health(self) -> dict:
        return httpx.get(f"{self.root}/health").json()

    def stop(self, how: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status, and what it said on stderr."""
        if self.process.poll() is None:
            os.kill(self.process.pid, how)
        try:
            said = self.process.communicate(timeout=60)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, said


@contextlib.contextmanager
def serving(folder: Path, *options: object) -> Iterator[Server]:
    """A server that has ended cleanly, without a word, when the block ends."""
    server = Server(folder, *options)
    try:
        yield server
    except BaseException:
        server.process.kill()
        raise
    assert server.stop(signal.SIGINT) == (0, "")


@pytest.fixture(scope="session")
def folder(shallow, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("serve") / "model"
    shutil.copytree(shallow, made)
    config = json.loads((made / "tokenizer_config.json").read_text())
    (made / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return made


@pytest.fixture(scope="session")
def reference(folder):
    """The references of the model that is served."""
    import workbench

    return workbench.load(folder, backend="torch", max_tokens=CONTEXT)


@pytest.fixture(scope="session")
def server(folder) -> Iterator[Server]:
    """One that the tests share. It runs the references, which need not be compiled for every size of step."""
    with serving(folder, "--queue", 16, "--backend", "torch") as made:
        yield made
