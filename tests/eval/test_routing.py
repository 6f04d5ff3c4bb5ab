"""Where tokens of a mixture of experts go: choices against transformers, flips against a count by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import workbench
from eval.held_routes import HeldRoutes
from eval.routing import ANY, Share, routing
from eval.statistics import clustered_se
from tests.models.family_cases import oracle_of, write_family
from tests.runtime.models import check_parity, random_ids
from workbench import cli
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import ProtocolError
from workbench.formats.text import parse_format
from workbench.runtime.device import adapter_missing

IDS = random_ids(259, 100, seed=4)
SCHEME = "hf-strided-40-30"
BACKENDS = [
    "torch",
    pytest.param("wgpu", marks=pytest.mark.skipif(bool(adapter_missing()), reason="adapter")),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("routing") / "mixtral", "mixtral")


@pytest.fixture(scope="module")
def quantized(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("routing") / "int2"
    convert(folder, out, ConvertOptions(parse_format("int2/32")))
    return out


def windows() -> list[tuple[np.ndarray, int]]:
    """(ids, first scored) as the protocol cuts them."""
    ends = [40, 70, 100]
    return [(IDS[i * 30 : end], 1 if i == 0 else ends[i - 1] - i * 30) for i, end in enumerate(ends)]


def expected_logits(folder) -> np.ndarray:
    """Router logits of the scored tokens by transformers in f64, [layers, n, experts]."""
    model, found = oracle_of(folder), []
    for ids, first in windows():
        with torch.inference_mode():
            given = model(torch.from_numpy(ids[:-1])[None], output_router_logits=True).router_logits
        found.append(
            np.stack([each.reshape(len(ids) - 1, -1).double().numpy()[first - 1 :] for each in given])
        )
    return np.concatenate(found, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_choices_flips_and_their_errors(folder, quantized, backend):
    models = {
        "f32": workbench.load(folder, backend=backend),
        "int2": workbench.load(quantized, backend=backend),
    }
    told = []
    found = routing(models, IDS, SCHEME, baseline="f32", progress=lambda *each: told.append(each))
    logits = expected_logits(folder)
    order = np.argsort(-logits, -1)
    np.testing.assert_array_equal(np.sort(found.chosen["f32"], -1), np.sort(order[..., :2], -1))
    ordered = np.take_along_axis(logits, order, -1)
    np.testing.assert_allclose(found.margin, ordered[..., 1] - ordered[..., 2], atol=2e-5)
    inside = np.concatenate([ids[first - 1 : -1] for ids, first in windows()])
    np.testing.assert_array_equal(found.ids, inside)
    assert [each[:3] for each in told[:2]] == [(1, 6, "f32"), (2, 6, "int2")] and len(told) == 6

    index = np.repeat(np.arange(3), [len(ids) - first for ids, first in windows()])
    np.testing.assert_array_equal(found.window_index, index)
    one, other = found.chosen["f32"].tolist(), found.chosen["int2"].tolist()
    flipped = np.array(
        [[set(a) != set(b) for a, b in zip(*pair, strict=True)] for pair in zip(one, other, strict=True)]
    )
    assert 0.02 < flipped.mean() < 0.98
    shares = found.flips("int2")
    for layer, row in {**dict(zip(found.layers, flipped, strict=True)), ANY: flipped.any(0)}.items():
        assert shares[layer] == Share(row.mean(), clustered_se(row.astype(float), index))
        assert found.against("int2", "f32")[layer].share == pytest.approx(shares[layer].share)
    left = [
        [len(set(a) - set(b)) / 2 for a, b in zip(*pair, strict=True)]
        for pair in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(found.exchanged("int2"), left)
    counts = [np.bincount(layer.ravel(), minlength=4) / len(inside) for layer in found.chosen["f32"]]
    np.testing.assert_allclose(found.traffic("f32"), counts)
    margins, by_margin = found.by_margin("int2", 3)
    assert (np.diff(margins) > 0).all() and by_margin.mean() == pytest.approx(flipped.mean(), abs=0.01)
    assert not found.flipped("f32").any()


def test_how_it_shows_itself(folder, quantized):
    models = {"f32": folder, "int2": workbench.load(quantized, backend="torch")}
    tokens = workbench.load(folder, backend="torch").tokenizer.decode(IDS % 90 + 30)
    from eval.texts import Text

    options = {"baseline": "f32", "backend": "torch", "progress": False}
    found = workbench.routing(models, Text(tokens), "disjoint-32", max_windows=2, **options)
    table, data = found.table(), found.data()
    assert list(table.head) == ["flips, %", "int2"] and len(table.rows) == 4
    assert "disjoint-32" in str(found) and "of all choices" in found._repr_html_()
    assert len(data) == 3 and (data["margin_kept"] > 0).all()
    assert data["flips"].iloc[0] == found.flips("int2")["layers.0"].share
    assert found.plot().png().startswith(b"\x89PNG")
    json.dumps(found.to_json(), allow_nan=False)
    alone = workbench.routing(models, Text(tokens), "disjoint-32", max_windows=1, **options)
    assert "one window has no clustered error" in str(alone) and np.isnan(alone.flips("int2")[ANY].se)


def test_the_command(folder, quantized, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("Once upon a time there was a little girl named Lily. " * 4)
    command = ["routing", quantized, "--baseline", folder, "--text", tmp_path / "text.txt", "--windows", 2]
    command += ["--protocol", "disjoint-32", "--backend", "torch", "--quiet"]
    files = "--json", tmp_path / "found.json", "--plot", tmp_path / "found.svg"
    assert cli.main([str(each) for each in (*command, *files)]) == 0
    found, said = json.loads((tmp_path / "found.json").read_text()), capsys.readouterr().out
    share = found["flips"]["int2"]["any layer"]["share"]
    assert found["tokens"] == 62 and f"{100 * share:.2f} ± " in said and "disjoint-32 on text.txt" in said
    assert (tmp_path / "found.svg").read_text().startswith("<?xml")
    assert cli.main([str(each) for each in (*command, "--json", tmp_path / "no" / "found.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_where_a_token_goes_to_all_experts_nothing_flips(tmp_path):
    folder = write_family(tmp_path / "llama4", "llama4_text", 5)
    convert(folder, tmp_path / "int2", ConvertOptions(parse_format("int2/32")))
    models = {name: workbench.load(tmp_path / name, backend="torch") for name in ("llama4", "int2")}
    found = routing(models, IDS, "disjoint-40", baseline="llama4", max_windows=2)
    assert np.isinf(found.margin).all() and found.layers == ["layers.0", "layers.2"]
    assert found.flips("int2")[ANY].share == 0
    assert found.plot().png()


def test_what_cannot_be_compared_is_said(folder, tmp_path):
    mixture = workbench.load(folder, backend="torch")
    dense = workbench.load(write_family(tmp_path / "dense", "mistral"), backend="torch")
    wider = workbench.load(write_family(tmp_path / "other", "mixtral", 1), backend="torch")
    for models, options, match in (
        ({"a": mixture}, {"baseline": "b"}, "baseline 'b' is none of the models; allowed: a"),
        ({"a": mixture}, {"max_windows": 0}, "max_windows is 0; it must be at least 1"),
        ({"a": mixture, "b": dense}, {}, "model 'b' has no experts: its plan routes no tokens"),
        ({"a": mixture, "b": wider}, {}, "model 'a' and model 'b' have different routers"),
    ):
        with pytest.raises(ProtocolError, match=match):
            routing(models, IDS, "disjoint-40", **{"baseline": "a", **options})
    found = routing({"a": mixture}, IDS, "disjoint-40", baseline="a", max_windows=1)
    with pytest.raises(ProtocolError, match="'b' is none of the models; allowed: a"):
        found.flips("b")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_with_the_routes_of_another(folder, tmp_path, backend):
    """As transformers computes it, whose routers give what another model's gave."""
    other, ids = write_family(tmp_path / "other", "mixtral", seed=1), IDS[:40]
    model, routed = (workbench.load(path, backend=backend) for path in (other, folder))
    held = HeldRoutes(model, routed)
    gates: list = []
    models = [oracle_of(path) for path in (folder, other)]
    for layer in models[0].model.layers:
        layer.mlp.gate.register_forward_hook(lambda _, __, given: gates.append(given))
    for layer in models[1].model.layers:
        layer.mlp.gate.register_forward_hook(lambda _, __, own: gates.pop(0))
    with torch.inference_mode():
        _, expected = (each(torch.from_numpy(ids)[None]).logits[0] for each in models)
    check_parity(held.forward(ids).logits, expected.numpy())
    nll = -expected.log_softmax(-1)[np.arange(39), ids[1:]].numpy()
    np.testing.assert_allclose(held.score(ids).nll, nll, atol=1e-4)
    assert np.abs(model.score(ids).nll - nll).max() > 0.1
    assert held.describe_provenance()["routes_of"] == routed.describe_provenance()
    np.testing.assert_array_equal(HeldRoutes(model, model).score(ids).nll, model.score(ids).nll)
