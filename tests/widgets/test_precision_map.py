"""The precision map in a page: budget, pins, measurements, what is saved, and names that try to break out."""

from __future__ import annotations

import json
import shlex
import time

import numpy as np
import pytest

from eval.texts import encode, load_text
from tests.widgets.conftest import HOSTILE
from tests.widgets.looks import WRONG
from workbench.assets import calibration_text, evaluation_text
from workbench.errors import WorkbenchError
from workbench.formats.text import parse_format
from workbench.model_bench.speed import Rate, Speed
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer
from workbench.precision import measured
from workbench.precision.allocation import Allocation
from workbench.precision.groups import Group
from workbench.precision.joint import Joint
from workbench.precision.measured import Measured
from workbench.precision.sensitivity import sensitivity
from workbench.precision.table import SensitivityTable
from workbench.widgets import PrecisionMap
from workbench.widgets.precision_content import error_bar

pytestmark = pytest.mark.browser
FORMATS = [parse_format(name) for name in ("int8/128", "int4/128", "int2/256")]
SCHEME = "disjoint-16"  # a few tokens: the widget is under test, not the model
IDLE = "document.querySelector('.wb').dataset.state === 'idle'"
GATE = "layers.2.mlp.gate_up"


@pytest.fixture(scope="module")
def source(shallow):
    return open_source(shallow)


@pytest.fixture(scope="module")
def texts(source):
    """Tokens of the calibration and of the evaluation text."""
    tokenizer = load_tokenizer(source.tokenizer_path)
    return [
        encode(tokenizer, load_text(path()), SCHEME, separator="<|endoftext|>")
        for path in (calibration_text, evaluation_text)
    ]


@pytest.fixture(scope="module")
def costs(source, texts) -> SensitivityTable:
    return sensitivity(source, texts[0], SCHEME, formats=FORMATS, max_windows=2)


def drawn(widget) -> str:
    return f"document.querySelector('.wb').dataset.drawn === '{widget.allocation.nbytes}'"


def after(bridge, happened) -> None:
    """Wait until a message of the page has had its effect here, and the page shows it."""
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, f"nothing happened: {bridge.widget.error}"
        bridge.page.wait_for_timeout(10)
    bridge.until(drawn(bridge.widget))


def cell(page, group: str):
    return page.get_by_role("button", name=f"{group}: ")


def test_the_budget_is_dragged_typed_and_taken_from_a_format(shown, costs):
    widget = PrecisionMap(costs, bits=4)
    front = costs.pareto()
    with shown(widget, 1100) as bridge:
        page = bridge.page
        bridge.until(drawn(widget))
        slider = page.get_by_label("budget", exact=True)
        for key in ("PageUp", "ArrowLeft", "ArrowLeft", "End"):
            before = widget.budget
            slider.press(key)
            after(bridge, lambda before=before: widget.budget != before)
            expected = front.at(widget.budget)
            assert widget.allocation.formats == expected.formats
            texts = page.locator(".wb-formats td button").all_inner_texts()
            assert len(texts) == len(costs.groups) == 13
            said = slider.get_attribute("aria-valuetext")
            assert said == f"{expected.bits_per_weight:.3f} bits a weight, {expected.nbytes / 1e6:,.2f} MB"
        assert set(widget.allocation.formats.values()) == {
            FORMATS[0]
        }  # the end of the front: eight bits everywhere
        page.get_by_label("exactly").fill("3.1")
        page.get_by_label("exactly").press("Enter")
        after(bridge, lambda: widget.allocation.nbytes == front.at_bits(3.1).nbytes)
        page.get_by_label("unit").select_option("MB")
        bridge.until("document.querySelector('.wb-outcomes').textContent.includes('MB of weights')")
        assert float(page.get_by_label("exactly").input_value()) == pytest.approx(
            widget.budget / 1e6, rel=1e-3
        )
        page.get_by_role("button", name="budget of int4/128 everywhere").click()
        uniform = front.uniform(FORMATS[1]).nbytes
        after(bridge, lambda: widget.budget == uniform)
        assert widget.unit == "MB"
        page.locator(".wb-outcomes svg").first.click(position={"x": 150, "y": 80})
        after(bridge, lambda: widget.budget != uniform)
        assert front.nbytes[0] < widget.budget < front.nbytes[-1]
        page.get_by_label("exactly").fill("0.1")
        page.get_by_label("exactly").press("Enter")
        bridge.until("!document.querySelector('[role=alert]').hidden")
        assert "smallest allocation has" in page.get_by_role("alert").inner_text()


