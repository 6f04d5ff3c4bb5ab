"""Certificates: some cases and a model in a browser, in Node and here; what is wrong is found, what was changed is
refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

import wgsl_kernels
import workbench
from tests.support.chromium import FLAGS, launched, require_chromium, serve
from tests.support.dawn import FOLDER, require_node, swiftshader
from wgsl_kernels import Adapter, KernelUsageError
from workbench.browser import page as pages
from workbench.browser.certificate import Certificates, cases, certificate, native, opened, pack
from workbench.browser.certify_in import in_browser, in_node
from workbench.browser.model_case import EVERY, ModelCase, model_case
from workbench.browser.model_case import native as native_model
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.formats.text import parse_format
from workbench.runtime.device import open_device

from .test_parts import call

#: Packed quants, integers, floats, a state that is moved in place, subgroups or not.
KERNELS = ("rms_norm", "attention_reduce[a8]", "argmax", "linear[int4]", "advance")
LANES = (0, 4)
#: Positions of the small model's cache: a text of half of it, and windows that software adapters are soon done with.
POSITIONS = 16


@pytest.fixture(scope="module")
def some():
    """A few cases, and two that are wrong: a module that computes something else, and one that is none."""
    found = [case for case in cases(LANES) if case.kernel.name in KERNELS]
    assert {case.kernel.name for case in found} == set(KERNELS) and {case.lanes for case in found} == {0, 4}
    return found


@pytest.fixture(scope="module")
def model(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified") / "small"
    convert(small, folder, ConvertOptions(parse_format("int4/32")))
    return folder


@pytest.fixture(scope="module")
def model_beside(model) -> ModelCase:
    """The small model's case, which carries model and programs."""
    return model_case(model, POSITIONS, carried=True)


@pytest.fixture(scope="module")
def packed(some, model_beside) -> bytes:
    first = next(case for case in some if case.kernel.name == "rms_norm")
    module = first.linked.module
    doubled = replace(module, code=module.code.replace("sqrt(mean + EPS)", "sqrt(mean + EPS + 1.0)"))
    assert doubled.code != module.code
    wrong = [replace(module, code=module.code + "\nfn"), doubled]
    bad = [replace(first, linked=replace(first.linked, module=each)) for each in wrong]
    return pack([*some, *bad], model_beside)


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
    as_the_references(found["model"])
    return found


