"""Pictures of every widget, light and dark, for the documentation: `python -m tests.widgets.screenshots [NAME...]`.

They are taken of the real widgets over the embedded model, in headless Chromium with JupyterLab's colours, and stored
as docs/widgets/NAME-light.png and NAME-dark.png.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from eval.texts import encode, load_text
from tests.conftest import REPOSITORY
from tests.support.chromium import launched
from tests.widgets.bridge import Bridge, bridged
from workbench.allocate.sensitivity import sensitivity
from workbench.assets import calibration_text, demo_model_path, evaluation_text
from workbench.commands.embedded import convert_embedded
from workbench.convert.options import parse_format
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer
from workbench.sweep.sweep import Sweep
from workbench.widgets import Generator, KernelLab, ModelCard, PrecisionMap, QuantizationExplorer, SweepBoard

FOLDER = REPOSITORY / "docs" / "widgets"
DONE = "document.querySelector('.wb').dataset.state === 'done'"
COLOURS = 256


def generator(int4: Path) -> Generator:
    models = {"f16": demo_model_path(), "int4": int4}
    return Generator(models, temperature=0.7, seed=3, max_new_tokens=90)


def write(bridge: Bridge) -> None:
    page = bridge.page
    page.get_by_role("button", name="Generate").click()
    bridge.until(DONE, 120)
    flip = page.locator("[data-lane='1'] .wb-flip").first
    flip.hover()
    flip.click()


def explorer(int4: Path) -> QuantizationExplorer:
    tensor = "model.layers.3.mlp.down_proj.weight"
    return QuantizationExplorer(demo_model_path(), tensor, b={"bits": 2, "block": 64, "quantizer": "grid"})


def look(bridge: Bridge) -> None:
    bridge.until(DONE, 120)
    bridge.widget.wait()
    bridge.pump()


def model_card(int4: Path) -> ModelCard:
    return ModelCard(int4)


def measure(bridge: Bridge) -> None:
    bridge.page.get_by_role("button", name="Measure").click()
    bridge.until(DONE, 120)
    bridge.page.locator(".wb-dispatch").nth(30).hover()


def precision_map(int4: Path) -> PrecisionMap:
    source = open_source(demo_model_path())
    tokenizer = load_tokenizer(source.tokenizer_path)
    calibration, held_out = (
        encode(tokenizer, load_text(path), "disjoint-256", separator="<|endoftext|>")
        for path in (calibration_text(), evaluation_text())
    )
    formats = [parse_format(name) for name in ("f16", "int8", "int4/32", "int4", "int4/256", "int2")]
    costs = sensitivity(source, calibration, "disjoint-256", formats=formats, quantizer="grid", max_windows=4)
    return PrecisionMap(costs, source, held_out=held_out, scheme="disjoint-256", windows=8, bits=3)


def allocate(bridge: Bridge) -> None:
    page, widget = bridge.page, bridge.widget
    for fmt in (None, "int4", "int2"):
        widget.measure(fmt)
        widget.wait()
    widget.pin("layers.0.mlp.gate_up", "int4/128")
    widget.measure()
    widget.wait()
    bridge.until("document.querySelectorAll('.wb-mark-measured').length === 12")
    page.get_by_role("button", name="layers.0.mlp.gate_up: ").click()
    bridge.until("document.querySelectorAll('.wb-panel [type=radio]').length === 7")


def kernel_lab(int4: Path) -> KernelLab:
    return KernelLab("linear[int4]", variants=["gemv", "batch", "broadcast"])


def edit_a_kernel(bridge: Bridge) -> None:
    page = bridge.page
    page.get_by_role("button", name="Compare").click()
    bridge.until(DONE, 120)
    page.get_by_label("rows_per_team").select_option("4")
    page.get_by_role("button", name="Run as a new version").click()
    bridge.until("document.querySelector('.wb').dataset.versions === '1'", 60)
    bridge.until(DONE, 120)
    text = page.locator(".wb-editor textarea")
    text.fill(text.input_value().replace("y_type(sum_of", "y_type(0.5 * row + sum_of"))
    page.get_by_role("button", name="Run as a new version").click()
    bridge.until("document.querySelector('.wb').dataset.versions === '2'", 60)
    bridge.until(DONE, 120)
    page.get_by_role("button", name="v1", exact=True).click()


SWEEP = """
[sweep]
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
model = "embedded"
format = "int4"
protocol = "disjoint-1024"
"""


def sweep_board(int4: Path) -> SweepBoard:
    spec = int4.parent / "blocks.toml"
    spec.write_text(SWEEP)
    return SweepBoard(Sweep.read(spec, output=int4.parent / "sweep"), processes=2)


def run_half(bridge: Bridge) -> None:
    bridge.page.get_by_role("button", name="Start").click()
    running = "document.querySelectorAll('tr[data-status=running]').length"
    bridge.until(f"document.querySelectorAll('tr[data-status=done]').length > 6 && {running} > 1", 300)
    bridge.page.locator("tr[data-status=failed]").last.click()
    bridge.until("document.querySelectorAll('.wb-picked').length === 1")


WIDGETS: dict[str, tuple[Callable, Callable, int]] = {
    "generator": (generator, write, 1000),
    "explorer": (explorer, look, 1100),
    "kernel-lab": (kernel_lab, edit_a_kernel, 1160),
    "model-card": (model_card, measure, 1040),
    "precision-map": (precision_map, allocate, 1100),
    "sweep-board": (sweep_board, run_half, 1040),
}


def stored(picture: bytes, path: Path) -> None:
    """As a PNG of few colours: a third of the size, and no difference to be seen in flat pictures."""
    from PIL import Image

    small = Image.open(BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    small.save(path, optimize=True)


def main() -> None:
    wanted = sys.argv[1:] or list(WIDGETS)
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        int4 = convert_embedded(Path(folder), ["int4"])["int4"]
        for name in wanted:
            make, prepare, width = WIDGETS[name]
            widget = make(int4)
            with bridged(browser, widget, Path(folder), width) as bridge:
                bridge.theme("light")
                prepare(bridge)
                for theme in ("light", "dark"):
                    bridge.theme(theme)
                    path = FOLDER / f"{name}-{theme}.png"
                    stored(bridge.page.locator(".wb").screenshot(), path)
                    print(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size // 1024} KiB")
            widget.close()
            if isinstance(widget, SweepBoard):  # its workers write into the folder
                widget.wait()


if __name__ == "__main__":
    main()