def test_groups_are_pinned_by_keys_and_by_choice(shown, costs):
    widget = PrecisionMap(costs, bits=3)
    with shown(widget, 1100) as bridge:
        page = bridge.page
        bridge.until(drawn(widget))
        # One tab stop; arrows walk, plus pins the next larger format, Delete gives the group back to the solver.
        assert page.locator(".wb-formats [tabindex='0']").count() == 1
        cell(page, "layers.0.attn.q_k_v").focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown"):
            page.keyboard.press(key)
        focused = "document.activeElement.getAttribute('aria-label')"
        assert page.evaluate(focused).startswith(f"{GATE}: ")
        before = widget.allocation
        page.keyboard.press("+")
        bridge.until(f"{focused}.endsWith(', pinned')")
        larger = costs.stepped(GATE, _format(before, GATE), 1)
        assert widget.pins == {GATE: str(larger)}
        expected = costs.pareto().pinned({GATE: larger}).at(widget.budget)
        assert widget.allocation.formats == expected.formats
        assert _format(widget.allocation, GATE) == larger
        assert "pinned by hand" in next(a.reason for a in widget.allocation.assignments if a.group == GATE)

        # Picked by Enter, pinned with the radio buttons; the focus stays where it was while all is drawn again.
        page.keyboard.press("Enter")
        bridge.until(f"document.querySelector('.wb-panel h4').textContent === '{GATE}'")
        assert [each.group for each in widget.selected] == [GATE]
        page.get_by_role("radio", name="pin to int2/256").focus()
        page.keyboard.press("ArrowUp")
        bridge.until(f"{focused} === 'pin to int4/128'")
        assert widget.pins == {GATE: "int4/128"}

        # Loaded again, the page shows the same.
        page.evaluate("(cleanup(), open_view())")
        bridge.until(f"document.querySelector('.wb-panel h4')?.textContent === '{GATE}' && {drawn(widget)}")
        assert page.get_by_role("radio", name="pin to int4/128").is_checked()
        cell(page, GATE).press("Delete")
        bridge.until("document.querySelectorAll('.wb-pinned').length === 0")
        assert widget.pins == {} and widget.allocation.formats == before.formats

        # A whole kind by its name; a budget that the pins do not allow is raised.
        page.get_by_role("button", name="all of mlp.down_proj").click()
        bridge.until("document.querySelector('.wb-panel h4').textContent === '3 groups'")
        page.get_by_role("radio", name="pin to int8/128").check()
        bridge.until("document.querySelectorAll('.wb-pinned').length === 3")
        page.get_by_role("button", name="all of mlp.gate_up").press("=")
        bridge.until("document.querySelectorAll('.wb-pinned').length === 6")
        assert widget.budget >= widget.front.nbytes[0]
        page.get_by_role("button", name="Unpin all").click()
        bridge.until("document.querySelectorAll('.wb-pinned').length === 0")
    with pytest.raises(WorkbenchError, match="there is no group 'x'"):
        widget.pin("x", "int4")
    with pytest.raises(WorkbenchError, match="f16 was not measured"):
        widget.pin(GATE, "f16")
    assert widget.pins == {}


def _format(allocation, group: str):
    return next(each.format for each in allocation.assignments if each.group == group)


def test_the_same_error_twice_does_not_stop_the_slider(shown, costs):
    widget = PrecisionMap(costs, bits=4)
    whole = widget.front
    with shown(widget, 1100) as bridge:
        page = bridge.page
        bridge.until(drawn(widget))
        slider = page.get_by_label("budget", exact=True)
        # A front that the page has not heard of yet: its least budget is refused.
        widget.front = whole.pinned(dict.fromkeys((each.name for each in costs.groups), FORMATS[0]))
        refused = []
        widget.observe(lambda change: refused.append(change.new) if change.new else None, "error")
        slider.press("Home")
        bridge.until("document.querySelector('[role=alert]').textContent.includes('smallest allocation has')")
        slider.dispatch_event("input")
        bridge.until("!document.querySelector('[role=alert]').hidden")
        deadline = time.monotonic() + 10
        while len(refused) < 2 and time.monotonic() < deadline:
            bridge.pump()
        assert len(refused) == 2 and refused[0] == refused[1]
        widget.front = whole
        slider.press("End")
        after(bridge, lambda: set(widget.allocation.formats.values()) == {FORMATS[0]})
        assert page.get_by_role("alert").is_hidden()


