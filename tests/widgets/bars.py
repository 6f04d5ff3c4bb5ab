"""What the widgets cost and how soon they answer, in a real JupyterLab.

`python -m tests.widgets.bars [redraw|stream|stop]` measures

- tokens/s of 2,000 streamed greedy tokens against the bare loop over the same engine, in turns
- milliseconds from a click on Stop to its effect, 20 runs, each while another cell keeps the kernel busy
- milliseconds from a change of block size or bits of a 4096 x 4096 tensor until it is drawn
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
        served(Path(folder), [SETUP, STREAM, EXPLORE, BUSY]) as server,
        launched() as browser,
        opened(browser, server) as notebook,
    ):
        wanted = sys.argv[1:] or ["redraw", "stream", "stop"]
        page = notebook.page
        notebook.run_and_wait(1)
        page.locator(".wb").wait_for()
        if "redraw" in wanted:
            told("redraw, ms:", redraws(notebook))
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
