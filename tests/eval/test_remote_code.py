"""Code that comes with a dataset or is asked for through the harness is never run."""

from __future__ import annotations

import datasets
import pytest

from eval import texts
from workbench.errors import ProtocolError, WorkbenchError

SCRIPT = """
from pathlib import Path
Path({mark!r}).touch()
import datasets
class Rows(datasets.GeneratorBasedBuilder):
    def _info(self): return datasets.DatasetInfo()
"""


def test_a_dataset_with_a_script_leaves_no_mark(tmp_path, monkeypatch):
    folder, mark = tmp_path / "rows", tmp_path / "mark"
    folder.mkdir()
    (folder / "rows.py").write_text(SCRIPT.format(mark=str(mark)))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    monkeypatch.setitem(texts.DATASETS, "rows", texts.Dataset(str(folder), None, "test", "text", ""))
    with pytest.raises(ProtocolError, match="could not be loaded"):
        texts.load_dataset_text("rows")
    assert not mark.exists()


@pytest.mark.parametrize(
    "given",
    [["--trust_remote_code"], ["--trust"], ["--model_args", "pretrained=DIR,trust_remote_code=True"]],
    ids=str,
)
def test_the_harness_is_not_told_to_trust(given):
    pytest.importorskip("lm_eval")
    from eval.lm_eval_adapter import main

    with pytest.raises(
        WorkbenchError, match=r"trust.*: code that comes with a model or a dataset is never run"
    ):
        main(["run", "--model", "workbench", "--tasks", "lambada_openai", *given])
