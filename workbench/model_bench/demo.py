"""The guided tour: measure conversions of a model, show a table and a plot, tell a story."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import workbench
from eval.documents import split_documents
from eval.protocols import protocol
from eval.texts import Text, Tokens, encode, load_text
from workbench.assets import STORY_SEPARATOR, demo_model_path, evaluation_text
from workbench.files.writing import write_text
from workbench.models.source import open_source
from workbench.models.tokenizer import load_tokenizer, prepends_bos
from workbench.show.progress import Console

from . import tour
from .measure import Measurement, Settings, measure
from .plot import perplexity_vs_size
from .records import save

BASELINE = "f16"
STORY = {"prompt": "Once upon a time", "max_new_tokens": 220, "temperature": 0.7, "top_p": 0.95, "seed": 3}


def evaluation_tokens(folder: str | Path, scheme: str) -> Tokens:
    """The embedded evaluation text by the tokenizer of a folder (`Source.tokenizer_path`): one BOS a story where it
    prepends one, else as one text."""
    tokenizer, text = load_tokenizer(folder), load_text(evaluation_text())
    if prepends_bos(tokenizer):
        return encode(tokenizer, text, scheme, separator=STORY_SEPARATOR)
    stories = split_documents(text.content, STORY_SEPARATOR)
    return encode(tokenizer, replace(text, content="\n\n".join(stories)), scheme)


def windows_for(settings: Settings, tokens: int | None) -> Settings:
    """The settings with as many windows as hold `tokens`; all windows for None."""
    count = None if tokens is None else max(1, math.ceil(tokens / protocol(settings.scheme).cut[0]))
    return replace(settings, windows=count)


def run(
    models: Mapping[str, Path],
    *,
    output: str | Path = "runs/demo",
    text: Text | None = None,
    tokens: int | None = 12_000,
    settings: Settings | None = None,
    console: Console | None = None,
) -> Measurement:
    """Measure `models` (folders by name, the unquantized one first; one in INT4 tells the story) and save it all.

    text: None for the embedded one. tokens: about as many are scored, in whole windows; None for all. Writes a page of
    everything (index.html), table.md, results.json, perplexity_vs_size.png and story.txt into `output`; prints one
    screen on stdout: a short table, what it says, the story and what to do next.
    """
    console, settings, folder = console or Console(), settings or Settings(), Path(output)
    baseline = next(iter(models))
    tokenizer = open_source(models[baseline], verify=False).tokenizer_path
    if text is None:
        encoded = evaluation_tokens(tokenizer, settings.scheme)
    else:
        encoded = encode(load_tokenizer(tokenizer), text, settings.scheme)
    settings = windows_for(settings, tokens)
    measurement = measure(models, baseline, encoded, settings, progress=console)
    save(measurement, folder, story=STORY)
    print(f"\n{tour.screen(measurement)}", flush=True)
    storyteller = next((name for name in models if name.startswith("int4")), baseline)
    story = tell_story(models[storyteller], folder, console)
    steps = tour.next_steps(folder, models[storyteller], embedded=models[baseline] == demo_model_path())
    tour.write(folder / tour.PAGE, measurement, perplexity_vs_size(measurement), story, storyteller, steps)
    print("\n".join(["Next:", *(f"  {step}" for step in steps)]), flush=True)
    console.say(f"done; table.md, results.json, the plot and the story are in {folder}")
    return measurement


def tell_story(model: Path, folder: Path, console: Console) -> str:
    """Stream a story on stdout and save it as story.txt; returns it."""
    loaded = workbench.load(model)
    through = (
        "the WGSL kernels" if loaded.backend == "wgpu" else "the PyTorch references (there is no adapter)"
    )
    console.say(f"a story from {Path(model).name} through {through}, seed {STORY['seed']}:")
    options = {key: value for key, value in STORY.items() if key != "prompt"}
    story = STORY["prompt"]
    sys.stdout.write(f"\n{story}")
    for piece in loaded.generate(STORY["prompt"], **options):
        story += piece
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n\n")
    sys.stdout.flush()
    write_text(folder / "story.txt", story + "\n")
    return story
