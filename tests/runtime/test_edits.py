"""Edits: activations changed in flight, by both executors, against transformers with hooks; what is refused."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch

from workbench.plan.plan import PlanError
from workbench.runtime.edits import EditError
from workbench.runtime.sampling import SamplingOptions

from .models import SHAPES, STACKABLE, check_parity, model_on, random_ids, reference_on, write_random
from .test_lowering import NAMES

SHAPE = SHAPES[5]
HIDDEN = 64


def same(x, position):
    return x


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("edits") / "model", SHAPE)


@pytest.fixture(scope="module")
def both(checkpoint, open_promised):
    return model_on(checkpoint, open_promised), reference_on(checkpoint)


@pytest.fixture(params=["wgpu", "torch"])
def model(request, both):
    return both[request.param == "torch"]


@pytest.fixture(scope="module")
def vector():
    """A steering vector about as long as the residual stream."""
    return np.random.default_rng(3).normal(size=HIDDEN).astype(np.float32)


@contextlib.contextmanager
def hooked(path, changes):
    """transformers in f64 on the same weights; changes: module's name -> function of its output [1, tokens, width]."""
    from transformers import LlamaForCausalLM

    hub = LlamaForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    hub.generation_config.eos_token_id = None
    for name, change in changes.items():
        hub.get_submodule(name).register_forward_hook(lambda module, inputs, output, f=change: f(output))
    with torch.inference_mode():
        yield hub


# ---- results -----------------------------------------------------------------------------------------------------


def test_handing_back_what_came_changes_no_bit(model):
    """21 tokens are several steps on a device."""
    ids = random_ids(SHAPE.vocab, 21)
    kept = model.forward(ids, keep=NAMES)
    edited = model.forward(ids, edit=dict.fromkeys(NAMES, same))
    assert np.array_equal(edited.logits, kept.logits) and edited.kept == {}
    few = NAMES[8:11]
    assert np.array_equal(
        model.forward(ids, edit=dict.fromkeys(few, same)).logits, model.forward(ids, keep=few).logits
    )


@pytest.mark.parametrize("dtype", ["f16", "int8"])
def test_handing_back_what_came_in_other_activations(tmp_path, open_promised, dtype):
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.spec import WeightFormat

    write_random(tmp_path / "model", SHAPE)
    convert(tmp_path / "model", tmp_path / "int4", ConvertOptions(WeightFormat("int4", block_size=32)))
    if dtype == "f16" and not open_promised().adapter.f16:
        pytest.skip("the adapter has no f16")
    ids = random_ids(SHAPE.vocab, 9)
    for model in (
        model_on(tmp_path / "int4", open_promised, dtype=dtype),
        reference_on(tmp_path / "int4", dtype=dtype),
    ):
        given = []
        edit = {name: lambda x, position, given=given: given.append(x.dtype) or x for name in NAMES}
        assert np.array_equal(model.forward(ids, edit=edit).logits, model.forward(ids, keep=NAMES).logits)
        assert set(given) == {np.dtype(np.float32)}


def test_an_ablated_mlp_is_what_transformers_computes_without_it(both, checkpoint):
    ids = random_ids(SHAPE.vocab, 21)
    with hooked(checkpoint, {"model.layers.0.mlp": torch.zeros_like}) as hub:
        expected = hub(torch.as_tensor(ids)[None]).logits[0].numpy()
    for model in both:
        found = model.forward(ids, edit={"layers.0.mlp.out": lambda x, position: np.zeros_like(x)})
        check_parity(found.logits, expected)
        assert np.abs(found.logits - model.forward(ids).logits).max() > 0.1


