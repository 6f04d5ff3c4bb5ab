"""Measured sensitivities: against conversions that are run whole, resumed, refused, and kept as files."""

from __future__ import annotations

import json

import numpy as np
import pytest

import workbench
from eval import statistics
from eval.protocols import protocol
from eval.texts import Tokens
from tests.precision.conftest import FORMATS, SCHEME
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import ProtocolError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.precision.sensitivity import default_formats, sensitivity
from workbench.precision.table import SensitivityTable


def same(one: SensitivityTable, other: SensitivityTable) -> bool:
    return one.key == other.key and one.groups == other.groups and np.array_equal(one.kl_sums, other.kl_sums)


@pytest.mark.parametrize(
    ("model", "group", "pattern"),
    [
        ("untied", "layers.0.attn.q_k_v", "layers.0.attn.[qkv]_proj"),
        ("untied", "layers.1.mlp.down_proj", "layers.1.mlp.down_proj"),
        ("untied", "lm_head", "lm_head"),
        ("tied", "embedding", "embedding"),
    ],
)
def test_a_group_costs_what_a_conversion_of_it_costs(checkpoints, tokens, tmp_path, model, group, pattern):
    source, fmt = checkpoints[model], parse_format("int4/32")
    table = sensitivity(source, tokens, SCHEME, formats=[fmt], max_windows=2)
    options = ConvertOptions(WeightFormat("f32"), overrides={pattern: fmt})
    convert(source, tmp_path / "out", options)
    quantized = workbench.load(tmp_path / "out", backend="torch")
    baseline = workbench.load(source.path, backend="torch")
    kl = []
    for window in protocol(SCHEME).windows(tokens.ids)[:2]:
        logits = [each.forward(window.ids).logits[:-1] for each in (quantized, baseline)]
        kl.append(statistics.divergence(*logits, window.targets).kl)
    [at] = [g for g, each in enumerate(table.groups) if each.name == group]
    np.testing.assert_allclose(table.kl_sums[at, 0], [part.sum() for part in kl], rtol=1e-4)
    index = np.repeat([0, 1], 15)
    assert table.kl_se[at, 0] == pytest.approx(statistics.clustered_se(np.concatenate(kl), index), rel=1e-3)


def test_fewer_bits_cost_more_and_the_models_own_nothing(table):
    assert table.windows == 3 and table.tokens_scored == 45
    assert not table.kl[:, 0].any()
    assert np.all(np.diff(table.kl, axis=1) > 0)
    assert np.all(table.kl_se[:, 1:] > 0)
    assert table.nbytes.shape == table.kl.shape == (10, 4)


def test_some_of_the_formats(table):
    part = table.only(FORMATS[2:])
    assert np.array_equal(part.kl, table.kl[:, 2:]) and part.key["formats"] == ["int4/32", "int2/32"]
    assert part.pareto().bits[-1] < 7 < table.pareto().bits[-1]
    with pytest.raises(WorkbenchError, match="int4/64 was not measured; allowed: int4/32, int2/32"):
        part.only([WeightFormat("int4", block_size=64)])


def test_predictions_add_up(table):
    options = [g % 4 for g in range(len(table.groups))]
    kl, se = table.predicted(options)
    assert kl == pytest.approx(sum(table.kl[g, f] for g, f in enumerate(options)))
    # the windows are shared, so errors add up with their signs, not in squares
    sums = sum(table.kl_sums[g, f] for g, f in enumerate(options))
    assert se == pytest.approx(np.std(sums / 15, ddof=1) / 3**0.5)


def test_a_stopped_run_loses_no_group_that_is_measured(checkpoints, tokens, table, tmp_path, monkeypatch):
    path, source = tmp_path / "table.json", checkpoints["untied"]
    saved = SensitivityTable.save
    measured: list[int] = []

    def killed(self, path):
        saved(self, path)
        measured.append(len(self.partial))
        if len(measured) % 4 == 0:  # each run is killed as soon as it has saved so many groups
            raise KeyboardInterrupt

    monkeypatch.setattr(SensitivityTable, "save", killed)
    for _ in range(8):
        with pytest.raises(KeyboardInterrupt):
            sensitivity(source, tokens, SCHEME, formats=FORMATS, path=path)
    # three windows of ten groups, and a save when a window is whole: nothing was measured twice
    assert measured == [*range(1, 11), 0, *range(1, 11), 0, *range(1, 11)]
    stopped = SensitivityTable.load(path)
    assert stopped.windows == 2 and same(stopped.first(2), table.first(2))
    assert all(np.array_equal(sums, table.kl_sums[g, :, 2]) for g, sums in stopped.partial.items())

    monkeypatch.setattr(SensitivityTable, "save", saved)
    told = []
    resumed = sensitivity(
        source,
        tokens,
        SCHEME,
        formats=FORMATS,
        path=path,
        progress=lambda done, total: told.append((done, total)),
    )
    assert same(resumed, table) and same(SensitivityTable.load(path), table)


