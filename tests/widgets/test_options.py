"""Options of every widget: by the names of the command line, and none that means nothing."""

from __future__ import annotations

import argparse

import numpy as np
import pytest

from tests.widgets.test_accessible import precision as precision_map
from workbench.assets import demo_model_path
from workbench.commands import allocate, generate, info
from workbench.errors import WorkbenchError
from workbench.quantizers import QUANTIZERS_OF_ONE_MATRIX
from workbench.studies.lab import Lab
from workbench.widgets import Generator, KernelLab, ModelCard, PrecisionMap, QuantizationExplorer, SweepBoard
from workbench.widgets import __all__ as names

ARRAYS = {"w": np.ones((32, 64), np.float32)}
NOWHERE = "no-such-folder-anywhere"  # what is refused at once is never looked for
#: Widget -> what it is about, an option misspelt, what was meant.
MISSPELT = {
    Generator: (NOWHERE, "temprature", "temperature"),
    QuantizationExplorer: (NOWHERE, "compair", "compare"),
    ModelCard: (NOWHERE, "positions", "position"),
    PrecisionMap: (NOWHERE, "protocoll", "protocol"),
    KernelLab: ("linear[int4]", "rowz", "rows"),
    SweepBoard: (NOWHERE, "process", "processes"),
}


def test_all_widgets_are_here():
    assert {each.__name__ for each in MISSPELT} == set(names)


@pytest.mark.parametrize("widget", MISSPELT, ids=lambda each: each.__name__)
def test_unknown_options_are_refused_with_what_is_allowed(widget, adapter):
    about, wrong, meant = MISSPELT[widget]
    says = f"{widget.__name__}: there is no option '{wrong}' .did you mean '{meant}'.*; allowed: .*{meant}"
    with pytest.raises(WorkbenchError, match=says):
        widget(about, **{wrong: 1})


@pytest.mark.parametrize("trait", ["state", "error", "labels", "_esm", "zz"])
def test_what_a_widget_tells_is_no_option(trait):
    with pytest.raises(WorkbenchError, match=f"there is no option '{trait}'"):
        Generator(NOWHERE, **{trait: "x"})


def options_of(command) -> set[str]:
    """Without those that every command has for its output."""
    parser = argparse.ArgumentParser(add_help=False)
    command.add_arguments(parser)
    return {action.dest for action in parser._actions} - {"json", "quiet"}


def takes(widget, name: str) -> bool:
    try:
        widget.refuse_unknown([name])
    except WorkbenchError:
        return False
    return True


@pytest.mark.parametrize(
    "widget, command, others",
    [
        (Generator, generate, {"model", "stop"}),
        (ModelCard, info, {"tensors"}),  # what a file holds, tensor by tensor, is a listing
        # What the map is about, or does by a method, and what it has no use for.
        (
            PrecisionMap,
            allocate,
            {
                "model",
                "text",
                "dataset",
                "separator",
                "output",
                "table",
                "max_kl",
                "fit_memory",
                "check_windows",
            }
            | {"check_text", "max_tokens", "adapter", "compare", "plot", "threads"},
        ),
    ],
    ids=["generate", "info", "allocate"],
)
def test_options_are_named_as_on_the_command_line(widget, command, others):
    found = {name for name in options_of(command) if takes(widget, name)}
    assert options_of(command) - found == others


def test_wrong_values_are_refused(model):
    with pytest.raises(WorkbenchError, match=r"Generator: .*temperature"):
        Generator(model, temperature="hot")
    with pytest.raises(WorkbenchError, match="dtype given with a model that is loaded already"):
        Generator(model, dtype="f16")
    with pytest.raises(WorkbenchError, match="backend given with a model that is loaded already"):
        ModelCard(model, backend="torch")
    with pytest.raises(WorkbenchError, match="rows given with a Lab"):
        KernelLab(Lab("linear[int4]", rows=64, columns=64), rows=32)
    with pytest.raises(
        WorkbenchError, match=f"quantizer = 'gptq'; allowed: {', '.join(QUANTIZERS_OF_ONE_MATRIX)}$"
    ):
        PrecisionMap(NOWHERE, quantizer="gptq")
    with pytest.raises(WorkbenchError, match="max_windows = 0; allowed"):
        PrecisionMap(NOWHERE, max_windows=0)
    with pytest.raises(WorkbenchError, match="settings are a dict"):
        QuantizationExplorer(ARRAYS, a=4)
    for bits in (float("nan"), -1, "3"):
        with pytest.raises(WorkbenchError, match=r"bits = .*; allowed: a number"):
            precision_map(None, None).choose(bits=bits)


def test_models_run_as_they_were_asked_to():
    widget = Generator(demo_model_path(), backend="torch", max_tokens=20)
    assert [(each.backend, each.max_tokens) for each in widget.models.values()] == [("torch", 20)]
    card = ModelCard(demo_model_path(), backend="torch", cache="int8")
    assert [chosen for name, chosen, _ in card.info.choices if name in ("backend", "cache")] == [
        "torch",
        "int8",
    ]
