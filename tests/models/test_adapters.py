"""Several adapters beside one model, of which each sequence has another one or none."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench
from tests.models.family_cases import write_family
from tests.models.lora_cases import merge, write_adapter
from tests.runtime.models import check_parity, random_ids
from wgsl_kernels import Adapter
from workbench.errors import WorkbenchError
from workbench.formats.text import parse_format
from workbench.model_bench.synthetic import RandomSource, shape_config, with_random_adapters
from workbench.models.families import architecture_of
from workbench.plan.plan import step_sizes
from workbench.runtime.device import adapter_missing
from workbench.runtime.jobs import Job
from workbench.runtime.lowering import lower
from workbench.runtime.sampling import Drawn, SamplingOptions
from workbench.runtime.scheduler import run_jobs

#: So short that one size of step takes the rows of all of them.
TEXTS = [random_ids(259, length, seed=length) for length in (3, 1, 2, 1)]
LAYERS = [f"model.layers.{n}" for n in range(3)]
#: Of other ranks and on other matrices: of a group all, some or none. Padded they are alike: layers share kernels.
ADAPTERS = {
    "all": {
        **{f"{layer}.self_attn.{part}_proj": 4 for layer in LAYERS for part in "qkvo"},
        **{f"{layer}.mlp.{part}_proj": 4 for layer in LAYERS for part in ("gate", "up", "down")},
    },
    "values": {f"{layer}.self_attn.{part}_proj": 3 for layer in LAYERS[:2] for part in "qv"},
    "up": {f"{LAYERS[1]}.mlp.up_proj": 2},
    "down": {f"{LAYERS[0]}.mlp.down_proj": 1, f"{LAYERS[1]}.self_attn.o_proj": 1},
}
BACKENDS = [
    "torch",
    pytest.param("wgpu", marks=pytest.mark.skipif(bool(adapter_missing()), reason="no adapter")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The base, folders of adapters by name, and folders of the models that they make, merged by hand."""
    root = tmp_path_factory.mktemp("adapters")
    base, adapters, whole = write_family(root / "base", "qwen2"), {}, {}
    for seed, (name, modules) in enumerate(ADAPTERS.items()):
        rank = next(iter(modules.values()))
        adapters[name] = write_adapter(root / name, base, modules, scale=0.8, seed=seed, r=rank)
        whole[name] = merge(root / f"{name} merged", base, adapters[name], {}, torch.float32)
    return base, adapters, whole


@pytest.fixture(scope="module", params=BACKENDS)
def model(made, request):
    base, adapters, _ = made
    return workbench.load(base, backend=request.param, lora=adapters)


@pytest.mark.release
def test_rows_of_one_step_have_different_adapters(made, model):
    """As each of them has alone, merged into the weights; and the base stays what it is beside them."""
    base, adapters, whole = made
    names, texts = [*adapters, None], [*TEXTS, TEXTS[1]]
    found = model.forward_batch(texts, adapter=names)
    models = [workbench.load(whole[name] if name else base, backend="torch") for name in names]
    without = models[-1]
    for each, name, ids, alone in zip(found, names, texts, models, strict=True):
        expected = alone.forward(ids).logits
        check_parity(each.logits, expected, 5e-5)
        plain = without.forward(ids).logits
        assert name is None or np.abs(expected - plain).max() > 0.02 * np.abs(plain).max()
    assert model.adapters == tuple(adapters)


def test_scores_are_those_of_merged_weights(made):
    """So perplexities are, one sequence at a time or several."""
    base, adapters, whole = made
    texts = [random_ids(259, 20, seed=n) for n in range(4)]
    model = workbench.load(base, backend="torch", lora=adapters)
    scores = model.score_batch(texts, adapter=list(adapters))
    for each, name, ids in zip(scores, adapters, texts, strict=True):
        alone = workbench.load(whole[name], backend="torch").score(ids).nll
        assert each.nll == pytest.approx(alone, rel=1e-4)
        assert model.score(ids, adapter=name).nll == pytest.approx(alone, rel=1e-4)


class Taken(Job):
    """Greedy tokens of a prompt."""

    def __init__(self, ids, adapter):
        super().__init__(list(map(int, ids)), 6, SamplingOptions())
        self.adapter, self.tokens = adapter, []

    def take(self, drawn: Drawn) -> bool:
        self.tokens.append(drawn.id)
        return True


def test_a_place_is_taken_by_a_sequence_with_another_adapter(made, model):
    """Two places for four prompts, and what the merged weights of each give."""
    base, _, whole = made
    names = ["all", None, "values", "down"]
    jobs = [Taken(ids, name) for ids, name in zip(TEXTS, names, strict=True)]
    with contextlib.closing(model.batch(2)) as batch:
        run_jobs(batch, jobs)
        with pytest.raises(WorkbenchError, match="adapter = 'none such'; allowed: one of 'all', 'values'"):
            batch.reset(0, "none such")
    for job, name in zip(jobs, names, strict=True):
        alone = workbench.load(whole[name] if name else base, backend="torch")
        assert list(alone.generate_ids(job.ids, 6)) == job.tokens
    assert len({tuple(job.tokens) for job in jobs}) > 2


