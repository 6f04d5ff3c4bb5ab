"""Scripts in Node beside Dawn (npm `webgpu`), for tests that need WebGPU as browsers have it without a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.chromium import find_chromium

FOLDER = Path(__file__).resolve().parent
TIMEOUT_S = 280
#: Chromium's own software adapter: Dawn refuses old versions of Mesa's.
SWIFTSHADER = "vk_swiftshader_icd.json"


def require_node() -> str:
    """Path of Node; skips the running test without Node or its `webgpu` package."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node found (apt-get install nodejs npm)")
    if not (FOLDER / "node_modules" / "webgpu").is_dir():
        pytest.skip(f"Dawn for Node is not installed (make setup, or npm ci in {FOLDER.name}/)")
    return node


def run_script(script: str, request: dict, environment: dict[str, str] | None = None) -> dict:
    """What a script of this folder answers in JSON to a request in JSON. Raises RuntimeError with what it said."""
    return json.loads(said_by(script, request, environment))


def said_by(script: str, request: dict, environment: dict[str, str] | None = None) -> str:
    """What a script of this folder prints about a request in JSON. Raises RuntimeError with what it said."""
    done = subprocess.run(
        [require_node(), str(FOLDER / script)],
        input=json.dumps(request),
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        env=os.environ | (environment or {}),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script} failed with status {done.returncode}:\n{done.stderr}")
    return done.stdout


def play(request: dict) -> dict:
    """`play.js` on an adapter that Dawn takes: this machine's, else Chromium's software one; skips without both."""
    answer = run_script("play_node.js", request)
    icd = swiftshader()
    if "missing" in answer and icd is not None:
        answer = run_script("play_node.js", request, {"VK_DRIVER_FILES": icd, "VK_ICD_FILENAMES": icd})
    if "missing" in answer:
        pytest.skip(f"Dawn for Node: {answer['missing']}")
    return answer


def swiftshader() -> str | None:
    """Chromium's software adapter for Vulkan's loader, where it can be found."""
    found = find_chromium()
    folders = [Path(found).resolve().parent] if found else []
    folders += [Path("/usr/lib/chromium"), Path("/usr/lib64/chromium-browser")]
    return next((str(each / SWIFTSHADER) for each in folders if (each / SWIFTSHADER).is_file()), None)
