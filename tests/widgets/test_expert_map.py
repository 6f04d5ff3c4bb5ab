"""The precision map of a mixture: experts of the picked layers, their traffic beside what each costs alone."""

from __future__ import annotations

import pytest

from eval.texts import Tokens
from tests.models.family_cases import write_family
from tests.runtime.models import random_ids
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.precision.experts import expert_sensitivity
from workbench.precision.sensitivity import sensitivity
from workbench.widgets import PrecisionMap

pytestmark = pytest.mark.browser
TOKENS = Tokens(random_ids(259, 2 * 24, seed=2))
FORMATS = [WeightFormat("int4", block_size=32), WeightFormat("int2", block_size=32)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("experts") / "mixtral", "mixtral")


@pytest.fixture(scope="module")
def costs(folder):
    return sensitivity(folder, TOKENS, "disjoint-24", formats=FORMATS)


@pytest.fixture(scope="module")
def experts(folder):
    return expert_sensitivity(folder, TOKENS, "disjoint-24", formats=FORMATS)


def test_experts_of_the_picked_layer_are_shown(shown, costs, experts, tmp_path):
    experts.save(tmp_path / "experts.json")
    widget = PrecisionMap(costs, bits=4, experts=tmp_path / "experts.json")
    with shown(widget, 1100) as bridge:
        page = bridge.page
        bridge.until(f"document.querySelector('.wb').dataset.drawn === '{widget.allocation.nbytes}'")
        panel = page.locator(".wb-panel")
        assert "Pick a layer" in panel.inner_text()
        page.get_by_role("button", name="all of layer 1").click()
        rows = page.get_by_role("table", name="experts").get_by_role("row")
        bridge.until("document.querySelector('.wb-few td') !== null")
        found = [row.get_by_role("cell").all_inner_texts() for row in rows.all()[1:]]
    assert [row[0] for row in found] == [f"1, {index}" for index in range(4)]
    assert [row[1] for row in found] == [f"{share:.1%}" for share in experts.share[4:8]]
    assert [float(row[2].split(" ")[0]) for row in found] == pytest.approx(
        experts.measured.kl[4:8, 0], rel=0.05
    )
    assert "layers.1, 3" in widget.static_html()
    assert len(widget.data("experts")) == 12 * len(FORMATS)
    assert widget.plot("experts").axes


def test_experts_of_another_model_are_refused(tmp_path, experts):
    other = write_family(tmp_path / "dense", "mistral")
    dense = sensitivity(other, TOKENS, "disjoint-24", formats=FORMATS[:1], max_windows=1)
    with pytest.raises(WorkbenchError, match=r"experts\.0 has rows of .* different models"):
        PrecisionMap(dense, experts=experts)