def as_the_references(found: dict) -> None:
    """What a certificate says of the small model, which computes what its references do."""
    tokens, logits, ppl = found["tokens"], found["logits"], found["perplexity"]
    assert found["status"] == "within" and tokens["count"] == POSITIONS // 2
    assert tokens["equal"] == POSITIONS // 2 or tokens["first"]["gap"] <= 2 * logits["bound"]
    assert (
        0 < logits["largest"] <= logits["bound"]
        and logits["compared"] == (POSITIONS // 2 // EVERY + 1) * 4096
    )
    assert (
        ppl["windows"] == 4
        and ppl["tokens"] == 4 * (POSITIONS - 1)
        and ppl["protocol"] == f"disjoint-{POSITIONS}"
    )
    assert ppl["here"] == pytest.approx(ppl["there"], rel=1e-5) and ppl["there"] > 1


@pytest.mark.release
@pytest.mark.usefixtures("adapter")
def test_node_and_this_process_certify_alike(
    some, packed, model, model_beside, tmp_path, monkeypatch, capsys
):
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
    loaded = workbench.load(model, backend="wgpu", dtype="f32", max_tokens=POSITIONS)
    mine["model"] = native_model(loaded, model_beside)
    as_the_references(mine["model"])
    for name, each in (("node.json", text), ("mine.json", certificate(mine))):
        (tmp_path / name).write_text(each)
    assert main(["certificates", str(tmp_path / "node.json"), str(tmp_path / "mine.json")]) == 0
    said = capsys.readouterr().out
    assert "Node" in said and "wgpu" in said and "rms_norm" in said and "does not compile" in said
    assert "8 of 8" in said and "4 of disjoint-16" in said


@pytest.mark.browser
@pytest.mark.release
def test_a_browser_certifies(some, packed):
    chromium = require_chromium()
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    found = judged(in_browser(chromium, [*FLAGS, *root], packed), some)
    assert "Chrome/" in found["where"]["runtime"]


@pytest.mark.browser
@pytest.mark.release
def test_a_page_certifies_its_own_model_with_a_button(some, model, tmp_path, monkeypatch):
    """What the reader saves is a certificate of this page's model in f32, whatever the page begins with."""
    few = [case for case in some if case.kernel.name == "rms_norm"]
    monkeypatch.setattr(pages, "pack", lambda model: pack(few, model))
    types = ("int8", "f32")
    pages.write_page(model, tmp_path / "out", max_tokens=POSITIONS, certificate=True, activations=types)
    with launched() as browser, serve(tmp_path / "out") as address:
        page = browser.new_page()
        page.goto(f"{address}/certify.html")
        page.get_by_role("button", name="Certify").click()
        page.locator("#save:visible, #alert:visible").first.wait_for(timeout=240_000)
        assert page.is_hidden("#alert"), page.text_content("#alert")
        assert "8 of 8 tokens are the reference's" in page.get_by_role("status").text_content()
        with page.expect_download() as saved:
            page.get_by_role("link", name="Save the certificate").click()
        found = opened(saved.value.path().read_text(), "here")
    as_the_references(found["model"])
    assert found["model"]["name"] == model.name


@pytest.mark.usefixtures("adapter")
def test_some_kernels_are_certified_alone_and_the_certificate_says_so(tmp_path, capsys):
    file, record = tmp_path / "some.json", tmp_path / "record.json"
    assert main(["certify", str(file), "--kernel", "advance", "argmax", "--json", str(record)]) == 0
    found = opened(file.read_text(), "here")
    assert found["about"]["only"] == ["advance", "argmax"] and "model" not in found
    variants = {(name, each) for name in ("advance", "argmax") for each in wgsl_kernels.get(name).variants}
    assert {(case["kernel"], case["variant"]) for case in found["cases"]} <= variants
    assert {case["kernel"] for case in found["cases"]} == {"advance", "argmax"}
    assert json.loads(record.read_text())["kernels"][0]["within"] == len(found["cases"])
    said = capsys.readouterr()
    assert "some.json: of advance, argmax alone" in said.out
    assert "beside references in f64" in said.err
    of_some = pack(cases((0,), kernels=["argmax"]), only=["argmax"])
    length = int.from_bytes(of_some[:4], "little")
    head = json.loads(of_some[4 : 4 + length])
    assert {case["kernel"] for case in head["cases"]} == {"argmax"} and head["about"]["only"] == ["argmax"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--kernel", "argmin"], "no kernel is named 'argmin'; there are add, advance, "),
        (["--browser", "chromium"], "--browser is for --in browser, and this is --in wgpu"),
        (
            ["--in", "node", "--browser-option=--x"],
            "--browser-option is for --in browser, and this is --in node",
        ),
        (["--in", "browser", "--adapter", "0"], "--adapter is for --in wgpu, and this is --in browser"),
        (["--package", "."], "--package is for --in node, and this is --in wgpu"),
        (
            ["--in", "browser", "--browser", "/none"],
            "no program /none was found; name a browser with --browser",
        ),
    ],
)
def test_what_certify_cannot_do_is_said_before_anything_is_computed(options, said, tmp_path, capsys):
    assert main(["certify", str(tmp_path / "here.json"), *options]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_certificate_needs_a_folder_and_node_its_package(tmp_path, capsys, monkeypatch):
    assert main(["certify", str(tmp_path / "none" / "here.json")]) == 2
    assert f"there is no folder {tmp_path / 'none'}" in capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert main(["certify", str(tmp_path / "here.json"), "--in", "node", "--package", str(tmp_path)]) == 2
    assert (
        f"`webgpu` is not installed in {tmp_path}; run `npm install webgpu` there" in capsys.readouterr().err
    )


def test_node_without_a_gpu_says_what_to_do(tmp_path, capsys, monkeypatch):
    require_node()
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(name, str(tmp_path / "none.json"))
    where = ["--in", "node", "--package", str(FOLDER)]
    assert main(["certify", str(tmp_path / "here.json"), *where, "--kernel", "argmax"]) == 2
    said = capsys.readouterr().err
    assert "certify: Node says: Dawn finds no GPU here; VK_DRIVER_FILES may name" in said


def test_there_is_a_case_of_every_variant():
    every = {(name, each) for name in wgsl_kernels.names() for each in wgsl_kernels.get(name).variants}
    assert {(case.kernel.name, case.linked.variant) for case in cases((8, 32))} == every


def test_what_a_model_gets_wrong_is_said_alike_in_both_languages(model_beside):
    """A text that parts at a tie is within; logits, a loss or a text that are off are not."""
    case, wrong = model_beside, (model_beside.tokens[5] + 1) % 4096
    gaps = case.gaps.copy()
    gaps[5] = case.bound
    parted = [*case.tokens[:5], wrong, *case.tokens[6:]]
    off, far = [case.logits[0] * 0 + each for each in (case.bound / 2, 3 * case.bound)]
    unusable = np.full_like(case.logits[0], np.nan)
    tied = replace(case, gaps=gaps)
    moved = [each + 3 * case.bound for each in case.nll]
    told = [
        (case, case.tokens, off, case.nll, "within"),
        (tied, parted, off, case.nll, "within"),
        (replace(case, gaps=gaps + 1), parted, off, case.nll, "beyond"),
        (case, case.tokens, far, case.nll, "beyond"),
        (case, case.tokens, unusable, case.nll, "beyond"),
        (case, case.tokens, off, moved, "beyond"),
    ]
    for wanted, tokens, change, nll, status in told:
        logits = wanted.logits.astype(np.float64)
        logits[0] += change
        mine = json.loads(certificate({"model": wanted.judged(tokens, logits, nll)}))["content"]
        found = json.loads(mine)["model"]
        assert found["status"] == status
        both = Certificates({"a": {"cases": [], "model": found}})
        assert bool(both.beyond()) == (status == "beyond")
        assert ("a tie" in str(both.models)) == (tokens is parted)
        first = found["tokens"]["first"]
        assert first == (
            None
            if tokens is case.tokens
            else {"at": 5, "here": wrong, "there": case.tokens[5], "gap": wanted.gaps[5]}
        )
        largest = found["logits"]["largest"]
        got = {"tokens": tokens, "compared": found["logits"]["compared"], "largest": largest, "nll": nll}
        if largest is None:  # JSON has no word for it
            got["largest"] = 1e300
        theirs = call(
            "certificate_model.js", "judgedModel", wanted.packed(lambda _: 0), wanted.gaps.tolist(), got
        )
        if largest is None:
            theirs["logits"]["largest"] = None
        for name in ("here", "there"):
            assert theirs["perplexity"].pop(name) == pytest.approx(found["perplexity"].pop(name), rel=1e-12)
        assert theirs == {key: found[key] for key in ("status", "tokens", "logits", "perplexity")}


def test_what_was_changed_is_no_certificate(tmp_path, capsys):
    results = {
        "where": {"runtime": "here", "adapter": "none", "lanes": 0},
        "about": {"kernels_sha256": "0" * 64},
    }
    text = certificate({**results, "cases": []})
    assert opened(text, "a")["where"]["runtime"] == "here"
    with pytest.raises(WorkbenchError, match="a: was changed after it was sealed; certify again"):
        opened(text.replace("here", "there"), "a")
    before = json.loads(text) | {"version": 1}  # without a model
    assert not Certificates({"b": opened(json.dumps(before), "b")}).models.rows()
    with pytest.raises(WorkbenchError, match="c: a certificate of version 3; this workbench reads 1 and 2"):
        opened(json.dumps(before | {"version": 3}), "c")
    for other in ("", "[]", "{}", json.dumps({"kind": "other"})):
        with pytest.raises(WorkbenchError, match="b: no certificate"):
            opened(other, "b")
    assert main(["certificates", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_kernels_that_pages_cannot_bind_are_certified_in_this_process_alone():
    name = "sliced_qkv_a8[int4]"
    found = list(cases(kernels=[name, "add"]))
    assert {case.kernel.name for case in found if case.linked.storage_buffers > Adapter.storage_buffers} == {
        name
    }
    assert name.encode() not in pack(found)
    with pytest.raises(KernelUsageError, match="more than the 8 storage buffers that browsers promise"):
        pack(list(cases(kernels=[name])), only=[name])
