"""What a worker does: convert a model, or score a cell. A job is a JSON object, its result a small one; what was made
lies in the sweep's folder, which client and workers share.

    {"do": "convert", "key": ..., "folder": ..., "cell": {...}, "identity": {...}}
    {"do": "score", "key": ..., "folder": ..., "cell": {...}, "identity": {...}, "model": key or null,
     "baseline": key or null, "keep": largest size in bytes of logits to keep for others, 0 to keep nothing}

A job whose file is there already does nothing, so a job may be run twice, by two workers at once even.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import workbench
from eval import inputs
from eval.protocols import protocol
from eval.result import PerplexityResult
from eval.texts import Tokens
from workbench.convert.convert import convert
from workbench.errors import SweepError
from workbench.files.writing import write_json, written_whole
from workbench.formats.reader import StoredModel
from workbench.known import known
from workbench.model_bench.measure import bits_per_weight, weight_bytes
from workbench.model_bench.speed import measure_speed

from .cells import Cell
from .identity import digest, require_same_code
from .replay import RecordedModel, RecordingModel
from .store import CELL_KIND, Store, read_json
from .tokenized import score, tokens_of

#: Called as report(share done, 0 to 1).
Report = Callable[[float], None]
#: Of tokens a second: prompt, and greedy tokens after it.
PROMPT_TOKENS, DECODE_TOKENS, REPETITIONS = 256, 32, 5


def run_job(job: dict[str, Any], report: Report = lambda share: None) -> dict[str, Any]:
    """Do a job; returns {"seconds": of wall time}. Raises what loading, converting and scoring raise, and SweepError
    where this worker would compute something else than was asked for."""
    cell, store, key = Cell.from_json(job["cell"]), Store(job["folder"]), job["key"]
    require_same_code(job["identity"]["code"], cell.backend if job["do"] == "score" else "torch")
    if not store.folder.is_dir():
        raise SweepError(f"{store.folder}: this worker does not see the sweep's folder; it must be shared")
    if job["do"] == "convert":
        return _convert(cell, store, key, job["identity"])
    return _score(cell, store, key, job, report)


def _convert(cell: Cell, store: Store, key: str, identity: dict[str, Any]) -> dict[str, Any]:
    if store.has_model(key):
        return {"seconds": known(read_json(store.model_record(key)))["seconds"]}
    summary = convert(cell.path, store.model(key), replace(cell.convert_options(), overwrite=True))
    stored = StoredModel.open(summary.path, verify=False)
    found = digest(stored.manifest["provenance"]["source"]["sha256"])
    if found != identity["source"]:
        raise SweepError(f"{cell.path}: the checkpoint has changed since the sweep was started")
    record = {**asdict(summary), "path": key, "identity": identity}
    write_json(store.model_record(key), record)
    return {"seconds": summary.seconds}


def _score(cell: Cell, store: Store, key: str, job: dict[str, Any], report: Report) -> dict[str, Any]:
    began = time.perf_counter()
    finished = store.result(key)
    if finished and (not job["keep"] or store.has_baseline(key)):
        return {"seconds": finished["seconds"]}
    place = cell.path if job["model"] is None else store.model(job["model"])
    scheme = protocol(cell.protocol)
    model = workbench.load(place, backend=cell.backend, dtype=cell.dtype, max_tokens=scheme.length)
    tokens, scheme = tokens_of(cell, job["identity"], store, model), inputs.fitting(scheme, {"model": model})
    starts = (0,) if tokens.starts is None else tokens.starts
    windows = [w.ids for w in scheme.windows(tokens.ids, bos=tokens.bos, starts=starts)[: cell.max_windows]]

    if job["baseline"]:
        result = _paired(cell, store, job["baseline"], model, tokens, windows, report)
    else:
        needed = 4 * model.vocab_size * sum(map(len, windows))
        result = _alone(cell, store, key, model, tokens, job["keep"], needed, report)
    bits, nbytes = bits_per_weight(model.source), weight_bytes(model.source)
    conversion = read_json(store.model_record(job["model"])) if job["model"] else None
    values = {
        "kind": CELL_KIND,
        "version": 1,
        "key": key,
        "identity": job["identity"],
        "model": cell.name,
        "format": cell.format,
        "quantizer": cell.quantizer,
        "label": cell.label,
        "bits_per_weight": bits,
        "file_bytes": nbytes,
        "formats": conversion and conversion["formats"],
        "quantize_seconds": conversion and conversion["seconds"],
        "result": result.to_json(),
        "speed": _speed(model, tokens, scheme.cut[0]).to_json() if cell.speed else None,
        "seconds": time.perf_counter() - began,
        "host": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if not finished:  # else only what the result was compared with had to be made again
        write_json(store.cell(key), values)
    return {"seconds": values["seconds"]}


def _told(report: Report):
    return lambda done, total, *_: report(done / total)


def _alone(
    cell: Cell, store: Store, key: str, model: Any, tokens: Tokens, keep: int, needed: int, report: Report
) -> PerplexityResult:
    """An unpaired cell; as a baseline of others it leaves scores behind, and logits if no more than `keep` bytes."""
    if needed <= keep:
        with written_whole(store.logits(key)) as partial, partial.open("wb") as file:
            result = score({"model": RecordingModel(model, file)}, tokens, cell, _told(report))
    else:
        result = score({"model": model}, tokens, cell, _told(report))
    if keep:
        result.save(store.baseline(key))
    return result


def _paired(
    cell: Cell, store: Store, baseline: str, model: Any, tokens: Tokens, windows: list, report: Report
) -> PerplexityResult:
    """A cell against its stored baseline: with KL where the logits were kept, else token by token alone."""
    scores = PerplexityResult.load(store.baseline(baseline))
    if not store.logits(baseline).is_file():
        return score({"model": model}, tokens, cell, _told(report), baseline=scores)
    recorded = RecordedModel(store.logits(baseline), scores, model.vocab_size).expect(windows)
    return score({"model": model, "baseline": recorded}, tokens, cell, _told(report))


def _speed(model: Any, tokens: Tokens, length: int) -> Any:
    decode = max(1, min(DECODE_TOKENS, length // 4))
    prompt = [int(token) for token in tokens.ids[: max(1, min(PROMPT_TOKENS, length - decode))]]
    return measure_speed(model, prompt, decode_tokens=decode, repetitions=REPETITIONS)
