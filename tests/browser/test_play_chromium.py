"""The same modules in Chromium, and what only a browser does to a device."""

from __future__ import annotations

import pytest

from tests.conftest import REPOSITORY
from tests.models.family_cases import write_family
from tests.support.chromium import browser_page, serve

from .engines import compare

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("adapter")]

PLAY = """async (request) => {
    const { play } = await import("/tests/support/play.js");
    const { overHttp } = await import("/workbench/browser/loader.js");
    return play(navigator.gpu, overHttp(new URL("/site/", location.href)), request);
}"""

#: The device is lost between two tokens; then more is asked of another than it has.
LOSE = """async () => {
    const { Model, overHttp } = await import("/workbench/browser/model.js");
    const load = () => Model.load(navigator.gpu, overHttp(new URL("/site/", location.href)));
    const failed = (promise) => promise.then(() => "none", ({ kind, message }) => `${kind}: ${message}`);
    const model = await load();
    const session = await model.session();
    const stream = session.stream(1, 20);
    await stream.next();
    model.device.gpu.destroy();
    const next = await failed((async () => { for await (const token of stream); })());
    const fed = await failed(session.feed([1]));
    const again = await load();
    const before = again.device.allocated;
    const much = await failed(again.device.allocate(new Map([["much", { bytes: 2 ** 45 }]]), "a test"));
    return { next, fed, much, held: again.device.allocated - before };
}"""


@pytest.fixture(scope="module")
def page(site, tmp_path_factory):
    """A blank page of a server that has the modules and a model; the model's folder."""
    root = tmp_path_factory.mktemp("root")
    folder = site("int4/32", write_family(root / "gemma2", "gemma2", 0), types=("f32", "int8"))
    for name, target in (
        ("tests", REPOSITORY / "tests"),
        ("workbench", REPOSITORY / "workbench"),
        ("site", folder),
    ):
        (root / name).symlink_to(target)
    with serve(root) as address, browser_page(f"{address}/tests/support/blank.html") as found:
        yield found, folder


@pytest.mark.release
@pytest.mark.parametrize("activations", ["f32", "int8"])
def test_chromium_gives_what_the_native_engine_gives(page, activations):
    found, folder = page
    play = lambda request: found.evaluate(PLAY, request)  # noqa: E731
    compare(folder, play, 8, sampled=True, activations=activations)


def test_a_lost_device_and_too_large_a_wish_are_named(page):
    said = page[0].evaluate(LOSE)
    assert said["next"].startswith("device-lost: ") and said["fed"].startswith("device-lost: ")
    assert said["much"].startswith("limits: no room for a test") and said["held"] == 0
