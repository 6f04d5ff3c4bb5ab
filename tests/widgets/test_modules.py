"""What is shipped to the page: complete, small, without foreign addresses, and without a way to write HTML."""

from __future__ import annotations

import re
from importlib.resources import files

import numpy as np
import pytest

from workbench.widgets import __all__ as names
from workbench.widgets import modules

MODULES = ("explorer", "generator", "kernel_lab", "model_card", "precision_map", "sweep_board")
LARGEST = 160_000


def test_every_widget_has_a_module():
    import workbench.widgets

    assert {getattr(workbench.widgets, name).module for name in names} == set(MODULES)
    with pytest.raises(AttributeError, match="Generator"):
        _ = workbench.widgets.Nothing


@pytest.mark.parametrize("name", MODULES)
def test_module_is_complete(name):
    script = modules.script(name)
    assert not re.search(r"^\s*import\b|\bimport\(", script, re.MULTILINE)
    assert re.findall(r"^export .*", script, re.MULTILINE) == ["export default{render};"]


@pytest.mark.parametrize("name", MODULES)
def test_module_loads_nothing_and_writes_no_html(name):
    text = modules.script(name) + modules.style(name)
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|@import|url\(", text
    )


def test_modules_are_small():
    own = [modules.script(name) + modules.style(name) for name in MODULES]
    assert sum(len(text.encode()) for text in own) < LARGEST


@pytest.mark.parametrize("name", MODULES)
def test_every_rule_holds_for_its_widget_alone(name):
    """All style sheets of a page are in force together: each is one block for its own section."""
    style = modules.style(name)
    head = f'[data-wb="{name}"]{{'
    assert style.startswith(head) and style.endswith("}")
    depth = np.cumsum([(each == "{") - (each == "}") for each in style])
    assert depth[-1] == 0 and (depth[len(head) - 1 : -1] > 0).all()
    assert not re.search(r"\.wb(?![\w-])(?!&)", style)  # a bare section would be any widget's
    assert f'"{name}"' in modules.script(name)  # what `frame` writes on the section


@pytest.mark.parametrize("name", MODULES)
def test_shared_rules_come_with_the_classes_that_a_module_makes(name):
    """Classes that are put together from parts are not seen by `modules.style`."""
    shared, module = (
        (files("workbench.widgets") / file).read_text(encoding="utf-8")
        for file in ("shared.css", f"{name}.js")
    )
    classes = {
        each for each in re.findall(r"\.(wb-[\w-]+)", shared) if not re.search(rf"{each}(?![\w-])", module)
    }
    made = set(re.findall(r"(wb-[\w-]*)\$\{", module))
    assert [(part, each) for part in made for each in classes if re.fullmatch(rf"{part}\w", each)] == []


def test_colours_side_by_side_can_be_told_apart():
    """Twelve in each theme, at least 0.12 apart in OKLab (Ottosson 2020) and 2 : 1 from the background."""
    shared = (files("workbench.widgets") / "shared.css").read_text()
    pairs = re.findall(r"--k(\d+): light-dark\((#\w{6}), (#\w{6})\)", shared)
    [count] = re.findall(r"HUES = (\d+)", (files("workbench.widgets") / "shared.js").read_text())
    assert [int(at) for at, _, _ in pairs] == list(range(int(count))) and int(count) >= 12
    for theme, background in ((1, "#ffffff"), (2, "#111111")):
        places = [_oklab(pair[theme]) for pair in pairs]
        apart = [np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i]]
        assert min(apart) > 0.12
        lights = [_linear(pair[theme]) @ LUMINANCE + 0.05 for pair in pairs]
        assert (
            min(max(l / dark, dark / l) for l in lights for dark in [_linear(background) @ LUMINANCE + 0.05])
            > 2
        )


LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
LMS = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]])
LAB = np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]])


def _linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _oklab(colour: str) -> np.ndarray:
    return LAB @ np.cbrt(LMS @ _linear(colour))


def test_other_imports_are_refused(tmp_path, monkeypatch):
    (tmp_path / "shared.js").write_text("export const a = 1;\nexport function unused() {}\n")
    (tmp_path / "good.js").write_text('import { a } from "./shared.js";\nexport default { render: a };\n')
    (tmp_path / "bad.js").write_text('import { a } from "./shared.js";\nimport x from "https://cdn";\n')
    monkeypatch.setattr(modules, "files", lambda _: tmp_path)
    monkeypatch.setattr(modules, "script", modules.script.__wrapped__)
    assert modules.script("good") == "const a=1;\nexport default{render:a};"
    with pytest.raises(ValueError, match=r"bad\.js must import"):
        modules.script("bad")


