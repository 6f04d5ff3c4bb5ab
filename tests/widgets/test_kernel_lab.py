"""The kernel lab in a page: comparing, editing, compile errors at their lines, versions, keyboard, hostile strings."""

from __future__ import annotations

import dataclasses
import re

import pytest

import wgsl_kernels
from tests.widgets.conftest import HOSTILE
from wgsl_kernels import Cost, KernelUsageError
from workbench.assets import demo_model_path
from workbench.errors import WorkbenchError
from workbench.studies.lab import Lab
from workbench.widgets import KernelLab

pytestmark = pytest.mark.browser
SMALL = {"tokens": 1, "rows": 40, "columns": 96, "block": 32, "rounds": 2}
EDITOR = ".wb-editor textarea"
RUN = "Run as a new version"
VARIANTS = len(wgsl_kernels.get("linear[int4]").variants)


def lets(text: str) -> int:
    """How often WGSL declares a constant value, outside of comments."""
    return len(re.findall(r"\blet\b", re.sub(r"//.*", "", text)))


@pytest.fixture(autouse=True)
def small_ceilings(adapter, monkeypatch):
    """Ceilings of little work: their values are tested elsewhere."""
    for name, value in {"WORDS": 1 << 15, "THREADS": 256, "STEPS": 4}.items():
        for kind in ("CPU", "GPU"):
            monkeypatch.setattr(f"workbench.kernel_bench.ceilings.{kind}_{name}", value)


def in_state(state: str) -> str:
    return f"document.querySelector('.wb').dataset.state === '{state}'"


def versions(count: int) -> str:
    return f"document.querySelector('.wb').dataset.versions === '{count}' && {in_state('done')}"


def rows(count: int) -> str:
    return f"document.querySelectorAll('tr[data-row]').length === {count}"


def cells(page, name: str) -> list[str]:
    return page.locator(f"tr[data-row='{name}'] td").all_inner_texts()


def test_compares_and_says_what_the_result_says(shown):
    with shown(KernelLab("linear[int4]", variants=["gemv", "batch"], **SMALL), 1160) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(rows(VARIANTS))
        with pytest.raises(WorkbenchError, match="nothing has run"):
            widget.wait()
        assert cells(page, "gemv")[2] == "not run" and widget.selected is None
        page.get_by_label("compare tile", exact=True).check()
        page.get_by_label("compare batch", exact=True).uncheck()
        page.get_by_label("rows", exact=True).fill("44")
        page.get_by_role("button", name="Compare").click()
        bridge.until(in_state("done"))
        found = widget.wait()
        assert [r.variant for r in found.results] == ["gemv", "tile"] and found.sizes["rows"] == 44
        for name in ("gemv", "tile"):
            _, _, status, worst, noise, time, *_ = cells(page, name)
            result = found[name]
            assert (status, noise) == ("passed", f"{result.worst('sqnr'):.1f}")
            assert float(worst) == pytest.approx(result.worst("worst"), rel=0.01)
            assert float(time.replace(",", "")) == pytest.approx(1e6 * result.timing.median, rel=1e-3)
            assert page.locator(f"tr[data-row='{name}'] .wb-sample").count() == len(result.timing.samples)
        assert widget.data().median_s.notna().all() and found.read_ceiling
        roof = page.get_by_role("img", name="roofline")
        assert "gemv" in roof.get_attribute("aria-label") and page.get_by_text("f32 FMA").count() >= 1
        page.get_by_role("button", name="tile", exact=True).press("Enter")
        bridge.until("document.querySelector('.wb-here').dataset.row === 'tile'")
        assert widget.selected is found["tile"]
        assert page.evaluate("document.activeElement.textContent") == "tile"  # drawn anew, and focused again
        assert page.get_by_role("img", name="errors of tile").count() == 1
        assert (
            wgsl_kernels.get("linear[int4]").variants["tile"].why in page.locator(".wb-detail").inner_text()
        )
        with page.expect_download() as saved:
            page.get_by_role("button", name="SVG").click()
            bridge.until("true")
            for _ in range(100):
                bridge.pump()
                page.wait_for_timeout(20)
        assert saved.value.suggested_filename == "linear[int4]-timing.svg"
        assert saved.value.path().read_bytes().startswith(b"<?xml")