@pytest.mark.release
def test_measures_what_was_predicted(shown, adapter, costs, source, texts, monkeypatch):
    monkeypatch.setattr(
        measured, "PROMPT", 1
    )  # how fast a prompt is fed is not the subject, and compiles much
    widget = PrecisionMap(costs, source, held_out=texts[1], protocol=SCHEME, max_windows=3, bits=4)
    with shown(widget, 1100) as bridge:
        page = bridge.page
        bridge.until(drawn(widget))
        assert page.locator(".wb-mark-measured").count() == 0
        measure = page.get_by_role("button", name="Measure this allocation")
        measure.click()
        bridge.until("document.querySelector('.wb').dataset.state === 'measuring'")
        assert measure.is_disabled()
        page.get_by_role("button", name="Stop").click()
        bridge.until(IDLE)
        widget.wait()
        assert widget.measured == () and not widget.error
        measure.click()
        bridge.until(f"document.querySelectorAll('.wb-mark-measured').length === 3 && {IDLE}", 120)
        [found] = widget.measured
        assert found.figures["tokens"] == 3 * 15 and found.speed.backend == "wgpu"
        assert widget.allocation.joint == {"evaluation.txt": found.figures}
        said = page.locator(".wb-now").first.inner_text().split("\t")
        assert said[3] == error_bar(found.allocation.predicted_kl, found.allocation.predicted_se)
        assert said[4] == error_bar(found.figures["kl"], found.figures["kl_se"]) != said[3]
        page.get_by_role("button", name="measure int2/256 everywhere").click()
        bridge.until(f"document.querySelectorAll('.wb-mark-measured').length === 6 && {IDLE}", 120)
        worse = widget.measured[1]
        assert worse.figures["kl"] > found.figures["kl"]
        row = page.locator("tr", has_text="int2/256 everywhere")
        less = worse.joint.kl_against(found.joint)
        assert error_bar(less.mean, less.se_clustered) in row.inner_text()
        assert f"{worse.speed.decode.median:.0f} (" in row.inner_text()
        before = widget.allocation.nbytes
        page.get_by_label("budget", exact=True).press("PageUp")
        after(bridge, lambda: widget.allocation.nbytes != before)
        assert page.locator(".wb-mark-measured").count() == 6  # kept, and told apart from the chosen one
        assert page.locator("tr", has_text=f"{found.allocation.bits_per_weight:.3f} bits").count() == 1
        page.evaluate("(cleanup(), open_view())")
        bridge.until("document.querySelectorAll('.wb-mark-measured').length === 6")
    rows = widget.data("measured")
    assert list(rows["bytes"]) == [found.allocation.nbytes, worse.allocation.nbytes]
    assert rows["ppl_se"].gt(0).all() and rows["lowest"].le(rows["tokens_per_second"]).all()
    for what in ("allocation", "front", "costs"):
        assert widget.plot(what).png().startswith(b"\x89PNG")
    assert "45 tokens of evaluation.txt" in widget.to_html()
    assert error_bar(found.figures["ppl"], found.ppl_se) in widget.to_html()
    assert len(json.dumps(widget.get_state(), default=str)) - len(widget._esm) - len(widget._css) < 3000


