"""The comparison of quantizers: converts, scores, tabulates; converts nothing twice."""

from __future__ import annotations

import json

import pytest

from workbench.cli import main


def compare(folder, *more: str) -> int:
    arguments = "--formats int2 --calibration-windows 2 --calibration-length 32 --tokens 500"
    return main(["quantizers", *arguments.split(), "--output", str(folder), *more])


@pytest.mark.release
def test_every_cell_is_measured_and_none_converted_twice(tmp_path, capsys):
    folder = tmp_path
    assert compare(folder, "--quantizers", "rtn", "gptq") == 0
    table = capsys.readouterr().out.strip()
    assert table == (folder / "table.md").read_text().strip()
    found = json.loads((folder / "results.json").read_text())
    assert [(cell["format"], cell["quantizer"]) for cell in found["cells"]] == [
        ("int2", "rtn"),
        ("int2", "gptq"),
    ]
    for cell in found["cells"]:
        paired = cell["perplexity"]["baseline"]
        assert paired["ppl"] == pytest.approx(found["baseline"]["ppl"])
        assert f"{cell['perplexity']['ppl']:.4f}" in table
        assert f"{100 * (cell['perplexity']['ppl'] / paired['ppl'] - 1):+.2f} ±" in table
        assert ("calibration" in cell["perplexity"]["provenance"]["source"]) == (cell["quantizer"] == "gptq")
    assert "**int2** (2.111 bits a weight)" in table

    inode = (folder / "models" / "int2-rtn").stat().st_ino
    assert compare(folder, "--quantizers", "rtn") == 0
    assert (folder / "models" / "int2-rtn").stat().st_ino == inode
    assert compare(folder, "--quantizers", "rtn", "--keep-embedding") == 0
    assert "**int2, embedding f16** (4.097 bits a weight)" in capsys.readouterr().out
