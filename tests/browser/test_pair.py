"""`workbench page A --beside B`: both models continue a prompt and read a text in Chromium as Python's engine does."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import workbench
from eval.statistics import divergence, mean_se
from tests.support.chromium import launched, serve
from workbench.browser import page as pages
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats.text import parse_format
from workbench.models.chat import chat_ids

from .test_page import LOAD_MS, NAME, OTHER, PROMPT, Ranges, Shown
from .test_parts import call

#: Positions of the caches: prompts of a few steps, whose programs are soon compiled.
POSITIONS = 64
TEXT = "Tom saw a <b>cat</b>, and"


@pytest.fixture(scope="module")
def models(small, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("pair")
    found = []
    for name, fmt in ((NAME, "int8"), ("int2", "int2/32")):
        convert(small, root / name, ConvertOptions(parse_format(fmt)))
        found.append(root / name)
    return found


@pytest.fixture(scope="module")
def natives(models):
    return [workbench.load(each, backend="wgpu", dtype="f32", max_tokens=POSITIONS) for each in models]


def compared(natives, ids: list[int], first: int):
    """KL(first || second) and -ln p of each, of the tokens from a place on."""
    rows = [model.forward(ids[:-1]).logits[first - 1 :] for model in natives]
    return divergence(rows[1], rows[0], np.array(ids[first:]))


def in_page(page, lane: int = 0) -> tuple[list[float], str]:
    """KL of a lane's tokens as their labels say it, and its facts."""
    options = page.locator(".text").nth(lane).get_by_role("option")
    labels = [each.get_attribute("aria-label") for each in options.all()]
    return [float(re.search(r", KL ([\d.e-]+)", each)[1]) for each in labels], page.locator(".facts").nth(
        lane
    ).text_content()


def begin(page, prompt: str) -> None:
    page.locator("#prompt").fill(prompt)
    page.locator("#write").click()
    page.locator("#stop:disabled").wait_for(timeout=LOAD_MS)
    assert page.is_hidden("#alert"), page.text_content("#problem")


def agree(found: list[float], facts: str, expected) -> None:
    """What a page shows in three digits is what Python computes."""
    # logits of two adapters differ in the last bits, of which KL of formats so far apart knows little
    sums = np.cumsum(expected.kl)  # of which the page shows those at the ends of its pieces of text
    ends = [int(np.abs(sums - each).argmin()) for each in np.cumsum(found)]
    assert ends == sorted(set(ends)) and ends[-1] == len(sums) - 1
    assert np.cumsum(found) == pytest.approx(sums[ends], rel=6e-3)
    mean, error = map(float, re.search(r"mean KL ([\d.e-]+) ± ([\d.e-]+) nats", facts).groups())
    assert mean == pytest.approx(expected.kl.mean(), rel=6e-3) and error == pytest.approx(
        mean_se(expected.kl), rel=6e-3
    )
    flips = int(np.sum(expected.top1 != expected.top1_baseline))
    assert f"{len(expected.kl)} tokens" in facts and f"{flips} differ in the likeliest" in facts
    ppl = [f"{np.exp(nll.mean()):.0f}" for nll in (expected.nll_baseline, expected.nll)]
    shown = [f"{float(each):.0f}" for each in re.findall(r"perplexity: .* ([\d.]+), int2 ([\d.]+)", facts)[0]]
    assert shown == ppl


@pytest.fixture(scope="module")
def written(models) -> Path:
    out = models[0].parent / "out"
    options = ("--beside", str(models[1]), "--max-tokens", str(POSITIONS))
    assert main(["page", str(models[0]), str(out), *options]) == 0
    return out