def test_sensitivities_are_measured_here_stopped_and_gone_on_with(shown, source, texts, tmp_path):
    path = tmp_path / "costs.json"
    options = {"protocol": SCHEME, "formats": FORMATS, "path": path, "bits": 4, "pins": {GATE: "int4"}}
    widget = PrecisionMap(None, source, calibration=texts[0], max_windows=3, **options)
    assert "No sensitivities" in widget.static_html()
    with pytest.raises(WorkbenchError, match="no sensitivities yet"):
        _ = widget.allocation
    with pytest.raises(WorkbenchError, match="no sensitivities yet"):
        widget.measure("int8")
    with shown(widget, 1100) as bridge:
        page = bridge.page
        page.get_by_role("button", name="Measure sensitivities").click()
        bridge.until("document.querySelector('.wb [role=status]').textContent.includes('%')", 60)
        bridge.until("document.querySelector('.wb').dataset.drawn > 0", 120)  # after the first window
        page.get_by_role("button", name="Stop").click()
        bridge.until(IDLE)
        widget.wait()
        assert 1 <= widget.costs.windows < 3 and widget.pins == {GATE: "int4/128"}
        page.evaluate("""() => {
          window.said = [];
          const status = document.querySelector(".wb [role=status]");
          new MutationObserver((seen) => seen.forEach((each) => each.addedNodes.forEach((node) =>
            window.said.push(node.textContent)))).observe(status, { childList: true });
        }""")
        page.get_by_role("button", name="Measure sensitivities").click()
        bridge.until(f"document.querySelector('.wb').textContent.includes('(3 windows)') && {IDLE}", 120)
        assert not page.get_by_role("button", name="Measure sensitivities").is_visible()
        said = page.evaluate("said")
        assert any(text.startswith("100 %") for text in said)
        assert not any("tokens a second" in text for text in said)
    assert SensitivityTable.load(path).windows == widget.costs.windows == 3
    assert widget.costs.kl.shape == (13, 3)
    assert widget.allocation.bits_per_weight <= 4 and _format(widget.allocation, GATE) == FORMATS[1]


