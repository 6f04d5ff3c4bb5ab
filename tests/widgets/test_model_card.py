"""The model card in a page: facts, the measured step, keyboard, and a name that tries to break out."""

from __future__ import annotations

import pytest

import workbench
from workbench.errors import WorkbenchError
from workbench.runtime.info import describe
from workbench.widgets import ModelCard

pytestmark = pytest.mark.browser


def test_says_what_info_says(shown, int4):
    with shown(ModelCard(int4), 1000) as bridge:
        page, info = bridge.page, describe(int4)
        bridge.until("document.querySelectorAll('.wb-card dd').length > 8")
        shown = page.locator(".wb").inner_text()
        for _, chosen, reason in info.choices:
            assert chosen in shown and reason in shown
        for (kernel, shape, variant), reason in info.variants.items():
            assert kernel in shown and variant in shown and reason in shown
            assert shape.split(",")[0].replace("x", " × ") in shown
        assert f"{info.calls} calls" in shown and f"{info.forecast.weights / 2**20:.2f} MiB" in shown
        page.get_by_text(f"plan of one token, {info.calls} calls").click()
        page.get_by_label("filter the calls").fill("layers.2.attn")
        lines = page.locator(".wb-plan pre").inner_text().splitlines()
        assert lines == [str(call) for call in info.plan.calls if "layers.2.attn" in str(call)]
        with pytest.raises(WorkbenchError, match="no step was measured"):
            bridge.widget.wait()


def test_measures_a_step(shown, adapter, quantized):
    with shown(ModelCard(quantized), 1000) as bridge:
        page, widget = bridge.page, bridge.widget
        page.get_by_label("tokens in the cache").fill("9")
        page.get_by_role("button", name="Measure").click()
        bridge.until("document.querySelector('.wb').dataset.state === 'done'")
        profile = widget.wait()
        assert profile.position == 9
        assert page.locator(".wb-dispatch").count() == len(profile.dispatches)
        assert page.locator(".wb-profile tbody tr").count() == len(profile.by_kernel())
        assert profile.notes() in page.locator(".wb-profile").inner_text()
        page.locator(".wb-timeline").focus()
        for _ in range(4):
            page.keyboard.press("ArrowRight")
        assert page.locator(".wb-said").inner_text().startswith(f"3: {profile.dispatches[3].output} ←")
        page.keyboard.press("Enter")
        bridge.until("true")
        assert widget.selected is profile.dispatches[3]
        page.evaluate("(cleanup(), open_view())")
        bridge.until("document.querySelectorAll('.wb-picked').length === 1")
        page.get_by_label("tokens in the cache").fill("99999")
        page.get_by_role("button", name="Measure").click()
        bridge.until("!document.querySelector('[role=alert]').hidden")
        assert "from 0 to 511" in page.get_by_role("alert").inner_text()
        assert page.get_by_role("button", name="Measure").is_enabled()
        page.set_content(widget.to_html())
        assert profile.notes() in page.locator("body").inner_text()


def test_a_hostile_name_stays_text(shown, hostile):
    with shown(ModelCard(hostile)) as bridge:
        page = bridge.page
        bridge.until("document.querySelectorAll('.wb-card dd').length > 8")
        assert page.locator("h3").inner_text() == "<b onclick=alert(1)>"
        page.set_content(bridge.widget.to_html())
        assert page.get_by_text("<b onclick=alert(1)>").count() == 1


def test_a_model_with_a_window_is_described_with_it(shared):
    folder = shared / "models" / "stories260K-hf"
    model = workbench.load(folder, backend="torch", window=64, sinks=4)
    cards = ModelCard(model), ModelCard(folder, backend="torch", window=64, sinks=4)
    for card in cards:
        assert "window: 64 tokens and the first 4" in str(card.info)
    assert cards[0].info.forecast == cards[1].info.forecast
