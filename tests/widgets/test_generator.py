"""The generator in a page: streaming, Stop, keyboard, selections, reopening, and tokens that try to break out."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import pytest

from tests.widgets.conftest import HOSTILE
from workbench.errors import WorkbenchError
from workbench.widgets import Generator

pytestmark = pytest.mark.browser
STATE = "document.querySelector('.wb').dataset.state"
TOKENS = "document.querySelectorAll('[data-lane=\"0\"] [data-at]').length"


@pytest.fixture
def opened(shown):
    def give(*arguments, **options):
        return shown(Generator(*arguments, **options))

    return give


def test_streams_and_shows_what_else_was_likely(opened, model):
    with opened(model, max_new_tokens=30) as bridge:
        page, widget = bridge.page, bridge.widget
        page.get_by_label("prompt").fill("The little dog")
        page.get_by_label("seed").fill("5")
        page.get_by_role("button", name="Generate").click()
        bridge.until(f"{TOKENS} > 0 && {TOKENS} < 30")  # it streams
        bridge.until(f"{STATE} === 'done'")
        assert (widget.prompt, widget.seed, widget.error) == ("The little dog", 5, "")
        found = widget.run.continuations[0]
        assert page.locator("[data-lane='0'] .wb-text").inner_text() == "The little dog" + found.text
        assert page.evaluate(TOKENS) == 30
        facts = page.locator(".wb-head .wb-note").inner_text()
        assert re.search(r"30 tokens · [\d.]+ tokens/s · first after \d+ ms", facts)

        # Keyboard: one tab stop, arrows, Enter.
        page.locator("[data-lane='0'] .wb-text").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        active = page.locator(f"#{page.locator('.wb-text').get_attribute('aria-activedescendant')}")
        assert active.get_attribute("data-at") == "3"
        likely = page.locator(".wb-likely li").all_inner_texts()
        assert len(likely) == 5 and all("%" in each for each in likely)
        page.keyboard.press("Enter")
        bridge.until("true")
        assert widget.selection == [0, 3] and widget.selected is found.tokens[3]
        assert active.get_attribute("aria-selected") == "true"
        assert "30 tokens" in widget.static_html() and "{" not in str(widget)


def test_stop_ends_it_and_it_starts_anew(opened, model, monkeypatch):
    monkeypatch.setitem(
        model.__dict__, "eos_ids", frozenset()
    )  # a text that does not end before anyone can stop it
    with opened(model, max_new_tokens=400) as bridge:
        page, widget = bridge.page, bridge.widget
        page.get_by_role("button", name="Generate").click()
        bridge.until(f"{TOKENS} > 2")
        page.get_by_role("button", name="Stop").click()
        bridge.until(f"{STATE} === 'stopped'", 5)
        kept = len(widget.run.continuations[0].tokens)
        widget.wait()
        bridge.pump()
        assert page.evaluate(TOKENS) == len(widget.run.continuations[0].tokens) == kept < 400
        assert widget.run.continuations[0].reason == "stopped"
        assert page.get_by_role("button", name="Generate").is_enabled()
        widget.max_new_tokens = 3
        bridge.pump()
        page.get_by_label("prompt").press("Control+Enter")
        bridge.until(f"{STATE} === 'done'")
        assert page.evaluate(TOKENS) == 3
        page.get_by_label("new tokens").fill("400")
        page.get_by_role("button", name="Generate").click()
        bridge.until(f"{TOKENS} > 3")
        page.keyboard.press("Escape")
        bridge.until(f"{STATE} === 'stopped'", 5)
        widget.wait()


def test_two_models_side_by_side(opened, model, quantized):
    models = {"f16": model, "int4": quantized}
    with opened(models, max_new_tokens=40, temperature=0.8, seed=3) as bridge:
        page, widget = bridge.page, bridge.widget
        page.get_by_role("button", name="Generate").click()
        bridge.until(f"{STATE} === 'done'")
        parted = widget.run.parted
        marks = page.locator(".wb-parted").evaluate_all("all => all.map(each => Number(each.dataset.at))")
        assert marks == ([] if parted is None else [parted, parted])
        flips = [found.flips for found in widget.run.continuations]
        assert page.locator(".wb-flip").count() == sum(flips)
        page.get_by_label("colour by").select_option("none")
        assert page.locator(".wb-flip").count() == 0
        page.locator("[data-lane='1'] [data-at='4']").hover()
        assert page.locator(".wb-likely h4").all_inner_texts() == [
            "f16, reading the same",
            "int4, which wrote it",
        ]
        assert "mean KL" in page.locator("[data-lane='1'] .wb-head").inner_text()


def test_a_view_that_opens_later_shows_the_same(opened, model):
    with opened(model, max_new_tokens=12) as bridge:
        page, widget = bridge.page, bridge.widget
        widget.start()
        widget.wait()
        bridge.until(f"{STATE} === 'done'")
        text = page.locator(".wb-text").inner_text()
        widget.selection = [0, 2]
        bridge.pump()
        page.evaluate("cleanup()")
        assert page.locator(".wb").count() == 0 and page.evaluate("listening()") == 0
        widget.hear_hello = lambda *_: None
        page.evaluate("open_view()")  # without an answer of the kernel: the text alone
        assert page.locator(".wb-text").inner_text() == text
        del widget.hear_hello
        page.evaluate("(cleanup(), open_view())")
        bridge.until(f"{TOKENS} === 12")
        assert page.locator("[data-at='2'][aria-selected=true]").count() == 1
        assert "12 tokens" in page.locator(".wb-head").inner_text()


def test_hostile_tokens_stay_text(opened, hostile):
    with opened({HOSTILE[0]: hostile}, prompt="go", temperature=20, max_new_tokens=60) as bridge:
        page, widget = bridge.page, bridge.widget
        page.get_by_role("button", name="Generate").click()
        bridge.until(f"{STATE} === 'done'")
        texts = [token.text for token in widget.run.continuations[0].tokens]
        assert set(texts) >= set(HOSTILE)
        for at in (texts.index(HOSTILE[0]), texts.index(HOSTILE[2]), texts.index(HOSTILE[4])):
            page.locator(f"[data-at='{at}']").hover()
        shown = page.locator(".wb").inner_text()
        assert HOSTILE[0] in shown and "\\u202egnirts desrever" in shown and "\u241b[31m\u2400\u2407" in shown
        assert not re.search(
            "[\u202e\u2066\u200b\x00\x1b]", page.locator(".wb").evaluate("e => e.textContent")
        )
        assert page.locator(".wb img, .wb script, .wb svg, .wb-text b").count() == 0
        page.set_content(widget.to_html())
        assert page.locator("img, script, svg, [onload], [onerror]").count() == 0
        assert page.evaluate("window.broken") is None


def test_an_interrupt_of_the_waiting_cell_stops_the_run(model):
    widget = Generator(model, max_new_tokens=400)
    widget.start()

    def interrupt() -> None:
        while not widget.run.continuations[0].tokens:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            widget.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    assert widget.state == "stopped"
    widget.max_new_tokens = 2
    widget.start()
    assert len(widget.wait().continuations[0].tokens) == 2


def test_a_closed_widget_works_no_more(model):
    widget = Generator(model, max_new_tokens=400)
    widget.start()
    widget.close()
    assert widget.wait(20).continuations[0].reason in ("stopped", None)


def test_errors_show_in_place(opened, model):
    with opened(model) as bridge:
        page, widget = bridge.page, bridge.widget
        page.get_by_label("prompt").fill("word " * 600)
        page.get_by_role("button", name="Generate").click()
        bridge.until("!document.querySelector('[role=alert]').hidden")
        assert "do not fit into a cache of 512" in page.get_by_role("alert").inner_text()
        page.get_by_label("prompt").fill("ok")
        page.get_by_label("temperature").fill("-1")
        page.get_by_role("button", name="Generate").click()
        bridge.until("document.querySelector('[role=alert]').textContent.includes('temperature')")
        with pytest.raises(WorkbenchError, match="nothing runs"):
            widget.wait()
        page.get_by_label("temperature").fill("0")
        page.get_by_label("new tokens").fill("2")
        page.get_by_role("button", name="Generate").click()
        bridge.until(f"{STATE} === 'done'")
        assert page.get_by_role("alert").filter(visible=True).count() == 0
