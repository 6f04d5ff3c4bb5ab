"""What the widgets cost and how soon they answer, in a real JupyterLab.

`python -m tests.widgets.bars [redraw|budget|stream|stop]` measures

- tokens/s of 2,000 streamed greedy tokens against the bare loop over the same engine, in turns
- milliseconds from a click on Stop to its effect, 20 runs, each while another cell keeps the kernel busy
- milliseconds from a change of block size or bits of a 4096 x 4096 tensor until it is drawn
- milliseconds from a step of the budget until the precision map is drawn, for random costs of an 8B Llama's shapes
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
from pathlib import Path

from tests.support.chromium import launched
from tests.widgets.front_end import opened, served

TURNS, TOKENS, STOPS = 3, 2000, 20

SETUP = f"""
import time, numpy, workbench
from workbench.assets import demo_model_path
from workbench.widgets import Generator, QuantizationExplorer
model = workbench.load(demo_model_path(), max_tokens={TOKENS + 16})
ids = model.encode_prompt("Once upon a time")
def bare(count):
    tokens = model.generate_ids(ids, count)
    next(tokens)
    began = time.perf_counter()
    return sum(1 for _ in tokens) / (time.perf_counter() - began)
model.__dict__["eos_ids"] = frozenset()  # the loop does not end at them either
g = Generator(model, max_new_tokens={TOKENS})
g"""

STREAM = f"""
bare(100); rates = []
for turn in range({TURNS}):
    without = bare({TOKENS})
    g.start(); g.wait()
    rates.append((without, g.run.continuations[0].tokens_per_second))
print("rates:", *(f"{{a:.2f}}/{{b:.2f}}" for a, b in rates))"""

EXPLORE = """
w = numpy.random.default_rng(0).standard_t(5, (4096, 4096)).astype("f4") * 0.02
QuantizationExplorer({"w": w})"""

BUSY = """
began = time.time()
while time.time() - began < 600 and not globals().get("enough"):
    sum(range(2000))"""

MAP = """
from workbench.precision.groups import Group
from workbench.precision.table import SensitivityTable
from workbench.formats.text import parse_format
from workbench.widgets import PrecisionMap
shapes = {"attn.q_k_v": (6144, 4096), "attn.o_proj": (4096, 4096)}
shapes |= {"mlp.gate_up": (28672, 4096), "mlp.down_proj": (4096, 14336)}
groups = [Group(name, {name: (128256, 4096)}) for name in ("embedding", "lm_head")]
for layer in range(32):
    groups += [Group(f"layers.{layer}.{kind}", {f"{layer}.{kind}": shape}) for kind, shape in shapes.items()]
formats = tuple(map(parse_format, ("f16", "int8", "int4/32", "int4", "int4/256", "int2")))
bits = numpy.array([f.bits + 32 / (f.block_size or 1e9) for f in formats])
sums = numpy.exp(-1.4 * bits)[:, None] * numpy.random.default_rng(0).lognormal(4, 1, (len(groups), 1, 8))
costs = SensitivityTable(tuple(groups), formats, sums, numpy.full(8, 511), 0, {"quantizer": "rtn"}, {})
m = PrecisionMap(costs, bits=4)
took = []
for each in ("int8", "int4", "f16"):
    began = time.perf_counter()
    m.pin("lm_head", each)
    took.append(1000 * (time.perf_counter() - began))
