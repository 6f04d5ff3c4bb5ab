"""What a sweep file means, and what is said of a wrong one."""

from __future__ import annotations

import re

import pytest

from workbench.errors import SweepError
from workbench.sweeps.cells import EMBEDDED, Cell, TextSource, convert_options
from workbench.sweeps.spec import read_spec

BASE = """
[texts.stories]
file = "stories.txt"
separator = "<|endoftext|>"
[texts.wiki]
dataset = "wikitext2"
[grid]
model = ["here", {name = "mine", path = "owner/name"}]
format = ["f16", "int8/channel", "int4", "int2/z5"]
block_size = [32, 64]
quantizer = ["rtn", {quantizer = "hqq", embedding = "f16"}]
protocol = [
    {protocol = "disjoint-64", text = "stories", max_windows = 3},
    {protocol = "wikitext2-gptq-64", text = "wiki"},
]
[options]
embedding = "f32"
"""


def write(folder, text):
    (folder / "here").mkdir(exist_ok=True)
    (folder / "stories.txt").write_text("once upon a time")
    path = folder / "some.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_grid_is_the_product_of_its_axes(tmp_path):
    spec = read_spec(write(tmp_path, "[sweep]\nmax_windows = 9\nbackend = 'wgpu'\n" + BASE))
    assert spec.name == "some" and spec.output == tmp_path / "runs" / "some"
    found = [(c.name, c.format, c.quantizer, c.protocol, c.max_windows) for c in spec.cells]
    # a float format has neither block sizes nor a quantizer, a channel no block size
    formats = ["int8/channel", "int4/32", "int4/64", "int2/32/z5", "int2/64/z5"]
    wanted = {
        (model, form, quantizer, scheme, windows)
        for model in ("here", "mine")
        for form, quantizer in [
            *((f, q) for f in formats for q in ("rtn embedding=f32", "hqq embedding=f16")),
            *(("f16", f"embedding={kept}") for kept in ("f32", "f16")),
        ]
        for scheme, windows in (("disjoint-64", 3), ("wikitext2-gptq-64", 9))
    }
    assert set(found) == wanted and len(found) == len(wanted)
    assert {c.backend for c in spec.cells} == {"wgpu"}
    assert {c.model for c in spec.cells} == {str((tmp_path / "here").resolve()), "owner/name"}
    stories = next(c.text for c in spec.cells if c.protocol == "disjoint-64")
    assert stories == TextSource(str(tmp_path / "stories.txt"), "<|endoftext|>")
    assert next(c.text for c in spec.cells if c.text.dataset).location == "wikitext2"


def test_includes_and_excludes(tmp_path):
    rules = """
[[exclude]]
format = ["f16", "int2*"]
[[exclude]]
quantizer = "hqq"
block_size = 64
[[exclude]]
text = "wiki"
[[include]]
model = "embedded"
format = "int2/96"
quantizer = "grid"
protocol = {protocol = "disjoint-32", text = "stories"}
"""
    *grid, extra = read_spec(write(tmp_path, BASE + rules)).cells
    assert {(c.format, c.quantizer.split()[0]) for c in grid} == {
        ("int8/channel", "rtn"),
        ("int8/channel", "hqq"),
        ("int4/32", "rtn"),
        ("int4/32", "hqq"),
        ("int4/64", "rtn"),
    }
    assert (extra.model, extra.format, extra.quantizer) == (EMBEDDED, "int2/96", "grid embedding=f32")


def test_a_format_without_a_block_size_stays_one(tmp_path):
    """It is fitted to the rows of each matrix when it is converted; a rule knows it by the default."""
    grid = BASE.replace(BASE[BASE.index("[grid]") :], "")
    grid += """
[grid]
model = "embedded"
format = ["int4", "int2", "int4/128"]
protocol = {protocol = "disjoint-32", text = "stories"}
[[exclude]]
block_size = 256
"""
    cells = read_spec(write(tmp_path, grid)).cells
    assert [cell.format for cell in cells] == ["int4", "int4/128"]
    assert [cell.convert_options().format.default_block for cell in cells] == [True, False]


