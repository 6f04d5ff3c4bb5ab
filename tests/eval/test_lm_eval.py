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

from eval.lm_eval_adapter import WorkbenchLM  # noqa: E402 (after what it needs)

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

    def run(model: str, options: str) -> tuple[dict, dict]:
        from lm_eval.tasks import TaskManager

        found = lm_eval.simple_evaluate(
            model=model,
            model_args=f"pretrained={folder},{options}",
            tasks=tasks,
            limit=3,
            device="cpu",
            batch_size=1,
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
        adapter._generate("Once", {"max_gen_toks": 16})


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