def test_a_stopped_window_goes_on_within(checkpoints, tokens, table, tmp_path):
    path, source, told = tmp_path / "table.json", checkpoints["untied"], []

    def stop(done: float, total: float) -> None:
        told.append((done, total))
        if len(told) == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sensitivity(source, tokens, SCHEME, formats=FORMATS, path=path, max_windows=1, progress=stop)
    before = SensitivityTable.load(path)
    assert before.windows == 0 and len(before.partial) == 3  # three formats of three groups, and one more
    resumed = sensitivity(
        source,
        tokens,
        SCHEME,
        formats=FORMATS,
        path=path,
        max_windows=1,
        progress=lambda *each: told.append(each),
    )
    assert same(resumed, table.first(1)) and len(told) == 10 + 7 * 3 + 1
    assert told[-1] == (1, 1) and sorted(told[10:]) == told[10:]


def test_a_finished_table_is_not_measured_again(checkpoints, tokens, table, tmp_path):
    path, source = tmp_path / "table.json", checkpoints["untied"]
    table.save(path)
    before = path.read_bytes()
    measured = sensitivity(source, tokens, SCHEME, formats=FORMATS, path=path, max_windows=2)
    assert same(measured, table.first(2)) and path.read_bytes() == before
    with pytest.raises(WorkbenchError, match=r"another measurement \(other formats\)"):
        sensitivity(source, tokens, SCHEME, formats=FORMATS[1:], path=path)
    other = Tokens(tokens.ids[::-1].copy())
    with pytest.raises(WorkbenchError, match=r"another measurement \(other tokens_sha256\)"):
        sensitivity(source, other, SCHEME, formats=FORMATS, path=path)


def test_tiers_have_the_models_own_16_bits(checkpoints):
    assert [str(fmt) for fmt in default_formats(checkpoints["tied"])] == [
        "f16",
        "int8",
        "int4",
        "int2",
    ]


def test_wrong_input_is_named(checkpoints, tokens, tmp_path):
    source = checkpoints["untied"]
    with pytest.raises(ProtocolError, match="more than the model's context of 64"):
        sensitivity(source, tokens, "disjoint-65")
    with pytest.raises(ProtocolError, match="max_windows is 0"):
        sensitivity(source, tokens, SCHEME, max_windows=0)
    with pytest.raises(
        ProtocolError, match="window at token 0: token id 97 at place 0 is outside the vocabulary of 97"
    ):
        sensitivity(source, Tokens(np.full(16, 97)), SCHEME)
    with pytest.raises(WorkbenchError, match="quantizer = 'none'; allowed: rtn"):
        sensitivity(source, tokens, SCHEME, quantizer="none")
    with pytest.raises(WorkbenchError, match="named twice: int4/128, int4/128"):
        sensitivity(source, tokens, SCHEME, formats=[WeightFormat("int4")] * 2)
    convert(source, tmp_path / "int8", ConvertOptions(WeightFormat("int8")))
    with pytest.raises(WorkbenchError, match=r"tensor '.*' is quantized already"):
        sensitivity(tmp_path / "int8", tokens, SCHEME)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("kl_sums"),
        lambda data: data.update(kind="other"),
        lambda data: data["tokens"].append(3),
        lambda data: data["kl_sums"][0][1].__setitem__(0, float("nan")),
        lambda data: data["formats"][0].update(dtype="int3"),
        lambda data: data.update(groups=[3]),
        lambda data: data["stored"][3].pop(),
        lambda data: data.update(partial={"0": [1.0]}),
        lambda data: data.update(partial={"10": [1.0, 1.0, 1.0, 1.0]}),
    ],
)
def test_a_damaged_file_is_refused(table, tmp_path, damage):
    path = tmp_path / "table.json"
    table.save(path)
    assert same(SensitivityTable.load(path), table)
    data = json.loads(path.read_text())
    damage(data)
    path.write_text(json.dumps(data))
    with pytest.raises(WorkbenchError, match="not a sensitivity table"):
        SensitivityTable.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WorkbenchError, match=r"none\.json: cannot be read"):
        SensitivityTable.load(tmp_path / "none.json")


def test_rows_and_picture(table):
    rows = table.to_rows()
    assert len(rows) == 40
    assert rows[5]["group"] == "layers.0.attn.q_k_v" and rows[5]["format"] == "int8/32"
    assert rows[5]["bits"] == pytest.approx(8 * rows[5]["bytes"] / (48 * (48 + 2 * 16)))
    assert table.plot().png().startswith(b"\x89PNG")