def test_a_steering_vector_from_a_position_on(both, checkpoint, vector):
    ids, first = random_ids(SHAPE.vocab, 21), 17
    added = np.zeros((21, HIDDEN))
    added[first:] = vector
    with hooked(checkpoint, {"model.layers.0": lambda output: output + torch.from_numpy(added)}) as hub:
        expected = hub(torch.as_tensor(ids)[None]).logits[0].numpy()

    def steer(x, position):
        x[max(first - position, 0) :] += vector  # a copy: changed in place and handed back
        return x

    for model in both:
        found = model.forward(ids, keep=["layers.0.out"], edit={"layers.0.out": steer})
        check_parity(found.logits, expected)
        plain = model.forward(ids, keep=["layers.0.out"])
        assert np.array_equal(found.kept["layers.0.out"][:first], plain.kept["layers.0.out"][:first])
        assert np.array_equal(  # what is kept is the replacement
            found.kept["layers.0.out"][first:], plain.kept["layers.0.out"][first:] + vector
        )
        assert np.array_equal(found.logits[:first], plain.logits[:first])


def test_generation_with_edits_is_that_of_transformers_with_hooks(both, checkpoint, vector):
    prompt, count = random_ids(SHAPE.vocab, 7, seed=8).tolist(), 40
    changes = {
        "model.layers.0": lambda output: output + torch.from_numpy(vector).double(),
        "model.layers.1.self_attn.o_proj": torch.zeros_like,
    }
    with hooked(checkpoint, changes) as hub:
        expected = hub.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=count, pad_token_id=0
        )[0, len(prompt) :].tolist()
    edit = {"layers.0.out": lambda x, at: x + vector, "layers.1.attn.out": lambda x, at: 0 * x}
    sampled = []
    for model in both:
        assert list(model.generate_ids(prompt, count)) != expected
        assert list(model.generate_ids(prompt, count, edit=edit)) == expected
        session = model.session(edit=edit)
        session.feed(prompt)
        assert session.greedy(count) == expected
        session.close()
        options = SamplingOptions(temperature=1.0, seed=5)
        sampled.append(list(model.generate_ids(prompt, count, options, edit)))
    assert sampled[0] == sampled[1]


def test_editing_logits_forbids_a_token(model):
    prompt = random_ids(SHAPE.vocab, 5, seed=2).tolist()
    plain = list(model.generate_ids(prompt, 12))
    places = []

    def forbid(x, position):
        places.append((position, len(x)))
        x[:, plain[0]] = -1e30
        return x

    found = list(model.generate_ids(prompt, 12, edit={"logits": forbid}))
    assert plain[0] in plain and plain[0] not in found
    # one row, the last token's: of the prompt (the last of its steps ends there), then of each token but the last
    last = [position for position, rows in places if rows == 1]
    assert len(last) == len(places) and last[-12:] == list(range(4, 16))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_changed_in_fused_steps(stackable_models, name):
    """Token by token by the plan of a GPU, where fusion takes most names away: those edited must stay, and count."""
    ids = random_ids(STACKABLE.vocab, 4)
    logits = []
    for model in stackable_models:
        session = model.session(edit={name: lambda x, position: np.roll(x, 1, 1) * (1 + position)})
        logits.append(np.stack([session.feed([int(token)]) for token in ids]))
        session.close()
    check_parity(*logits)
    assert np.abs(logits[0] - stackable_models[1].forward(ids).logits).max() > 1e-3 * np.abs(logits[0]).max()


@pytest.fixture(scope="module")
def stackable_models(tmp_path_factory, open_promised):
    path = write_random(tmp_path_factory.mktemp("edits") / "stackable", STACKABLE)
    device = open_promised()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=False))
        yield model_on(path, open_promised, max_tokens=1024), reference_on(path, max_tokens=1024)


def test_scores_with_edits_are_those_of_edited_logits(model, vector):
    ids = random_ids(SHAPE.vocab, 30, seed=6)
    edit = {"layers.1.mlp.hidden": lambda x, position: x * (x > 0)}
    logits = torch.from_numpy(model.forward(ids, edit=edit).logits[:-1]).double()
    expected = -torch.log_softmax(logits, -1).numpy()[np.arange(29), ids[1:]]
    assert np.abs(model.score(ids, edit=edit).nll - expected).max() <= 1e-4
    assert np.abs(model.score(ids).nll - expected).max() > 1e-2


# ---- what a function gets, and what it may do --------------------------------------------------------------------