def test_comments_go_and_what_is_used_stays(tmp_path, monkeypatch):
    (tmp_path / "shared.js").write_text(
        "// head\nconst deep = 1;\nfunction inner() {\n  return deep; // kept\n}\n"
        "/** Says\n * a. */\nexport function a() {\n  /* b */ return inner();\n}\nexport const other = 2;\n"
    )
    (tmp_path / "more.js").write_text('import { a } from "./shared.js";\nexport const more = a;\n')
    (tmp_path / "own.js").write_text(
        'import { a } from "./shared.js";\nimport { more } from "./more.js";\n\n'
        "  // c\nexport default { render: more };\n"
    )
    (tmp_path / "shared.css").write_text(
        "/* a */ .x {\n  top: 0; /* b */\n}\n/* c\n */\n.y :focus { top: 0 }\n"
    )
    monkeypatch.setattr(modules, "files", lambda _: tmp_path)
    assert modules.script.__wrapped__("own") == (
        "const deep=1;function inner(){return deep; // kept\n}\n"
        "function a(){/* b */ return inner();\n}\nconst more=a;\nexport default{render:more};"
    )
    (tmp_path / "own.css").write_text(
        "@container (width < 9px) { .wb p, :root .wb .z:is(a, b) { top: 0 } }\n"
    )
    assert modules.style.__wrapped__("own") == (
        '[data-wb="own"]{/* a */ .x{top:0;/* b */}.y :focus{top:0}'
        "@container (width < 9px){.wb& p,:root .wb& .z:is(a,b){top:0}}}"
    )


def test_files_are_all_used():
    found = {
        path.name for path in files("workbench.widgets").iterdir() if path.name.endswith((".js", ".css"))
    }
    both = {f"{name}.{kind}" for name in (*MODULES, "shared") for kind in ("js", "css")}
    assert found == {*both, "code.js", "compute.js"}


@pytest.mark.parametrize("name", MODULES)
def test_spaces_are_left_out_where_they_mean_nothing(name):
    """A template that went over a line's end would lose spaces that are text."""
    lines = modules.script(name).splitlines()
    assert [line for line in lines if line.count("`") % 2] == []
    source = [line for line in modules._read(f"{name}.js").splitlines() if not re.search("[`'/]", line)]
    texts = {text for line in source for text in re.findall(r'"[^"]*"', line)}
    assert len(texts) > 20 and [text for text in texts if text not in "\n".join(lines)] == []
    assert modules._close('h("a = b", { c: d => e });\n') == 'h("a = b",{c:d=>e});'
    assert modules._close("a = `b = ${c} $ \" '`, d = { e }\n") == "a=`b = ${c} $ \" '`,d={e}\n"
    for line in (
        'a = `b = ${c["d"]}` + `e = f`;\n',
        "a = b / c; // `d`\n",
        "a = 'b = c';\n",
        'a = /"/, b = "c"\n',
    ):
        assert modules._close(line) == line


def test_lines_are_joined_where_nothing_ends_between_them():
    ends = {";": "", "{": "", ",": "", "(": "", ")": "\n", "}": "\n", "b": "\n", "; // c": "\n"}
    for end, kept in ends.items():
        assert modules._close(f"a{end}\n") == f"a{end}{kept}"


@pytest.mark.parametrize("name", MODULES)
def test_every_property_of_the_style_sheets_is_read_and_declared(name):
    """Those that a module sets, and JupyterLab's, are declared nowhere here; of `--k0` and its like all or none are."""
    style, script = modules.style(name), modules.script(name)
    declared = set(re.findall(r"[;{](--[\w-]+):", style))
    read = set(re.findall(r"var\((--[\w-]+)", style)) | set(re.findall(r"var\((--[\w-]+)", script))
    numbered = {each for each in declared if re.fullmatch(r"--k\d+", each)}
    assert len(numbered) == (12 if name in ("kernel_lab", "model_card") else 0)
    assert declared - numbered <= read
    set_there = set(re.findall(r"(--[\w-]+)", script))
    assert {each for each in read - declared - set_there if not each.startswith("--jp-")} == set()
