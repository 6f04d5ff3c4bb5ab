"""The sweep board in a page: a sweep run, stopped and resumed; others followed; rows sorted, filtered, selected."""

from __future__ import annotations

import json
import re
import shutil
import time

import psutil
import pytest

from tests.sweeps.synthetic import Synthetic, four_hundred
from tests.widgets.conftest import HOSTILE
from workbench.errors import SweepError
from workbench.sweeps import follow
from workbench.sweeps.sweep import Sweep
from workbench.widgets import SweepBoard, sweep_board

pytestmark = pytest.mark.browser
PPL = "perplexity ± SE"
STATE = "document.querySelector('.wb').dataset.state"
ROWS = "[...document.querySelectorAll('tbody tr')].filter(tr => !tr.hidden)"
SPEC = """
[sweep]
output = {output}
max_windows = {windows}
[texts.stories]
file = "embedded"
[grid]
model = "embedded"
format = ["int8", "int4"]
protocol = "disjoint-256"
"""


@pytest.fixture
def quick(monkeypatch):
    """Looks into folders ten times a second."""
    monkeypatch.setattr(sweep_board, "LOOK", 0.1)
    monkeypatch.setattr(sweep_board, "LOOK_IDLE", 0.1)


@pytest.fixture
def spec(tmp_path):
    def write(windows: int):
        path = tmp_path / "blocks.toml"
        path.write_text(SPEC.format(output=json.dumps(str(tmp_path / "out")), windows=windows))
        return path

    return write


def texts(bridge, column: str) -> list[str]:
    """Of a column, in the rows that are shown."""
    at = bridge.page.locator("thead th").all_inner_texts().index(column)
    return bridge.page.evaluate(f"{ROWS}.map(tr => tr.children[{at}].innerText)")


def tick(bridge, label: str):
    return bridge.page.get_by_role("checkbox", name=label)


def workers() -> set[int]:
    """Process ids of this process's sweep workers."""
    found = psutil.Process().children()
    return {each.pid for each in found if "workbench.sweeps.worker" in " ".join(each.cmdline())}