print("pins:", *(f"{ms:.0f}" for ms in took))
m.pin("lm_head", None)
m"""

WATCH = """() => {
  const section = document.querySelector(".wb");
  window.took = null;
  section.querySelectorAll("button")[1].addEventListener("click", () => {
    const began = performance.now();
    new MutationObserver((_, observer) => {
      if (section.dataset.state === "stopped") { window.took = performance.now() - began; observer.disconnect(); }
    }).observe(section, { attributes: true });
  });
}"""


REDRAW = """() => {
  const section = [...document.querySelectorAll(".wb")].at(-1);
  window.took = null;
  section.addEventListener("input", () => {
    const began = performance.now();
    const before = section.dataset.drawn;
    const watch = new MutationObserver(() => {
      if (section.dataset.drawn === before) return;
      watch.disconnect();
      requestAnimationFrame(() => setTimeout(() => (window.took = performance.now() - began)));
    });
    watch.observe(section, { attributeFilter: ["data-drawn"] });
  });
}"""


def redraws(notebook) -> list[float]:
    """Milliseconds from moving a slider until the picture has been painted, all rows counted in between or not."""
    page = notebook.page
    notebook.run_and_wait(3)
    section = notebook.cell(3).locator(".wb")
    section.and_(page.locator("[data-state=done]")).wait_for()
    page.evaluate(REDRAW)
    block, bits = (section.get_by_label(name, exact=True).first for name in ("block", "bits"))
    took = []
    moves = [(block, "ArrowLeft"), (bits, "ArrowRight"), (block, "ArrowRight"), (bits, "ArrowLeft")]
    for turn, (slider, key) in enumerate(moves * 5):
        page.evaluate("window.took = null")
        slider.press(key)
        page.wait_for_function("took !== null")
        took.append(page.evaluate("took"))
        if turn % 2:  # from a settled state, and while all rows are still being counted
            section.and_(page.locator("[data-state=done]")).wait_for()
    return took


def budgets(notebook) -> list[float]:
    """Milliseconds from a step of the precision map's budget until it has been painted."""
    page = notebook.page
    notebook.run_and_wait(5)
    shown = notebook.cell(5).locator(".jp-OutputArea-output", has_text="pins:")
    print(shown.inner_text().strip(), "ms to solve around a pin, in the kernel")
    section = notebook.cell(5).locator(".wb")
    section.and_(page.locator("[data-drawn]")).wait_for()
    page.evaluate(REDRAW)
    slider = section.get_by_label("budget", exact=True)
    took = []
    for key in ("ArrowLeft", "PageUp", "ArrowRight", "PageDown") * 5:
        page.evaluate("window.took = null")
        slider.press(key)
        page.wait_for_function("took !== null")
        took.append(page.evaluate("took"))
    return took


def stops(notebook) -> list[float]:
    """Milliseconds of each stop; the kernel is busy with a cell all the while."""
    page = notebook.page
    page.evaluate(WATCH)
    section = page.locator(".wb")
    notebook.run(4)
    took = []
    for turn in range(STOPS):
        section.get_by_role("button", name="Generate").click()
        section.locator("[data-lane='0'] [data-at='0']").wait_for()
        page.wait_for_timeout(100 + 37 * turn % 400)
        page.evaluate("took = null")
        section.get_by_role("button", name="Stop").click()
        page.wait_for_function("took !== null")
        took.append(page.evaluate("took"))
    page.keyboard.press("Escape")
    return took


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), [SETUP, STREAM, EXPLORE, BUSY, MAP]) as server,
        launched() as browser,
        opened(browser, server) as notebook,
    ):
        wanted = sys.argv[1:] or ["redraw", "budget", "stream", "stop"]
        page = notebook.page
        notebook.run_and_wait(1)
        page.locator(".wb").wait_for()
        if "redraw" in wanted:
            told("redraw, ms:", redraws(notebook))
        if "budget" in wanted:
            told("budget, ms:", budgets(notebook))
        if "stream" in wanted:
            notebook.run(2)
            shown = notebook.cell(2).locator(".jp-OutputArea-output", has_text="rates:")
            shown.wait_for(timeout=1_000_000)
            pairs = re.findall(r"([\d.]+)/([\d.]+)", shown.inner_text())
            for bare, widget in pairs:
                print(f"bare {bare}, widget {widget} tokens/s: {float(widget) / float(bare) - 1:+.1%}")
            loss = statistics.median(float(widget) / float(bare) - 1 for bare, widget in pairs)
            print(f"median {loss:+.1%} with {TOKENS} tokens, {len(pairs)} turns")
        if "stop" in wanted:
            told("stop, ms:", stops(notebook))


def told(what: str, took: list[float]) -> None:
    print(
        what,
        *(f"{each:.0f}" for each in took),
        f"; median {statistics.median(took):.0f}, most {max(took):.0f}",
    )


if __name__ == "__main__":
    main()