def test_one_alone_is_what_sequences_have_that_name_none(made):
    base, adapters, whole = made
    model = workbench.load(base, backend="torch", lora=adapters["all"])
    expected = workbench.load(whole["all"], backend="torch").forward(TEXTS[0]).logits
    check_parity(model.forward(TEXTS[0]).logits, expected, 5e-5)
    check_parity(model.forward(TEXTS[0], adapter="all").logits, expected, 5e-5)
    several = workbench.load(base, backend="torch", lora=adapters)
    tokens = list(workbench.load(whole["all"], backend="torch").generate_ids(TEXTS[0], 6))
    assert list(several.generate_ids(TEXTS[0], 6, adapter="all")) == tokens
    assert list(model.generate_ids(TEXTS[0], 6)) == tokens != list(several.generate_ids(TEXTS[0], 6))


def test_what_is_recorded(model):
    record = model.describe_provenance()["lora"]
    assert record["adapters"].keys() == ADAPTERS.keys() and record["format"] == "f32"
    assert record["adapters"]["up"]["files"].keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert sum("LoRA of rank" in chosen for _, chosen, _ in model.choices) == len(ADAPTERS)


def test_what_cannot_be_is_named(made, model, tmp_path):
    base, adapters, _ = made
    with pytest.raises(WorkbenchError, match="adapter = 'x'; allowed: one of 'all', 'values', 'up', 'down'"):
        model.generate_ids(TEXTS[0], 3, adapter="x")
    with pytest.raises(WorkbenchError, match="2 adapters for 3 texts; allowed: one, or one for each"):
        model.forward_batch(TEXTS[:3], adapter=["all", "up"])
    with pytest.raises(WorkbenchError, match="adapter = 'all'; allowed: None: the model has no adapters"):
        workbench.load(base, backend="torch").session(adapter="all")
    for name in ("", " all", "a\nb", 3):
        with pytest.raises(WorkbenchError, match=r"an adapter is called .*; allowed: a printable text"):
            workbench.load(base, backend="torch", lora={name: adapters["all"]})
    with pytest.raises(WorkbenchError, match="lora names no adapter"):
        workbench.load(base, backend="torch", lora={})
    wider = write_adapter(tmp_path / "wider", base, {f"{LAYERS[0]}.self_attn.o_proj": 4})
    path = wider / "adapter_model.safetensors"
    save_file({name: each.repeat(1, 1 + ("lora_A" in name)) for name, each in load_file(path).items()}, path)
    with pytest.raises(WorkbenchError, match=r"wider.*o_proj has factors \[4, 128\] and \[64, 4\]"):
        workbench.load(base, backend="torch", lora={**adapters, "of another base": wider})


GPU = Adapter(True, 32, f16=True, storage_buffers=16)


def dispatches(activations: str, tokens: int, adapters: int, gpu: Adapter = GPU) -> list[str]:
    """Kernels of a step of a 1B Llama in INT4, with so many adapters of rank 16 on all matrices."""
    source = RandomSource("shape", shape_config("llama-3.2-1b"), parse_format("int4/128"))
    model = architecture_of(source.config)
    if adapters:
        beside = with_random_adapters(source, 16, adapters)
        source, model = beside, beside.architecture(model)
    plan = model.build(source.describe, head="greedy", activations=activations, cache="f16")
    sizes = step_sizes(tokens, 1024, sequences=tokens, results=tokens, steps=16)
    return [step.kernel.name for step in lower(plan, sizes, gpu, (2 << 30) - 4).steps]


LAYERS_OF_1B = shape_config("llama-3.2-1b")["num_hidden_layers"]


@pytest.mark.parametrize("activations, tokens", [("f32", 1), ("f16", 1), ("f32", 4), ("f16", 4), ("int8", 4)])
def test_a_layer_has_four_dispatches_more(activations, tokens):
    """A product with A for each group of matrices; B is added inside of the base's products."""
    plain, more = (dispatches(activations, tokens, count) for count in (0, tokens))
    assert len(more) - len(plain) == 4 * LAYERS_OF_1B
    down = [name for name in more if "lora_" in name]
    assert len(down) == 4 * LAYERS_OF_1B and [name for name in more if name not in down] == plain


def test_a_layer_with_integer_activations_has_two_dispatches_more():
    """A of o and of down is computed beside their products, B added to their sums in front of the next A; the last
    layer's sum has no such A behind it."""
    plain, more = (dispatches("int8", 1, count) for count in (0, 1))
    assert len(more) - len(plain) == 2 * LAYERS_OF_1B + 1
    beside, between = "linear_lora_down[int4, a8, f32]", "lora_up_norm_slices_a8[f32]"
    assert more.count(beside) == more.count(between) == 2 * LAYERS_OF_1B - 1
    assert more.count("norm_lora_slices_a8[f32]") == more.count("lora_down[f32, a8]") == 1
    base = [name.replace(beside, "linear[int4, a8]").replace("sliced_", "norm_") for name in more]
    assert [n for n in base if n.startswith("linear") or "lora" not in n] == plain


def test_where_a_kernel_may_bind_eight_buffers_what_is_added_is_a_dispatch_of_its_own():
    found = dispatches("int8", 1, 1, Adapter(True, 32, f16=True))
    assert found.count("lora_up") == 7 * LAYERS_OF_1B
