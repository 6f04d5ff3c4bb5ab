from __future__ import annotations

import dataclasses
import hashlib
import html
import itertools
import json
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import jsonschema
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.eval.conftest import byte_tokenizer
from tests.support.shallow import write_shallow
from tests.support.vulkan import without_vulkan
from workbench.assets import STORY_SEPARATOR, demo_model_path, evaluation_text
from workbench.cli import build_parser, main
from workbench.model_bench import demo, tour
from workbench.model_bench.measure import AGREEMENT, Measurement, Settings
from workbench.model_bench.plot import perplexity_vs_size
from workbench.model_bench.records import SCHEMA
from workbench.model_bench.table import markdown
from workbench.models.tokenizer import load_tokenizer

NAMES = ["f16", "int8", "int4", "int2"]
#: Windows and prompts that one size of step serves, since compiling is what takes long here.
QUICK = Settings(scheme="disjoint-64", prompt_tokens=64, decode_tokens=16, repetitions=2)


@dataclasses.dataclass
class Toured:
    measurement: Measurement
    folder: object
    printed: str

    def json(self):
        return json.loads((self.folder / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def toured(adapter, converted, tmp_path_factory) -> Toured:
    """The whole demo on 448 tokens; what a model of few layers loses is in the same order."""
    folder = tmp_path_factory.mktemp("demo") / "deep" / "er"
    printed = StringIO()
    with redirect_stdout(printed):
        measurement = demo.run(converted, output=folder, tokens=448, settings=QUICK)
    return Toured(measurement, folder, printed.getvalue())


def cells(table: str) -> list[list[str]]:
    lines = [line for line in table.split("\n\n")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_a_row_a_format_and_says_what_it_measured(toured):
    table = (toured.folder / "table.md").read_text(encoding="utf-8")
    head, _, *rows = cells(table)
    assert [row[0] for row in rows] == NAMES and {len(row) for row in rows} == {len(head)}
    assert "n = 441 tokens scored, the first 7 windows of protocol `disjoint-64`" in table
    assert any("WGSL kernels on" in line for line in table.splitlines())
    row = toured.measurement.row("int4")
    line = dict(zip(head, rows[2], strict=True))
    assert line["bits a weight"] == f"{row.bits_per_weight:.3f}"
    assert line["perplexity"].startswith(f"{row.result.ppl:.4f} ± ")
    change, se = (float(part) for part in line["change, %"].split(" ± "))
    assert change == pytest.approx(row.change[0], abs=0.006) and se == pytest.approx(row.change[1], abs=0.006)
    if row.speed.on_cpu:
        assert "prefill, tokens/s (CPU)" in head and "These are times of a CPU" in table
    first = dict(zip(head, rows[0], strict=True))
    assert first["change, %"] == first["mean KL, nats"] == "–" and first["kernel loss, nats"] != "–"


def test_losses_grow_as_bits_go(toured):
    rows = [toured.measurement.row(name) for name in NAMES[1:]]
    assert rows[0].result.ppl < rows[1].result.ppl < rows[2].result.ppl
    for one, other in itertools.pairwise(rows):
        assert 10 * one.result.baseline.kl_mean < other.result.baseline.kl_mean
        assert one.result.baseline.same_top1 > other.result.baseline.same_top1
        assert one.format_loss.rms < other.format_loss.rms
        assert one.file_bytes > other.file_bytes and one.bits_per_weight > other.bits_per_weight


def test_kernels_and_references_agree_on_every_format(toured):
    for row in toured.measurement.rows:
        assert set(row.results) == {"wgpu", "torch"} and row.note == ""
        loss = row.kernel_loss
        assert loss.tokens == 441 and 0 < loss.rms < loss.max_abs < AGREEMENT
        both = [row.results[backend].token_nll for backend in ("wgpu", "torch")]
        assert loss.mean == pytest.approx(float(np.mean(both[0] - both[1])), abs=1e-12)
    assert toured.measurement.row("f16").format_loss is None


def test_bits_a_weight_are_what_the_formats_take(toured):
    """Matrices take bits + (16 of scale + 8 of zero-point) / block; norms stay f32 and add a little."""
    for name, least in (("f16", 16), ("int8", 8 + 24 / 128), ("int4", 4 + 24 / 128), ("int2", 2 + 24 / 256)):
        assert least <= toured.measurement.row(name).bits_per_weight < least + 0.05


def test_results_follow_the_schema_and_carry_their_provenance(toured):
    results, schema = toured.json(), json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(results, schema, jsonschema.Draft202012Validator)
    assert results["no_adapter"] is None and results["baseline"] == "f16" and results["seed"]
    digest = hashlib.sha256(evaluation_text().read_bytes()).hexdigest()
    for row in results["rows"]:
        for backend, found in row["perplexity"].items():
            assert found["backend"] == found["provenance"]["backend"] == backend
            assert found["text"]["sha256"] == digest and found["protocol"] == "disjoint-64"
            assert ("adapter" in found["provenance"]) == (backend == "wgpu")
        assert any(name.endswith((".wgpu", ".safetensors")) for name in row["model_sha256"])
    source = results["rows"][2]["perplexity"]["wgpu"]["provenance"]["source"]
    assert source["quantizer"] == "rtn" and source["source"]["sha256"]["model.safetensors"]
    broken = {**results, "rows": [{**results["rows"][0], "bits_per_weight": -1}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema, jsonschema.Draft202012Validator)


def test_speeds_are_positive_and_keep_their_samples(toured):
    for row, record in zip(toured.measurement.rows, toured.json()["rows"], strict=True):
        for kind, tokens in (("prefill", 64), ("decode", 16)):
            rate = getattr(row.speed, kind)
            assert rate.tokens == tokens and len(rate.seconds) == 2
            assert 0 < rate.spread[0] <= rate.median <= rate.spread[1]
            assert record["speed"][kind]["tokens_per_second"] == pytest.approx(rate.median)


def test_the_plot_shows_something(toured):
    from matplotlib.image import imread

    pixels = imread(toured.folder / "perplexity_vs_size.png")[..., :3]
    height, width = pixels.shape[:2]
    assert height >= 600 and width >= 1200
    for half in (pixels[:, : width // 2], pixels[:, width // 2 :]):
        inked = np.any(half < 0.9, axis=-1).mean()
        coloured = (half.max(-1) - half.min(-1) > 0.3).mean()
        assert 0.005 < inked < 0.5 and coloured > 1e-4


def test_the_story_is_printed_and_saved(toured):
    story = (toured.folder / "story.txt").read_text(encoding="utf-8")
    assert story.startswith(demo.STORY["prompt"]) and len(story.split()) > 40
    assert story.strip() in toured.printed


def test_one_screen_is_printed(toured):
    """A short table that fits, a sentence a format, the story, and commands that the parser takes."""
    table, rest = toured.printed.strip().split("\n\n", 1)
    assert [line.split()[0] for line in table.splitlines()] == ["format", *NAMES]
    assert max(map(len, table.splitlines())) <= 80
    row = toured.measurement.row("int2")
    assert f"int2, 1/7.6 of the bytes of f16: the perplexity changes by {row.change[0]:+.2f} ±" in rest
    _, steps = rest.split("\nNext:\n")
    assert len(toured.printed.splitlines()) <= 40
    commands = [step.split(maxsplit=1) for step in steps.splitlines()]
    assert len(commands) == 4
    for program, line in commands:
        if program == "workbench":
            build_parser().parse_args(shlex.split(line))


def test_a_change_that_cannot_be_told_says_how_many_tokens_would(toured):
    row = toured.measurement.row("int8")
    for errors in ((1e-3, 1e-5), (1e-5, 1e-3)):  # the larger of the plain and the clustered one decides
        names = dict(zip(("ln_ratio_se", "ln_ratio_se_clustered"), errors, strict=True))
        unsure = dataclasses.replace(row.result.baseline, ln_ratio=1e-4, **names)
        doubted = dataclasses.replace(row, results={"wgpu": row.result.with_baseline(unsure)})
        both = dataclasses.replace(toured.measurement, rows=(toured.measurement.rows[0], doubted))
        said = tour.findings(both)[0]
        assert said.endswith("± 0.100 % (about 180,000 would).")  # 441 (2 * 10)^2


def test_the_larger_error_is_given_and_named(toured):
    """In tables, notes, sentences, on the page and in the figure."""
    rows = []
    for row in toured.measurement.rows:
        results = {}
        for backend, found in row.results.items():
            large = {"ln_ratio_se_clustered": 0.3, "kl_se_clustered": 0.4, "same_top1_se_clustered": 0.123}
            paired = found.baseline and dataclasses.replace(found.baseline, **large)
            harder = found.token_nll + found.window_index % 2  # what windows share
            results[backend] = dataclasses.replace(found, token_nll=harder, baseline=paired)
        rows.append(dataclasses.replace(row, results=results))
    found = dataclasses.replace(toured.measurement, rows=tuple(rows))
    table = markdown(found)
    assert "± is one standard error, clustered by window; both errors of each are in results.json" in table
    head, _, *lines = cells(table)
    for row, line in zip(rows, lines, strict=True):
        shown = dict(zip(head, line, strict=True))
        assert shown["perplexity"].endswith(f"± {row.result.ppl_se_clustered:.4f}")
        if row.change:
            assert float(shown["change, %"].split(" ± ")[1]) == pytest.approx(
                0.3 * (100 + row.change[0]), abs=0.01
            )
            assert shown["mean KL, nats"].endswith("± 4e-01") and shown["same top-1, %"].endswith("± 12.30")
            recorded = row.to_json()["change_percent"]
            assert recorded["error"] == pytest.approx(recorded["se_clustered"]) and recorded["se"] > 0
    assert "± is one standard error, clustered by window." in tour.screen(found)
    assert "clustered by window" in perplexity_vs_size(found).figure.get_suptitle()


def test_the_page_holds_everything_and_asks_for_nothing(toured, tmp_path):
    page = (toured.folder / "index.html").read_text("utf-8")
    story = (toured.folder / "story.txt").read_text("utf-8").strip()
    assert html.escape(story) in page
    assert page.count("<table>") == 2 and page.count("<svg") == 1 and "prefers-color-scheme: dark" in page
    assert (
        "img-src data:" in page
        and re.search(r"(?:src|href)=.https?:|@import|<script|url\((?!#)", page) is None
    )
    rows = toured.measurement.rows
    hard = dataclasses.replace(rows[2], name="<img src=x onerror=y>")
    both = dataclasses.replace(toured.measurement, rows=(rows[0], hard))
    plot = perplexity_vs_size(both)
    tour.write(tmp_path / "page.html", both, plot, "</blockquote><b>", hard.name, {"`make` <i>": "<u>"})
    page = (tmp_path / "page.html").read_text("utf-8")
    assert not re.search(r"<(?:img|b|i|u)[ >]", page) and "&lt;/blockquote&gt;&lt;b&gt;" in page


def test_a_row_that_fails_its_check_has_no_time(toured):
    row = toured.measurement.row("int4")
    wrong = dataclasses.replace(row, speed=None, note="no times: WGSL and references differ")
    table = markdown(dataclasses.replace(toured.measurement, rows=(toured.measurement.rows[0], wrong)))
    head, _, _, line = cells(table)
    found = dict(zip(head, line, strict=True))
    assert [value for name, value in found.items() if "tokens/s" in name] == ["–"] * 2
    assert "- int4: no times: WGSL and references differ." in table


@pytest.mark.release
def test_another_model_and_text(adapter, tmp_path, capsys):
    """By the command, with the unquantized model named as its weights are stored."""
    source = write_shallow(tmp_path / "bf16", dtype="bfloat16")
    (tmp_path / "text.txt").write_text(evaluation_text().read_text("utf-8")[:1500], "utf-8")
    arguments = [
        "--model",
        source,
        "--text",
        tmp_path / "text.txt",
        "--protocol",
        "disjoint-64",
        "--tokens",
        "64",
    ]
    options = ["--formats", "int4/64", "--repetitions", "1", "--output", tmp_path / "out"]
    assert main(["demo", *map(str, [*arguments, *options])]) == 0
    told = capsys.readouterr().out
    assert "workbench notebook 01 --model" in told
    assert told.endswith(f"All of it on a page: {tmp_path / 'out' / 'index.html'}\n")
    rows = cells((tmp_path / "out" / "table.md").read_text("utf-8"))[2:]
    assert [row[0] for row in rows] == ["bf16", "int4/64"]
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["baseline"] == "bf16" and results["settings"]["scheme"] == "disjoint-64"
    assert results["rows"][1]["perplexity"]["wgpu"]["text"]["name"] == "text.txt"
    assert "embedded model" not in (tmp_path / "out" / "table.md").read_text("utf-8")
    assert (
        main(["demo", "--model", "smollm2-13b"]) == 2 and "no folder 'smollm2-13b'" in capsys.readouterr().err
    )


def test_stories_are_one_text_for_tokenizers_without_a_bos(tmp_path):
    folder = tmp_path / "model"
    byte_tokenizer(bos=False).save_pretrained(folder)
    plain = demo.evaluation_tokens(folder, "disjoint-64")
    text = load_tokenizer(folder).decode(plain.ids)
    assert plain.bos_policy == "none" and STORY_SEPARATOR not in text and "\n\n" in text
    apart = demo.evaluation_tokens(demo_model_path(), "disjoint-64")
    assert apart.bos_policy == "before each document"


def test_without_an_adapter_the_references_run_alone_and_say_so(shallow, tmp_path):
    environment = {**without_vulkan(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "workbench.cli",
            "demo",
            "--model",
            str(shallow),
            *("--tokens", "64", "--protocol", "disjoint-64", "--formats", "int4", "--repetitions", "1"),
            "--output",
            str(tmp_path / "demo"),
        ],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "No WebGPU adapter: " in done.stdout
    head, _, *rows = cells((tmp_path / "demo" / "table.md").read_text(encoding="utf-8"))
    for row in rows:
        found = dict(zip(head, row, strict=True))
        assert (
            found["kernel loss, nats"] == found["its RMS"] == "–" and found["prefill, tokens/s (CPU)"] != "–"
        )
    results = json.loads((tmp_path / "demo" / "results.json").read_text(encoding="utf-8"))
    jsonschema.validate(results, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert results["no_adapter"] and [set(row["perplexity"]) for row in results["rows"]] == [{"torch"}] * 2
    assert [row["kernel_loss"] for row in results["rows"]] == [None] * 2
    assert "through the PyTorch references" in done.stderr