def test_edits_fail_and_pass_and_stay_side_by_side(shown):
    with shown(KernelLab("linear[int4]", variants=["gemv"], **SMALL), 1160) as bridge:
        page, widget = bridge.page, bridge.widget
        text = page.locator(EDITOR)
        original = widget.lab.text("gemv")
        bridge.until(rows(VARIANTS))
        assert text.input_value() == original == page.locator(".wb-colours").inner_text().removesuffix("\n")
        assert page.locator(".wb-colours .wb-c-keyword", has_text="let").count() == lets(original)
        assert page.locator(".wb-listing .wb-c-keyword", has_text="def").count() == 1

        # A compile error, at its line of this text.
        line = 1 + original[: original.index("let token")].count("\n")
        text.fill(original.replace("let token = id.y", "let token = id.q"))
        page.get_by_role("button", name=RUN).click()
        bridge.until(versions(1))
        problem = page.get_by_role("button", name=f"line {line}, column 18")
        assert "`q`" in problem.inner_text() and text.get_attribute("aria-invalid") == "true"
        assert page.locator(".wb-bad").inner_text().strip() == f"▸{line}"
        problem.click()
        assert page.evaluate("document.activeElement.selectionStart") == original.index("let token") + 15
        assert widget.selected.status == "compile error" and cells(page, "v1")[2] == "compile error"

        # Wrong numbers, with the first of them; Control and Enter run it.
        text.fill(original.replace("y_type(", "y_type(0.5 * "))
        text.press("Control+Enter")
        bridge.until(versions(2))
        assert widget.versions[1].status == "wrong numbers" and widget.comparison is None
        assert page.locator("[data-mismatches] tbody tr").count() == 5
        assert "40 of 40 off" in page.locator(".wb-detail").inner_text()
        assert page.locator(".wb-bad").count() == 0
        assert "+      y[index] = y_type(0.5 * with_residual" in page.locator(".wb-diff").inner_text()

        # From the original again, with other tunables: it passes, and is timed beside its base.
        page.get_by_label("begin from").select_option("gemv")
        assert text.input_value() == original
        page.get_by_label("rows_per_team").select_option("4")
        page.get_by_role("button", name=RUN).click()
        bridge.until(versions(3))
        assert [r.variant for r in widget.comparison.results] == ["gemv", "v3"]
        assert dict(widget.versions[2].tunables) == {"rows_per_team": 4} and widget.chosen == ["gemv", "v3"]
        assert "× gemv" in cells(page, "v3")[7]
        assert "const ROWS: u32 = 40u;" in page.get_by_label("generated header").inner_text()

        # A view that opens later shows all of it, and the text that was not run yet.
        text.fill("// a draft")
        page.evaluate("(cleanup(), open_view())")
        bridge.until(versions(3))
        assert page.locator(EDITOR).input_value() == "// a draft" == widget.draft
        assert cells(page, "v2")[2] == "wrong numbers"
        page.get_by_role("button", name="forget v2").click()
        bridge.until(rows(VARIANTS + 2))
        assert [v.name for v in widget.versions] == ["v1", "v3"]
        saved = widget.get_state()
        assert len(str({k: v for k, v in saved.items() if k not in ("_esm", "_css")})) < 4000
        page.set_content(widget.to_html())
        said = page.locator("body").inner_text()
        assert f"v1, from gemv: compile error: line {line}, column 18" in said and "v3 is" in said
        page.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        assert "F.linear" in page.locator("body").inner_text()


def test_the_keyboard_alone(shown):
    with shown(KernelLab("add", rounds=1)) as bridge:
        page = bridge.page
        bridge.until(rows(1))
        text = page.locator(EDITOR)
        before = text.input_value()
        text.focus()
        page.keyboard.press("Control+Home")
        page.keyboard.press("Tab")
        assert text.input_value() == f"  {before}"
        page.keyboard.press("Control+z")
        assert text.input_value() == before
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.textContent") == RUN
        page.keyboard.press("Enter")
        bridge.until(versions(1))
        assert bridge.widget.versions[0].status == "passed"
        assert page.get_by_role("status").inner_text() == "v1: passed"


