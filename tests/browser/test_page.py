"""`workbench page`: a folder that runs a model in Chromium as the native engine does, and asks nobody else."""

from __future__ import annotations

import base64
import contextlib
import errno
import gzip
import hashlib
import json
import os
import re
import shutil
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest

import workbench
from tests.support.chromium import QuietHandler, launched, serve
from tests.support.dawn import run_script
from workbench.browser import page as pages
from workbench.browser.page import write_page
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import StorageError, WorkbenchError
from workbench.formats.text import parse_format
from workbench.models.chat import chat_ids
from workbench.runtime.textstream import stream_text

from .conftest import CAPACITY
from .templates import TALKS, TEMPLATES

LOAD_MS = 240_000
#: A name that would break out of a page that wrote markup.
NAME = "<b onclick=alert(1)>&amp;"
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def model(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page") / NAME
    convert(small, folder, ConvertOptions(parse_format("int4/32")))
    return folder


@pytest.fixture(scope="module")
def written(model) -> Path:
    return write_page(
        model, model.parent / "out", max_tokens=CAPACITY, activations=("f16", "f32", "int8")
    ).path


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


@pytest.mark.parametrize("kind", ["static", "pair"])
def test_a_page_is_small(kind):
    """All that it can load of its own, at first and later, but for the tokenizer's libraries: 40 kB compressed."""
    root = Path(pages.__file__).parent
    waiting, found = [root / kind / "app.js"], set()
    while waiting:
        module = waiting.pop()
        if module in found or "vendor" in module.parts:
            continue
        found.add(module)
        for name in re.findall(r'(?:from |import\(|worker: )"(\.[^"]+\.js)"', module.read_text()):
            folder = root if name.startswith("./browser/") else module.parent
            waiting.append((folder / name.replace("./browser/", "")).resolve())
    one, two = {"service.js", "together.js"}, {"pair.js", "steps.js"}
    names = {path.name for path in found}
    assert {"player.js", "loader.js", "session.js", "port.js"} | (one if kind == "static" else two) < names
    assert not names & (two if kind == "static" else one)
    folders = {root / "static", root / kind}
    found |= {path for each in folders for path in each.iterdir() if path.suffix == ".css"}
    found |= {root / kind / "index.html", root / "static" / "sw.js"}
    assert sum(len(gzip.compress(path.read_bytes())) for path in found) <= 40_000
    # two texts side by side are asked for by few: what they take comes when they are
    assert 'await import("./together.js")' in (root / "service.js").read_text()


def test_an_output_is_replaced_whole_or_stays(written, model, tmp_path, monkeypatch):
    with pytest.raises(WorkbenchError, match="and holds no page"):
        write_page(model, tmp_path, overwrite=True)

    with pytest.raises(WorkbenchError, match="a certificate is of f32, which activations = int8 leaves out"):
        write_page(model, tmp_path / "new", activations=["int8"], certificate=True)
    assert not (tmp_path / "new").exists()

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
    assert {path.name for path in folder.iterdir() if path.suffixes != [".d", ".ts"]} == {
        *files,
        "vendor.json",
    }
    for name, file in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == file["sha256"]
    for package in named.values():
        assert len(base64.b64decode(package["integrity"].removeprefix("sha512-"))) == 64


class Shown:
    """The page in a browser context of its own, and what it said and asked for; loaded, or with an alert."""

    def __init__(self, context, address: str):
        self.page, self.address = context.new_page(), address
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        context.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.settled()

    def settled(self) -> None:
        self.page.locator("#write:enabled, #alert:not([hidden])").first.wait_for(timeout=LOAD_MS)

    def reload(self) -> None:
        self.page.reload()
        self.settled()

    def set(self, **values: str) -> None:
        for name, value in values.items():
            self.page.locator(f"#{name}").fill(value)

    def as_text(self) -> None:
        """From the chat, which a page opens with that can have one."""
        self.page.get_by_label("continues a text").check()

    def write(self, prompt: str) -> str:
        """What the model writes; the status says how it ended."""
        self.page.locator("#prompt").fill(prompt)
        self.page.locator("#write").click()
        self.page.locator("#stop:disabled").wait_for(timeout=LOAD_MS)
        written = self.page.locator(".written")
        return written.last.text_content() if written.count() else ""

    def status(self) -> str:
        return self.page.get_by_role("status").text_content()

    def kept(self) -> str:
        return self.page.locator("#kept").text_content()

    def offline(self) -> None:
        """Wait until all is kept, and take the network away."""
        self.page.locator("#kept", has_text="without a network").wait_for(timeout=LOAD_MS)
        self.page.context.set_offline(True)


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def shown(written, browser):
    Ranges.asked = []
    with serve(written, Ranges) as address:
        context = browser.new_context(color_scheme="dark")
        found = Shown(context, address)
        found.page.locator("summary").click()
        assert (
            found.page.is_checked("#chats")
            and found.page.get_by_label("Message", exact=True).input_value() == ""
        )
        found.as_text()
        yield found
        assert found.said == []
        assert [url for url in found.asked if not url.startswith((f"{address}/", "data:"))] == []
        context.close()


@pytest.fixture(scope="module")
def native(model):
    return workbench.load(model, backend="wgpu", dtype="f32", max_tokens=CAPACITY)


@pytest.mark.browser
@pytest.mark.usefixtures("adapter")
class TestPage:
    """One page, which does one thing after the other."""

    def test_it_writes_what_the_native_engine_writes(self, shown, native):
        page = shown.page
        assert page.title() == NAME and page.get_by_role("heading", level=1).text_content() == NAME
        shown.set(count="8")
        assert shown.write(PROMPT) == "".join(native.generate(PROMPT, max_new_tokens=8))
        assert page.text_content(".given") == PROMPT and "As many tokens" in shown.status()
        assert float(page.text_content("#speed")) > 0 and page.text_content("#first").endswith(" s")
        assert page.text_content("#memory").endswith(" MB")

    def test_drawn_text_is_the_native_one_and_ends_before_a_stop_string(self, shown, native):
        options = {"temperature": 0.8, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 3}
        shown.set(count="24", temperature="0.8", topK="20", minP="0.01", repetitionPenalty="1.1", seed="3")
        whole = "".join(native.generate(PROMPT, max_new_tokens=24, **options))
        stop = whole[len(whole) // 2 :][:3]
        expected = "".join(native.generate(PROMPT, max_new_tokens=24, stop=[stop, "never"], **options))
        assert 0 < len(expected) < len(whole) and "\n" not in stop
        shown.set(stops=f"never\n{stop}")
        assert shown.write(PROMPT) == expected
        assert "before which to stop" in shown.status()
        shown.set(stops="", temperature="0", topK="0", minP="0", repetitionPenalty="1", seed="0")

    def test_two_settings_write_side_by_side(self, shown, native):
        shown.set(count="8")
        page = shown.page
        page.get_by_label("two texts side by side").check()
        shown.set(temperature2="0.9", seed2="4")
        shown.write(PROMPT)
        found = [each.text_content() for each in page.locator(".twice .written").all()]
        second = native.generate(PROMPT, max_new_tokens=8, temperature=0.9, seed=4)
        assert found == ["".join(native.generate(PROMPT, max_new_tokens=8)), "".join(second)]
        assert "As many tokens" in shown.status() and "+ 16 of" in page.text_content("#tokens")
        page.get_by_label("two texts side by side").uncheck()
        assert page.is_hidden("#second") and shown.write(PROMPT) == found[0]

    def test_it_plays_the_activations_that_are_chosen(self, shown, model, native):
        """And goes on in the same text, with other programs."""
        page, prompt = shown.page, "Once upon a time, there was"
        choice = page.get_by_label("activations")
        assert choice.locator("option").all_text_contents() == ["f16", "f32", "INT8"]
        # the first is what it would begin with
        assert choice.input_value() == "f32" and page.locator("option:disabled").all_text_contents() == [
            "f16"
        ]
        assert page.inner_text("#lacking") == "f16 needs shader-f16, which is not here."
        shown.set(count="24", temperature="0.9", seed="1")
        shown.write(prompt)
        choice.select_option("int8")
        page.locator("#activations:focus").wait_for(timeout=LOAD_MS)
        assert (
            shown.status() == "Ready." and page.text_content("#speed") == "–" and page.is_hidden("#progress")
        )
        assert page.input_value("#prompt") == prompt
        integer = workbench.load(model, backend="wgpu", dtype="int8", max_tokens=CAPACITY)
        expected = "".join(integer.generate(prompt, max_new_tokens=24, temperature=0.9, seed=1))
        assert shown.write(prompt) == expected
        choice.select_option("f32")
        page.locator("#activations:focus").wait_for(timeout=LOAD_MS)
        shown.set(count="8", temperature="0", seed="0")
        assert shown.write(prompt) == "".join(native.generate(prompt, max_new_tokens=8))
        programs = [path.split("/")[2].split("-")[0] for path, _ in Ranges.asked if "/programs/" in path]
        assert programs.index("f32") < programs.index("int8")

    def test_a_key_stops_it(self, shown):
        shown.set(count="100")
        shown.page.locator("#prompt").press("Control+Enter")
        shown.page.keyboard.press("Escape")  # at once: 100 tokens take less than a look at the page may
        shown.page.locator("#stop:disabled").wait_for(timeout=LOAD_MS)
        shown.set(count="8")
        assert shown.status() == "Stopped."

    def test_it_chats_over_several_turns(self, shown, native):
        shown.page.get_by_label("answers in a chat").check()
        talk = [{"role": "system", "content": "Be <i>brief</i>."}]
        shown.page.get_by_label("system message").fill(talk[0]["content"])
        for message in (" Who? ", "And then…"):
            talk.append({"role": "user", "content": message})
            ids = chat_ids(native.tokenizer, talk)
            expected = "".join(
                stream_text(
                    native.tokenizer, native.generate_ids(ids, 8), eos_ids=native.eos_ids, prompt_ids=ids
                )
            )
            assert shown.write(message) == expected
            talk.append({"role": "assistant", "content": expected})
        assert shown.page.locator("article").count() == 2
        # What is typed while an answer comes stays, and nothing is not sent.
        shown.page.locator("#prompt").fill("And?")
        form = shown.page.locator("#form")
        form.evaluate(
            "(form) => { form.requestSubmit(); form.querySelector('#prompt').value = 'Meanwhile'; }"
        )
        shown.page.locator("#stop:disabled").wait_for(timeout=LOAD_MS)
        assert shown.page.locator("article .given").last.text_content() == "And?"
        assert shown.page.locator("#prompt").input_value() == "Meanwhile"
        shown.page.locator("#prompt").fill("")
        shown.page.locator("#write").click()
        assert shown.page.locator("article").count() == 3
        shown.page.get_by_role("button", name="New chat").click()
        assert shown.page.locator("article").count() == 0
        shown.page.get_by_label("continues a text").check()

    def test_what_does_not_fit_is_told_and_the_page_goes_on(self, shown):
        shown.write("x y z " * CAPACITY)
        assert "do not fit" in shown.page.text_content("#problem") and shown.page.is_hidden("#again")
        assert shown.page.is_enabled("#write") and shown.write(PROMPT)

    def test_a_field_that_is_wrong_is_shown_or_does_not_count(self, shown):
        """Browsers refuse a form silently where what is wrong in it is out of sight."""
        page = shown.page
        shown.set(count="")
        page.locator("summary").click()  # which closes it
        page.locator("#prompt").press("Control+Enter")
        page.locator("#count:focus").wait_for(timeout=10_000)
        assert page.is_visible("#count") and page.is_disabled("#stop")
        shown.set(count="2")
        page.locator("#twice").check()
        shown.set(temperature2="")
        page.locator("#twice").uncheck()
        assert shown.write(PROMPT)

    def test_the_focus_stays_where_buttons_are(self, shown):
        """A button that is disabled would lose it; the text is in sight on a narrow page."""
        page = shown.page
        page.set_viewport_size({"width": 360, "height": 400})
        shown.set(count="100")
        page.locator("#write").press("Enter")
        page.locator("#stop:focus").wait_for(timeout=10_000)
        top, height = page.evaluate(
            "[document.querySelector('#text').getBoundingClientRect().top, innerHeight]"
        )
        assert top < height
        page.keyboard.press("Enter")
        page.locator("#write:focus").wait_for(timeout=LOAD_MS)
        assert shown.status() == "Stopped." or "As many" in shown.status()
        page.set_viewport_size({"width": 1280, "height": 720})

    def test_a_message_that_is_stopped_before_an_answer_is_no_turn(self, shown):
        page = shown.page
        page.get_by_label("answers in a chat").check()
        page.locator("#prompt").fill("Who?")
        page.evaluate("document.querySelector('#write').click(), document.querySelector('#stop').click()")
        page.locator("#stop:disabled").wait_for(timeout=LOAD_MS)
        assert shown.status() == "Stopped." and page.locator("article").count() == 0
        assert page.input_value("#prompt") == "Who?"
        page.get_by_label("continues a text").check()

    def test_it_fits_every_screen(self, shown):
        page = shown.page
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != dark
        tops = "(ids) => ids.map((id) => document.querySelector(id).getBoundingClientRect().top)"
        assert len(set(page.evaluate(tops, ["#count", "#temperature", "#topK"]))) == 1  # in one row
        page.set_viewport_size({"width": 320, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        # every control has a name, for those who hear it
        for each in page.locator("button:visible, input:visible, select:visible, textarea:visible").all():
            named = "(e) => e.ariaLabel || (e.labels?.length ? e.labels[0] : e).textContent.trim()"
            assert each.evaluate(named), each

    @pytest.mark.release
    def test_it_works_without_a_network(self, shown, native):
        shards = [wanted for path, wanted in Ranges.asked if path == "/model/model.wgpu"]
        assert shards and all(shards)
        shown.offline()
        shown.reload()
        shown.page.locator("summary").click()
        shown.as_text()
        shown.set(count="4")
        assert shown.write(PROMPT) == "".join(native.generate(PROMPT, max_new_tokens=4))
        shown.page.context.set_offline(False)
        assert [wanted for path, wanted in Ranges.asked if path == "/model/model.wgpu"] == shards
        shown.page.get_by_role("button", name="Forget").click()
        shown.page.locator("#kept", has_text="nothing any more").wait_for()
        shown.reload()
        assert [wanted for path, wanted in Ranges.asked if path == "/model/model.wgpu"] == [*shards, *shards]


#: Flips a bit of what the browser keeps of a model, from the middle of the shard.
SPOIL = """async () => {
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("workbench-models");
    const [folder] = await Array.fromAsync(root.values());
    const handle = await folder.getFileHandle("model.wgpu");
    const at = (await handle.getFile()).size >> 1;
    const byte = new Uint8Array(await (await handle.getFile()).slice(at, at + 1).arrayBuffer());
    const stream = await handle.createWritable({ keepExistingData: true });
    await stream.write({ type: "write", position: at, data: byte.map((each) => each ^ 1) });
    await stream.close();
    return at;
}"""


@pytest.mark.release
@pytest.mark.browser
def test_a_load_that_broke_off_goes_on_where_it_was(written, browser, tmp_path):
    """What has its checksum is kept; what the storage spoils is loaded again, and nothing else."""
    site = tmp_path / "site"
    shutil.copytree(written, site)
    loader = site / "browser" / "loader.js"
    assert "8 << 20" in loader.read_text()
    loader.write_text(
        loader.read_text().replace("8 << 20", "1 << 15")
    )  # so that a small model takes some requests
    shard = site / "model" / "model.wgpu"
    before = shard.read_bytes()
    shard.write_bytes(before[: len(before) * 2 // 3])

    def asked() -> list[tuple[int, int]]:
        found = [wanted for path, wanted in Ranges.asked if path == "/model/model.wgpu"]
        Ranges.asked = []
        return [tuple(map(int, each.removeprefix("bytes=").split("-"))) for each in found]

    Ranges.asked = []
    with serve(site, Ranges) as address, contextlib.closing(browser.new_context()) as context:
        shown = Shown(context, address)
        assert "ends in the middle of" in shown.page.text_content("#problem")
        assert shown.page.is_visible("#again") and shown.page.is_disabled("#write")
        first = asked()
        assert len(first) >= 3 and first[0][0] == 0
        shard.write_bytes(before)
        shown.page.get_by_role("button", name="Load again").click()
        shown.page.locator("#write:enabled").wait_for(timeout=LOAD_MS)
        again = asked()
        assert again[0][0] in {start for start, _ in first[-2:]} and again[-1][1] >= len(before) * 0.99
        at = shown.page.evaluate(SPOIL)
        shown.reload()
        [(start, end)] = asked()
        assert start <= at <= end and shown.page.is_enabled("#write")


@pytest.mark.browser
def test_a_worker_that_ends_is_told(shown):
    said = shown.page.evaluate("""async () => {
        const { Engine } = await import("./browser/port.js");
        const engine = new Engine(new Worker("browser/missing.js", { type: "module" }));
        const failed = (promise) => promise.then(() => "none", ({ kind, message }) => `${kind}: ${message}`);
        return [await failed(engine.call("load", {})), await failed(engine.call("write"))];
    }""")
    assert said[0].startswith("worker: the browser ended the model's worker") and said[1] == said[0]
    shown.said.clear()  # the file that is not there


#: Another model in the browser's storage, of as many bytes; then the names of all.
OTHER = """async (bytes) => {
    const storage = await navigator.storage.getDirectory();
    const root = await storage.getDirectoryHandle("workbench-models", { create: true });
    if (bytes) {
        const folder = await root.getDirectoryHandle("other", { create: true });
        const stream = await (await folder.getFileHandle("model.wgpu", { create: true })).createWritable();
        await stream.write(new Uint8Array(bytes));
        await stream.close();
    }
    return Array.fromAsync(root.keys());
}"""


@pytest.mark.release
@pytest.mark.browser
def test_the_storage_makes_room_and_a_model_that_it_does_not_hold_is_used_all_the_same(written, browser):
    """From a server that knows no ranges, at that."""
    bytes_ = (written / "model" / "model.wgpu").stat().st_size
    with serve(written) as address, contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(f"{address}/page.json")
        assert page.evaluate(OTHER, bytes_) == ["other"]
        session = context.new_cdp_session(page)
        session.send("Storage.overrideQuotaForOrigin", {"origin": address, "quotaSize": bytes_ * 3 // 2})
        shown = Shown(context, address)
        assert shown.page.is_enabled("#write") and shown.kept().startswith(("the weights", "all"))
        assert len(names := page.evaluate(OTHER, 0)) == 1 and names != ["other"]
    with serve(written) as address, contextlib.closing(browser.new_context()) as context:
        session = context.new_cdp_session(context.new_page())
        session.send("Storage.overrideQuotaForOrigin", {"origin": address, "quotaSize": bytes_ // 2})
        shown = Shown(context, address)
        assert shown.page.is_enabled("#write")
        assert shown.kept() == "not: the browser's storage for this page is full"


def test_the_page_tokenizes_and_streams_text_as_python_does(written):
    """Library and files; that they are checked against the sample, too."""
    sample = json.loads((written / "page.json").read_text())["sample"]
    texts = [sample["text"], "", " ", "Tom's 3rd café\r\n", "<s>", "日本語 🙂🙃 zero\u200bwidth"]
    tokenizer = workbench.load(written / "model", backend="torch").tokenizer
    generator = np.random.default_rng(5)
    ids = [tokenizer(text)["input_ids"] for text in (sample["text"], texts[5])]
    ids += [
        generator.integers(0, 260, 60).tolist() for _ in range(4)
    ]  # bytes that are no text, and special tokens
    streams = [
        {"prompt": each[:at], "ids": each[at:], "stop": stop}
        for each in ids
        for at in (0, 7)
        for stop in ([], ["café", "afé –", "🙃 z", "\ufffd\ufffd"])
    ]
    request = {"folder": str(written), "texts": texts, "sample": sample, "streams": streams, "chats": []}
    answer = run_script("text_node.js", request)
    for text, found in zip(texts, answer["texts"], strict=True):
        ids = list(tokenizer(text)["input_ids"])
        assert found["ids"] == ids
        whole = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert found["text"] == whole
    assert answer["other"] == "unsupported"
    for stream, found in zip(streams, answer["streams"], strict=True):
        expected = stream_text(tokenizer, stream["ids"], stop=stream["stop"], prompt_ids=stream["prompt"])
        assert found["pieces"] == list(expected) and found["reason"] == expected.finish_reason
    assert {found["reason"] for found in answer["streams"]} == {"length", "stop"}


def test_the_page_writes_conversations_as_python_does(written):
    """With templates in the ways of published ones; where one refuses a conversation, it does so in both."""
    facts = json.loads((written / "page.json").read_text())
    tokenizer = workbench.load(written / "model", backend="torch").tokenizer
    request = {"folder": str(written), "texts": [], "sample": facts["sample"], "streams": []}
    chats, expected, refused = [], [], 0
    for template in TEMPLATES.values():
        tokenizer.chat_template = template
        for messages in TALKS:
            chat = {"template": template, "tokens": facts["chat"]["tokens"], "sample": None}
            chats.append({"chat": chat, "messages": messages})
            try:
                expected.append(chat_ids(tokenizer, messages))
            except WorkbenchError:
                expected.append(None)
                refused += 1
    assert refused == 2 and len({tuple(each) for each in expected if each}) == len(expected) - refused
    assert run_script("text_node.js", request | {"chats": chats})["talks"] == expected
