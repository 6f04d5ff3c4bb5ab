"""Compile WGSL with Tint, the compiler of Chromium: Naga, which the native runtime uses, accepts more.

Two hosts: Dawn for Node (`compile_all`; quick, knows every feature, runs nothing) and headless Chromium
(`compile_all_in_chromium`; the real thing, on SwiftShader, which has no `shader-f16`). Each makes shader
modules and compute pipelines with automatic layouts on a device with the default limits, the ones that
browsers promise.
Where a host is missing, the running test is skipped with the reason.

A `features` name is WebGPU's: `enable f16;` needs "shader-f16", `enable subgroups;` needs "subgroups".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.chromium import browser_page, require_chromium, serve
from tests.support.dawn import run_script

FOLDER = Path(__file__).resolve().parent


class MissingFeatureError(RuntimeError):
    """The adapter does not offer a feature that was asked for; `features` names them."""

    def __init__(self, host: str, features: list[str]):
        super().__init__(f"{host} does not offer the WebGPU features {features}")
        self.features = features


def compile_all(sources: Mapping[str, str], features: Iterable[str] = ()) -> dict[str, list[str]]:
    """Errors of each WGSL source under Dawn for Node, by name; an empty list means that it compiled.

    A message is `line:column: what` from the shader module, or `entry point: what` from its pipeline. One
    Node process compiles all sources. Raises MissingFeatureError; skips the test without Node or its `webgpu`
    package.
    """
    request = {"sources": dict(sources), "features": list(features)}
    return _results(run_script("compile_wgsl_node.js", request), "Dawn for Node")


def compile_all_in_chromium(sources: Mapping[str, str], features: Iterable[str] = ()) -> dict[str, list[str]]:
    """The same as `compile_all` in headless Chromium; skips the test without Chromium or playwright."""
    require_chromium()
    request = {"sources": dict(sources), "features": list(features)}
    # playwright's sync API allows one instance a thread and none in an event loop: callers may have either.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return _results(pool.submit(_compile_in_page, request).result(), "Chromium")


def _compile_in_page(request: dict) -> dict:
    with serve(FOLDER) as address, browser_page(f"{address}/blank.html") as page:
        return page.evaluate(
            """async ({sources, features}) => {
                if (!navigator.gpu) throw new Error("this Chromium has no WebGPU");
                const { compileAll } = await import("./compile_wgsl.js");
                return compileAll(navigator.gpu, sources, features);
            }""",
            request,
        )


def _results(answer: dict, host: str) -> dict[str, list[str]]:
    if "missing" in answer:
        raise MissingFeatureError(host, answer["missing"])
    return answer["results"]
