"""Groups that are pinned by hand, the comparison with uniform formats, and allocations measured as a whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.precision.conftest import FORMATS, SCHEME
from workbench.convert.convert import convert
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.model_bench.speed import measure_speed
from workbench.precision.comparison import compare, same
from workbench.precision.measured import measure
from workbench.precision.plots import outcomes
from workbench.runtime.loading import load

F32, INT8, INT4, INT2 = FORMATS
PINS = {"layers.1.attn.q_k_v": INT8, "embedding": INT2}


@pytest.fixture(scope="module")
def front(table):
    return table.pareto()


def test_the_best_around_pins_is_what_no_other_mixture_beats(table, front):
    small = front.table.only((INT8, INT2))
    pinned = small.pareto().pinned(PINS)
    assert pinned.pins == PINS and small.pareto().pins == {}
    names = [group.name for group in small.groups]
    options = [range(2) if name not in PINS else [small.option(PINS[name])] for name in names]
    sums = small.kl_sums.sum(2) / small.tokens.sum()
    everything = [
        (sum(small.nbytes[g, f] for g, f in enumerate(each)), sum(sums[g, f] for g, f in enumerate(each)))
        for each in itertools.product(*options)
    ]
    for budget in np.linspace(pinned.nbytes[0], pinned.nbytes[-1], 9).astype(int):
        found = pinned.at(budget)
        best = min(kl for nbytes, kl in everything if nbytes + small.vector_bytes <= budget)
        assert found.predicted_kl == pytest.approx(best)
        assert found.formats["model.layers.1.self_attn.k_proj.weight"] == INT8
        reasons = {each.group: each.reason for each in found.assignments}
        assert {name for name, reason in reasons.items() if reason.startswith("pinned by hand")} == set(PINS)


def test_impossible_pins_are_refused(front):
    with pytest.raises(
        WorkbenchError, match=r"there is no group 'layers\.9\.attn\.q_k_v'; there are embedding, "
    ):
        front.pinned({"layers.9.attn.q_k_v": INT8})
    with pytest.raises(WorkbenchError, match="f16 was not measured"):
        front.pinned({"embedding": WeightFormat("f16")})
    with pytest.raises(WorkbenchError, match="smallest allocation has"):
        front.pinned(PINS).at(int(front.nbytes[0]))


def test_formats_step_by_size_and_stay_at_the_ends(table):
    assert [table.stepped("embedding", INT4, by) for by in (-9, -1, 0, 1, 2, 9)] == [
        INT2,
        INT2,
        INT4,
        INT8,
        F32,
        F32,
    ]


def test_bits_of_a_layer_count_what_is_stored(table):
    uniform = table.layer_bits([2] * len(table.groups))
    assert list(uniform) == [0, 1]
    layer = [g for g, group in enumerate(table.groups) if group.name.startswith("layers.0.")]
    expected = 8 * table.nbytes[layer, 2].sum() / sum(table.groups[g].weights for g in layer)
    assert uniform[0] == pytest.approx(expected) and 4.5 < uniform[0] < 7  # columns are padded


def test_a_curve_has_both_ends_and_few_points(front):
    shown = front.curve(20)
    assert shown[0] == 0 and shown[-1] == len(front) - 1 and len(shown) <= 20
    assert (np.diff(front.nbytes[shown]) > 0).all()


@pytest.fixture(scope="module")
def measured(front, checkpoints, tokens):
    chosen = front.at_bits(6)
    steps = []
    found = measure(
        checkpoints["untied"],
        chosen,
        tokens,
        SCHEME,
        max_windows=2,
        progress=lambda *done: steps.append(done),
    )
    assert steps == [(1, 2), (2, 2)]
    return found


def test_a_measured_allocation_is_the_converted_model(measured, checkpoints, tokens, tmp_path):
    convert(checkpoints["untied"], tmp_path / "model", measured.allocation.options())
    model = load(tmp_path / "model", backend="torch")
    nll = np.concatenate([model.score(tokens.ids[at : at + 16]).nll for at in (0, 16)])
    assert measured.figures["ppl"] == pytest.approx(np.exp(nll.mean()), rel=1e-5)
    ratio = np.exp(measured.figures["ln_ratio"])
    assert measured.ppl_float == pytest.approx(measured.figures["ppl"] / ratio)
    assert measured.ppl_se == pytest.approx(measured.figures["ppl"] * measured.figures["ln_ratio_se"])
    row = measured.to_row()
    assert row["tokens"] == 30 and row["lowest"] <= row["tokens_per_second"] <= row["highest"]
    # The speed is that of the same weights: an opened source loads as its folder does.
    assert measured.speed.backend == load(tmp_path / "model").backend
    direct = measure_speed(
        load(checkpoints["untied"], backend="torch"), [1, 2], decode_tokens=2, repetitions=1
    )
    assert direct.backend == "torch"


def test_predicted_and_measured_stand_side_by_side(front, measured, checkpoints, tokens):
    uniform = front.uniform(INT2)
    other = measure(checkpoints["untied"], uniform, tokens, SCHEME, max_windows=2, speed=False)
    assert other.speed is None and not same(uniform, measured.allocation)
    rows = compare(front, measured.allocation, [measured, other])
    assert [row.role for row in rows] == ["chosen", *["uniform"] * 4]
    assert [row.measured for row in rows] == [measured, None, None, None, other]
    expected = other.joint.kl_against(measured.joint)
    assert rows[-1].against.mean == pytest.approx(expected.mean) and rows[0].against is None
    elsewhere = compare(front, front.at_kl(0), [measured, other])
    assert elsewhere[-1].role == "measured" and elsewhere[-1].measured is measured
    assert {row.against for row in elsewhere} == {None}
    for found in ([], [measured], [measured, other]):
        assert outcomes(front, found).png().startswith(b"\x89PNG")


def test_another_models_allocation_is_not_measured(measured, checkpoints, tokens):
    with pytest.raises(WorkbenchError, match="of another model"):
        measure(checkpoints["tied"], measured.allocation, tokens, SCHEME)
