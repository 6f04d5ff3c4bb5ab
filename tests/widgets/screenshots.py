"""Pictures of every widget for the documentation, light and dark: `python -m tests.widgets.screenshots [NAME...]`.

They are taken where people see the widgets: of outputs in a real JupyterLab with a real kernel, over the embedded
model, in the light and the dark theme, and stored as docs/widgets/NAME-light.png and NAME-dark.png. The Generator is
also shown with the notebook around it, for the README: docs/widgets/generator-lab.png.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.support.chromium import launched
from tests.widgets.front_end import opened, served

FOLDER = REPOSITORY / "docs" / "widgets"
#: Of the page: cells are then about 1,050 wide.
WIDTH = 1400
#: Of the picture with the notebook around a widget, and the widget that it is of.
WINDOW = {"width": 1400, "height": 760}
IN_LAB = "generator"
THEME = """theme => jupyterapp.commands.execute("apputils:change-theme", { theme })"""

SETUP = """
from pathlib import Path
from workbench.assets import calibration_text, demo_model_path, evaluation_text
from workbench.commands.conversions import convert_each
from workbench.widgets import Generator, KernelLab, ModelCard, PrecisionMap, QuantizationExplorer, SweepBoard
DIR = demo_model_path()
INT4 = convert_each(demo_model_path(), Path("models"), ["int4"])["int4"]"""

GENERATOR = """
Generator({"f16": DIR, "int4": INT4}, temperature=0.7, seed=3, max_new_tokens=90)"""


def state(section, wanted: str = "done", seconds: float = 240) -> None:
    """Wait for a widget's state."""
    section.and_(section.page.locator(f"[data-state='{wanted}']")).wait_for(timeout=1000 * seconds)


def write(section) -> None:
    section.get_by_role("button", name="Generate").click()
    state(section)
    flip = section.locator("[data-lane='1'] .wb-flip").first
    flip.hover()
    flip.click()


EXPLORER = """
sides = {"a": {"bits": 2, "block": 64, "quantizer": "grid"}, "b": {"bits": 2, "block": 64, "quantizer": "gptq"}}
QuantizationExplorer(DIR, "model.layers.3.mlp.down_proj.weight", **sides)"""


def look(section) -> None:
    section.locator("[data-side='b'] [data-fact='output SQNR']").wait_for(timeout=240_000)
    state(section)
    section.locator(".wb-mapped button[title$=' dB']").nth(56).wait_for()


MODEL_CARD = """
ModelCard(INT4)"""


def measure(section) -> None:
    section.get_by_role("button", name="Measure").click()
    state(section)
    section.locator(".wb-dispatch").nth(30).hover()


PRECISION_MAP = """
from eval.texts import encode, load_text
from workbench.precision.sensitivity import sensitivity
from workbench.formats.text import parse_format
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer
source = open_source(DIR)
calibration, held_out = (
    encode(load_tokenizer(source.tokenizer_path), load_text(path), "disjoint-256", separator="<|endoftext|>")
    for path in (calibration_text(), evaluation_text())
)
formats = [parse_format(name) for name in ("f16", "int8", "int4/32", "int4", "int4/256", "int2")]
costs = sensitivity(source, calibration, "disjoint-256", formats=formats, quantizer="grid", max_windows=4)
m = PrecisionMap(costs, source, held_out=held_out, protocol="disjoint-256", max_windows=8, bits=3)
for fmt in (None, "int4", "int2"):
    m.measure(fmt)
    m.wait()
m.pin("layers.0.mlp.gate_up", "int4")
m.measure()
m.wait()
m"""


def allocate(section) -> None:
    section.locator(".wb-mark-measured").nth(11).wait_for(state="attached")
    section.get_by_role("button", name="layers.0.mlp.gate_up: ").click()
    section.locator(".wb-panel [type=radio]").nth(6).wait_for()


KERNEL_LAB = """
KernelLab("linear[int4]")"""