def test_functions_see_each_token_once_with_its_position(model):
    seen = []

    def look(x, position):
        seen.extend(zip(range(position, position + len(x)), x.copy(), strict=True))
        return x

    ids = random_ids(model.vocab_size, 26, seed=9)
    session = model.session(edit={"embedded": look})
    session.feed(ids[:3])
    session.feed(ids[3:24])
    tokens = session.greedy(5)
    session.close()
    assert [place for place, _ in seen] == list(range(24 + 4))  # the last token is not fed
    expected = model.forward([*ids[:24], *tokens[:4]], keep="embedded").kept["embedded"]
    assert np.array_equal(np.stack([row for _, row in seen]), expected)


def test_functions_run_in_the_order_of_the_plan(model):
    order = []
    names = ["final", "embedded", "layers.1.mlp.out", "layers.0.out"]
    model.forward([1], edit={name: lambda x, at, name=name: order.append(name) or x for name in names})
    assert order == ["embedded", "layers.0.out", "layers.1.mlp.out", "final"]


def test_another_model_can_be_run_in_an_edit_but_not_the_same(both, checkpoint, open_promised):
    """Activation patching: the other model's activation at the same place."""
    ids = random_ids(SHAPE.vocab, 12, seed=1)
    other = model_on(checkpoint, open_promised)  # of its own, on the same device
    corrupted = random_ids(SHAPE.vocab, 12, seed=2)
    for model in both:

        def patch(x, position):
            kept = other.forward(corrupted, keep="layers.0.out").kept["layers.0.out"]
            return kept[position : position + len(x)]

        found = model.forward(ids, edit={"layers.0.out": patch}).logits
        # nothing but the residual stream after layer 0 reaches the logits
        check_parity(found, other.forward(corrupted).logits.astype(np.float64))
        for again in (model.forward, model.score):
            with pytest.raises(EditError, match="cannot run the model whose step it interrupts"):
                model.forward(ids, edit={"embedded": lambda x, at, again=again: again(ids) and x})
        session = model.session()
        for again in (
            lambda session=session: session.feed([1]),
            lambda session=session: session.greedy_after(1, 1),
        ):
            with pytest.raises(EditError, match="cannot run the model"):
                model.forward(ids, edit={"embedded": lambda x, at, again=again: again()})
        assert session.position == 0
        session.close()
        assert np.isfinite(model.forward(ids).logits).all()


# ---- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result, message",
    [
        (lambda x: None, "returned nothing"),
        (lambda x: x[:1], r"shape \(1, 64\); it must be \(3, 64\)"),
        (lambda x: x.T, r"shape \(64, 3\)"),
        (lambda x: 0.0, r"shape \(\)"),
        (lambda x: x * np.where(np.arange(64) == 5, np.nan, 1), "nan in row 0, column 5"),
        (
            lambda x: x.astype(np.float64) + 1e39,
            r"returned 1e\+39 in row 0, column 0, which is not a finite float32",
        ),
        (lambda x: x.astype(complex), "complex128 numbers; allowed: real"),
        (lambda x: x > 0, "bool numbers"),
        (lambda x: [["a"] * 64] * 3, "numbers; allowed: real"),
        (lambda x: [[1.0], [1.0, 2.0]], "a list that is not an array"),
        (lambda x: torch.zeros(3, 64, requires_grad=True), "a (Tensor|Parameter) that is not an array"),
    ],
)
def test_replacements_that_do_not_fit_are_refused(model, result, message):
    with pytest.raises(EditError, match=f"the edit of 'layers.0.out' returned .*{message}|{message}"):
        model.forward([1, 2, 3], edit={"layers.0.out": lambda x, position: result(x)})
    assert np.isfinite(model.forward([1, 2, 3]).logits).all()


def test_torch_tensors_and_integers_are_taken(model):
    zero = model.forward([1, 2, 3], edit={"final": lambda x, at: np.zeros_like(x)}).logits
    for result in (torch.zeros(3, HIDDEN), np.zeros((3, HIDDEN), np.int64), [[0] * HIDDEN] * 3):
        edit = {"final": lambda x, at, result=result: result}
        assert np.array_equal(model.forward([1, 2, 3], edit=edit).logits, zero)


