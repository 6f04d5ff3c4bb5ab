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

from tests.conftest import REPOSITORY
from tests.support.chromium import launched
from tests.widgets.bridge import Bridge, bridged
from workbench.assets import demo_model_path
from workbench.commands.embedded import convert_embedded
from workbench.sweep.sweep import Sweep
from workbench.widgets import Generator, ModelCard, QuantizationExplorer, SweepBoard

FOLDER = REPOSITORY / "docs" / "widgets"
DONE = "document.querySelector('.wb').dataset.state === 'done'"
COLOURS = 128


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
    "model-card": (model_card, measure, 1040),
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
