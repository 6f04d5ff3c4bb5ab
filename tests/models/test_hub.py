"""Hub ids, against a server on this machine that answers as the hub does: what is fetched and what is not."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench.errors import CheckpointError
from workbench.models.checkpoint import Checkpoint
from workbench.models.hub import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"


# In a process of its own, since huggingface_hub reads its settings when it is imported.
OPEN = """
import sys
from workbench.errors import CheckpointError
from workbench.models.checkpoint import Checkpoint
try:
    opened = Checkpoint.open(sys.argv[1])
    print(opened.path.name, sorted(opened.names()))
except CheckpointError as error:
    print("CheckpointError", error)
"""


FETCH = """
import json, sys
from pathlib import Path
from workbench.errors import CheckpointError
from workbench.models.catalogue import Published
from workbench.models.fetch import fetch
try:
    found = fetch(Published("tiny", "owner/tiny", "MIT", 10**6), Path(sys.argv[1]), ("hub",))
    print(json.dumps(found))
except CheckpointError as error:
    print("CheckpointError", error)
"""


@dataclass
class Hub:
    """A hub with the one repository owner/tiny, which has `files`; `asked` are the names it gave out, `wrong` those of
    which it tells another hash, `closed` those whose licence is to be accepted first."""

    address: str
    cache: Path
    files: Path
    asked: list[str]
    wrong: set[str]
    closed: set[str]

    def open(self, name: str) -> str:
        return self.run(OPEN, name)

    def run(self, script: str, argument: str) -> str:
        environment = os.environ | {"HF_ENDPOINT": self.address, "HF_HOME": str(self.cache)}
        command = [sys.executable, "-c", script, argument]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def hub(tmp_path):
    files = tmp_path / "repository"
    files.mkdir()
    asked: list[str] = []
    wrong: set[str] = set()
    closed: set[str] = set()

    def sibling(name: str) -> dict:
        """As the hub tells of a file: weights by the sha256 of their storage, others by their git object."""
        data = (files / name).read_bytes() + (b"!" if name in wrong else b"")
        told = {"rfilename": name, "size": len(data)}
        if name.endswith(".safetensors"):
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            return told | {"blobId": "0" * 40, "lfs": lfs}
        return told | {"blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}

    class Handler(BaseHTTPRequestHandler):
        def respond(self, body: bool) -> None:
            path = self.path.split("?")[0]
            prefix = "/api/models/owner/tiny"
            names = sorted(p.name for p in files.iterdir())
            headers, status, content = {}, 200, b""
            if path in (prefix, *(f"{prefix}/revision/{name}" for name in ("main", COMMIT, "v1"))):
                siblings = [sibling(name) for name in names]
                content = json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode()
            elif path.startswith(f"{prefix}/tree/"):
                entries = [
                    {"type": "file", "path": n, "size": (files / n).stat().st_size, "oid": "0" * 40}
                    for n in names
                ]
                content = json.dumps(entries).encode()
            elif Path(path).name in closed:
                status, headers = (
                    401,
                    {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"},
                )
            elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/") and (name := Path(path).name) in names:
                content = (files / name).read_bytes()
                asked.append(name)
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            else:
                status, headers = (
                    404,
                    {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
                )
            self.send_response(status)
            for key, value in {
                "Content-Type": "application/json",
                "Content-Length": len(content),
                **headers,
            }.items():
                self.send_header(key, str(value))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self):
            self.respond(True)

        def do_HEAD(self):
            self.respond(False)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield Hub(f"http://127.0.0.1:{server.server_port}", tmp_path / "cache", files, asked, wrong, closed)
    server.shutdown()
    server.server_close()


def test_only_the_needed_files_are_downloaded(hub):
    state = random_state(CONFIG)
    write_checkpoint(hub.files, state, CONFIG, shards=2)
    for name in ("consolidated.safetensors", "pytorch_model.bin", "README.md", "model.gguf"):
        (hub.files / name).write_bytes(b"not wanted")
    (hub.files / "tokenizer.json").write_text("{}")
    assert hub.open("owner/tiny") == f"{COMMIT} {sorted(state)}"
    shards = {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert set(hub.asked) == {"config.json", "model.safetensors.index.json", "tokenizer.json", *shards}


def test_a_single_file_and_a_revision(hub):
    state = random_state(CONFIG)
    write_checkpoint(hub.files, state, CONFIG)
    assert hub.open("owner/tiny@v1") == f"{COMMIT} {sorted(state)}"
    assert set(hub.asked) == {"config.json", "model.safetensors"}


def test_of_a_single_file_and_shards_only_the_single_file_is_fetched(hub):
    state = random_state(CONFIG)
    write_checkpoint(hub.files, {name: 2 * value for name, value in state.items()}, CONFIG, shards=2)
    write_checkpoint(hub.files, state, CONFIG)
    assert hub.open("owner/tiny") == f"{COMMIT} {sorted(state)}"
    assert set(hub.asked) == {"config.json", "model.safetensors.index.json", "model.safetensors"}


def test_a_repository_of_pickles_is_refused_without_fetching_them(hub):
    (hub.files / "config.json").write_text(json.dumps(CONFIG))
    (hub.files / "pytorch_model.bin").write_bytes(b"no")
    assert "no weights; expected model.safetensors" in hub.open("owner/tiny")
    assert set(hub.asked) == {"config.json"}


def test_an_unknown_repository_names_both_places(hub):
    said = hub.open("owner/other")
    assert said.startswith("CheckpointError no folder 'owner/other' here, and the hub does not give")


def test_a_fetched_repository_is_compared_with_the_hashes_of_the_hub(hub, tmp_path):
    write_checkpoint(hub.files, random_state(CONFIG), CONFIG, shards=2)
    (hub.files / "pytorch_model.bin").write_bytes(b"not wanted")
    folder = tmp_path / "models" / "tiny"
    found = json.loads(hub.run(FETCH, str(folder)))
    assert (found["source"], found["revision"], found["licence"]) == ("hub", COMMIT, "MIT")
    wanted = {"config.json", "model.safetensors.index.json"}
    wanted |= {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    assert set(found["files"]) == wanted
    assert {path.name for path in folder.iterdir()} == {*wanted, "provenance.json"}
    assert Checkpoint.open(folder).names()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_another_hash_leaves_nothing(hub, tmp_path, name):
    write_checkpoint(hub.files, random_state(CONFIG), CONFIG)
    hub.wrong.add(name)
    said = hub.run(FETCH, str(tmp_path / "models" / "tiny"))
    assert f"tiny was not fetched. From the hub: owner/tiny: {name} came damaged" in said
    assert not list((tmp_path / "models").iterdir())


def test_a_licence_that_was_not_accepted_is_named(hub, tmp_path):
    write_checkpoint(hub.files, random_state(CONFIG), CONFIG)
    hub.closed.add("model.safetensors")
    for said in (hub.open("owner/tiny"), hub.run(FETCH, str(tmp_path / "tiny"))):
        assert "accept its licence at https://huggingface.co/owner/tiny, then: hf auth login" in said
    assert not (tmp_path / "tiny").exists()


LOCAL = [
    "./missing",
    "/no/such/folder",
    "missing",
    "a/b/c",
    "../a/b",
    "a b/c",
    "~/none/x",
    "",
    Path("owner/tiny"),
]


@pytest.mark.parametrize("name", LOCAL, ids=str)
def test_what_is_no_hub_id_is_never_looked_up(name):
    with pytest.raises(CheckpointError, match="is not a hub id either"):
        resolve(name)


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file"):
        resolve(tmp_path / "model.safetensors")
