"""The engine under lm-evaluation-harness against the harness's own Hugging Face model, document by document."""

from __future__ import annotations

import json

import numpy as np
import pytest

import workbench
from eval.prefix_scoring import PrefixScorer
from workbench.errors import ProtocolError, WorkbenchError

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")
pytest.importorskip("accelerate", reason="the harness's own model needs accelerate")

from eval.generation_options import read_options  # noqa: E402 (after what it needs)
from eval.lm_eval_adapter import WorkbenchLM  # noqa: E402

STORIES = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park",
    "Tom had a big red ball. He wanted to play with it. He was very happy",
    "Lily and Ben are friends. They like to play in the park. They see a big tree",
)


@pytest.fixture(scope="module")
def tasks(shared, tmp_path_factory):
    """One task of each kind of request, over local files; `lambada` over its first documents."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "ends": [{"text": text} for text in STORIES],
        "choices": [
            {
                "text": text.rpartition(" ")[0],
                "choices": [text.rpartition(" ")[2], "banana", "the night sky"],
                "label": 0,
            }
            for text in STORIES
        ],
        "whole": [{"text": " ".join(STORIES * 8)}, {"text": STORIES[0]}, {"text": STORIES[1] * 2}],
        "tells": [{"text": text.rpartition(".")[0] + "."} for text in STORIES],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))

    def task(name: str, output: str, file=None, **options) -> dict:
        return {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file or folder / f"{name}.jsonl")}},
            "test_split": "test",
            "output_type": output,
            **options,
        }

    last = {
        "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
        "doc_to_target": "{{' '+text.split(' ')[-1]}}",
    }
    metrics = {"metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]}
    return [
        task("lambada", "loglikelihood", shared / "data" / "lambada_test.jsonl", **last, **metrics),
        task("ends", "loglikelihood", **last, **metrics),
        task(
            "choices",
            "multiple_choice",
            doc_to_text="text",
            doc_to_choice="choices",
            doc_to_target="label",
            metric_list=[{"metric": "acc"}],
        ),
        task(
            "whole",
            "loglikelihood_rolling",
            doc_to_text="",
            doc_to_target="text",
            metric_list=[{"metric": "word_perplexity"}],
        ),
        task(
            "tells",
            "generate_until",
            doc_to_text="text",
            doc_to_target="text",
            generation_kwargs={"until": ["."], "max_gen_toks": 40},
            metric_list=[{"metric": "exact_match"}],
        ),
    ]


@pytest.fixture(scope="module")
def evaluate(shared, tasks, tmp_path_factory):
    """Runs all tasks with a model of the harness; samples by task."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = str(tmp_path_factory.mktemp("cache"))
    folder = shared / "models" / "stories260K-hf"

    def run(model: str, options: str, batch_size: int = 1) -> tuple[dict, dict]:
        from lm_eval.tasks import TaskManager

        found = lm_eval.simple_evaluate(
            model=model,
            model_args=f"pretrained={folder},{options}",
            tasks=tasks,
            limit=3,
            device="cpu",
            batch_size=batch_size,
            bootstrap_iters=0,
            task_manager=TaskManager(include_defaults=False),
        )
        return found["results"], found["samples"], found["config"]

    yield run
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def hugging_face(evaluate):
    return evaluate("hf", "dtype=float32")


def same_answers(ours, theirs) -> None:
    """Greedy flags and texts exactly, log-likelihoods to 1e-3, every document of every task."""
    compared = 0
    for name, samples in theirs[1].items():
        assert len(samples) == len(ours[1][name]) > 0
        for mine, other in zip(ours[1][name], samples, strict=True):
            assert mine["doc_id"] == other["doc_id"] and mine["arguments"] == other["arguments"]
            for (one,), (two,) in zip(mine["resps"], other["resps"], strict=True):
                if isinstance(two, tuple):
                    assert one[1] is two[1]
                    assert one[0] == pytest.approx(two[0], abs=1e-3)
                elif isinstance(two, float):
                    assert one == pytest.approx(two, abs=1e-3)
                else:
                    assert one == two
                compared += 1
    assert compared == 3 + 3 + 9 + 3 + 3
    for name, figures in theirs[0].items():
        for metric, value in figures.items():
            if isinstance(value, float):
                assert ours[0][name][metric] == pytest.approx(value, rel=1e-4), (name, metric)


