"""How a table is laid out: columns, order, marks, formats side by side, LaTeX, and what a plot shows."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from tests.sweeps.rows import FOUND, row, study
from workbench.cli import main
from workbench.errors import SweepError
from workbench.sweeps.columns import COLUMNS
from workbench.sweeps.render import Layout, shown
from workbench.sweeps.table import Table


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "| :-" not in line]


def test_columns_and_order_are_those_that_are_asked_for():
    head, *rows = cells(
        study().format("md", columns=["format", "change", "quantizer"], sort="change", descending=True)
    )
    assert head == ["format", "paired change ± SE, %", "quantizer"]
    assert [line[::2] for line in rows[:3]] == [["int2", "rtn"], ["int2", "gptq"], ["int4", "rtn"]]
    assert rows[-1] == ["as it is", "–", "–"]  # what has no figure comes last either way
    names = [column.name for column in COLUMNS]
    everything = shown(study().rows, "", Layout(columns=tuple(names)))
    assert len(set(everything.head)) == len(names) and len(everything.rows) == 9
    values = json.loads(study().format("json", sort="bits"))["rows"]
    assert [each["bits_per_weight"] for each in values] == sorted(each["bits_per_weight"] for each in values)


def test_the_best_is_that_of_each_format_and_of_a_model_where_formats_come_once():
    columns = ["format", "quantizer", "bits", "change", "top1"]
    rows = cells(study().format("md", columns=columns, best="bold"))[1:]
    assert {tuple(line[:2]) for line in rows if "**" in line[3]} == {(name, "gptq") for name in FOUND}
    assert all("**" in line[4] for line in rows if line[0] == "int8")  # both read 100.00
    assert not any("**" in line[2] for line in rows)  # nobody wants to be told who has fewest bits
    once = Table(tuple(each for each in study().rows if each.quantizer != "rtn"))
    rows = cells(once.format("md", columns=columns, best="bold"))[1:]
    assert [line[0] for line in rows if "**" in line[3]] == ["int4"]


def test_formats_stand_side_by_side():
    """Every figure of the rows is in the table once, and the unconverted model beside each quantizer."""
    found = shown(study().rows, "", Layout(columns=("change", "kl", "ppl"), transposed=True, best="bold"))
    assert list(found.head) == ["quantizer", "figure", "as it is", *FOUND]
    assert [line[:2] for line in found.rows[::3]] == [
        ["rtn", "paired change ± SE, %"],
        ["gptq", "paired change ± SE, %"],
    ]
    by_name = {column.title: column for column in COLUMNS}
    for line in found.rows:
        for name, cell in zip(found.head[3:], line[3:], strict=True):
            [source] = [each for each in study().rows if (each.format, each.quantizer) == (name, line[0])]
            assert cell == by_name[line[1]].cell(source)
        assert str(line[2]) == ("7.3600 ± 0.2000" if line[1].startswith("perp") else "None")
    marked = {
        (found.rows[r][0], found.head[c]) for r, c in found.best if found.rows[r][1].startswith("paired")
    }
    assert marked == {("gptq", name) for name in FOUND}
    twice = Table((*study().rows, dataclasses.replace(study().rows[1], source="again.json")))
    with pytest.raises(
        SweepError, match=r"tiny in int8 \(rtn\) comes twice, from int8-rtn.json and again.json"
    ):
        twice.format("md", transposed=True)
    with pytest.raises(SweepError, match="needs a column of figures"):
        study().format("md", transposed=True, columns=["model"])


def test_latex_is_whole():
    """Every line of the tabular has as many cells as the preamble has columns, braces are closed, environments end."""
    plain = study().format("latex", best="bold")
    aligned = study().format("latex", best="bold", siunitx=True, caption=r"Of \emph{tiny}", label="tab:a_b")
    for text in (plain, aligned, study().format("latex", transposed=True, siunitx=True)):
        code = re.sub(r"(?<!\\)%.*", "", text)
        stripped = re.sub(r"\\[{}]", "", code)
        depth = 0
        for c in stripped:
            depth += {"{": 1, "}": -1}.get(c, 0)
            assert depth >= 0
        assert depth == 0 and code.count("$") % 2 == 0
        assert re.findall(r"\\(begin|end)\{(\w+)\}", code) == [
            *(("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table"))
        ]
        preamble = re.search(r"\\begin\{tabular\}\{(.*)\}", code)[1]
        columns = len(re.sub(r"\[[^]]*\]", "", preamble))
        lines = [line for line in code.splitlines() if line.endswith(r"\\")]
        assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {columns}
    assert r"$\mathbf{+0.008 \pm 0.008}$" in plain and r"\bfseries +0.008(8)" in aligned
    assert r"\caption{Of \emph{tiny}}" in aligned and r"\label{tab:a_b}" in aligned
    assert "% disjoint-512 on prose.txt" in aligned and "% disjoint-512" not in plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["pll"]}, "columns 'pll' is none of the columns; allowed: model, format,"),
        ({"sort": "x"}, "sort 'x' is none"),
        ({"best": "red"}, "best 'red' is no mark; allowed: bold"),
        ({"label": "a}"}, "label 'a}': allowed are letters"),
        ({"colour": 1}, "'colour' is no option of a table; allowed: detailed, columns"),
    ],
)
def test_a_wrong_layout_is_refused(options, message):
    with pytest.raises(SweepError, match=re.escape(message)):
        study().format("md", **options)


def test_csv_takes_an_order_alone():
    with pytest.raises(SweepError, match="csv holds every figure, unrounded: best is of md, latex and html"):
        study().format("csv", best="bold")


def test_the_plot_is_of_paired_figures_where_there_are_any(tmp_path):
    """All markers of one size, with the paired error; the front by what is plotted; labels of all formats."""
    picture = study().plot()
    [axes] = picture.axes
    assert axes.get_ylabel() == "paired change of the perplexity ± SE, %"
    lines = [line for line in axes.lines if line.get_marker() not in ("None", "_", "|", "")]
    assert {line.get_markersize() for line in lines if line.get_marker() == "o"} == {5}
    front = next(line for line in axes.lines if line.get_label() == "Pareto front")
    assert front.get_xydata().tolist() == [[2.1, 10.7], [4.2, -0.02]]
    drawn = [bar.get_segments()[0] for bar in axes.collections]
    heights = sorted(float(segment[1][1] - segment[0][1]) / 2 for segment in drawn)
    assert heights == pytest.approx(sorted(each[1] for _, of in FOUND.values() for each in of.values()))
    assert sorted(note.get_text() for note in axes.texts) == sorted([*FOUND, *FOUND])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Pareto front", "rtn", "gptq"]
    [axes] = study().plot(of="kl", against="bytes").axes
    assert (axes.get_xlabel(), axes.get_yscale()) == ("weights, MB", "log")
    [axes] = Table((row(), row(format="f32", bits_per_weight=32.0))).plot().axes
    assert axes.get_ylabel() == "perplexity ± SE"  # nothing is paired
    with pytest.raises(SweepError, match="no row has bits a weight and KL"):
        Table((row(),)).plot(of="kl")
    with pytest.raises(SweepError, match="plot of 'x': allowed are change, kl, ppl"):
        study().plot(of="x")


def test_the_command_lays_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("workbench.sweeps.table.table", lambda runs, detailed: study())
    asked = ["--columns", "format", "quantizer", "kl", "--sort", "kl", "--best", "bold", "--transposed"]
    assert main(["table", "x", *asked, "--format", "latex", "--siunitx", "--label", "tab:x"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == study().format(
        "latex", columns=asked[1:4], sort="kl", best="bold", transposed=True, siunitx=True, label="tab:x"
    ).rstrip("\n")
    plot = ["--plot", str(tmp_path / "a.pdf"), "--plot-of", "kl", "--plot-against", "bytes"]
    assert main(["table", "x", *plot]) == 0 and (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    assert (
        main(["table", "x", "--siunitx"]) == 2 and "--siunitx is of --format latex" in capsys.readouterr().err
    )


def test_the_caption_says_what_these_tokens_cannot_tell_and_notes_once():
    caption = study().caption
    assert "12,000 tokens cannot tell the change of int8 gptq, int4 gptq, int4/32 gptq from none" in caption
    assert caption.endswith("about 48,000 would tell the largest")  # 12,000 (2 * 0.008 / 0.008)^2
    unsure = [
        each
        if each.is_baseline
        else dataclasses.replace(each, change=1.0, change_se=0.1, change_se_clustered=se)
        for each, se in zip(study().rows, (0, 0.1, 0.4, 0.75, 0.8, None, None), strict=False)
    ]
    # By the larger of both errors, as the result's own warning has it: 12,000 (2 * 0.75)^2.
    assert Table(tuple(unsure)).caption.endswith("from none; about 27,000 would tell the largest")
    rows = [dataclasses.replace(each, note="" if each.is_baseline else "look") for each in study().rows]
    assert Table(tuple(rows)).caption.count("look") == 1
    named = [dataclasses.replace(each, note="look" if i in (1, 2) else "") for i, each in enumerate(rows)]
    assert "; tiny: look;" in Table(tuple(named)).caption
