"""What docs/sweeps.md says is checked before a sweep starts is: nothing is written, and the error names it."""

from __future__ import annotations

import itertools
import json
import os
import tomllib

import pytest

from workbench import cli
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import SweepError, WorkbenchError
from workbench.formats.text import parse_format
from workbench.sweeps.spec import read_spec
from workbench.sweeps.sweep import Sweep

WHOLE = """
[sweep]
output = "out"
backend = "torch"
dtype = "f32"
max_windows = 3
paired = true
speed = false
keep_logits_mib = 10
[texts.prose]
file = "prose.txt"
separator = "owl"
[texts.again]
file = "prose.txt"
[grid]
model = {name = "mine", path = "tiny"}
format = "int4"
block_size = 32
quantizer = {quantizer = "gptq", embedding = "f16", calibration = {text = "prose.txt", windows = 4, length = 8}}
protocol = {protocol = "disjoint-32", text = "prose", max_windows = 2}
[options]
device = "cpu"
calibration_inputs = "float"
overrides = {"*.mlp.*" = "int8"}
"""


@pytest.fixture
def folder(materials, tmp_path):
    """The sweep's own folder, which is not the current one: everything that it names lies there."""
    (tmp_path / "tiny").symlink_to(materials.model)
    (tmp_path / "prose.txt").write_text(materials.text.read_text())
    return tmp_path


def written(folder, text: str):
    (folder / "some.toml").write_text(text)
    return folder / "some.toml"


def changed(*replacements: tuple[str, str]) -> str:
    text = WHOLE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return text