def test_the_references_answer_as_transformers(evaluate, hugging_face):
    same_answers(evaluate("workbench", "backend=torch"), hugging_face)


def test_the_kernels_answer_as_transformers(evaluate, hugging_face, adapter):
    ours = evaluate("workbench", "backend=wgpu")
    same_answers(ours, hugging_face)
    assert ours[2]["model_provenance"]["backend"] == "wgpu"
    greedy = {s["resps"][0][0][1] for s in hugging_face[1]["ends"]}
    texts = [s["resps"][0][0] for s in hugging_face[1]["tells"]]
    assert True in greedy and all(texts), "the tasks tell a model that answers from one that does not"


def test_requests_side_by_side_have_the_same_answers(evaluate, hugging_face):
    same_answers(evaluate("workbench", "backend=torch", batch_size=2), hugging_face)


@pytest.fixture(scope="module")
def model(shared):
    return workbench.load(shared / "models" / "stories260K-hf", backend="torch")


def test_shared_beginnings_are_computed_once(model):
    scorer = PrefixScorer(model)
    ids = model.tokenizer(" ".join(STORIES))["input_ids"]
    cases = [
        (ids[:40], ids[40:43]),
        (ids[:40], [5, 6]),
        (ids[:40], [9]),
        (ids[:20], ids[20:60]),
        (ids[:1], [7]),
    ]
    for context, continuation in cases:
        log_p, greedy = scorer.score(context, continuation)
        whole = model.score([*context, *continuation])
        part = slice(len(context) - 1, None)
        np.testing.assert_allclose(log_p, -whole.nll[part], rtol=1e-6, atol=1e-5)
        assert np.array_equal(greedy, whole.top1[part] == continuation)
    assert scorer.asked == 42 + 41 + 40 + 59 + 1
    assert scorer.computed == 42 + 2 + 1 + 40 + 1
    scorer.close()


def test_what_cannot_be_scored_is_refused(model):
    scorer = PrefixScorer(model)
    with pytest.raises(ProtocolError, match="both need at least one token"):
        scorer.score([], [5])
    with pytest.raises(ProtocolError, match="the cache takes 513"):
        scorer.score([5] * 512, [5, 5])
    with pytest.raises(WorkbenchError, match="outside the vocabulary"):
        scorer.score([5], [512])
    adapter = WorkbenchLM(model, max_length=16)
    with pytest.raises(WorkbenchError, match="17 tokens exceeds the context of 16"):
        adapter._loglikelihood_tokens([(None, [1], [5] * 17)], disable_tqdm=True)
    with pytest.raises(WorkbenchError, match="leave no room"):
        ask(adapter, "Once", max_gen_toks=16)


def ask(adapter, context: str, times: int = 1, **options) -> list[str]:
    from lm_eval.api.instance import Instance

    request = Instance("generate_until", {}, (context, {"until": ["~"], **options}), 0)
    return adapter.generate_until([request] * times, disable_tqdm=True)


@pytest.fixture(scope="module")
def theirs(shared):
    from lm_eval.models.huggingface import HFLM

    folder = str(shared / "models" / "stories260K-hf")
    return HFLM(pretrained=folder, device="cpu", dtype="float32")


HOT = {"do_sample": True, "temperature": 5.0}