WRONG = {
    "no file": (None, "cannot be read"),
    "no toml": ("[grid", "is not TOML"),
    "section": ("[gird]\n", r"\[gird\] is unknown; allowed: sweep, texts, grid"),
    "sweep key": ("[sweep]\nbakend = 1\n" + BASE, "sweep.bakend is unknown; allowed: .*backend"),
    "sweep type": ("[sweep]\nmax_windows = '3'\n" + BASE, "sweep.max_windows = '3'; allowed: an integer"),
    "windows": (
        "[sweep]\nmax_windows = 0\n" + BASE.replace(", max_windows = 3", ""),
        "max_windows = 0; allowed",
    ),
    "backend": ("[sweep]\nbackend = 'cuda'\n" + BASE, "backend = 'cuda'; allowed: torch, wgpu"),
    "dtype": ("[sweep]\ndtype = 'f64'\n" + BASE, "dtype = 'f64'; allowed: f32, f16, int8"),
    "axis": (BASE.replace("model =", "models ="), "grid.models is unknown; allowed: model, format"),
    "missing axis": (re.sub("format = .*", "", BASE), "grid.format is missing"),
    "empty axis": (re.sub("format = .*", "format = []", BASE), "grid.format is an empty list"),
    "format": (BASE.replace('"f16", ', '"int3", '), r"grid.format\[0\] = 'int3'.*'int2'"),
    "block size": (BASE.replace("[32, 64]", "[32, 33]"), r"grid.block_size\[1\] = 33.*multiple of 32"),
    "block type": (BASE.replace("[32, 64]", "['row']"), r"grid.block_size\[0\] = 'row'; allowed: a multiple"),
    "quantizer": (BASE.replace('"rtn"', '"gtpq"'), "quantizer = 'gtpq'.*allowed: rtn"),
    "quantizer key": (
        BASE.replace('hqq", embedding', 'hqq", embeding'),
        r"grid.quantizer\[1\].embeding is unknown",
    ),
    "symmetric": (BASE.replace('"int4"', '"int4/sym"'), "the cell .*format = 'int4/32/sym'.*no zero-points"),
    "option": (BASE + "[[exclude]]\nmodel='x'\n", r"exclude\[0\] = .* matches no cell"),
    "unknown option": (BASE.replace('embedding = "f32"', "embeddings = 1"), "options.embeddings is unknown"),
    "option value": (
        BASE.replace('embedding = "f32"', "embedding = 32"),
        "embedding = 32; allowed: a format",
    ),
    "exclude key": (BASE + "[[exclude]]\nmodels = 'x'\n", r"exclude\[0\].models is unknown"),
    "include key": (BASE + "[[include]]\ntext = 'x'\n", r"include\[0\].text is unknown"),
    "protocol": (
        BASE.replace("disjoint-64", "disjoined-64"),
        "protocol = 'disjoined-64'.*allowed: disjoint-L",
    ),
    "no text": (
        BASE.replace(', text = "stories"', ""),
        r"protocol\[0\] = 'disjoint-64' names no text.*stories, wiki",
    ),
    "other text": (
        BASE.replace('text = "stories"', 'text = "tales"'),
        "text = 'tales' is not a table of .*stories",
    ),
    "text source": (BASE.replace('dataset = "wikitext2"', ""), "texts.wiki needs either file or dataset"),
    "separator": (
        BASE.replace('dataset = "wikitext2"', 'dataset = "wikitext2"\nseparator = "x"'),
        "'wikitext2-gptq-64' takes no separator",
    ),
    "nothing": ("[sweep]\n", "describes no cell"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_what_is_allowed(tmp_path, case):
    text, expected = WRONG[case]
    path = tmp_path / "missing.toml" if text is None else write(tmp_path, text)
    with pytest.raises(SweepError, match=expected) as raised:
        read_spec(path)
    assert str(raised.value).startswith(f"sweep {path}: ")


def test_options_are_fields_of_a_conversion(tmp_path):
    options = convert_options(
        {"format": "int4/64", "lm_head": "f16", "overrides": {"*.mlp.*": "int8/32"}, "quantizer": "grid"}
    )
    assert (str(options.format), str(options.lm_head), options.quantizer) == ("int4/64", "f16", "grid")
    assert {pattern: str(form) for pattern, form in options.overrides.items()} == {"*.mlp.*": "int8/32"}
    for wrong, message in (
        ({"format": "int4", "bits": 4}, "option 'bits' is unknown; allowed: quantizer"),
        ({"format": "int4", "overrides": "int8"}, "allowed: a table"),
        ({"format": 4}, "format = 4; allowed: a format as text"),
    ):
        with pytest.raises(SweepError, match=message):
            convert_options(wrong)


def test_a_cell_travels_as_json():
    cell = Cell("m", "disjoint-8", TextSource("t", "x"), {"format": "int4"}, max_windows=2, name="name")
    again = Cell.from_json(cell.to_json())
    assert again == cell and again.name == "name" and again.baseline == cell.baseline
    assert cell.baseline.options is None and cell.baseline.baseline is None
