"""Tables: what belongs together, every format with names that want to break it, and the Pareto front."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report import ONE_WINDOW
from tests.sweeps.conftest import figures
from tests.sweeps.rows import CONDITIONS
from tests.sweeps.rows import row as synthetic_row
from workbench import cli
from workbench.errors import SweepError
from workbench.show.table import escape_latex
from workbench.sweeps.columns import COLUMNS
from workbench.sweeps.pareto import LOSSES, pareto_front, points_of
from workbench.sweeps.table import FORMATS, Table, table, tables

HOSTILE = [
    "<script>alert(1)</script>",
    "a|b & c ± \\textbf{x} $y$ #1 100% _z_ ^~",
    "**bold** `code` [link](javascript:alert(1)) <img src=x onerror=alert(2)>",
    '=HYPERLINK("http://example.invalid")',
    "two\nlines\r\n| and | cells |\x1b[31m",
    "\"quotes' and &amp;",
]


@pytest.fixture(scope="module")
def result(undisturbed) -> Table:
    return undisturbed.table()


def hostile(result: Table, name: str) -> Table:
    return Table((dataclasses.replace(result.rows[0], model=name), *result.rows[1:]))


def test_rows_say_what_the_cells_say(result, undisturbed):
    found = figures(undisturbed.store.folder)
    assert len(result) == 6 and result.rows[0].is_baseline and result.rows[0].change is None
    assert [row.bits_per_weight for row in result.rows] == sorted(
        (row.bits_per_weight for row in result.rows), reverse=True
    )
    for row in result.rows[1:]:
        record = found[row.source.rpartition("/")[2]]
        baseline = record["result"]["baseline"]
        assert row.ppl == record["result"]["ppl"] and row.kl == baseline["kl_mean"]
        assert row.change == pytest.approx(100 * (row.ppl / result.rows[0].ppl - 1), rel=1e-9)
        assert row.change_se == pytest.approx(baseline["ln_ratio_se"] * 100 * row.ppl / result.rows[0].ppl)
        clustered = baseline["ln_ratio_se_clustered"] * 100 * row.ppl / result.rows[0].ppl
        assert row.change_se_clustered == pytest.approx(clustered)
        assert row.kl_se_clustered == baseline["kl_se_clustered"]
        assert row.same_top1_se_clustered == baseline["same_top1_se_clustered"]
        assert row.quantize_seconds > 0 and row.prefill is None


def test_every_column_gives_the_larger_error_and_the_caption_says_which():
    values = {"ppl": 8.0, "change": 5.0, "kl": 0.05, "same_top1": 0.9}
    for small, large in (("_se", "_se_clustered"), ("_se_clustered", "_se")):
        errors = {name + small: 0.01 for name in values} | {name + large: 0.02 for name in values}
        one = Table((synthetic_row(format="int4", **values, **errors),))
        for column, error in (("ppl", "0.0200"), ("change", "0.02"), ("kl", "2e-02"), ("top1", "2.00")):
            [found] = [each for each in COLUMNS if each.name == column]
            assert found.cell(one.rows[0]).error == error and f" ± {error}" in one.markdown()
        assert {one.records()[0][f"{name}_error"] for name in values} == {0.02}
        for of in LOSSES:
            assert points_of(one.rows, of, "bits")[0].se == 0.02
        clustered = large == "_se_clustered"
        assert one.caption.endswith("± is one standard error, clustered by window") == clustered
    assert ONE_WINDOW in Table((synthetic_row(ppl_se_clustered=None),)).caption


def test_a_caption_says_which_part_of_a_text_was_scored():
    part = dataclasses.replace(CONDITIONS, windows=24, windows_available=1_591)
    caption = Table((synthetic_row(conditions=part),)).caption
    assert "12,000 tokens scored in the first 24 of 1,591 windows; ±" in caption
    whole = dataclasses.replace(part, windows=1_591)
    assert "12,000 tokens scored; ±" in Table((synthetic_row(conditions=whole),)).caption


def test_rows_of_other_conditions_are_refused(result):
    first, second, *rest = result.rows
    for change, named in (
        ({"protocol": "disjoint-9"}, "protocol disjoint-32 and disjoint-9"),
        ({"text_sha256": "f" * 64}, "text sha256 [0-9a-f]{64} and f{64}"),
        ({"tokenizer_sha256": None}, "tokenizer sha256 [0-9a-f]{64} and None"),
        ({"tokens_scored": 7}, "tokens scored 3100 and 7"),
    ):
        other = dataclasses.replace(second, conditions=dataclasses.replace(second.conditions, **change))
        with pytest.raises(
            SweepError, match=rf"{first.source} is .*; {second.source} is .*differ in {named}\."
        ):
            Table((first, other, *rest))


def test_a_table_for_each_protocol(undisturbed, tmp_path):
    source = undisturbed.store.cell(undisturbed.cells[0].key)
    record = json.loads(source.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(record | {"result": record["result"] | {"protocol": "disjoint-16"}}))
    runs = [undisturbed.store.folder, other]
    with pytest.raises(SweepError, match="--by-protocol"):
        table(runs)
    assert [(one.conditions.protocol, len(one)) for one in tables(runs)] == [
        ("disjoint-32", 6),
        ("disjoint-16", 1),
    ]


def test_results_of_other_commands_are_read(undisturbed, tmp_path):
    record = undisturbed.cells[3].record
    alone = tmp_path / "perplexity.json"
    alone.write_text(json.dumps(record["result"]))
    result = record["result"]
    row = {"format": "int4", "bits_per_weight": 4.5, "file_bytes": 9, "perplexity": {"torch": result}}
    speed = {kind: {"tokens_per_second": rate} for kind, rate in (("prefill", 500.0), ("decode", 50.0))}
    row |= {"speed": speed, "format_loss": {}}
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "results.json").write_text(json.dumps({"kind": "workbench-results", "rows": [row]}))
    bench, bare = table([tmp_path / "bench", alone]).rows
    assert (bare.model, bare.format, bare.quantizer) == ("tiny", "int4/32", "rtn")
    assert (bench.format, bench.quantizer, bench.decode, bench.ppl) == ("int4", "rtn", 50, result["ppl"])


def test_figures_that_are_far_off_are_short(result):
    off = dataclasses.replace(result.rows[1], ppl=2.5e7, ppl_se=1.25e5, change=3.4e8, change_se=2e6)
    broken = dataclasses.replace(off, ppl=None, ppl_se=None, change=None, change_se=None)
    shown = Table((result.rows[0], off, broken))
    assert "| 2.500e+07 ± 1.250e+05 | +3.400e+08 ± 2.0e+06 |" in re.sub(" +", " ", shown.markdown())
    assert "beyond 1e308" in shown.markdown() and r"2.500 \cdot 10^{7}" in shown.format("latex")


def test_precisions_are_named_where_one_is_not_f32(result):
    assert {(row.activations, row.cache) for row in result.rows} == {("f32", "f32")}
    assert {row.baseline_activations for row in result.rows[1:]} == {"f32"}
    assert "backend" not in result.markdown()
    alike = Table(tuple(dataclasses.replace(row, activations="int8") for row in result.rows[1:]))
    assert alike.markdown().count("torch int8, paired with f32") == len(alike)
    assert "; INT8 activation noise floor: not measured" in alike.markdown()
    measured = Table(tuple(dataclasses.replace(row, noise_rms=0.11) for row in alike.rows))
    assert measured.markdown().count("INT8 activation noise floor: RMS 1.1e-01 nats a token") == 1
    stored = dataclasses.replace(result.rows[1], cache="int8", baseline_cache="int8")
    assert "| torch f32, int8 cache |" in Table((result.rows[0], stored)).markdown()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON object"),
        ("[]", "is no JSON object"),
        ("{}", "is not a result; allowed: cells of a sweep"),
        ('{"kind": "workbench-cell"}', "is a damaged result"),
        ('{"kind": "workbench-results", "rows": [{}]}', "is a damaged result"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "some.json"
    path.write_text(content)
    with pytest.raises(SweepError, match=rf"some\.json: {message}"):
        table(path)
    with pytest.raises(SweepError, match="no such file"):
        table(tmp_path / "nothing")


class Cells(html.parser.HTMLParser):
    """Rows of text, and every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows, self.tags = [], set()
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags |= {tag, *(name for name, _ in attributes)}
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._open = tag in ("td", "th")

    def handle_data(self, data):
        if self._open:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self._open = False


