"""The shipped demo model and its texts are what the model card says."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from workbench import assets
from workbench.assets.train.stories import (
    LONG_LINE,
    CopyCheck,
    read_stories,
    split_fingerprint,
    split_stories,
)

CARD = assets.demo_model_path() / "README.md"
TEXTS = {"evaluation": assets.evaluation_text(), "calibration": assets.calibration_text()}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assets.demo_model_path())


def test_everything_lies_inside_the_package_so_that_a_wheel_holds_it():
    package = Path(assets.__file__).resolve().parent
    for path in (assets.demo_model_path(), assets.mixture_model_path(), *TEXTS.values()):
        assert path.exists()
        assert path.is_relative_to(package)


def test_the_files_stay_small():
    assert sum(f.stat().st_size for f in assets.demo_model_path().iterdir()) <= 16_000_000
    assert sum(f.stat().st_size for f in assets.mixture_model_path().iterdir()) <= 8_000_000


def test_the_mixture_is_what_its_card_and_its_report_say():
    import numpy as np
    from safetensors.numpy import load_file

    folder = assets.mixture_model_path()
    card, report = (folder / "README.md").read_text("utf-8"), json.loads((folder / "report.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    count = sum(t.size for t in tensors.values())
    assert count == report["parameters"] and f"{count:,} parameters" in card
    assert all(tensor.dtype == np.float16 and np.isfinite(tensor).all() for tensor in tensors.values())
    of_experts = sum(t.size for name, t in tensors.items() if ".experts." in name)
    # a row of the embedding is read as the LM head's matrix, which is tied to it
    assert f"| {count - of_experts * 6 // 8:,} parameters |" in card
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (assets.demo_model_path() / name).read_bytes()
    traffic = np.array(report["traffic"])
    assert traffic.shape == (6, 8) and np.allclose(traffic.sum(1), 1, atol=1e-3)
    assert f"between {traffic.min():.1%} and {traffic.max():.1%}".replace("%", " %") in " ".join(card.split())
    assert report["split"] in card and f"{report['pretrain_steps']} steps" in " ".join(card.split())
    assert (
        f"{report['sampled_tokens']:,} tokens" in card and f"{report['real_train_tokens']:,} tokens" in card
    )


def test_parameters_are_f16_finite_and_as_many_as_the_card_says():
    import numpy as np
    from safetensors.numpy import load_file

    tensors = load_file(assets.demo_model_path() / "model.safetensors")
    count = sum(t.size for t in tensors.values())
    assert 6_000_000 <= count <= 8_000_000
    assert f"{count:,} parameters" in CARD.read_text(encoding="utf-8")
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float16, name
        assert np.isfinite(tensor).all(), name


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_long_enough_and_hash_as_on_the_card(name, tokenizer):
    path = TEXTS[name]
    row = re.search(
        rf"`\.\./texts/{name}\.txt` \| (\d+) \| ([\d,]+) \| `([0-9a-f]{{64}})`", CARD.read_text("utf-8")
    )
    assert row, f"no row for {name}.txt on the card"
    stories = read_stories(path)
    tokens = sum(len(ids) for ids in tokenizer(stories)["input_ids"])
    assert tokens >= 60_000
    assert (len(stories), f"{tokens:,}") == (int(row[1]), row[2])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row[3]


def test_texts_share_no_story_and_no_long_line():
    evaluation, calibration = (read_stories(TEXTS[name]) for name in ("evaluation", "calibration"))
    assert len(set(evaluation)) == len(evaluation)
    assert not set(evaluation) & set(calibration)
    shared = long_lines(evaluation) & long_lines(calibration)
    assert not shared, f"lines in both texts: {sorted(shared)[:3]}"


def long_lines(stories: list[str]) -> set[str]:
    return {line.strip() for s in stories for line in s.split("\n") if len(line.strip()) >= LONG_LINE}


def test_texts_hold_nothing_of_the_real_stories(shared):
    real = CopyCheck(read_stories(shared / "data" / "tinystories.txt"))
    for path in TEXTS.values():
        assert not [story for story in read_stories(path) if real.copied(story)]


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time, there was a cat.",
        " two  spaces\n\nand lines\t",
        "naïve café – “quotes” 日本 🙂",
        "a\r\nb\x00c",
        "",
    ],
)
def test_tokenizer_returns_every_text_exactly(text, tokenizer):
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id == 2
    assert len(tokenizer) == 4096
    assert tokenizer.decode(ids[1:], clean_up_tokenization_spaces=False) == text


def test_the_model_loads_in_transformers_and_predicts_its_own_domain(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(assets.demo_model_path(), dtype=torch.float32)
    assert model.config.model_type == "llama"
    assert model.config.tie_word_embeddings
    ids = torch.tensor([tokenizer("\n".join(read_stories(TEXTS["evaluation"])[:4]))["input_ids"][:512]])
    with torch.inference_mode():
        loss = float(model(ids, labels=ids).loss)
    assert loss < 2.4  # the whole text gives ln 7.12 = 1.96; an untrained model ln 4096 = 8.3


def test_the_split_of_the_real_stories_is_the_recorded_one(shared):
    parts = split_stories(shared / "data" / "tinystories.txt")
    fingerprint = split_fingerprint(parts)
    assert fingerprint in CARD.read_text(encoding="utf-8")
    assert json.loads((assets.demo_model_path() / "report.json").read_text())["split"] == fingerprint
    assert not set(parts["test"]) & (set(parts["train"]) | set(parts["validation"]))
