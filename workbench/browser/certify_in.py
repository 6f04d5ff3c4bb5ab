"""Where a certificate is made: in this process, in a browser that is started for it, or in Node."""

from __future__ import annotations

import contextlib
import http.server
import json
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import wgsl_kernels
from wgsl_kernels import KernelUsageError
from workbench.errors import KernelError, NonFiniteError, WorkbenchError
from workbench.runtime.loading import load
from workbench.show.progress import Progress

from .certificate import cases, certificate, lanes_of, native, opened, pack
from .model_case import embedded, model_case
from .model_case import native as native_model

#: Names of browsers with Chromium's options.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
#: A software adapter takes minutes.
LIMIT_S = 3600
#: Positions of the embedded model's cache: its context.
MAX_TOKENS = 512


def check(kernels: Sequence[str]) -> None:
    """Raises WorkbenchError for a kernel that there is none of."""
    try:
        for name in kernels:
            wgsl_kernels.get(name)
    except KernelUsageError as error:
        raise WorkbenchError(f"certify: {error}") from error


def packed(kernels: Sequence[str] = (), progress: Progress | None = None) -> bytes:
    """All cases and the embedded model, or the cases of some kernels alone."""
    progress = progress or Progress()
    model = None
    if not kernels:
        progress.say("the embedded model in f64")
        with embedded() as path:
            model = model_case(path, MAX_TOKENS, carried=True)
    progress.say("kernels in f64")
    found = pack(cases(kernels=kernels, steps=progress.steps("references", "kernel")), model, kernels)
    progress.say("these references are made; what is certified runs now")
    return found


def in_process(
    adapter: str | int | None = None, kernels: Sequence[str] = (), progress: Progress | None = None
) -> str:
    """On an adapter of this machine: all kernels and the embedded model, or some kernels. Raises NoAdapterError."""
    from workbench.runtime.device import open_device

    progress = progress or Progress()
    device = open_device(adapter)
    progress.say(f"kernels on {device.name}, beside references in f64")
    steps = progress.steps("certify", "kernel")
    found = native(device, cases((lanes_of(device),), "naga", kernels, steps), only=kernels)
    if kernels:
        return certificate(found)
    progress.say("the embedded model, beside its references in f64")
    with embedded() as path:
        case = model_case(path, MAX_TOKENS)
        try:
            model = load(path, backend="wgpu", adapter=adapter, max_tokens=MAX_TOKENS)
            found["model"] = native_model(model, case)
        except (KernelError, NonFiniteError) as error:
            found["model"] = {**case.facts(), "status": f"does not run: {error}"}
    return certificate(found)


def in_browser(executable: str | None, options: Sequence[str], cases: bytes | Callable[[], bytes]) -> str:
    """In a browser with Chromium's options, without a window. cases: of `packed`, or what makes them once there is a
    browser. Raises WorkbenchError with what its page says, too."""
    found = next(filter(None, map(shutil.which, [executable] if executable else BROWSERS)), None)
    if found is None:
        none = f"no program {executable}" if executable else f"none of {', '.join(BROWSERS)}"
        raise WorkbenchError(f"certify: {none} was found; name a browser with --browser")
    data = cases() if callable(cases) else cases
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), data) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/certify.html#report"
        command = [
            found,
            "--headless=new",
            f"--user-data-dir={folder}/profile",
            "--no-first-run",
            *options,
            address,
        ]
        try:
            browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError as error:
            raise WorkbenchError(f"certify: {found} does not start: {error}") from error
        try:
            kind, text = server.reports.get(timeout=LIMIT_S)
        except queue.Empty:
            raise WorkbenchError(f"certify: {found} has not answered for {LIMIT_S} s") from None
        finally:
            browser.terminate()
            browser.wait()
    if kind == "/failure":
        raise WorkbenchError(f"certify: the browser says: {text}")
    opened(text, found)
    return text


def in_node(package: str, cases: bytes | Callable[[], bytes]) -> str:
    """In Node, with the npm package `webgpu` that is installed in a folder. cases: as of `in_browser`. Raises
    WorkbenchError with what it says."""
    node = shutil.which("node")
    if node is None:
        raise WorkbenchError("certify: Node was not found")
    folder = Path(package).absolute()
    if not any((each / "node_modules" / "webgpu").is_dir() for each in (folder, *folder.parents)):
        raise WorkbenchError(
            f"certify: npm's `webgpu` is not installed in {folder}; run `npm install webgpu` there, or name the folder "
            "where it is with --package"
        )
    with tempfile.TemporaryDirectory() as folder, as_file(files("workbench.browser")) as modules:
        data = Path(folder) / "cases.bin"
        data.write_bytes(cases() if callable(cases) else cases)
        command = [node, str(modules / "node" / "certify.js"), str(data), package]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=LIMIT_S)
    if done.returncode or '"seal"' not in done.stdout:
        raise WorkbenchError(f"certify: Node says: {_said(done)}")
    opened(done.stdout, "Node")
    return done.stdout


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """Why Node ended: the error that its script prints as JSON, else the line of an error, or the last."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return json.loads(done.stdout)["error"]
    said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return next((line for line in said if "rror" in line), said[-1] if said else "nothing")


class _Server(http.server.ThreadingHTTPServer):
    """A page that certifies, and what it reports: (path, text)."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.reports: queue.Queue[tuple[str, str]] = queue.Queue()

    def __enter__(self) -> _Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript"}  # noqa: RUF012

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        assert isinstance(self.server, _Server)
        self.server.reports.put((self.path, body.decode("utf-8")))


def served(folder: Path, cases: bytes) -> _Server:
    """The page that certifies, in a folder, served."""
    write_page(folder, cases)
    with as_file(files("workbench.browser")) as package:
        shutil.copyfile(package / "static" / "style.css", folder / "style.css")
        (folder / "browser").mkdir()
        for module in package.glob("*.js"):
            shutil.copyfile(module, folder / "browser" / module.name)
    return _Server(folder)


def write_page(folder: Path, cases: bytes) -> None:
    """The page itself and its data, beside a page's style and modules."""
    with as_file(files("workbench.browser")) as package:
        for name in ("certify.html", "certify.js"):
            shutil.copyfile(package / "certify" / name, folder / name)
    (folder / "certificate.bin").write_bytes(cases)