@pytest.mark.parametrize("name", HOSTILE)
def test_html_shows_hostile_names_as_they_are(result, name):
    found = Cells(hostile(result, name).format("html"))
    frame = {"div", "role", "tabindex", "aria-label", "data-lm-suppress-shortcuts"}  # scrolls by keyboard
    assert found.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td", "style", "span"} | frame
    assert found.rows[1][0] == name.replace("\r\n", "\n") or found.rows[1][0] == name
    assert {len(row) for row in found.rows} == {len(found.rows[0])} and len(found.rows) == 7


@pytest.mark.parametrize("name", HOSTILE)
def test_markdown_shows_hostile_names_as_they_are(result, name):
    mistune = pytest.importorskip("mistune")
    found = Cells(mistune.create_markdown(escape=False, plugins=["table"])(hostile(result, name).markdown()))
    assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td", "style", "p"}
    assert found.rows[1][0] == " ".join(name.split())
    assert {len(row) for row in found.rows} == {len(found.rows[0])} and len(found.rows) == 7


@pytest.mark.parametrize("name", HOSTILE)
def test_latex_leaves_nothing_to_run(result, name):
    text = hostile(result, name).format("latex")
    line = next(line for line in text.splitlines() if line.startswith(escape_latex(name)))
    cell = line.split(" & ")[0] if "&" not in name else escape_latex(name)
    plain = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]|\$\\(?:pm|cdot)\$", "", cell)
    assert not set(plain) & set('\\&%$#_{}~^<>|"\n')
    assert line.endswith(r" \\") and text.count(r" \\") == 7
    numbers = [part for row in text.splitlines() for part in re.findall(r"(?<!\\)\$([^$]*)(?<!\\)\$", row)]
    assert all(re.fullmatch(r"[-+.\d{}^ ]*(?:\\(?:pm|cdot) ?[-+.\d{}^ ]*)*", number) for number in numbers)


