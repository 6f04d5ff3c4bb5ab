"""One model under two settings: its texts are those of each alone, and it is loaded once."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import WorkbenchError
from workbench.runtime.edits import EditError, by_sequence
from workbench.runtime.sampling import SamplingOptions
from workbench.studies.continuation import continue_prompt
from workbench.studies.writers import Setting
from workbench.widgets import Generator

PROMPT = "Once upon a time"
SAMPLED = SamplingOptions(temperature=0.8, top_p=0.95, seed=3)


def louder(x, position):
    """Not the same everywhere, so that a wrong position shows."""
    return x * (1 + (position + np.arange(len(x)))[:, None] % 3)


def test_two_samplings_of_one_model_share_a_batch(model):
    settings = {"greedy": Setting(SamplingOptions()), "drawn": Setting(SAMPLED)}
    run = continue_prompt(dict.fromkeys(settings, model), PROMPT, max_new_tokens=24, settings=settings)
    assert len(run._writers) == 1 and not run.compares
    for found, setting in zip(run.continuations, settings.values(), strict=True):
        alone = list(model.generate_ids(run.prompt_ids, 24, setting.sampling))
        assert [token.id for token in found.tokens] == alone
        assert found.reason == "length" and found.mean_kl is None
        assert all(token.probability is not None for token in found.tokens)


def test_an_edit_is_of_its_own_text_alone(model):
    edit = {"layers.0.mlp.out": louder}
    settings = {"plain": Setting(SamplingOptions()), "louder": Setting(SamplingOptions(), edit)}
    run = continue_prompt(dict.fromkeys(settings, model), PROMPT, max_new_tokens=10, settings=settings)
    for found, setting in zip(run.continuations, settings.values(), strict=True):
        alone = list(model.generate_ids(run.prompt_ids, 10, setting.sampling, setting.edit))
        assert [token.id for token in found.tokens] == alone
    assert run.compares and all(found.mean_kl > 1e-4 for found in run.continuations)


def test_an_edit_of_a_sequence_keeps_its_shape():
    edit = by_sequence([None, {"x": lambda x, position: x[:1]}])["x"]
    with pytest.raises(EditError, match=r"returned shape \(1, 3\); it must be \(2, 3\)"):
        edit(np.zeros((3, 3)), np.array([4, 0, 1]), np.array([0, 1, 1]))
    assert by_sequence([None, {}]) is None


def test_the_generator_writes_under_settings_that_see_other_parts_of_a_text(model):
    settings = {"all": {}, "near": {"window": 3, "sinks": 1, "temperature": 0.5}}
    widget = Generator(model, settings=settings, max_new_tokens=12)
    near = widget.models["near"]
    assert widget.labels == ["all", "near"] and widget.models["all"] is model and widget.compares
    assert near.executor.player.weights is model.executor.player.weights
    widget.start()
    run = widget.wait()
    assert [token.id for token in run.continuations[0].tokens] == list(model.generate_ids(run.prompt_ids, 12))
    drawn = list(near.generate_ids(run.prompt_ids, 12, SamplingOptions(temperature=0.5)))
    assert [token.id for token in run.continuations[1].tokens] == drawn
    assert run.continuations[0].mean_kl > 0
    widget.close()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"a": {"heat": 1}}, "setting 'a' has 'heat'; allowed: temperature"),
        ({"a": {"temperature": -1.0}}, "temperature"),
        ({"a": {}, "b": {}, "c": {}}, "settings are one or two, of one model; here are 3 of 1"),
        ({"a": {"sinks": 4}}, "sinks = 4 without a window"),
    ],
)
def test_what_no_setting_is(model, settings, message):
    with pytest.raises(WorkbenchError, match=message):
        Generator(model, settings=settings)
