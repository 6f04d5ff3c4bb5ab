"""What is shipped to the page: complete, small, without foreign addresses, and without a way to write HTML."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from workbench.widgets import __all__ as names
from workbench.widgets import modules

MODULES = ("explorer", "generator", "kernel_lab", "model_card", "precision_map", "sweep_board")
LARGEST = 150_000


def test_every_widget_has_a_module():
    import workbench.widgets

    assert {getattr(workbench.widgets, name).module for name in names} == set(MODULES)
    with pytest.raises(AttributeError, match="Generator"):
        _ = workbench.widgets.Nothing


@pytest.mark.parametrize("name", MODULES)
def test_module_is_complete(name):
    script = modules.script(name)
    assert not re.search(r"^\s*import\b|\bimport\(", script, re.MULTILINE)
    assert re.findall(r"^export .*", script, re.MULTILINE) == ["export default { render };"]


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


def test_other_imports_are_refused(tmp_path, monkeypatch):
    (tmp_path / "shared.js").write_text("export const a = 1;\nexport function unused() {}\n")
    (tmp_path / "good.js").write_text('import { a } from "./shared.js";\nexport default { render: a };\n')
    (tmp_path / "bad.js").write_text('import { a } from "./shared.js";\nimport x from "https://cdn";\n')
    monkeypatch.setattr(modules, "files", lambda _: tmp_path)
    monkeypatch.setattr(modules, "script", modules.script.__wrapped__)
    assert modules.script("good") == "const a = 1;\nexport default { render: a };\n"
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
        "const deep = 1;\nfunction inner() {\nreturn deep; // kept\n}\n"
        "function a() {\n/* b */ return inner();\n}\nconst more = a;\nexport default { render: more };\n"
    )
    assert modules.style.__wrapped__("own") == "/* a */ .x{top:0;/* b */}.y :focus{top:0}"


def test_files_are_all_used():
    found = {
        path.name for path in files("workbench.widgets").iterdir() if path.name.endswith((".js", ".css"))
    }
    both = {f"{name}.{kind}" for name in (*MODULES, "shared") for kind in ("js", "css")}
    assert found == {*both, "code.js"}
