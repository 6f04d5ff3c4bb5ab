"""The explorer in a page: sliders, comparison, the maps, picked blocks, and names that try to break out."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tests.widgets.conftest import HOSTILE
from workbench.assets import demo_model_path
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.studies.exploration import explore
from workbench.studies.weight_error import weight_error
from workbench.widgets import QuantizationExplorer, explorer

pytestmark = pytest.mark.browser
NAME = "model.layers.3.mlp.down_proj.weight"


def drawn(text: str) -> str:
    return f"document.querySelector('.wb').dataset.drawn === '{text}'"


def fact(page, side: str, name: str) -> str:
    return page.locator(f"[data-side='{side}'] dd[data-fact='{name}']").inner_text()


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """So many rows that a first look takes a sample."""
    return np.random.default_rng(2).standard_normal((2048, 1024), np.float32)


def test_sliders_redraw(shown):
    with shown(QuantizationExplorer(demo_model_path(), NAME), 1100) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(drawn("int4/128 rtn all"))
        assert fact(page, "a", "SQNR") == f"{widget.a.sqnr_db:.2f} dB"
        block = page.get_by_label("block", exact=True).first
        block.focus()
        page.keyboard.press("ArrowRight")
        bridge.until(drawn("int4/256 rtn all"))
        assert block.get_attribute("aria-valuetext") == "256"
        page.keyboard.press("End")
        bridge.until(drawn("int4/tensor rtn all"))
        page.get_by_label("bits").first.focus()
        page.keyboard.press("ArrowLeft")
        bridge.until(drawn("int2/tensor rtn all"))
        page.get_by_label("quantizer").first.select_option("grid")
        bridge.until(drawn("int2/tensor grid all"))
        page.get_by_label("symmetric").first.check()
        bridge.until(drawn("int2/tensor/sym grid all"))
        expected = weight_error(
            widget.matrices.weights(NAME), WeightFormat("int2", "tensor", symmetric=True), "grid"
        )
        assert fact(page, "a", "SQNR") == f"{expected.sqnr_db:.2f} dB"
        assert "implied" in page.locator(".wb-charts").inner_text()


def test_a_sample_says_so_until_all_rows_are_counted(shown, large, monkeypatch):
    with shown(QuantizationExplorer({"w": large})) as bridge:
        page, widget = bridge.page, bridge.widget
        widget.wait()
        bridge.until("document.querySelector('.wb').dataset.state === 'done'")
        assert widget.a.facts()["from"] == "all rows" == fact(page, "a", "from")
        # A page draws what came last: counting waits until the sample has been seen.
        seen = threading.Event()
        monkeypatch.setattr(
            explorer, "explore", lambda *given, **more: seen.wait(60) and explore(*given, **more)
        )
        page.get_by_label("bits").first.press("ArrowRight")
        bridge.until(drawn("int8/128 rtn sampled"))
        assert fact(page, "a", "from") == "128 of 2,048 rows" and "±" in fact(page, "a", "SQNR")
        seen.set()
        bridge.until(drawn("int8/128 rtn all"))
        assert fact(page, "a", "from") == "all rows" and "±" not in fact(page, "a", "SQNR")


def test_two_settings_and_picked_blocks(shown):
    widget = QuantizationExplorer(demo_model_path(), NAME, b={"bits": 2, "block": 64})
    with shown(widget, 1100) as bridge:
        page = bridge.page
        bridge.until(drawn("int4/128 rtn all | int2/64 rtn all"))
        worst = widget.b.worst(6)
        page.locator("[data-worst='b'] button").nth(1).click()
        says = f"row {worst[1].row}, block {worst[1].block}: 64 weights, 4 levels"
        bridge.until(f"document.querySelector('.wb').textContent.includes('{says}')")
        assert widget.place == [worst[1].row, 64 * worst[1].block]
        assert widget.selected["row"] == worst[1].row and len(widget.selected["levels"]) == 16
        column = widget.selected["block"] * 128
        row = widget.matrices.weights(NAME)[worst[1].row]
        assert np.array_equal(widget.selected["weights"], row[column : column + 128])
        page.locator("[data-column='a'] canvas").click(position={"x": 0, "y": 0})
        bridge.until("true")
        first_cell = widget.a.block_sqnr_db[:2, :1]
        assert widget.place == [int(first_cell.argmin()), 0]
        page.get_by_label("compare").uncheck()
        bridge.until(drawn("int4/128 rtn all"))
        assert not page.locator("[data-column='b']").is_visible()
        with pytest.raises(WorkbenchError, match="no side b"):
            _ = widget.b
    assert len(widget.data()) == widget.a.signal.size


def test_the_map_of_the_model_chooses(shown):
    with shown(QuantizationExplorer(demo_model_path(), NAME), 1100) as bridge:
        page, widget = bridge.page, bridge.widget
        widget.wait()
        cells = page.locator(".wb-mapped button")
        bridge.until(
            "[...document.querySelectorAll('.wb-mapped button')].every(b => b.title.endsWith(' dB'))"
        )
        assert cells.count() == len(widget.tensors) == 57
        page.locator("[aria-pressed='true']").focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        bridge.until("document.querySelector('.wb select').value === 'model.layers.4.mlp.up_proj.weight'")
        bridge.until(drawn("int4/128 rtn all"))
        assert widget.a.name == "model.layers.4.mlp.up_proj.weight"
        widget.choose(tensor="model.embed_tokens.weight", a={"block": 32})
        bridge.until(drawn("int4/32 rtn all"))
        assert page.get_by_label("matrix", exact=True).input_value() == "model.embed_tokens.weight"


def test_bad_settings_are_refused(shown, large):
    with pytest.raises(WorkbenchError, match="no matrix 'x'"):
        QuantizationExplorer({"w": large}, "x")
    with pytest.raises(Exception, match="multiple of 32"):
        QuantizationExplorer({"w": large}, a={"block": 33})
    widget = QuantizationExplorer({"w": large[:64]})
    with shown(widget) as bridge:
        page = bridge.page
        bridge.until(drawn("int4/128 rtn all"))
        refused = [({"bits": 3}, "int3"), ({"quantizer": "magic"}, "'magic'"), ({"x": 1}, "no setting")]
        for wrong, says in refused:
            widget._received(None, {"kind": "choose", "side": "a", "settings": wrong}, [])
            bridge.pump()
            assert says in page.get_by_role("alert").inner_text()
        assert widget.settings_a["bits"] == 4
        page.get_by_label("bits").first.press("ArrowRight")
        bridge.until(drawn("int8/128 rtn all"))
        assert not page.get_by_role("alert").is_visible()


def test_hostile_names_stay_text(shown, large):
    arrays = {f"model.layers.{i}.{name}.weight": large[:64] for i, name in enumerate(HOSTILE)}
    widget = QuantizationExplorer(arrays | {HOSTILE[1]: large[:64]}, HOSTILE[1])
    with shown(widget) as bridge:
        page = bridge.page
        widget.wait()
        bridge.until(drawn("int4/128 rtn all"))
        assert page.locator(".wb img, .wb script, .wb [onload]").count() == 0
        assert page.locator(".wb-outside span").inner_text() == HOSTILE[1].rsplit(".", 1)[1]
        assert page.get_by_label("matrix", exact=True).input_value() == HOSTILE[1]
        page.set_content(widget.to_html())
        assert page.locator("img, script, svg").count() == 0
        assert page.evaluate("window.broken") is None
