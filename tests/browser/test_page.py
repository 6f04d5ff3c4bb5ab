"""`workbench page`: a folder that runs a model in Chromium as the native engine does, and asks nobody else."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import re
from http import HTTPStatus
from pathlib import Path

import pytest

import workbench
from tests.support.chromium import QuietHandler, launched, serve
from tests.support.dawn import run_script
from workbench.assets import demo_model_path
from workbench.browser import page as pages
from workbench.browser.page import write_page
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions, parse_format
from workbench.errors import StorageError, WorkbenchError

from .conftest import CAPACITY

LOAD_MS = 240_000
#: A name that would break out of a page that wrote markup.
NAME = "<b onclick=alert(1)>&amp;"
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page") / NAME
    convert(demo_model_path(), folder, ConvertOptions(parse_format("int4/32")))
    return folder


@pytest.fixture(scope="module")
def written(model) -> Path:
    return write_page(model, model.parent / "out", max_tokens=CAPACITY).path


class Ranges(QuietHandler):
    """A server that knows ranges, and notes what it was asked for."""

    asked: list[tuple[str, str]] = []  # noqa: RUF012

    def do_GET(self):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.asked.append((self.path, self.headers.get("Range", "")))
        if not wanted:
            return super().do_GET()
        first, last = map(int, wanted.groups())
        data = Path(self.translate_path(self.path)).read_bytes()[first : last + 1]
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def test_what_is_written_is_what_a_page_needs_and_nothing_else(written, model, capsys):
    names = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert {"index.html", "app.js", "style.css", "page.json", "model/model.wgpu", "browser/player.js"} < names
    assert not [name for name in names if name.endswith(".py")]
    assert (written / "model" / "manifest.json").read_bytes() == (model / "manifest.json").read_bytes()
    # what the page's modules import is there
    for module in written.rglob("*.js"):
        for name in re.findall(r'from "(\.[^"]+)"', module.read_text()):
            assert (module.parent / name).is_file(), f"{module}: {name}"
    assert main(["page", str(model), str(written)]) == 2
    assert "exists; give --overwrite" in capsys.readouterr().err


def test_no_script_or_style_stands_in_the_page(written):
    html = (written / "index.html").read_text()
    assert re.search(r'Content-Security-Policy" content="default-src \'none\'; script-src \'self\'', html)
    assert "unsafe" not in html and not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    assert not re.search(r"https?:", html + (written / "style.css").read_text())


def test_an_output_is_replaced_whole_or_stays(written, model, tmp_path, monkeypatch):
    with pytest.raises(WorkbenchError, match="and holds no page"):
        write_page(model, tmp_path, overwrite=True)

    def full_disk(source, output, **_):
        output.mkdir()
        (output / "programs.json").write_text("{")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))

    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    monkeypatch.setattr(pages, "export_programs", full_disk)
    with pytest.raises(StorageError, match=f"{re.escape(str(written))}: .* the disk is full"):
        write_page(model, written, overwrite=True)
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before
    assert [path.name for path in written.parent.iterdir() if path.name.startswith(".")] == []


def test_vendored_files_are_those_that_are_named():
    folder = Path(pages.__file__).parent / "vendor"
    named = json.loads((folder / "vendor.json").read_text())
    files = {name: file for package in named.values() for name, file in package["files"].items()}
    assert {path.name for path in folder.iterdir()} == {*files, "vendor.json"}
    for name, file in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file["sha256"]
    for package in named.values():
        assert len(base64.b64decode(package["integrity"].removeprefix("sha512-"))) == 64


@pytest.mark.browser
@pytest.mark.usefixtures("adapter")
def test_the_page_writes_what_the_native_engine_writes(written, model):
    from playwright.sync_api import expect

    native = workbench.load(model, backend="wgpu", dtype="f32", max_tokens=CAPACITY)
    expected = "".join(native.generate(PROMPT, max_new_tokens=8))
    Ranges.asked = []

    with serve(written, Ranges) as address, launched() as browser:
        page = browser.new_page(color_scheme="dark")
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        expect(page.locator("#write")).to_be_enabled(timeout=LOAD_MS)
        assert page.title() == NAME and page.get_by_role("heading", level=1).text_content() == NAME
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_label("new tokens").fill("8")
        page.get_by_role("button", name="Write").click()
        expect(page.get_by_role("status")).to_contain_text("As many tokens", timeout=LOAD_MS)
        assert page.text_content("#given") == PROMPT and page.text_content("#written") == expected
        assert float(page.text_content("#speed")) > 0 and page.text_content("#first").endswith(" s")
        assert page.text_content("#memory").endswith(" MB")

        # sampled, and stopped with a key
        for label, value in (("new tokens", "50"), ("temperature", "0.8"), ("top-k", "20"), ("seed", "3")):
            page.get_by_label(label).fill(value)
        page.get_by_label("Prompt").press("Control+Enter")
        expect(page.locator("#written")).not_to_be_empty(timeout=LOAD_MS)
        page.keyboard.press("Escape")
        expect(page.get_by_role("status")).to_have_text("Stopped.", timeout=LOAD_MS)

        # too long: told, and the page goes on
        page.get_by_label("Prompt").fill("x y z " * CAPACITY)
        page.get_by_role("button", name="Write").click()
        page.get_by_role("alert").wait_for(timeout=LOAD_MS)
        assert "do not fit" in page.text_content("#problem") and page.is_hidden("#again")
        assert page.is_enabled("#write")

        page.emulate_media(color_scheme="dark")
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != dark
        assert said == []
        assert [url for url in asked if not url.startswith((f"{address}/", "data:"))] == []
    assert [wanted for path, wanted in Ranges.asked if path == "/model/model.wgpu" and not wanted] == []


@pytest.mark.browser
def test_a_damaged_model_is_named_with_a_way_on(written):
    """From a server that knows no ranges, at that."""
    shard = written / "model" / "model.wgpu"
    before = shard.read_bytes()
    try:
        shard.write_bytes(before[:5000] + bytes([before[5000] ^ 1]) + before[5001:])
        with serve(written) as address, launched() as browser:
            page = browser.new_page()
            page.goto(address)
            page.get_by_role("alert").wait_for(timeout=LOAD_MS)
            assert "does not have its checksum" in page.text_content("#problem")
            assert page.is_visible("#again") and page.is_disabled("#write")
    finally:
        shard.write_bytes(before)


def test_the_page_tokenizes_as_python_does(written):
    """Library and files; that they are checked against the sample, too."""
    sample = json.loads((written / "page.json").read_text())["sample"]
    texts = [sample["text"], "", " ", "Tom's 3rd café\r\n", "<s>", "日本語 🙂🙃 zero\u200bwidth"]
    tokenizer = workbench.load(written / "model", backend="torch").tokenizer
    answer = run_script("text_node.js", {"folder": str(written), "texts": texts, "sample": sample})
    for text, found in zip(texts, answer["texts"], strict=True):
        ids = list(tokenizer(text)["input_ids"])
        assert found["ids"] == ids
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert found["text"] == whole
    assert answer["other"] == "unsupported"