def test_saves_what_quantize_takes(shown, costs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    widget = PrecisionMap(costs, bits=3.5)
    (tmp_path / "notes.json").write_text("[]")
    with shown(widget) as bridge:
        page = bridge.page
        bridge.until(drawn(widget))
        page.get_by_role("button", name="Save").click()
        bridge.until("document.querySelector('.wb').textContent.includes('workbench quantize --model')")
        stored = Allocation.load(tmp_path / "allocation.json")
        assert "4/256: bits/block; black corner: pinned" in page.locator(".wb").inner_text()
        page.get_by_label("allocation as").fill("by hand.json")
        page.get_by_role("button", name="Save").click()
        bridge.until("document.querySelector('.wb').textContent.includes('by hand.json: for')")
        told = page.locator(".wb [role=status]").last.inner_text()
        words = shlex.split(told.partition(": for ")[2])
        assert words[words.index("--precision") + 1] == str(tmp_path / "by hand.json")
        assert stored.formats == widget.allocation.formats
        widget.choose(bits=3)
        widget.save("allocation.json")  # over an older allocation, but over nothing else
        page.get_by_label("allocation as").fill("notes.json")
        page.get_by_role("button", name="Save").click()
        bridge.until("!document.querySelector('[role=alert]').hidden")
        assert "notes.json: not an allocation" in page.get_by_role("alert").inner_text()
    assert (tmp_path / "notes.json").read_text() == "[]"
    assert Allocation.load(tmp_path / "allocation.json").nbytes == widget.allocation.nbytes
    groups = widget.data()
    assert len(groups) == 13 and set(groups["kind"]) >= {"embedding", "attn.q_k_v"}
    assert (
        sorted(groups["layer"].dropna().unique()) == list(range(3)) and str(groups["layer"].dtype) == "Int64"
    )
    assert list(groups["kind"][groups["layer"].isna()]) == ["embedding"]
    assert groups["bytes"].sum() + costs.vector_bytes == widget.allocation.nbytes
    assert len(widget.data("front")) == 25
    with pytest.raises(WorkbenchError, match="'x'; there are groups"):
        widget.data("x")
    with pytest.raises(WorkbenchError, match="give costs, or source and calibration"):
        PrecisionMap()
    with pytest.raises(WorkbenchError, match="need source and calibration"):
        widget.measure_costs()


def test_hostile_names_stay_text(shown):
    names = [f"layers.{i}.{name}" for i, name in enumerate(HOSTILE)] + [HOSTILE[1]]
    groups = tuple(Group(name, {f"{name}{HOSTILE[0]}": (64, 256)}) for name in names)
    sums = np.random.default_rng(0).random((len(groups), 3, 2)) * 10.0 ** -np.array([4, 3, 1])[:, None]
    key = {"quantizer": "rtn", "text": {"name": HOSTILE[0]}}
    table = SensitivityTable(groups, tuple(FORMATS), sums, np.full(2, 9), 0, key, {})
    widget = PrecisionMap(table, bits=5)
    with shown(widget) as bridge:
        page = bridge.page
        bridge.until(drawn(widget))
        page.locator(".wb-formats td button").last.click()
        bridge.until("document.querySelector('.wb-panel h4').textContent.includes('script')")
        page.locator(".wb-formats td button").first.press("-")
        bridge.until("document.querySelectorAll('.wb-pinned').length === 1")
        assert page.locator(".wb img, .wb script, .wb [onload]").count() == 0
        assert HOSTILE[1] in page.locator(".wb-panel").inner_text()
        page.set_content(widget.to_html())
        assert page.locator("img, script, svg").count() == 0
        assert page.evaluate("window.broken") is None


@pytest.mark.parametrize(
    ("value", "se", "text"),
    [
        (0.04583, 0.00256, "0.0458 ± 0.0026"),
        (7.1704, 0.0591, "7.170 ± 0.059"),
        (-0.01234, 0.0004, "-0.01234 ± 0.00040"),
        (1.3e-5, 8e-6, "1.30e-5 ± 8.0e-6"),
        (123.4, 25, "123 ± 25"),
        (0.5, float("nan"), "0.5"),
        (0, 0, "0"),
    ],
)
def test_errors_have_two_digits(value, se, text):
    assert error_bar(value, se) == text


def test_what_does_not_fit_the_model_is_cut_and_said(shown, costs, source, texts):
    least = costs.pareto().nbytes[0]
    widget = PrecisionMap(costs, source, held_out=texts[1], protocol="disjoint-4096", bits=0.5)
    assert widget.budget == least == widget.allocation.nbytes
    assert widget.note == (
        "disjoint-512 in place of disjoint-4096: the model's context is 512 tokens; "
        f"{8 * least / costs.weights:.3f} bits a weight in place of 0.5 bits a weight: "
        "these formats and pins allow no less"
    )
    with shown(widget, 1100) as bridge:
        bridge.until(drawn(widget))
        assert bridge.page.get_by_role("note").inner_text() == widget.note
    assert "in place of 0.5 bits" in widget.static_html()
    pins = dict.fromkeys((group.name for group in costs.groups), "int4")
    pinned = PrecisionMap(costs, budget=1000, pins=pins)
    assert (
        pinned.budget == costs.pareto().uniform(FORMATS[1]).nbytes
        and "in place of 1,000 bytes" in pinned.note
    )
    assert PrecisionMap(costs, source, protocol=SCHEME, bits=3).note == ""
    with pytest.raises(WorkbenchError, match="smallest allocation has"):  # asked for later, it is an error
        widget.choose(bits=0.5)


def test_nothing_of_six_formats_is_cut_as_wide_as_jupyterlab_gives_it(shown, source, texts):
    layers = [f"layers.{layer}.{kind}" for layer in range(8) for kind in ("attn.q_k_v", "mlp.gate_up")]
    groups = tuple(Group(name, {f"{name}.weight": (512, 768)}) for name in ("embedding", *layers))
    formats = tuple(map(parse_format, ("f16", "int8", "int4/32", "int4", "int4/256", "int2")))
    random = np.random.default_rng(0)
    sums = random.random((len(groups), 6, 4)) * np.array([0, 1e-5, 1e-3, 2e-3, 2e-3, 1])[:, None]
    table = SensitivityTable(groups, formats, sums, np.full(4, 255), 0, {"quantizer": "rtn"}, {})
    widget = PrecisionMap(table, source, held_out=texts[1], bits=3)
    nll = random.random(400) * 4
    speed = Speed(Rate(64, (0.1,)), Rate(32, (0.17, 0.2, 0.31)), None, "wgpu", "a device", True, None, 0.3)
    for fmt in (formats[0], formats[3]):
        joint = Joint(
            0.01 * random.random(400), nll + 0.01 * random.random(400), nll, np.repeat(np.arange(4), 100)
        )
        found = widget.front.uniform(fmt).with_joint("a text", joint.figures())
        widget._measured.append(Measured(found, "a text", joint, speed))
    with shown(widget, 934) as bridge:
        bridge.until(drawn(widget))
        page = bridge.page
        assert page.locator(".wb-compared button", has_text="its size").count() == 6
        assert page.locator(".wb-compared button", has_text="measure").count() == 4
        assert page.evaluate(WRONG, "precision_map") == []
        page.evaluate("document.getElementById('there').style.width = '600px'")  # then the table scrolls
        scrolls = (
            "(e => e.scrollWidth > e.clientWidth + 50)(document.querySelector('.wb-compared').parentElement)"
        )
        assert page.evaluate(scrolls)
        assert page.evaluate(WRONG, "precision_map") == []