@pytest.mark.parametrize("name", HOSTILE)
def test_csv_and_json_keep_every_value(result, name):
    changed = hostile(result, name)
    rows = list(csv.DictReader(io.StringIO(changed.format("csv"), newline="")))
    kept = rows[0]["model"].removeprefix("'") if name.startswith("=") else rows[0]["model"]
    assert kept == name and not rows[0]["model"].startswith("=")
    assert [float(row["ppl"]) for row in rows] == [row.ppl for row in result.rows]
    values = json.loads(changed.format("json"))
    assert values["kind"] == "workbench-table" and values["rows"][0]["model"] == name
    assert values["rows"] == changed.records() and values["rows"][1]["protocol"] == "disjoint-32"


def test_columns_without_figures_are_left_out(result):
    head = result.markdown().splitlines()[0]
    assert "KL" in head and "tokens/s" not in head and "backend" not in head
    rows = (dataclasses.replace(result.rows[0], decode=12.0, backend="wgpu"), *result.rows[1:])
    head = Table(rows).markdown().splitlines()[0]
    assert "decode, tokens/s" in head and "backend" in head and "prefill" not in head


def test_unknown_formats_and_empty_tables_are_refused(result):
    with pytest.raises(SweepError, match="format 'xls' is unknown; allowed: md, csv, latex, html, json"):
        result.format("xls")
    with pytest.raises(SweepError, match="without rows"):
        Table(())
    assert {name for name in FORMATS if result.format(name)} == set(FORMATS)


def test_the_command(undisturbed, tmp_path, capsys):
    folder = str(undisturbed.store.folder)
    assert cli.main(["table", folder, "--format", "csv", "--plot", str(tmp_path / "front.svg")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert (tmp_path / "front.svg").read_text().startswith("<?xml")
    other = tmp_path / "other.json"
    record = undisturbed.cells[0].record
    other.write_text(json.dumps(record | {"result": record["result"] | {"protocol": "disjoint-16"}}))
    assert cli.main(["table", folder, str(other)]) == 2
    assert "differ in protocol disjoint-32 and disjoint-16" in capsys.readouterr().err
    split = ["table", folder, str(other), "--by-protocol"]
    assert cli.main([*split, "--plot", str(tmp_path / "two.png")]) == 0
    assert capsys.readouterr().out.count(" on prose.txt (sha256 ") == 2
    assert (tmp_path / "two-1.png").is_file() and (tmp_path / "two-2.png").is_file()
    assert cli.main([*split, "--format", "json"]) == 2 and "holds one table" in capsys.readouterr().err


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(points)
def test_the_front_is_what_nothing_dominates(found):
    def dominates(one, two):
        return one[0] <= two[0] and one[1] <= two[1] and one != two

    wanted = {i for i, point in enumerate(found) if not any(dominates(other, point) for other in found)}
    front = pareto_front(found)
    assert set(front) == wanted and len(front) == len(wanted)
    assert [found[i] for i in front] == sorted(found[i] for i in front)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_plot_is_drawn_with_hostile_names(result, tmp_path, suffix):
    rows = [dataclasses.replace(row, model=name) for row, name in zip(result.rows, HOSTILE, strict=True)]
    figure = Table(tuple(rows)).plot(tmp_path / f"plot{suffix}", of="ppl")
    assert (tmp_path / f"plot{suffix}").stat().st_size > 5000
    [axes] = figure.axes
    line = next(line for line in axes.lines if line.get_label() == "Pareto front")
    assert line.get_xydata().tolist() == [[row.bits_per_weight, row.ppl] for row in Table(tuple(rows)).front]
    if suffix == ".svg":
        assert "<script" not in (tmp_path / "plot.svg").read_text()
    with pytest.raises(SweepError, match=r"the suffix is none of \.png"):
        result.plot(tmp_path / "plot.bmp")
