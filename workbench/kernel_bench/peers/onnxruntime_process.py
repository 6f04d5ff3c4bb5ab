"""The process that runs onnxruntime for `onnxruntime_peer`: a crash in its native code costs a candidate, not the run.

A script of its own, not to be imported: it reads a JSON object a line from stdin and answers each with one, {"value":
...} or {"error": "..."}. Stdout is the channel's alone; what libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime


class Bound:
    """A session with its input and outputs bound; outputs stay on the device until they are read.

    output: the name of the result; part: of a part of it (or the same), which is read to wait for the whole.
    """

    def __init__(
        self, path: Path, x: np.ndarray, output: str, part: str, provider: str, options: dict[str, str]
    ):
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._session = onnxruntime.InferenceSession(
            str(path), sess_options=settings, providers=[(provider, options)], enable_fallback=0
        )
        if provider not in self._session.get_providers():
            raise RuntimeError(f"{provider} did not open; onnxruntime would run on the CPU")
        self._binding = self._session.io_binding()
        self._binding.bind_cpu_input("x", x)
        for name in dict.fromkeys((part, output)):
            self._binding.bind_output(name, "webgpu", 0)

    def run(self, which: int = 0) -> np.ndarray:
        """Run once; the part (0) or the result (-1)."""
        self._session.run_with_iobinding(self._binding)
        return self._binding.get_outputs()[which].numpy()

    def seconds(self) -> float:
        """Of one run, until the part has been read."""
        began = time.perf_counter()
        self.run()
        return time.perf_counter() - began


class Server:
    """The commands, by name."""

    def open(self, folder: str, chain: dict, single: dict, provider: str, options: dict) -> str:
        """Open the model of a chain and that of a single call; onnxruntime's version."""
        x = np.load(Path(folder, "x.npy"))
        self.folder = folder
        self.chain, self.single = (
            Bound(Path(folder, each["file"]), x, each["output"], each["part"], provider, options)
            for each in (chain, single)
        )
        for _ in range(3):  # shaders compile, commands are captured
            self.single.seconds()
            self.chain.seconds()
        return onnxruntime.__version__

    def busy(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while True:
            self.chain.seconds()
            if time.perf_counter() >= until:
                return

    def sample(self) -> list[float]:
        """Seconds of the chain and of the single call."""
        return [self.chain.seconds(), self.single.seconds()]

    def result(self) -> str:
        """Where the single call's output was saved."""
        path = Path(self.folder, "y.npy")
        np.save(path, self.single.run(-1))
        return str(path)


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = Server()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"value": getattr(server, request.pop("do"))(**request)}
        except Exception as error:  # the other side has the record
            answer = {"error": f"{type(error).__name__}: {error}"}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
