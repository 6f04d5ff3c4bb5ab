"""The benchmarks on this machine's adapter, at length: models over the whole text, speeds, and recording costs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import workbench
from workbench.errors import NoAdapterError
from workbench.files.writing import write_json
from workbench.models.source import open_source
from workbench.runtime.device import adapter_missing
from workbench.show.progress import Console

from .demo import BASELINE, evaluation_tokens, windows_for
from .encoding import Encoding, measure_encoding
from .measure import Measurement, Settings, measure
from .records import save

DISPATCHES = 300


def run(
    models: Mapping[str, Path],
    *,
    output: str | Path = "runs/bench",
    tokens: int | None = None,
    repetitions: int = 15,
    console: Console | None = None,
) -> Measurement:
    """Measure `models` (folders by name, "f16" the unquantized one) and what recording the smallest one costs.

    tokens: about as many are scored; None for the whole text. Writes what the demo writes but the story, and
    encoding.json, into `output`; prints what recording costs.
    """
    console, folder = console or Console(), Path(output)
    settings = Settings(decode_tokens=64, stream_tokens=64, repetitions=repetitions)
    text = evaluation_tokens(open_source(models[BASELINE], verify=False).tokenizer_path, settings.scheme)
    settings = windows_for(settings, tokens)
    measurement = measure(models, BASELINE, text, settings, progress=console)
    save(measurement, folder)
    if measurement.no_adapter is None:
        smallest = min(measurement.rows, key=lambda row: row.file_bytes).name
        print(encoding(models[smallest], output=folder, console=console).summary(), flush=True)
    console.say(f"saved in {folder}")
    return measurement


def encoding(
    model: str | Path, *, output: str | Path = "runs/bench", console: Console | None = None
) -> Encoding:
    """Measure what recording a step costs the CPU; writes encoding.json into `output`.

    Raises NoAdapterError where there is nothing to record for.
    """
    console, folder = console or Console(), Path(output)
    if missing := adapter_missing():
        raise NoAdapterError(f"encoding is measured on a device: {missing}")
    console.say(f"recording passes of about {DISPATCHES} dispatches")
    loaded = workbench.load(model, backend="wgpu")
    found = measure_encoding(loaded, DISPATCHES)
    write_json(folder / "encoding.json", {**found.to_json(), "provenance": loaded.describe_provenance()})
    return found