def test_what_does_not_fit_into_f16_is_refused(tmp_path, open_promised):
    write_random(tmp_path / "model", SHAPE)
    models = [reference_on(tmp_path / "model", dtype="f16")]
    if open_promised().adapter.f16:
        models.append(model_on(tmp_path / "model", open_promised, dtype="f16"))
    for model in models:
        with pytest.raises(
            EditError, match=r"returned 70000\.0 in row 1, column 2, which is not a finite float16"
        ):
            model.forward(
                [1, 2, 3],
                edit={"final": lambda x, at: np.where(np.arange(192).reshape(3, 64) == 66, 70000.0, x)},
            )
        model.forward(
            [1, 2, 3], edit={"layers.0.out": lambda x, at: x + 70000.0}
        )  # the residual stream is f32


@pytest.mark.parametrize(
    "name, kind",
    [
        ("layers.0.mlp.down_proj", "weight"),
        ("model.norm.weight", "weight"),
        ("ids", "input"),
        ("state", "state"),
        ("layers.1.kv", "cache"),
        ("rope_table", "constant"),
    ],
)
def test_what_is_no_activation_is_refused_and_named(model, name, kind):
    for use in (lambda edit: model.forward([1, 2], edit=edit), lambda edit: model.session(edit=edit)):
        with pytest.raises(PlanError, match=f"no activation '{name}'; near it: .* of kind '{kind}'"):
            use({name: same})


def test_unknown_names_and_no_functions_are_refused(model):
    with pytest.raises(
        PlanError, match=r"no activation 'layers\.0\.mlp\.uot'; near it: .*layers\.0\.mlp\.out"
    ):
        model.forward([1], edit={"layers.0.mlp.uot": same})
    with pytest.raises(EditError, match=r"function of \(x, position\), not 3"):
        model.forward([1], edit={"final": 3})
    with pytest.raises(PlanError, match="'top1' holds u32"):
        model.score([1, 2], edit={"top1": same})


def test_an_error_in_an_edit_leaves_the_session_as_it_was(model):
    ids = random_ids(model.vocab_size, 23, seed=12)
    expected = model.session()
    expected.feed(ids[:3])
    tokens = expected.greedy(6)
    expected.close()
    fails = []

    def edit(x, position):
        if fails and position >= fails[0]:
            raise ZeroDivisionError("mine")
        return x

    session = model.session(edit={"layers.0.mlp.out": edit})
    session.feed(ids[:3])
    for place, act in (
        (3, lambda: session.feed(ids[3:])),
        (19, lambda: session.feed(ids[3:])),
        (5, lambda: session.greedy(6)),
    ):
        fails[:] = [place]
        if place == 19 and model.backend == "torch":
            continue  # one step for all
        with pytest.raises(ZeroDivisionError, match="mine"):
            act()
        assert session.position == 3
    fails.clear()
    assert session.greedy(6) == tokens
    session.close()


def test_the_largest_logits_are_those_after_the_edit(both):
    """The largest of groups of rows are found with the product, before an edit could change any."""
    favourite, ids = 7, random_ids(SHAPE.vocab, 5)

    def favour(x, position):
        x[:, favourite] = x.max() + 1
        return x

    for model in both:
        session = model.session(edit={"logits": favour})
        session.feed(ids[:-1])
        [drawn] = session.stream(int(ids[-1]), 1, told=True)
        session.back(1)
        logits = session.feed([int(ids[-1])])
        session.close()
        expected = torch.log_softmax(torch.from_numpy(logits).double(), -1)[favourite].item()
        assert drawn.id == drawn.likely[0][0] == favourite == logits.argmax()
        assert drawn.log_p == drawn.likely[0][1] == pytest.approx(expected, rel=1e-5)


def test_an_edit_changes_rows_of_a_matrix_only(model):
    ids = random_ids(SHAPE.vocab, 4)
    with pytest.raises(PlanError, match=r"log_likelihood.*rows of \[tokens, width\]"):
        model.score(ids, edit={"log_likelihood": same})
