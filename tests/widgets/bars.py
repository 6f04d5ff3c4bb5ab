"""What the widgets cost and how soon they answer, in a real JupyterLab: `python -m tests.widgets.bars`.

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
import time, workbench
from workbench.assets import demo_model_path
from workbench.widgets import Generator
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
print("rates:", *(f"{{a:.2f}}/{{b:.2f}}" for a, b in rates), "end")"""

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


def stops(notebook) -> list[float]:
    """Milliseconds of each stop; the kernel is busy with a cell all the while."""
    page = notebook.page
    page.evaluate(WATCH)
    section = page.locator(".wb")
    notebook.run(3)
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
        served(Path(folder), [SETUP, STREAM, BUSY]) as server,
        launched() as browser,
        opened(browser, server) as notebook,
    ):
        page = notebook.page
        notebook.run_and_wait(1)
        page.locator(".wb").wait_for()
        if "stream" in sys.argv or len(sys.argv) == 1:
            notebook.run(2)
            shown = notebook.cell(2).get_by_text("end")
            shown.wait_for(timeout=1_000_000)
            pairs = re.findall(r"([\d.]+)/([\d.]+)", shown.inner_text())
            for bare, widget in pairs:
                print(f"bare {bare}, widget {widget} tokens/s: {float(widget) / float(bare) - 1:+.1%}")
            loss = statistics.median(float(widget) / float(bare) - 1 for bare, widget in pairs)
            print(f"median {loss:+.1%} with {TOKENS} tokens, {len(pairs)} turns")
        if "stop" in sys.argv or len(sys.argv) == 1:
            took = stops(notebook)
            print("stop, ms:", *(f"{each:.0f}" for each in took), f"; slowest {max(took):.0f}")


if __name__ == "__main__":
    main()