def test_starts_stops_and_resumes_a_sweep(shown, spec, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with shown(SweepBoard(spec(6))) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(f"{ROWS}.length === 3")
        assert texts(bridge, "status") == ["waiting"] * 3
        assert page.get_by_role("button", name="Stop").is_disabled()
        others = workers()  # of other tests
        page.get_by_label("processes").fill("1")
        page.get_by_role("button", name="Start").click()
        bridge.until("document.querySelector('tr[data-status=running]')?.innerText.includes('process ')", 60)
        assert widget.processes == 1 and len(workers() - others) == 1
        with pytest.raises(SweepError, match="running already"):
            widget.start()
        began = time.monotonic()
        page.get_by_role("button", name="Stop").click()
        bridge.until(f"{STATE} === 'stopped'", 20)
        assert time.monotonic() - began < 5 and workers() <= others
        assert page.get_by_role("button", name="Resume").is_enabled()
        assert page.evaluate("document.activeElement.textContent") == "Resume"
        done = widget.sweep.count("done")
        page.get_by_role("button", name="Resume").click()
        bridge.until(f"{STATE} === 'done'", 120)
        assert widget.wait() is widget.sweep and widget.error == "" and done < 3
        [live] = page.locator(".wb [role=status]").all_inner_texts()
        assert live == "3 cells done, 0 failed"

        # What the page shows is what the table says.
        table = widget.table()
        bridge.until("document.querySelectorAll('th').length >= 8")
        assert texts(bridge, PPL) == [f"{r.ppl:.4f} ± {r.ppl_error:.4f}" for r in table.rows]
        assert any(row.ppl_error == row.ppl_se_clustered for row in table.rows)
        assert f"{table.rows[1].kl:.2e}" in texts(bridge, "KL ± SE, nats")[1]
        told = page.locator(".wb-told").inner_text()
        assert "protocol: disjoint-256" in told and "whichever is larger" in told

        # Selected by keyboard, it is a DataFrame; what is plotted is the selection.
        tick(bridge, "embedded · as it is").focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        bridge.until("document.querySelectorAll('.wb-picked').length === 2")
        assert list(widget.selected["format"]) == ["as it is", "int4"] and len(widget.data()) == 3
        assert set(widget.selected["key"]) == set(widget.selection) and len(widget.table()) == 2
        picture = spec(6).parent / "front.png"
        widget.plot(picture)
        assert picture.read_bytes().startswith(b"\x89PNG")

        # A page that is loaded again finds everything.
        page.get_by_role("button", name="bits a weight").click()
        page.evaluate("cleanup()")
        assert page.locator(".wb").count() == 0 and page.evaluate("listening()") == 0
        page.evaluate("open_view()")
        bridge.until(f"{ROWS}.length === 3 && document.querySelectorAll('.wb-picked').length === 2")
        assert texts(bridge, "format") == ["int4", "int8", "as it is"]
        page.set_content(widget.to_html())
        assert f"{table.rows[0].ppl:.4f}" in page.locator("table").inner_text()
        widget.close()


def test_follows_a_sweep_of_another_process(shown, tmp_path, quick, monkeypatch):
    run = Synthetic(tmp_path / "out", 12)
    with shown(SweepBoard(tmp_path / "out")) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(f"{STATE} === 'elsewhere' && {ROWS}.length === 12")
        assert page.get_by_role("button", name="Start").is_disabled()
        with pytest.raises(SweepError, match="stop it there"):
            widget.stop()
        run.score(3, 0.5)
        run.finish(0, 7.0)
        run.fail(5, "Traceback\n  somewhere\nValueError: a <b>bad</b> thing")
        run.tell()
        bridge.until("document.querySelectorAll('tr[data-status=failed]').length === 1")
        assert texts(bridge, "status")[3] == "running 50 %" and texts(bridge, "status")[0] == "done"
        failed = page.locator("tr[data-status=failed]")
        assert failed.locator("[colspan]").inner_text() == "ValueError: a <b>bad</b> thing"
        assert "1 of 12 done, 1 running, 9 waiting, 1 failed" in page.locator(".wb-told").inner_text()
        assert "left" in page.locator(".wb-told").inner_text()
        failed.get_by_role("checkbox").focus()
        assert page.locator(".wb-detail pre").inner_text() == run.cells[5].error
        assert page.locator(".wb-detail").inner_text().startswith(run.cells[5].label)

        # Its process is killed: it may be resumed here, where the model is.
        monkeypatch.setattr(follow, "SILENCE_SECONDS", 0.2)
        bridge.until(f"{STATE} === 'lost'")
        assert texts(bridge, "status")[3] == "waiting" and widget.sweep.lost
        page.get_by_role("button", name="Resume").click()
        bridge.until("!document.querySelector('[role=alert]').hidden")
        assert "models/a-model" in page.get_by_role("alert").inner_text()
        bridge.until(f"{STATE} === 'lost'")
        with pytest.raises(Exception, match="models/a-model"):
            widget.wait()
        widget.close()


@pytest.mark.release
def test_a_folder_is_resumed_by_the_board(spec, tmp_path, monkeypatch):
    """And by Python alone: without a page."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sweep = Sweep.read(spec(2))
    sweep.observe(lambda sweep: sweep.stop() if sweep.count("done") else None)
    sweep.run(processes=1)
    assert 1 <= sweep.count("done") < 3
    board = SweepBoard(tmp_path / "out", processes=1)
    assert board.state == "stopped" and f"{sweep.count('done')} of 3 done" in repr(board)
    board.start()
    assert board.wait().finished and board.state == "done"
    assert list(board.data()["status"]) == ["done"] * 3
    board.close()
    assert board.sweep._observers == []


@pytest.mark.release
def test_a_stop_is_for_one_run(spec, monkeypatch):
    """After it, the same sweep runs to its end from a cell of the notebook, whoever began what was stopped."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sweep = Sweep.read(spec(1))
    board = SweepBoard(sweep, processes=1)
    board.start()
    board.stop()
    board.wait()
    assert not sweep.finished and board.state in ("idle", "stopped")
    forget = sweep.observe(lambda sweep: sweep.running and board.stop())
    sweep.run(processes=1)
    forget()
    assert not sweep.finished
    sweep.run(processes=1)
    assert sweep.count("done") == 3
    board.close()


RECORD = """() => {
  window.touched = new Set();
  new MutationObserver((all) => all.forEach(({ target }) => {
    const tr = (target.closest ? target : target.parentElement)?.closest("tr");
    if (tr?.dataset.key) window.touched.add(tr.dataset.key);
  })).observe(document.querySelector("tbody"),
    { subtree: true, childList: true, attributes: true, characterData: true });
}"""


def test_hundreds_of_cells_stay_fluid(shown, tmp_path, quick):
    run = four_hundred(tmp_path / "out")
    with shown(SweepBoard(tmp_path / "out")) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(f"{ROWS}.length === 400")
        widget.order = [PPL, "ascending"]
        bridge.pump()
        running = next(i for i, s in enumerate(run.cells) if s.status == "running")
        page.evaluate(RECORD)
        before = {"messages": 0}
        send = widget.send
        widget.send = lambda *a: (before.__setitem__("messages", before["messages"] + 1), send(*a))
        began = time.monotonic()
        for step in range(40):  # a state of ours is written forty times in two seconds
            run.score(running, 0.25 + step / 100)
            run.tell()
            bridge.pump()
            time.sleep(0.05)
        seconds = time.monotonic() - began
        bridge.until(f"{ROWS}.some(tr => tr.innerText.includes('running 64 %'))")
        assert before["messages"] <= 5 * seconds + 2
        touched = page.evaluate("[...window.touched]")
        times = {s.key for s in run.cells if s.status == "running"}  # how long they have run is drawn as well
        assert run.cells[running].key in touched and set(touched) <= times

        # Drawing all of it anew, a sort and a filter take no time that could be felt.
        page.evaluate("(cleanup(), open_view())")
        bridge.until(f"{ROWS}.length === 400")
        spent = page.evaluate("""() => {
          const buttons = [...document.querySelectorAll("th button")];
          const click = (name) => buttons.find((each) => each.textContent === name).click();
          const began = performance.now();
          for (const name of ["quantizer", "bits a weight", "status"]) (click(name), document.body.offsetHeight);
          const search = document.querySelector("[type=search]");
          search.value = "int2";
          search.dispatchEvent(new Event("input"));
          document.body.offsetHeight;
          return (performance.now() - began) / 4;
        }""")
        assert spent < 1000, (
            f"{spent:.0f} ms"
        )  # idle it takes a tenth; what grows with the cells takes seconds

        # What is saved is small, with every row selected.
        widget.search = ""
        bridge.pump()
        page.get_by_label("select all rows").click()
        bridge.until("document.querySelectorAll('.wb-picked').length === 400")
        assert len(widget.selected) == 400
        state = {name: value for name, value in widget.get_state().items() if name not in ("_esm", "_css")}
        assert len(json.dumps(state, default=str)) < 20_000
        assert len(widget.static_html()) < 120_000 and "and 300 more" in widget.static_html()
        widget.close()


def test_sorts_filters_and_selects(shown, tmp_path, quick):
    run = four_hundred(tmp_path / "out", 40)
    run.end()
    with shown(SweepBoard(tmp_path / "out")) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(f"{ROWS}.length === 40")
        button = page.get_by_role("button", name=PPL)
        button.click()
        found = [text for text in texts(bridge, PPL) if "±" in text]
        assert found == sorted(found, key=lambda text: float(text.split()[0])) and len(found) == 29
        assert texts(bridge, PPL)[:29] == found  # what has none comes last
        assert page.locator("[aria-sort=ascending]").get_attribute("data-column") == "perplexity ± SE"
        button.press("Enter")
        assert [text for text in texts(bridge, PPL) if "±" in text] == found[::-1]
        assert texts(bridge, PPL)[0] == found[-1] and widget.order == [PPL, "descending"]
        button.click()
        assert page.locator("[aria-sort=ascending], [aria-sort=descending]").count() == 0
        assert widget.order == []
        page.get_by_role("button", name="format", exact=True).click()
        assert texts(bridge, "format")[0] == "as it is"

        page.get_by_label("filter").fill("int4/64 GRID")
        assert set(texts(bridge, "format")) == {"int4/64"} and set(texts(bridge, "quantizer")) == {"grid"}
        page.get_by_label("filter").fill("not finite")
        assert texts(bridge, "status") == ["failed"]
        page.get_by_label("filter").fill("")
        page.get_by_role("button", name="waiting 10").click()
        assert set(texts(bridge, "status")) == {"waiting"}
        assert "10 of 40 shown" in page.locator(".wb").inner_text()
        assert widget.only == ["waiting"]
        assert page.get_by_role("button", name="waiting 10").get_attribute("aria-pressed") == "true"

        # Shift takes all between; Control+A all that is shown; a click one more or less.
        bridge.pump()  # the bridge tells the page all that it has said, one by one
        boxes = page.locator("tbody tr:not([hidden]) input")
        assert boxes.evaluate_all("all => all.filter(each => each.tabIndex === 0).length") == 1
        boxes.nth(2).click()
        boxes.nth(5).click(modifiers=["Shift"])
        bridge.until("document.querySelectorAll('.wb-picked').length === 4")
        page.keyboard.press("Shift+ArrowDown")
        bridge.until("document.querySelectorAll('.wb-picked').length === 5")
        page.keyboard.press("Control+a")
        bridge.until("document.querySelectorAll('.wb-picked').length === 10")
        assert (widget.selected["status"] == "waiting").all() and len(widget.selected) == 10
        with pytest.raises(SweepError, match="no result yet"):
            widget.plot()
        page.locator("tbody tr:not([hidden]) td").nth(3).click()
        bridge.until("document.querySelectorAll('.wb-picked').length === 9")
        assert page.get_by_label("select all rows").evaluate("box => box.indeterminate")
        widget.selection = []
        bridge.pump()
        assert page.locator(".wb-picked").count() == 0
        widget.close()


def test_hostile_names_and_errors_stay_text(shown, tmp_path, quick):
    run = Synthetic(tmp_path / "out", 9, model=HOSTILE[0], text="stories.txt")
    run.note = HOSTILE[1]
    for index, text in enumerate(HOSTILE):
        run.fail(index, text) if index % 2 else run.score(index, 0.5, text)
    run.tell()
    with shown(SweepBoard(tmp_path / "out")) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(f"{ROWS}.length === 9")
        for row in page.locator("tbody input").all():
            row.focus()
        seen = page.locator(".wb").inner_text()
        assert HOSTILE[0] in seen and HOSTILE[1] in seen and "\\u202egnirts desrever" in seen
        assert not re.search(
            "[\u202e\u2066\u200b\x00\x1b]", page.locator(".wb").evaluate("e => e.textContent")
        )
        assert page.locator(".wb img, .wb script, .wb svg").count() == 0
        page.set_content(widget.to_html())
        assert page.locator("img, script, svg, [onload], [onerror]").count() == 0
        assert page.evaluate("window.broken") is None
        widget.close()


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(SweepError, match="nothing to follow"):
        SweepBoard(tmp_path)
    with pytest.raises(SweepError, match="cannot be read"):
        SweepBoard(tmp_path / "absent.toml")


def test_a_folder_that_goes_away_is_said(shown, tmp_path, quick):
    Synthetic(tmp_path / "out", 3)
    with shown(SweepBoard(tmp_path / "out")) as bridge:
        bridge.until(f"{ROWS}.length === 3")
        for path in (tmp_path / "out" / "sweeps").glob("*.json"):
            path.unlink()
        Synthetic(tmp_path / "other", 4)
        shutil.copytree(tmp_path / "other" / "sweeps", tmp_path / "out" / "sweeps", dirs_exist_ok=True)
        for path in (tmp_path / "out" / "sweeps").glob("*.json"):
            path.unlink()
        bridge.until("!document.querySelector('[role=alert]').hidden")
        assert "is missing, or of another version" in bridge.page.get_by_role("alert").inner_text()
        # It is looked for again: back, it is followed, and the error is gone.
        shutil.copytree(tmp_path / "other" / "sweeps", tmp_path / "out" / "sweeps", dirs_exist_ok=True)
        bridge.until(f"{ROWS}.length === 4 && document.querySelector('[role=alert]').hidden")
        assert bridge.widget.error == ""
        bridge.widget.close()
