"""One table in every form; the forms' readers (csv, an HTML parser, a Markdown renderer) see the same cells."""

from __future__ import annotations

import csv
import html.parser
import io

import pytest

from tests.support.chromium import browser_page
from workbench.show.html import columns, folded
from workbench.show.notebook import table as notebook_table
from workbench.show.table import FORMS, Figure, Table

HARD = ["a|b", "x_y", "_z_", "<b>&amp;", "$5 ~ *2*", "[l](u)", "\\n", "=1+1"]
ROWS = [[name, Figure(f"{n}.5", "0.1" if n % 2 else ""), None] for n, name in enumerate(HARD)]
TABLE = Table(["name", "figure ± SE", "absent"], ROWS, "lr", "of <all> 100 %", ["a note_", "& another"])
SHOWN = [[name, str(figure), "–"] for name, figure, _ in ROWS]


class Cells(html.parser.HTMLParser):
    """Rows of text in an HTML text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        self._open = tag in ("td", "th")
        if self._open:
            self.rows[-1].append("")

    def handle_data(self, data):
        if self._open:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag):
        self._open = False


def test_text_is_aligned():
    found = Table(["a", "bb", "c"], [["xyz", 1, None], ["", 1000, "v"]], "lrl", "caption", ["note"])
    assert str(found) == "caption\na      bb  c\nxyz     1  –\n     1000  v\nnote"
    assert Table(["a", "b"], [], notes=["none"]).text() == "a  b\nnone"
    assert Table((), []).text() == "" and Table((), [["k", "v"]], "l").text() == "k  v"


def test_markdown_is_padded_and_shows_what_cells_say():
    lines = Table(["f", "ppl"], [["int4/32", Figure("7.36", "0.1")]], caption="so").markdown().splitlines()
    assert lines == [
        "| f       |        ppl |",
        "| :------ | ---------: |",
        "| int4/32 | 7.36 ± 0.1 |",
        "",
        "so",
    ]
    assert "tile_rows" in Table(["x"], [["tile_rows"]]).markdown()
    mistune = pytest.importorskip("mistune")
    page = mistune.create_markdown(escape=False, plugins=["table"])(TABLE.markdown())
    assert Cells(page).rows == [list(TABLE.head), *SHOWN]
    assert "<p>of &lt;all&gt; 100 %</p>" in page and "<p>a note_</p>" in page


def test_marked_up_cells_stay_but_for_bars():
    assert "| **a&#124;b** |" in Table(["x"], [["**a|b**"]], "l").markdown(marked_up=True)


def test_csv_keeps_cells_and_runs_nothing():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert [row[0].removeprefix("'") for row in rows[1:]] == HARD and rows[-1][0] == "'=1+1"
    assert rows[1][2] == "" and rows[2][1] == "1.5 ± 0.1"
    [[*signed]] = csv.reader(io.StringIO(Table((), [["+3.4 %", "-1e-5", "-x", "-1+1"]]).csv().strip()))
    assert signed == ["+3.4 %", "-1e-5", "'-x", "'-1+1"]


def test_latex_has_figures_as_mathematics():
    text = Table(
        ["a_b", "n"], [["50 %", Figure("1.2e-05", "3e-06")], [None, Figure("beyond")]], "lr", "c"
    ).latex()
    assert r"\begin{tabular}{lr}" in text and r"a\_b & n \\" in text and r"\caption{c}" in text
    assert r"50 \% & $1.2 \cdot 10^{-5} \pm 3 \cdot 10^{-6}$ \\" in text and r"-- & beyond \\" in text


def test_latex_aligns_numbers_with_their_errors():
    """Errors in units of the last digit, also where they were rounded elsewhere; what is no number in braces."""
    figures = {
        "7.3607": ("0.1640", "7.3607(1640)"),
        "+0.99": ("0.153", "+0.99(15)"),
        "-1.10e-02": ("5e-05", "-1.10(1)e-2"),
        "2.500e+07": ("1.250e+05", "2.500(12)e7"),
        "100.00": ("0.00", "100.00(0)"),
        "12": ("", "12"),
        "3.1": ("nan", "3.1"),
        "beyond 1e308": ("", "{beyond 1e308}"),
    }
    rows = [["x_1", Figure(value, error)] for value, (error, _) in figures.items()]
    text = Table(["a", "n, %"], [*rows, ["b", None]], caption="c", best=[(1, 1), (0, 0)]).latex(
        siunitx=True, label="t:a"
    )
    cells = [line.split(" & ")[1].removesuffix(r" \\") for line in text.splitlines() if " & " in line]
    wanted = [expected for _, expected in figures.values()]
    wanted[1] = rf"\bfseries {wanted[1]}"
    assert cells == [r"{n, \%}", *wanted, "{--}"]
    assert r"\begin{tabular}{lS[table-format=+3.4(4)e-1]}" in text and r"\textbf{x\_1} & " in text
    assert text.startswith(r"% \usepackage{booktabs, siunitx}") and "\\label{t:a}\n\\end{table}" in text


def test_what_is_best_stands_out_in_every_form():
    found = Table(["a", "n"], [["<x>", Figure("1.5", "0.1")], ["y", Figure("2")]], best=[(0, 1), (1, 0)])
    assert "| **1.5 ± 0.1** |" in found.markdown() and "| **y** " in found.markdown()
    assert "<strong>1.5 ± 0.1</strong>" in found.html() and "&lt;x&gt;" in found.html()
    assert r"$\mathbf{1.5 \pm 0.1}$" in found.latex() and r"\textbf{y} & $2$" in found.latex()
    assert found.csv() == "a,n\n<x>,1.5 ± 0.1\ny,2" and "1.5 ± 0.1" in found.text()
    text = found.latex(caption=r"Of \cite{x}", said="one\ntwo\rthree")
    assert r"\caption{Of \cite{x}}" in text and text.startswith("% one\n% two\n% three\n\\begin{table}")


@pytest.mark.browser
def test_a_narrow_column_breaks_no_number():
    cells = ["1.75e-04 ± 3e-06", "-2.07 ± 0.71", "2.90e-04", 1e-7]
    table = Table(["KL ± SE, nats"], [[cell] for cell in cells])
    heights = "[...document.querySelectorAll('td')].map((each) => each.getClientRects()[0].height)"
    with browser_page("about:blank") as page:
        page.set_content(f"<style>td {{ padding: 0; width: 1px }}</style>{table.html()}")
        two, also, one, short = page.evaluate(heights)
        assert page.locator("td").all_inner_texts()[3] == "1e-07"
    assert one == short and two < 3.5 * one and also < 3.5 * one


def test_html_is_escaped_and_stands_to_its_sides():
    page = TABLE.html()
    assert Cells(page).rows == [list(TABLE.head), *SHOWN]
    assert '<th style="text-align:left">name</th><th style="text-align:right">' in page
    assert "of &lt;all&gt; 100 %</caption>" in page and "&amp; another</p>" in page
    facts = Table((), [("key", "<v>")], "l").html()
    assert '<th style="text-align:left">key</th><td style="text-align:left">&lt;v&gt;</td>' in facts
    assert "<thead>" not in facts
    shown = TABLE._repr_html_()
    assert Cells(shown).rows == Cells(page).rows and "onclick=" in shown and "onclick=" not in page


def test_many_columns_scroll_where_tab_goes():
    wide = Table(list("abcdef"), [[1, 2, 3, 4, 5, 6]], caption='"all"', notes=["a note"])
    assert '<div tabindex="0" role="region" aria-label="&quot;all&quot;" ' in wide.html()
    assert wide.html().index("</div>") < wide.html().index("a note")
    assert "role=" not in Table(["a", "b"], [[1, 2]]).html()
    assert "role=" not in Table((), [["a", *range(9)]]).html()
    few, many = notebook_table(["a", "b"], [["`x`", 1]]), notebook_table(list("abcdef"), [["`x`", *range(5)]])
    assert "| `x`" in few.data and "role=" in many._repr_html_() and "`" not in many._repr_html_()


@pytest.mark.browser
def test_a_click_on_a_title_orders_the_rows():
    """By value, whatever the errors and the commas say; absent figures stay behind; Enter does what a click does."""
    rows = [["b", "1,200 ± 3"], ["a10", "-2.5"], ["a9", "–"], ["c", "7e-03 ± 1e-03"]]
    with browser_page("about:blank") as page:
        page.set_content(Table(["name", "n"], rows)._repr_html_())

        def names() -> list[str]:
            return page.locator("tbody td:first-child").all_inner_texts()

        head = page.locator("th")
        head.nth(1).click()
        assert names() == ["a10", "c", "b", "a9"] and head.nth(1).get_attribute("aria-sort") == "ascending"
        head.nth(1).click()
        assert names() == ["b", "c", "a10", "a9"]
        head.nth(0).press("Enter")
        assert names() == ["a9", "a10", "b", "c"] and head.nth(1).get_attribute("aria-sort") is None
        page.locator("td").first.click()
        assert names() == ["a9", "a10", "b", "c"]


def test_columns_are_functions_of_a_row():
    found = Table.of({"n": str, "twice": lambda n: 2 * n}, [1, 2], sides="r")
    assert found.text() == "n  twice\n1      2\n2      4"


def test_every_form_is_written():
    assert [TABLE.written(form) for form in FORMS] == [
        *(TABLE.text(), TABLE.markdown(), TABLE.csv(), TABLE.latex(), TABLE.html()),
    ]


def test_rows_of_another_length_are_no_table():
    with pytest.raises(ValueError, match=r"have \[1, 2\]"):
        Table(["a", "b"], [["x"]])


def test_pieces_of_html():
    assert folded("<t>", "a<b") == "<details><summary>&lt;t&gt;</summary><pre>a&lt;b</pre></details>"
    assert Cells(columns({"<one>": "x<br>", "two": "y"}, "c")).rows == [["<one>", "two"], ["x", "y"]]
