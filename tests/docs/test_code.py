"""Code in the README and in the documentation: all of it is read against what there is, the quick part is run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wgsl_kernels
import workbench
from tests.conftest import REPOSITORY
from tests.docs.names import Instance, Reader
from tests.docs.pages import PAGES, blocks, named, python_blocks
from workbench.quantizers import QUANTIZERS
from workbench.runtime.model import Model
from workbench.sweeps.sweep import Sweep

WITH_PYTHON = [page for page in PAGES if python_blocks(page)]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=named)
def test_names_attributes_and_keywords_exist(page):
    """A page may use what stands in a block before, and `m` or `model` for a loaded model."""
    loaded = Instance(Model)
    reader = Reader({"workbench": workbench, "wgsl_kernels": wgsl_kernels, "m": loaded, "model": loaded})
    assert [complaint for block in python_blocks(page) for complaint in reader.complaints(block)] == []


def test_the_reader_finds_what_is_wrong():
    source = (
        "import workbench\nfrom eval.texts import Text, Books\nm = workbench.load('DIR', speed=2)\n"
        "m.generate('a', max_new_tokens=3)\nm.compose('a')\nworkbench.perplexity({}, 'a', protocols=1)\n"
        "Text('a').sha256, Text('a').colour\nworkbench.quantise\n"
    )
    found = list(Reader().complaints(source))
    wrong = ("Books", "'speed'", "compose", "'protocols'", "colour", "quantise")
    assert len(found) == len(wrong) and all(any(word in each for each in found) for word in wrong)


def test_toml_parses_and_the_tutorials_sweep_is_one(tmp_path):
    found = {page: blocks(page, "toml") for page in PAGES}
    assert sum(map(len, found.values())) >= 4
    for page, each in found.items():
        for block in each:
            assert tomllib.loads(block), named(page)
    (tutorial,) = found[REPOSITORY / "docs" / "tutorials" / "reproduce.md"]
    (tmp_path / "blocks.toml").write_text(tutorial)
    sweep = Sweep.read(tmp_path / "blocks.toml")
    assert len(sweep.cells) == 3 * 2 * 2 + 1, "formats, block sizes, quantizers, and the model as it is"
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="no node")
def test_javascript_parses_and_imports_what_is_exported():
    """The page's modules load in Node as well."""
    found = [block for page in PAGES for block in blocks(page, "js")]
    assert found
    folder = REPOSITORY / "workbench" / "browser"
    for block in found:
        imports = re.findall(r'^import .* from "\./browser/.*";$', block, re.MULTILINE)
        assert imports
        loading = "\n".join(line.replace("./browser/", f"{folder.as_uri()}/") for line in imports)
        for command, code in ((["node", "--check"], block), (["node"], loading)):
            done = subprocess.run(
                [*command, "--input-type=module", "-"],
                input=code,
                capture_output=True,
                encoding="utf-8",
                timeout=60,
            )
            assert done.returncode == 0, done.stderr


#: Pages that are run, with what takes the place of what takes long, or of what they cannot have here.
RUN = {
    "docs/formats.md": {},
    "docs/howto/own-architecture.md": {},
    "docs/howto/own-kernel.md": {},
    "docs/howto/own-quantizer.md": {
        "max_windows=4": 'protocol="disjoint-64", max_windows=2, backend="torch"'
    },
    "docs/howto/profile.md": {},
    "docs/howto/read-a-result.md": {
        "max_windows=2": 'protocol="disjoint-64", max_windows=2, backend="torch"'
    },
    "docs/plan.md": {},
    "docs/tutorials/kernels.md": {"n=1024, k=1024": "n=64, k=128"},
}
#: Of the tutorial of kernels: the rest shows a widget, and edits a kernel at its full size.
FIRST = {"docs/tutorials/kernels.md": 3}


@pytest.fixture(scope="module")
def converted(shallow, tmp_path_factory) -> Path:
    """What stands for "OUT"."""
    folder = tmp_path_factory.mktemp("documented") / "out"
    workbench.quantize(shallow, "int4/64", output=folder, progress=False, execution={"backend": "torch"})
    return folder


@pytest.mark.parametrize("page", RUN)
def test_the_quick_part_runs(page, adapter, shallow, converted, tmp_path, monkeypatch):
    """Block after block in one namespace, in a folder of its own, on three layers of the embedded model."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    try:
        for block in python_blocks(REPOSITORY / page)[: FIRST.get(page)]:
            for before, after in RUN[page].items():
                block = block.replace(before, after)
            block = block.replace('"DIR"', repr(str(shallow))).replace('"OUT"', repr(str(converted)))
            exec(compile(block, page, "exec"), names)
    finally:
        QUANTIZERS.pop("clipped", None)
        sys.modules.pop("workbench.quantizers.clipped", None)
        if "squared" in wgsl_kernels.names():
            wgsl_kernels.forget("squared")