def test_kernels_change_and_keep_their_versions(shown):
    with shown(KernelLab("add", rounds=1)) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(rows(1))
        widget.edit(widget.lab.text("elements"))
        bridge.until(versions(1))
        assert page.get_by_role("img", name="roofline").count() == 1
        assert "names no operations" not in page.locator(".wb").inner_text()
        page.get_by_label("kernel", exact=True).select_option("linear")
        bridge.until(rows(VARIANTS))
        assert (widget.kernel, widget.versions, widget.state) == ("linear[int4]", (), "idle")
        page.get_by_label("weights", exact=True).select_option("int8")
        bridge.until("document.querySelector('select[aria-label=weights]').value === 'int8'")
        assert widget.kernel == "linear[int8]" and widget.sizes["block"] == 128
        page.get_by_label("block", exact=True).fill("33")
        page.get_by_role("button", name="Compare").click()
        bridge.until("!document.querySelector('[role=alert]').hidden")
        assert "block = 33 is not a multiple of 32" in page.get_by_role("alert").inner_text()
        assert page.get_by_role("button", name="Compare").is_enabled()
        page.get_by_label("kernel", exact=True).select_option("add")
        bridge.until(rows(2))
        assert [v.name for v in widget.versions] == ["v1"] and not page.get_by_role("alert").is_visible()
    with pytest.raises(KernelUsageError, match="no kernel is named 'nope'"):
        KernelLab("nope")


def test_a_kernel_without_operations_has_no_roofline(shown):
    with shown(KernelLab("kv_append", rounds=1, tokens=2)) as bridge:
        bridge.widget.run()
        bridge.until(in_state("done"))
        assert "the kernel's cost names no operations" in bridge.page.locator(".wb").inner_text()
        assert bridge.page.get_by_role("img", name="roofline").count() == 0


def test_edits_from_python_are_what_the_page_shows(shown):
    with shown(KernelLab("linear[int4]", variants=["gemv"], **SMALL)) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(rows(VARIANTS))
        text = widget.lab.text("batch")
        widget.tunables = {"rows_per_team": 2}  # left from before
        widget.edit(text.replace("let piece", "let nothing"), "batch")
        assert widget.wait() is None and widget.versions[-1].status == "compile error"
        bridge.until(versions(1))
        assert "let nothing" in page.locator(EDITOR).input_value() and widget.tunables == {}
        widget.edit(text, "batch", {"rows_per_team": 4})
        assert [each.variant for each in widget.wait().results] == ["gemv", "v2"]
        bridge.until(versions(2))
        # Begun from that version, nothing changed: its tunables, too.
        assert page.locator(EDITOR).input_value() == text
        page.get_by_label("begin from").select_option("v2")
        page.get_by_role("button", name=RUN).click()
        bridge.until(versions(3))
        assert widget.versions[2].base == "batch" and widget.versions[2].tunables == {"rows_per_team": 4}
        assert widget.comparison["v3"].tunables["rows_per_team"] == 4


@pytest.mark.release
def test_a_version_runs_inside_a_model(shown, monkeypatch):
    quick = {
        "protocol": "disjoint-64",
        "max_windows": 1,
        "repetitions": 1,
        "decode_tokens": 4,
        "max_tokens": 64,
    }
    monkeypatch.setattr("workbench.widgets.kernel_lab.INSIDE", quick)
    widget = KernelLab("linear[f16]", variants=["gemv"], rows=40, columns=96, rounds=1)
    with shown(widget) as bridge:
        page = bridge.page
        bridge.until(rows(len(widget.lab.kernel.variants)))
        button, path = (
            page.get_by_role("button", name="Run inside a model"),
            page.get_by_label("model", exact=True),
        )
        path.fill(str(demo_model_path()))
        assert button.is_disabled()  # there is no version
        with pytest.raises(WorkbenchError, match="model names nothing to run a version inside of"):
            widget.run_inside("")
        with pytest.raises(KernelUsageError, match="no version of linear\\[f16\\] has passed"):
            widget.run_inside(demo_model_path())
        widget.edit(widget.lab.text("gemv") + "// the same numbers\n", "gemv")
        widget.wait()
        bridge.until(versions(1))
        button.click()
        bridge.until(
            in_state("done") + " && !document.querySelector('[aria-label=\\'inside a model\\']').hidden"
        )
        said = page.get_by_label("inside a model", exact=True).inner_text()
        assert said.strip() == str(widget.inside).strip() and "linear[f16], v1: " in said
        assert widget.inside.results["with the library"].baseline.kl["max"] == 0
        assert widget.model == str(demo_model_path()) and "decode" in widget.to_html()
        path.fill("nowhere/nothing-here")
        path.press("Enter")
        bridge.until("!document.querySelector('.wb-alert').hidden")
        assert "nothing-here" in widget.error and widget.state == "done"