@pytest.mark.parametrize(
    "options",
    [
        {**HOT, "top_k": 0, "min_p": 0.999},
        {**HOT, "top_k": 0, "top_p": 0.0},
        {**HOT, "top_k": 1},
        {"repetition_penalty": 3.0},
        {
            "repetition_penalty": 0.6,
            "do_sample": False,
            "temperature": 2.0,
            "top_k": 3,
            "epsilon_cutoff": 0.5,
        },
        {"num_beams": 1, "no_repeat_ngram_size": 0, "length_penalty": 2.0, "top_h": None},
        {"max_new_tokens": 5},
        {"max_length": 37},
        {"eos_token_id": [403, 432]},
        {"until": " a"},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_for_the_harness_own_model(model, theirs, options):
    """Options with which sampling leaves one token, so that texts can be compared; and greedy ones."""
    given = {"max_gen_toks": 30, **options}
    if "max_new_tokens" in options:
        del given["max_gen_toks"]
    mine = ask(WorkbenchLM(model), STORIES[0], **given)
    assert mine == ask(theirs, STORIES[0], **given) and mine[0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size = 2 changes the text"),
        ({**HOT, "epsilon_cutoff": 0.5}, "epsilon_cutoff"),
        ({**HOT, "typical_p": 0.5}, "typical_p"),
        ({"num_beams": 3}, "num_beams"),
        ({"bad_words_ids": [[5]]}, "bad_words_ids"),
        ({"repetition_penaltyy": 3.0}, "'repetition_penaltyy' is not an option.*near it: repetition_penalty"),
        ({"do_sample": True}, "temperature = 0.0 with do_sample"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"temperature": None}, "temperature = None"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({**HOT, "top_k": -1}, "top_k = -1"),
        ({**HOT, "top_p": 1.5}, "top_p = 1.5"),
        ({**HOT, "seed": -1}, "seed = -1"),
        ({"repetition_penalty": 0}, "repetition_penalty = 0"),
        ({"max_gen_toks": 0}, "max_gen_toks = 0"),
        ({"max_gen_toks": "many"}, "max_gen_toks = 'many'"),
        ({"max_length": 3}, "max_length = 3"),
        ({"until": 7}, "until = 7"),
    ],
    ids=str,
)
def test_other_options_are_refused_by_name(model, options, says):
    with pytest.raises(WorkbenchError, match=says):
        ask(WorkbenchLM(model), STORIES[0], **{"max_gen_toks": 30, **options})


def test_repeats_are_samples_of_their_own(model):
    import torch

    adapter, options = WorkbenchLM(model), {"do_sample": True, "temperature": 1.5, "max_gen_toks": 20}
    torch.manual_seed(1)
    first = ask(adapter, STORIES[0], 6, **options)
    torch.manual_seed(1)
    again = ask(adapter, STORIES[0], 6, **options)
    other = ask(adapter, STORIES[0], 6, **options)
    assert first == again and len({*first, *other}) == 12
    seeded, repeated, another = (ask(adapter, STORIES[0], 6, seed=s, **options) for s in (7, 7, 8))
    assert seeded == repeated and len({*seeded, *another}) == 12


def test_the_checkpoint_says_what_holds_unless_a_task_does():
    options = {"do_sample": True, "temperature": 0.5}
    said = {"top_k": 7, "top_p": 0.8, "temperature": 0.9, "repetition_penalty": 1.3, "do_sample": True}
    wanted = read_options({**options, "top_p": 0.7}, said).sampling
    assert (wanted.temperature, wanted.top_k, wanted.top_p, wanted.repetition_penalty) == (0.5, 7, 0.7, 1.3)
    assert read_options(options).sampling.top_k == 50  # transformers' own
    greedy = read_options({}, said).sampling
    assert greedy.greedy and greedy.repetition_penalty == 1.3
    with pytest.raises(WorkbenchError, match=r"generation_config.json: no_repeat_ngram_size = 3"):
        read_options({}, {"no_repeat_ngram_size": 3})
    assert read_options({"no_repeat_ngram_size": 0}, {"no_repeat_ngram_size": 3}).sampling.greedy


def test_long_contexts_lose_their_beginning(model):
    adapter = WorkbenchLM(model, max_length=16)
    ids = model.tokenizer(" ".join(STORIES))["input_ids"]
    ((log_p, _),) = adapter._loglikelihood_tokens([(None, ids[:30], ids[30:33])], disable_tqdm=True)
    assert log_p == pytest.approx(-model.score(ids[16:33]).nll[-3:].sum(), abs=1e-5)


def test_a_prefix_may_be_chosen(model):
    assert (
        WorkbenchLM(model).prefix_token_id == 1
        and WorkbenchLM(model, prefix_token_id="2").prefix_token_id == 2
    )


def test_without_the_harness_the_error_says_what_to_install():
    import subprocess
    import sys

    code = "import sys; sys.modules['lm_eval'] = None; import eval.lm_eval_adapter"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode and "pip install 'webgpu-quant-workbench[lm-eval]'" in done.stderr