def edit_a_kernel(section) -> None:
    section.get_by_role("button", name="Compare").click()
    state(section)
    section.get_by_label("rows_per_team").select_option("4")
    for version in ("v1", "v2"):
        section.get_by_role("button", name="Run as a new version").click()
        section.locator(f"tr[data-row={version}]").wait_for(timeout=240_000)
        state(section)
        text = section.locator(".wb-editor textarea")
        if version == "v1":
            text.fill(text.input_value().replace("(sum_of", "(0.5 * row + sum_of"))
    section.get_by_role("button", name="v1", exact=True).click()


#: One of its models is damaged, which nothing knows before it is read.
SWEEP_BOARD = '''
import shutil
shutil.copytree(INT4, "damaged")
with Path("damaged/model.wgpu").open("r+b") as file:
    file.seek(999_999)
    file.write(b"damaged")
Path("blocks.toml").write_text("""
[sweep]
output = "blocks"
max_windows = 8
[texts.stories]
file = "embedded"
[grid]
model = "embedded"
format = ["int8", "int4", "int2"]
block_size = [64, 256]
quantizer = ["rtn", "grid"]
protocol = "disjoint-512"
[[include]]
model = "damaged"
format = "int2"
protocol = "disjoint-512"
""")
board = SweepBoard("blocks.toml", processes=2)
board'''


def run_half(section) -> None:
    section.get_by_role("button", name="Start").click()
    section.locator("tr[data-status=done]").nth(6).wait_for(timeout=300_000)
    section.locator("tr[data-status=running]").nth(1).wait_for(timeout=60_000)
    failed = section.locator("tr[data-status=failed]").last
    failed.wait_for(timeout=300_000)
    failed.click()
    section.locator(".wb-picked").wait_for()


WIDGETS: dict[str, tuple[str, Callable]] = {
    "generator": (GENERATOR, write),
    "explorer": (EXPLORER, look),
    "model-card": (MODEL_CARD, measure),
    "precision-map": (PRECISION_MAP, allocate),
    "kernel-lab": (KERNEL_LAB, edit_a_kernel),
    "sweep-board": (SWEEP_BOARD, run_half),
}


def stored(picture: bytes, path: Path) -> None:
    """As a PNG of 256 colours, a third of the size. They are chosen to cover all that there are, however small the mark
    that has a colour of its own: those that most pixels have would take it for another."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = Image.open(BytesIO(picture)).convert("RGB")
    whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    wanted = sys.argv[1:] or list(WIDGETS)
    with (
        tempfile.TemporaryDirectory() as folder,
        served(Path(folder), [SETUP, *(WIDGETS[name][0] for name in wanted)]) as server,
        launched() as browser,
        opened(browser, server) as notebook,
    ):
        page = notebook.page
        page.set_viewport_size({"width": WIDTH, "height": 1900})  # pictures show what is in sight
        notebook.run_and_wait(1)
        for index, name in enumerate(wanted, 2):
            notebook.run(index)
            section = notebook.cell(index).locator(".wb")
            section.wait_for(timeout=600_000)
            WIDGETS[name][1](section)
            for theme in ("light", "dark"):
                page.evaluate(THEME, f"JupyterLab {theme.capitalize()}")
                page.locator(f"body[data-jp-theme-light={str(theme == 'light').lower()}]").wait_for(
                    state="attached"
                )
                path = FOLDER / f"{name}-{theme}.png"
                stored(section.screenshot(animations="disabled"), path)
                print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size // 1024} KiB", flush=True)
            page.evaluate(THEME, "JupyterLab Light")
            if name == IN_LAB:
                take_lab(page, notebook.cell(index))


def take_lab(page, cell) -> None:
    """The window of JupyterLab, light, with a cell's input and output in sight."""
    page.locator("body[data-jp-theme-light=true]").wait_for(state="attached")
    before = page.viewport_size
    page.set_viewport_size(WINDOW)
    cell.evaluate("cell => cell.scrollIntoView({ block: 'start' })")
    page.wait_for_timeout(1000)  # the notebook draws what has come into sight
    path = FOLDER / f"{IN_LAB}-lab.png"
    stored(page.screenshot(animations="disabled"), path)
    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size // 1024} KiB", flush=True)
    page.set_viewport_size(before)


if __name__ == "__main__":
    main()