def test_what_cannot_run_leaves_the_table(shown):
    with shown(KernelLab("linear[int4]", variants=["gemv"], **SMALL)) as bridge:
        page, widget = bridge.page, bridge.widget
        widget.run()
        found = widget.wait()
        bridge.until(in_state("done"))
        page.get_by_label("compare gemv", exact=True).uncheck()
        assert page.get_by_role("button", name="Compare").is_disabled()
        bridge.pump()
        with pytest.raises(KernelUsageError, match="nothing is chosen"):
            widget.run()
        page.get_by_label("compare gemv", exact=True).check()
        assert page.get_by_role("button", name="Compare").is_enabled()
        bridge.pump()
        widget.sizes = {**widget.sizes, "depth": 3}
        widget.run()
        with pytest.raises(WorkbenchError, match="'depth'"):
            widget.wait()
        bridge.until(in_state("done"))
        assert widget.comparison.results == found.results and "depth" not in widget.lab.sizes
        assert cells(page, "gemv")[2] == "passed"


def test_stop_leaves_the_next_run_its_turn(shown):
    sizes = {
        "symmetric": True,
        "rows": 512,
        "columns": 512,
        "rounds": 5,
    }  # a few seconds on a software adapter
    with shown(KernelLab("linear[int4]", variants=["tile", "gemv"], **sizes)) as bridge:
        page, widget = bridge.page, bridge.widget
        bridge.until(rows(VARIANTS))
        page.get_by_role("button", name="Compare").click()
        bridge.until(in_state("comparing"))
        page.get_by_role("button", name="Stop").click()
        bridge.until(in_state("stopped"))
        assert page.get_by_role("button", name="Compare").is_enabled()
        page.get_by_role("button", name="Compare").click()
        bridge.until(in_state("done"))
        assert widget.wait().fastest.variant == "gemv"
        assert widget.sizes["symmetric"] is True and "> zeros:" not in widget.comparison["gemv"].wgsl
        assert page.get_by_label("symmetric").count() == 0  # no number


def test_hostile_strings_stay_text(shown):
    add = wgsl_kernels.get("add")
    body = add.variants["elements"].body()
    evil = "\n".join(f"// {text}" for text in HOSTILE)
    variant = dataclasses.replace(add.variants["elements"], text=f"{evil}\n{body}", why=HOSTILE[0])
    kernel = dataclasses.replace(
        add, op=HOSTILE[0], variants={HOSTILE[1]: variant}, cost=lambda sizes: Cost(1, 1, 1)
    )
    widget = KernelLab(Lab(kernel, rounds=1))
    with shown(widget) as bridge:
        page = bridge.page
        bridge.until(rows(1))
        page.get_by_role("button", name="Compare").click()
        bridge.until(in_state("done"))
        page.locator(EDITOR).fill(f"{evil}\n{body} <img src=x onerror=alert(1)> \u202e")
        page.get_by_role("button", name=RUN).click()
        bridge.until(versions(1))
        assert widget.versions[0].status == "compile error"
        assert page.locator(".wb img, .wb script, .wb [onload], .wb [onerror]").count() == 0
        assert HOSTILE[1] in page.locator("tr[data-row]").first.inner_text()
        assert "\\u202e" in page.locator(".wb-colours").inner_text()
        page.set_content(widget.to_html())
        assert page.locator("img, script, svg").count() == 0
        assert page.evaluate("window.broken") is None
