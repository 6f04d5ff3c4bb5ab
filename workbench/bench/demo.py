"""The guided tour on the embedded model: measure its conversions, show a table and a plot, tell a story."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import workbench
from eval.protocols import protocol
from eval.texts import Tokens, encode, load_text
from workbench.assets import STORY_SEPARATOR, evaluation_text
from workbench.files.writing import write_text
from workbench.models.tokenizer import load_tokenizer

from .console import Console
from .measure import Measurement, Settings, measure
from .records import save

BASELINE = "f16"
STORYTELLER = "int4"
STORY = {"prompt": "Once upon a time", "max_new_tokens": 220, "temperature": 0.7, "top_p": 0.95, "seed": 3}


def evaluation_tokens(model: Path, scheme: str) -> Tokens:
    """The embedded evaluation text, tokenized by a model's tokenizer, one BOS a story."""
    return encode(load_tokenizer(model), load_text(evaluation_text()), scheme, separator=STORY_SEPARATOR)


def windows_for(settings: Settings, tokens: int | None) -> Settings:
    """The settings with as many windows as hold `tokens`; all windows for None."""
    count = None if tokens is None else max(1, math.ceil(tokens / protocol(settings.scheme).length))
    return replace(settings, windows=count)


def run(
    models: Mapping[str, Path],
    *,
    output: str | Path = "runs/demo",
    tokens: int | None = 12_000,
    settings: Settings | None = None,
    console: Console | None = None,
) -> Measurement:
    """Measure `models` (folders by name; "f16" is the unquantized one, "int4" tells the story) and save it all.

    tokens: about as many are scored, in whole windows; None for the whole text. Writes table.md, results.json,
    perplexity_vs_size.png and story.txt into `output`; prints table and story on stdout.
    """
    console, settings, folder = console or Console(), settings or Settings(), Path(output)
    text = evaluation_tokens(models[BASELINE], settings.scheme)
    settings = windows_for(settings, tokens)
    measurement = measure(models, BASELINE, text, settings, progress=console)
    table = save(measurement, folder, story=STORY)
    print(f"\n{table}", flush=True)
    console.say(f"saved: {folder / 'table.md'}, results.json and perplexity_vs_size.png beside it")
    tell_story(models[STORYTELLER], folder, console)
    console.say(f"done; everything is in {folder}")
    return measurement


def tell_story(model: Path, folder: Path, console: Console) -> dict[str, Any]:
    """Stream a story on stdout and save it as story.txt; returns its tokens a second and the backend."""
    loaded = workbench.load(model)
    through = (
        "the WGSL kernels" if loaded.backend == "wgpu" else "the PyTorch references (there is no adapter)"
    )
    console.say(f"a story from {Path(model).name} through {through}, seed {STORY['seed']}:")
    options = {key: value for key, value in STORY.items() if key != "prompt"}
    story = STORY["prompt"]
    sys.stdout.write(f"\n{story}")
    began = time.perf_counter()
    for piece in loaded.generate(STORY["prompt"], **options):
        story += piece
        sys.stdout.write(piece)
        sys.stdout.flush()
    seconds = time.perf_counter() - began
    sys.stdout.write("\n\n")
    sys.stdout.flush()
    write_text(folder / "story.txt", story + "\n")
    return {"backend": loaded.backend, "seconds": seconds}
