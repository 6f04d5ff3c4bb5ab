"""`workbench quantize` killed at each of its commit points, for every quantizer: the same command ends with the same
bytes as one that nobody disturbed, and `--overwrite` always leaves a model to read, the old one or the new."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.convert.conftest import small_checkpoint, text  # noqa: F401 (a fixture)
from tests.support.faults import REMOVALS, RENAMES, Faults, command, run_child
from workbench.formats.reader import StoredModel
from workbench.quantizers import QUANTIZERS


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("faults") / "source", num_hidden_layers=1)


def quantize(source: Path, text: Path, output: Path, quantizer: str, *more: str) -> list:  # noqa: F811
    argv = [
        "quantize",
        "--model",
        source,
        "--output",
        output,
        "--format",
        "int2",
        "--block-size",
        32,
        "--quiet",
    ]
    argv += ["--quantizer", quantizer, *more]
    if QUANTIZERS[quantizer].needs:
        argv += ["--calibration", text, "--calibration-windows", 8, "--calibration-length", 32]
    return [*argv, "--steps", 2] if QUANTIZERS[quantizer].trains else argv


def contents(output: Path) -> dict[str, object]:
    """Hashes of all files; of the manifest everything but when it was written and how long that took."""
    found: dict[str, object] = {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = json.loads((output / "manifest.json").read_text())
    del manifest["checksum"], manifest["provenance"]["created"], manifest["provenance"]["seconds"]
    return found | {"manifest.json": manifest}


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_each_quantizer_ends_with_the_same_bytes(tmp_path, source, text, quantizer):  # noqa: F811
    here = tmp_path / "here"
    assert run_child(command, *map(str, quantize(source, text, tmp_path / "whole", quantizer))) == 0
    points = Faults(tmp_path, RENAMES).stopped_everywhere(quantize(source, text, here / "out", quantizer))
    stages = 3 if QUANTIZERS[quantizer].needs else 0
    assert points[-1] == "rename here/out" and sum("stage-" in point for point in points) == stages
    assert sum("streams-" in point for point in points) == max(0, stages - 1)
    assert contents(here / "out") == contents(tmp_path / "whole")
    assert [path.name for path in here.iterdir()] == ["out"]


def test_a_model_that_is_replaced_is_always_there(tmp_path, source, text):  # noqa: F811
    """Also killed while it removes what is not needed any more."""
    here = tmp_path / "here"
    argv = quantize(source, text, here / "out", "gptq", "--overwrite")
    assert run_child(command, *map(str, quantize(source, text, tmp_path / "whole", "gptq"))) == 0
    assert run_child(command, *map(str, quantize(source, text, here / "out", "rtn"))) == 0

    def there() -> None:
        StoredModel.open(here / "out").check()

    points = Faults(tmp_path).stopped_everywhere(argv, between=there)
    assert "exchange here/out" in points and sum(point.startswith(REMOVALS) for point in points) > 5
    assert contents(here / "out") == contents(tmp_path / "whole")
    assert [path.name for path in here.iterdir()] == ["out"]
