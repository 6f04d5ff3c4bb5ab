"""Certificates: some cases in a browser, in Node and here; what is wrong is found, what was changed is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

import wgsl_kernels
from tests.support.chromium import FLAGS, require_chromium
from tests.support.dawn import FOLDER, require_node, swiftshader
from workbench.browser.certificate import cases, certificate, native, opened, pack
from workbench.browser.certify_in import in_browser, in_node
from workbench.cli import main
from workbench.errors import WorkbenchError
from workbench.runtime.device import open_device

#: Packed quants, integers, floats, a state that is moved in place, subgroups or not.
KERNELS = ("rms_norm", "attention_reduce[a8]", "argmax", "linear[int4]", "advance")
LANES = (0, 4)


@pytest.fixture(scope="module")
def some():
    """A few cases, and two that are wrong: a module that computes something else, and one that is none."""
    found = [case for case in cases(LANES) if case.kernel.name in KERNELS]
    assert {case.kernel.name for case in found} == set(KERNELS) and {case.lanes for case in found} == {0, 4}
    return found


@pytest.fixture(scope="module")
def packed(some) -> bytes:
    first = next(case for case in some if case.kernel.name == "rms_norm")
    module = first.linked.module
    doubled = replace(module, code=module.code.replace("sqrt(mean + EPS)", "sqrt(mean + EPS + 1.0)"))
    assert doubled.code != module.code
    wrong = [replace(module, code=module.code + "\nfn"), doubled]
    bad = [replace(first, linked=replace(first.linked, module=each)) for each in wrong]
    return pack([*some, *bad])


def judged(text: str, some) -> dict:
    """What a certificate says; all but the wrong cases are within their bounds."""
    found = opened(text, "here")
    *good, broken, other = found["cases"]
    lanes, f16 = found["where"]["lanes"], "shader-f16" in found["where"]["features"]
    ran = [case for case in some if case.lanes in (0, lanes) and (f16 or not case.linked.module.uses_f16)]
    assert [each["kernel"] for each in good] == [case.kernel.name for case in ran]
    assert {each["status"] for each in good} == {"within"} and all(each["us"] > 0 for each in good)
    assert max(each["worst"] for each in good) <= 1
    assert broken["status"].startswith("does not compile") and broken["worst"] is None
    assert other["status"] == "beyond" and other["worst"] > 1 and other["off"] > 0
    return found


@pytest.mark.usefixtures("adapter")
def test_node_and_this_process_certify_alike(some, packed, tmp_path, monkeypatch, capsys):
    require_node()
    if icd := swiftshader():
        monkeypatch.setenv("VK_DRIVER_FILES", icd)
        monkeypatch.setenv("VK_ICD_FILENAMES", icd)
    text = in_node(str(FOLDER), packed)
    found = judged(text, some)
    assert found["where"]["runtime"].startswith("Node") and found["seed"] == 1
    monkeypatch.undo()
    device = open_device()
    mine = native(device, [case for case in cases((0,), "naga") if case.kernel.name in KERNELS])
    assert {each["status"] for each in mine["cases"]} == {"within"}
    for name, each in (("node.json", text), ("mine.json", certificate(mine))):
        (tmp_path / name).write_text(each)
    assert main(["certificates", str(tmp_path / "node.json"), str(tmp_path / "mine.json")]) == 0
    said = capsys.readouterr().out
    assert "Node" in said and "wgpu" in said and "rms_norm" in said and "does not compile" in said


@pytest.mark.browser
def test_a_browser_certifies(some, packed):
    chromium = require_chromium()
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    found = judged(in_browser(chromium, [*FLAGS, *root], packed), some)
    assert "Chrome/" in found["where"]["runtime"]


def test_there_is_a_case_of_every_variant():
    every = {(name, each) for name in wgsl_kernels.names() for each in wgsl_kernels.get(name).variants}
    assert {(case.kernel.name, case.linked.variant) for case in cases((8, 32))} == every


def test_what_was_changed_is_no_certificate(tmp_path, capsys):
    results = {
        "where": {"runtime": "here", "adapter": "none", "lanes": 0},
        "about": {"kernels_sha256": "0" * 64},
    }
    text = certificate({**results, "cases": []})
    assert opened(text, "a")["where"]["runtime"] == "here"
    with pytest.raises(WorkbenchError, match="a: was changed after it was sealed; certify again"):
        opened(text.replace("here", "there"), "a")
    for other in ("", "[]", "{}", json.dumps({"kind": "other"})):
        with pytest.raises(WorkbenchError, match="b: no certificate"):
            opened(other, "b")
    assert main(["certificates", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
