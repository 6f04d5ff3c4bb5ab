"""The scripts that made the demo model compute what they claim."""

from __future__ import annotations

import pytest

from workbench import assets
from workbench.assets.train.stories import (
    CUT,
    END,
    CopyCheck,
    read_pieces,
    read_stories,
    split_of,
    write_stories,
)

torch = pytest.importorskip("torch")


def test_the_training_model_and_transformers_compute_the_same_function():
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from workbench.assets.train.model import Llama, Shape

    folder = assets.demo_model_path()
    mine = Llama(Shape()).eval()
    tensors = load_file(folder / "model.safetensors")
    mine.load_state_dict({name.removeprefix("model."): value.float() for name, value in tensors.items()})
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(3, 4096, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(mine(ids), theirs(ids).logits, atol=2e-4, rtol=1e-4)


def test_the_training_mixture_and_transformers_compute_the_same_function(tmp_path):
    """What training exports, and so the experts of which training makes one wide MLP."""
    from transformers import AutoModelForCausalLM

    from workbench.assets.train.mixture import Mixture, MixtureShape

    torch.manual_seed(3)
    mine = Mixture(MixtureShape(vocab_size=259, layers=2))
    for parameter in mine.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.2)
        parameter.data = parameter.data.half().float()
    mine.export(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.randint(3, 259, (2, 48), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].flatten()
    with torch.inference_mode():
        logits = theirs(ids[:, :-1], output_router_logits=True)
        torch.testing.assert_close(mine(ids[:, :-1]), logits.logits, atol=2e-4, rtol=1e-4)
        plain = torch.nn.functional.cross_entropy(logits.logits.flatten(0, 1), targets)
        torch.testing.assert_close(mine.eval().loss(ids), plain)
        # transformers counts the k choices of a token apart, over all layers together
        [taken] = torch.tensor(mine.traffic([ids[:, :-1]])[:1])
        chosen = logits.router_logits[0].topk(2).indices
        torch.testing.assert_close(
            taken, chosen.flatten().bincount(minlength=8) / chosen.numel(), atol=1e-4, rtol=0
        )
        probabilities = logits.router_logits[0].softmax(-1).mean(0)
        mine.train().loss(ids)
        torch.testing.assert_close(
            mine.layers[0].mlp.balance, 8 * (taken * probabilities).sum(), atol=1e-3, rtol=0
        )


def test_the_sampler_computes_the_teachers_logits(shared):
    from transformers import AutoModelForCausalLM

    from workbench.assets.train.sample_teacher import Teacher

    folder = shared / "models" / "stories260K-hf"
    teacher, theirs = Teacher(folder, "cpu"), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(3, 512, (3, 24), generator=torch.Generator().manual_seed(1))
    cache = teacher.new_cache(3)
    with torch.inference_mode():
        mine = torch.stack([teacher.step(ids[:, i], i, cache) for i in range(24)], 1)
        torch.testing.assert_close(mine, theirs(ids).logits, atol=2e-4, rtol=1e-4)


def test_the_sampler_spells_as_the_teachers_tokenizer(shared):
    import numpy as np
    from transformers import AutoTokenizer

    from workbench.assets.train.sample_teacher import Spelling

    folder = shared / "models" / "stories260K-hf"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first = "Once upon a time, there was a girl.\nShe said, “It’s a café!” and she smiled."
    second = "One day a dog found a big red ball in the park, and then"
    stream = np.array(tokenizer(first)["input_ids"] + tokenizer(second)["input_ids"])
    assert list(Spelling(folder, bos=1).stories(stream)) == [(first, True), (second, False)]


@pytest.mark.parametrize("name", ["demo", "stories260K"])
def test_token_bytes_add_up_to_the_text(name, request):
    from transformers import AutoTokenizer

    from workbench.assets.train.measure import tokens_and_bytes

    if name == "demo":
        folder = assets.demo_model_path()
    else:
        folder = request.getfixturevalue("shared") / "models" / "stories260K-hf"
    stories = [*read_stories(assets.evaluation_text())[:20], "A naïve 日本 “café”.\nYes."]
    ids, sizes = tokens_and_bytes(AutoTokenizer.from_pretrained(folder), stories)
    assert len(ids) == len(sizes)
    assert sizes.sum() == sum(len(story.encode()) for story in stories)


def test_measure_agrees_with_a_sum_over_windows():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from workbench.assets.train.measure import measure

    folder, stories = assets.demo_model_path(), read_stories(assets.evaluation_text())[:3]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = [i for story in stories for i in tokenizer(story)["input_ids"]]
    total = 0.0
    windows = len(ids) // 64
    with torch.inference_mode():
        for w in range(windows):
            window = torch.tensor(ids[64 * w : 64 * (w + 1)])
            p = model(window[None]).logits[0].double().log_softmax(-1)
            total -= sum(float(p[t - 1, window[t]]) for t in range(1, 64))
    measured = measure(folder, stories, context=64)
    assert (measured.windows, measured.scored) == (windows, windows * 63)
    assert measured.nll == pytest.approx(total, rel=1e-5)


def test_story_files_round_trip_and_tell_cut_stories(tmp_path):
    path = tmp_path / "stories.txt"
    write_stories(path, ["one\ntwo", "three"])
    assert read_stories(path) == ["one\ntwo", "three"]
    path.write_text(f"whole\n{END}\ncut off\n{CUT}\n")
    assert list(read_pieces(path)) == [("whole", True), ("cut off", False)]


def test_the_split_depends_on_the_stripped_story_alone():
    assert split_of(" a story \n") == split_of("a story")
    counts = [split_of(f"story {i}") for i in range(2000)]
    assert 0.75 < counts.count("train") / 2000 < 0.85


def test_copies_are_found():
    line = (
        "This line is long enough to be told apart from any line that two writers would both write by chance."
    )
    check = CopyCheck(["A start.\n" + line + "\nAn end.", "Short story."])
    assert check.copied("Something else.\n" + line)
    assert check.copied("Short story.")
    assert not check.copied("A start.\nSomething else.")
