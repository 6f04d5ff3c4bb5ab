"""Models that compute in the page that shows the widget: the native engine's results, the same objects."""

from __future__ import annotations

import base64
import re
import shutil

import numpy as np
import pytest

from tests.runtime.models import Shape, write_random
from tests.widgets.front_end import NAME, opened, served
from workbench.assets import demo_model_path
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import DeviceLostError, WorkbenchError
from workbench.formats.text import parse_format
from workbench.runtime.loading import load
from workbench.widgets import Generator

STATE = "document.querySelector('.wb').dataset.state"
PAGE_S = 240


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random model of one layer with the embedded model's tokenizer, converted."""
    folder = tmp_path_factory.mktemp("engine")
    write_random(folder / "small", Shape("small", 64, 96, 2, 1, 32, vocab=4096, layers=1))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(demo_model_path() / name, folder / "small" / name)
    convert(folder / "small", folder / "int4", ConvertOptions(parse_format("int4/32")))
    return folder / "int4"


@pytest.mark.browser
@pytest.mark.usefixtures("adapter")
def test_both_engines_write_the_same(shown, small):
    """Streaming, the probabilities that come with tokens, and those that are read afterwards."""
    widget = Generator(small, engine="both", max_tokens=64, max_new_tokens=6, temperature=0.7, seed=2)
    with shown(widget) as bridge:
        bridge.page.get_by_role("button", name="Generate").click()
        bridge.until(f"['done', 'failed'].includes({STATE})", PAGE_S)
        assert widget.error == ""
        native, page = widget.run.continuations
        assert [token.id for token in page.tokens] == [token.id for token in native.tokens]
        assert widget.run.parted is None and page.text == native.text and len(page.tokens) == 6
        probabilities = np.array([[token.probability for token in each.tokens] for each in (native, page)])
        assert np.allclose(probabilities[0], probabilities[1], rtol=1e-4)
        assert 0 < max(token.kl for token in page.tokens) < 1e-8 and page.flips == 0
        assert native.logit_difference == page.logit_difference < 1e-4
        assert "(page)" in page.device and page.tokens_per_second > 0
        # nothing of the weights is in what a notebook saves
        state = widget.get_state()
        assert len(str(state)) < 40_000


@pytest.mark.release
@pytest.mark.browser
@pytest.mark.usefixtures("adapter")
def test_a_page_alone_and_one_that_goes_away(shown, small):
    widget = Generator(small, engine="page", max_tokens=64, max_new_tokens=3)
    with shown(widget) as bridge:
        model = load(small, backend="wgpu", dtype="f32", max_tokens=64)
        for _ in range(2):
            bridge.page.get_by_role("button", name="Generate").click()
            bridge.until(f"{STATE} === 'running'")
            bridge.until(f"['done', 'failed'].includes({STATE})", PAGE_S)
            assert widget.error == "" and widget.texts == ["".join(model.generate(widget.prompt, 3))]
            [[found]] = [widget.run.continuations]
            assert [len(token.alternatives) for token in found.tokens] == [5, 5, 5]
            before = widget.models[small.name].executor
            bridge.page.evaluate("cleanup(); open_view();")  # the view is closed, and opened again
            bridge.until("true")
            assert before.device.lost and widget.models[small.name].executor is not before
        with pytest.raises(DeviceLostError, match="was closed or shown anew"):
            before.new_cache(8)


def test_what_a_page_cannot_run_is_refused(small, quantized, tmp_path):
    with pytest.raises(WorkbenchError, match="engine = 'paper'; allowed: 'native', 'page', 'both'"):
        Generator(small, engine="paper")
    with pytest.raises(WorkbenchError, match="only a converted model has planes that a page can read"):
        Generator(demo_model_path(), engine="page")
    with pytest.raises(WorkbenchError, match="dtype given with engine='page', which takes max_tokens alone"):
        Generator(small, engine="page", dtype="f16")
    with pytest.raises(WorkbenchError, match="runs one model on two engines, not 2 models"):
        Generator({"a": small, "b": small}, engine="both")


def test_nothing_is_shown_and_so_nothing_computes(small, monkeypatch):
    monkeypatch.setattr("workbench.browser.connection.PAGE_S", 0.05)
    widget = Generator(small, engine="page", max_tokens=64)
    widget.start()
    widget.wait(30)
    assert "computes in the page that shows it, and no page does" in widget.error
    widget.close()


@pytest.mark.release
@pytest.mark.browser
@pytest.mark.notebook
@pytest.mark.usefixtures("adapter")
def test_jupyterlab_carries_weights_to_its_page_and_saves_none(browser, small, tmp_path):
    pytest.importorskip("jupyterlab")
    cells = [
        f"from workbench.widgets import Generator\n"
        f"g = Generator({str(small)!r}, engine='both', max_tokens=64, max_new_tokens=4)\ng",
        "a, b = g.run.continuations\nprint('apart', g.run.parted, len(b.tokens), b.logit_difference < 1e-4, b.device)",
    ]
    with served(tmp_path, cells) as found, opened(browser, found) as notebook:
        notebook.run_and_wait(1)
        section = notebook.cell(1).locator(".wb")
        section.get_by_role("button", name="Generate").click()
        section.and_(notebook.page.locator("[data-state='done']")).wait_for(timeout=1000 * PAGE_S)
        notebook.run_and_wait(2)
        notebook.cell(2).get_by_text(re.compile(r"apart None 4 True .*\(page\)")).wait_for()
        notebook.page.keyboard.press("Escape")
        notebook.page.keyboard.press("Control+s")
        notebook.page.locator(".jp-mod-dirty").wait_for(state="detached")
    shard = (small / "model.wgpu").read_bytes()
    saved = (tmp_path / "notebooks" / NAME).read_text()
    assert len(saved) < 100_000 and base64.b64encode(shard[3000:3300]).decode()[4:-4] not in saved