def test_paths_are_relative_to_the_file_and_nothing_else(folder, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    sweep = Sweep.read(written(folder, WHOLE))
    assert sweep.store.folder == folder / "out" and not sweep.store.folder.exists()
    assert sweep.cells[-1].cell.options["calibration"]["text"] == str(folder / "prose.txt")
    assert (
        Sweep.read(written(folder, changed(('output = "out"\n', "")))).store.folder
        == folder / "runs" / "some"
    )
    # What lies in the current folder under a name that the file's folder has not is never taken.
    for name, old, new in (
        ("text.txt", '[texts.again]\nfile = "prose.txt"', '[texts.again]\nfile = "text.txt"'),
        ("text.txt", '{text = "prose.txt"', '{text = "text.txt"'),
        ("owner/tiny", 'path = "tiny"', 'path = "owner/tiny"'),
    ):
        (elsewhere / "owner").mkdir(exist_ok=True)
        if not (elsewhere / name).exists():
            os.symlink(folder / ("tiny" if name.startswith("owner") else "prose.txt"), elsewhere / name)
        with pytest.raises(SweepError, match=name):
            Sweep.read(written(folder, changed((old, new))))


def test_a_model_of_the_catalogue(folder, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(folder / "cache"))
    spec = written(folder, changed(('path = "tiny"', 'path = "smollm2-135m"')))
    with pytest.raises(WorkbenchError, match="workbench fetch smollm2-135m"):
        Sweep.read(spec)
    (folder / "cache" / "models").mkdir(parents=True)
    os.symlink(folder / "tiny", folder / "cache" / "models" / "smollm2-135m")
    assert "smollm2-135m" in {each.cell.model for each in Sweep.read(spec).cells}


def test_a_model_may_be_one_file(folder):
    (folder / "tiny.gguf").touch()
    cells = read_spec(written(folder, changed(('path = "tiny"', 'path = "tiny.gguf"')))).cells
    assert {each.path for each in cells} == {str(folder / "tiny.gguf")}


WRONG = {
    "text shorter than a window": (
        ('protocol = "disjoint-32", text = "prose"', 'protocol = "disjoint-64", text = "short"'),
        ('[texts.again]\nfile = "prose.txt"', '[texts.short]\nfile = "short.txt"'),
        "disjoint-64.*needs at least 64 tokens; the text has 6",
    ),
    "window beyond the context": ('"disjoint-32"', '"disjoint-128"', "128 tokens, more than the model's context of 64"),
    "absent separator": ('"owl"', '"<|endoftext|>"', "separator '<|endoftext|>' does not occur in text prose.txt"),
    "empty separator": ('"owl"', '""', r"texts.prose.separator = ''"),
    "no such text": ('[texts.again]\nfile = "prose.txt"', '[texts.again]\nfile = "x"', r"texts.again.file = 'x'"),
    "a folder as text": ('[texts.again]\nfile = "prose.txt"', '[texts.again]\nfile = "."', "is a folder, not"),
    "unknown dataset": ('[texts.again]\nfile = "prose.txt"', '[texts.again]\ndataset = "wiki"', "'wiki' is unknown"),
    "no such model": ('path = "tiny"', 'path = "huge"', r"grid.model\[0\] = 'huge' is not a folder beside the file"),
    "no such calibration text": ('{text = "prose.txt"', '{text = "x"', r"quantizer\[0\]: calibration.text = .*/x'"),
    "output that is a file": ('"out"', '"prose.txt"', r"sweep.output = 'prose.txt': .* is a file"),
    "output below a file": ('"out"', '"prose.txt/out"', r"sweep.output = 'prose.txt/out': .* is a file"),
    "negative limit of the sweep": ("max_windows = 3", "max_windows = -1", "sweep.max_windows = -1; allowed"),
    "limit of nothing": ("max_windows = 2", "max_windows = 0", r"protocol\[0\].max_windows = 0"),
    "negative logits": ("mib = 10", "mib = -1", "sweep.keep_logits_mib = -1; allowed: an integer of at least 0"),
    "negative calibration": ("windows = 4", "windows = -4", "windows = -4; allowed"),
    "steps of none": ('quantizer = "gptq"', 'quantizer = "trained", steps = 0', "steps = 0; allowed"),
    "override of nothing": ('"*.mlp.*"', '"*.mpl.*"', "override '\\*.mpl.\\*' matches no matrix"),
    "exclude of everything": ("[options]", "[[exclude]]\n[options]", r"exclude\[0\] names nothing"),
    "device list": ('device = "cpu"', 'device = ["cpu", "cuda"]', r"device = \['cpu', 'cuda'\]; allowed: a string"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_before_anything_runs(folder, case):
    *pairs, expected = WRONG[case]
    (folder / "short.txt").write_text("owl a")
    path = written(folder, changed(*([pairs] if isinstance(pairs[0], str) else pairs)))
    with pytest.raises(SweepError, match=expected) as raised:
        Sweep.read(path)
    assert str(raised.value).startswith(f"sweep {path}: ")
    assert not (folder / "out").exists()


def test_a_quantized_model_is_not_quantized_again(folder):
    """Its own format costs nothing and runs; the cells of another one would fail one by one."""
    convert(folder / "tiny", folder / "mine", ConvertOptions(parse_format("int4/32")))
    spec = '[texts.prose]\nfile = "prose.txt"\n[grid]\nmodel = "mine"\nprotocol = "disjoint-32"\nformat = '
    assert len(Sweep.read(written(folder, spec + '"int4/32"')).cells) == 2
    with pytest.raises(
        SweepError, match=r"the cell mine.*int8.*: tensor '.*' is quantized already \(int4/32\)"
    ):
        Sweep.read(written(folder, spec + '["int4/32", "int8"]'))
    with pytest.raises(SweepError, match=r"gptq with calibration .*needs the checkpoint in floats"):
        Sweep.read(written(folder, spec + '"int4/32"\nquantizer = "gptq"'))


def places(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


NONSENSE = (
    ["a", "b"],
    [["a"]],
    {"x": 1},
    [],
    {},
    -1,
    0,
    1.5,
    True,
    "",
    "nonsense",
    ["int4", "int8"],
    [64, -1],
)


def test_every_value_of_another_kind_is_refused_by_name_or_means_something(folder):
    """Each value of a sweep replaced by each kind of nonsense: a SweepError, or a sweep that can be read."""
    values, refused = tomllib.loads(WHOLE), 0
    for place, new in itertools.product(list(places(values)), NONSENSE):
        copy = json.loads(json.dumps(values))
        inner = copy
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = new
        path = written(folder, "\n".join(f"{key} = {toml(each)}" for key, each in copy.items()))
        try:
            assert read_spec(path).cells
        except SweepError as error:
            refused += 1
            assert str(error).startswith(f"sweep {path}: ") and len(str(error)) < 1500
    assert refused > 200


def test_the_command_says_it_in_one_line(folder, capsys):
    path = written(folder, changed(('text = "prose"', 'text = ["prose", "again"]')))
    assert cli.main(["sweep", str(path), "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "protocol[0].text = ['prose', 'again']; allowed: a string" in told
    assert cli.main(["sweep", str(written(folder, WHOLE)), "--output", str(folder / "prose.txt")]) == 2
    assert "prose.txt is a file" in capsys.readouterr().err
