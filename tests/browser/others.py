"""Decoded tokens a second of the embedded model in 4 bits, in one headless Chromium, beside other engines for browsers.

    npm install --prefix FOLDER --ignore-scripts @huggingface/transformers @wllama/wllama
    python -m tests.browser.others FOLDER

transformers.js runs what `export --to onnx` writes on onnxruntime-web's WebGPU provider, wllama (llama.cpp) what
`export --to gguf` writes in WebAssembly: the same integers. One loopback server has all of it,
isolated from other origins so that WebAssembly has threads. Every engine writes the same prompt's greedy tokens, in
turns that begin with another engine each time, after a round that is not counted; the rate is that of the tokens behind
the first. Prints a table in Markdown, after each round; nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.conftest import REPOSITORY
from tests.support.chromium import QuietHandler, chromium_problem, launched, serve
from workbench.assets import demo_model_path
from workbench.browser.page import write_page
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.text import parse_format
from workbench.models.foreign.export import export
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer

#: What GGUF's Q4_0 and MatMulNBits hold alike.
FORMAT = "int4/32/sym"
TEXT = "Once upon a time, there was a little girl named Lily."
MAX_TOKENS = 256
#: Tokens of the round that is not counted: what is compiled late is compiled then.
WARM = 4
#: Modules as the packages import them, and where they lie.
IMPORTS = {
    "@huggingface/transformers": "@huggingface/transformers/dist/transformers.web.js",
    "onnxruntime-web/webgpu": "onnxruntime-web/dist/ort.webgpu.bundle.min.mjs",
    "onnxruntime-common": "onnxruntime-common/dist/esm/index.js",
    "@wllama/wllama": "@wllama/wllama/esm/index.js",
}
#: Of `others.js` -> what it is called here, and the packages whose versions are told.
ENGINES = {
    "own": ("this project", ()),
    "transformers": ("transformers.js, WebGPU", ("@huggingface/transformers", "onnxruntime-web")),
    "wllama": ("wllama, WebAssembly", ("@wllama/wllama",)),
}
LOAD = "async (name) => (await import('/tests/browser/others.js')).load(name)"
WRITE = "async (request) => (await import('/tests/browser/others.js')).write(request)"
ADAPTER = "async () => (await navigator.gpu.requestAdapter()).info.architecture"


def missing(packages: Path) -> str | None:
    """Why there can be no comparison, or None."""
    absent = [name for name, path in IMPORTS.items() if not (packages / "node_modules" / path).is_file()]
    if absent:
        return f"{packages} has no {', '.join(absent)}: npm install --prefix {packages} (see --help)"
    return chromium_problem()


def version(packages: Path, name: str) -> str:
    told = json.loads((packages / "node_modules" / name / "package.json").read_text("utf-8"))
    return f"{name} {told['version']}"


@contextlib.contextmanager
def served(packages: Path, made: Path) -> Iterator[str]:
    """The engines' packages, what they run, and an empty page that knows where modules are; yields its address."""
    roots = {"npm": packages / "node_modules", "made": made}
    roots |= {name: REPOSITORY / name for name in ("workbench", "tests")}
    modules = json.dumps({"imports": {name: f"/npm/{path}" for name, path in IMPORTS.items()}})
    page = f'<!doctype html><link rel="icon" href="data:,"><script type="importmap">{modules}</script>'

    class Folders(QuietHandler):
        def translate_path(self, path: str) -> str:
            first, *rest = unquote(urlsplit(path).path).strip("/").split("/")
            known = first in roots and ".." not in rest
            return str(roots[first].joinpath(*rest) if known else made / "absent")

        def do_GET(self) -> None:
            if self.path != "/":
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def end_headers(self) -> None:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

    with serve(made, Folders) as address:
        yield address


def make(folder: Path) -> list[int]:
    """The embedded model as each engine reads it; the prompt's ids."""
    convert(demo_model_path(), folder / "converted", ConvertOptions(parse_format(FORMAT)))
    source = open_source(folder / "converted")
    export(source, "onnx", folder / "onnx")
    export(source, "gguf", folder / "model.gguf")
    write_page(folder / "converted", folder / "page", max_tokens=MAX_TOKENS)
    return [int(each) for each in load_tokenizer(source.tokenizer_path)(TEXT).input_ids]


def table(found: dict[str, list[dict[str, Any]]], packages: Path) -> str:
    """Markdown of the rounds so far: of each engine the median and the range."""

    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    lines = [
        "| engine | tokens/s, median (range) | first token after, s | the same text |",
        "|:--|--:|--:|:--|",
    ]
    texts = {name: rounds[0]["text"] for name, rounds in found.items()}
    for name, rounds in found.items():
        called, of = ENGINES[name]
        called += f" ({', '.join(version(packages, each) for each in of)})" if of else ""
        pairs = enumerate(zip(texts["own"], texts[name], strict=False))
        parts = next((at for at, (one, other) in pairs if one != other), None)
        alike = "yes" if parts is None else f"its first {parts} characters"
        rates, firsts = ([each[key] for each in rounds] for key in ("rate", "first"))
        lines.append(f"| {called} | {spread(rates)} | {spread(firsts)} | {alike} |")
    return "\n".join(lines)


def measure(packages: Path, rounds: int, count: int) -> None:
    """Print the table after each round."""
    engines = list(ENGINES)
    with tempfile.TemporaryDirectory() as folder:
        ids = make(Path(folder))
        tokenizer = load_tokenizer(open_source(Path(folder) / "converted").tokenizer_path)
        with served(packages, Path(folder)) as address, launched() as browser:
            page = browser.new_page()
            page.set_default_timeout(0)
            page.goto(address)
            print(f"{browser.version}; {page.evaluate(ADAPTER)}; {os.cpu_count()} cores", file=sys.stderr)

            def write(name: str, count: int) -> dict[str, Any]:
                came = page.evaluate(WRITE, {"name": name, "ids": ids, "text": TEXT, "count": count})
                times, what = came["times"], came["what"]
                if len(times) != count:
                    raise RuntimeError(f"{name} wrote {len(times)} tokens, {count} were asked for")
                text = tokenizer.decode(what) if isinstance(what[0], int) else "".join(what)
                rate = 1000 * (count - 1) / (times[-1] - times[0])
                return {"rate": rate, "first": times[0] / 1000, "text": text.strip()}

            for name in engines:
                page.evaluate(LOAD, name)
                write(name, WARM)
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in engines}
            for turn in range(rounds):
                for name in engines[turn % len(engines) :] + engines[: turn % len(engines)]:
                    found[name].append(write(name, count))
                print(f"\nrounds: {turn + 1}; {count} tokens after {len(ids)}\n")
                print(table(found, packages), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", type=Path, metavar="FOLDER", help="where npm installed the packages")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=64, help="tokens of each engine and round")
    arguments = parser.parse_args()
    if problem := missing(arguments.packages):
        print(f"nothing to compare with: {problem}", file=sys.stderr)
        return
    measure(arguments.packages, arguments.rounds, arguments.count)


if __name__ == "__main__":
    main()
