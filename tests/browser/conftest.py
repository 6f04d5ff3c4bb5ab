"""Folders that a page could be in: a converted model and its programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.threads import one_torch_thread
from workbench.assets import demo_model_path
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions, parse_format
from workbench.models.source import open_source
from workbench.runtime.device import adapter_missing
from workbench.runtime.export import export_programs

#: Positions of the caches.
CAPACITY = 64


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small models run faster on one thread, and the same on every machine."""
    with one_torch_thread():
        yield


@pytest.fixture
def adapter() -> None:
    """The native engine, which browsers are compared with, runs on a device too."""
    if missing := adapter_missing():
        pytest.skip(missing)


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Callable[..., Path]:
    """`site(format, checkpoint)`: a folder with `model` and `programs`, of the embedded model by default."""

    def make(format: str, checkpoint: Path | None = None) -> Path:
        folder = tmp_path_factory.mktemp("site")
        convert(checkpoint or demo_model_path(), folder / "model", ConvertOptions(parse_format(format)))
        export_programs(open_source(folder / "model"), folder / "programs", max_tokens=CAPACITY)
        return folder

    return make


@pytest.fixture(scope="session")
def demo(site) -> Path:
    """The embedded model in INT4."""
    return site("int4/32")