@pytest.mark.release
@pytest.mark.browser
@pytest.mark.usefixtures("adapter")
def test_two_models_continue_a_prompt_and_read_a_text(natives, written):
    """And answer a message; the page is used with keys, narrow, in the dark, and without a network."""
    with launched() as browser, serve(written, Ranges) as address:
        context = browser.new_context(color_scheme="dark", viewport={"width": 320, "height": 640})
        shown = Shown(context, address)
        page = shown.page
        assert page.is_hidden("#alert"), page.text_content("#problem")
        assert page.get_by_role("heading", level=1).text_content() == f"{NAME} beside int2"

        page.locator("summary").click()
        shown.set(count="")  # reading takes none of these
        page.get_by_label("read a text").check()
        begin(page, TEXT)
        ids = list(natives[0].tokenizer(TEXT)["input_ids"])
        found, facts = in_page(page)
        agree(found, facts, compared(natives, ids, 1))
        tokens = page.get_by_role("listbox")
        assert tokens.text_content() == natives[0].tokenizer.decode(ids[1:])
        tokens.focus()
        for key in ("End", "ArrowLeft"):
            page.keyboard.press(key)
        told = page.text_content("#token")
        assert told.startswith("“") and f"{NAME}: " in told and "likeliest" in told
        active = page.locator(f"#{tokens.get_attribute('aria-activedescendant')}")
        assert active.get_attribute("aria-selected") == "true" and active.get_attribute("data-at") == str(
            len(found) - 2
        )
        shades = page.evaluate(
            "[...document.querySelectorAll('.key[data-kl]')].map((e) => getComputedStyle(e).backgroundColor)"
        )
        assert len(set(shades)) == 4  # the legend's
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        page.emulate_media(color_scheme="light")
        assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") != dark

        page.get_by_label("continue a text").check()
        shown.set(count="6")
        begin(page, PROMPT)
        prompt = natives[0].encode_prompt(PROMPT)
        written = [list(model.generate_ids(prompt, 6)) for model in natives]
        assert written[0] != written[1] and page.locator(".parted.unit").count() == 2
        for lane, tokens in enumerate(written):
            found, facts = in_page(page, lane)
            agree(found, facts, compared(natives, [*prompt, *tokens], len(prompt)))
            assert "tokens/s" in facts and "as long as asked for" in facts

        page.get_by_label("answer a message").check()
        begin(page, "Who?")
        message = chat_ids(natives[0].tokenizer, [{"role": "user", "content": "Who?"}])
        tokens = list(natives[1].generate_ids(message, 6))
        found, facts = in_page(page, 1)
        agree(found, facts, compared(natives, [*message, *tokens], len(message)))

        shown.offline()
        shown.reload()
        assert page.is_enabled("#write") and shown.said == []
        assert [url for url in shown.asked if not url.startswith((f"{address}/", "data:"))] == []


@pytest.mark.release
@pytest.mark.browser
def test_a_model_does_not_make_room_for_the_one_beside_it(written, models):
    """Of two that the storage does not hold, the first is kept, and the page says that the second is not."""
    sizes = [(each / "model.wgpu").stat().st_size for each in models]
    with serve(written, Ranges) as address, launched() as browser:
        context = browser.new_context()
        session = context.new_cdp_session(context.new_page())
        quota = {"origin": address, "quotaSize": sizes[0] + sizes[1] // 2}
        session.send("Storage.overrideQuotaForOrigin", quota)
        shown = Shown(context, address)
        assert shown.page.is_enabled("#write") and shown.kept().startswith("not: the browser")
        kept = hashlib.sha256((models[0] / "manifest.json").read_bytes()).hexdigest()
        assert kept in shown.page.evaluate(OTHER, 0)


def test_text_can_be_read_on_every_shade():
    """4.5 : 1 in both themes (WCAG 2, 1.4.3), on the strongest colour of a KL as on the page."""
    folder = Path(pages.__file__).parent
    text = (folder / "static" / "style.css").read_text() + (folder / "pair" / "pair.css").read_text()
    colours = re.findall(r"--(fg|bg|kl): light-dark\((#\w+), (#\w+)\)", text)
    [most] = re.findall(r"calc\((\d+)% \* var\(--v\)\)", text)
    for theme in (1, 2):
        found = {}
        for each in colours:
            digits = each[theme].removeprefix("#")
            whole = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
            found[each[0]] = np.array([int(whole[at : at + 2], 16) / 255 for at in (0, 2, 4)])
        shade = found["bg"] + (found["kl"] - found["bg"]) * int(most) / 100
        for under in (found["bg"], shade):
            linear = [
                np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (found["fg"], under)
            ]
            lights = sorted(each @ [0.2126, 0.7152, 0.0722] + 0.05 for each in linear)
            assert lights[1] / lights[0] >= 4.5


def test_models_that_do_not_share_a_tokenizer_are_refused(models, small, tmp_path, capsys):
    checkpoint, other = tmp_path / "checkpoint", tmp_path / "other"
    shutil.copytree(small, checkpoint)
    file = checkpoint / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    convert(checkpoint, other, ConvertOptions(parse_format("int8")))
    assert main(["page", str(models[0]), str(tmp_path / "out"), "--beside", str(other)]) == 2
    assert f"{other} do not share vocabulary (4096 and 4096) and tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_divergence_and_its_mean_are_those_of_python():
    generator = np.random.default_rng(0)
    first, second = (generator.normal(size=(7, 50)) * scale for scale in (3, 8))
    first[3] = -np.inf
    first[3, 4] = 1.0  # certain, as an excluded token is impossible
    expected = divergence(second, first, np.full(7, 4))
    for row in range(7):
        rows = [np.where(np.isinf(each[row]), -1e300, each[row]).tolist() for each in (first, second)]
        found = call("pair.js", "divergence", *rows, 4)
        assert found["kl"] == pytest.approx(expected.kl[row], rel=1e-12, abs=1e-15)
        assert found["nll"] == pytest.approx(
            [expected.nll_baseline[row], expected.nll[row]], rel=1e-12, abs=1e-12
        )
        assert found["top"] == [expected.top1_baseline[row], expected.top1[row]]
    found = call("pair.js", "meanError", expected.kl.tolist())
    assert found == pytest.approx({"mean": expected.kl.mean(), "error": mean_se(expected.kl)}, rel=1e-12)
