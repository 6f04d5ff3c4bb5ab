"""Attention that stops early: nothing is lost without a threshold, and never more than it with one."""

from __future__ import annotations

import pytest
import torch

import workbench
from eval.bounded_attention import Reading, bounded_attention
from tests.runtime.models import STACKABLE, random_ids, reference_on, write_random
from wgsl_kernels.attention.attention import attention
from workbench.errors import ProtocolError


def inputs(sharp: float, seed: int = 0) -> dict:
    """Of keys that lie close together in blocks of 4, as neighbours in a text do; queries `sharp` times as long."""
    made = attention.inputs(seed=seed, tokens=5, heads=4, kv_heads=2, head_dim=16, capacity=90, position=80)
    made["q"] = made["q"] * sharp
    keys = made["kv"][:, 0]
    keys[:, :, :88] = keys[:, :, :88:4].repeat_interleave(4, 2) + 0.05 * keys[:, :, :88]
    return {
        name: value for name, value in made.items() if name not in ("window", "chunk", "sinks", "softcap")
    }


@pytest.mark.parametrize("sharp", [0.5, 4.0, 20.0])
def test_what_is_left_out_is_within_the_bound(sharp):
    given = inputs(sharp)
    expected = attention.reference(**given)
    values = given["kv"][:, 1].abs().max()
    everything = Reading(0.0)
    torch.testing.assert_close(everything(**given), expected, atol=1e-5, rtol=1e-5)
    assert everything.read == everything.blocks == everything.needed and everything.skipped == 0
    for threshold in (1e-3, 0.1, 0.9):
        reading = Reading(threshold, block=4)
        error = (reading(**given) - expected).abs().max()
        assert reading.skipped <= reading.bound <= threshold
        assert error <= 2 * reading.skipped * values + 1e-5
        assert reading.needed <= reading.read <= reading.blocks


def test_sharp_queries_read_less_and_less_than_all():
    shares = []
    for sharp in (0.5, 20.0, 100.0):
        reading = Reading(0.1, block=4)
        reading(**inputs(sharp))
        shares.append(reading.read / reading.blocks)
    assert shares[0] > shares[1] > shares[2] and shares[2] < 0.7


def test_figures_beside_those_of_the_model(shallow):
    model = workbench.load(shallow, backend="torch", max_tokens=128)
    ids = model.encode_prompt("Once upon a time there was a little dog who liked to run in the park. " * 3)
    found = bounded_attention(model, [ids], [0.0, 0.99])
    whole, some = found.runs
    assert found.nll.tolist() == pytest.approx(model.score(ids).nll.tolist(), abs=1e-4)
    assert whole.kl.max() < 1e-9 and whole.same.all() and some.kl.mean() > whole.kl.mean()
    assert some.reading.read < whole.reading.read and some.reading.skipped <= 0.99
    known = bounded_attention(model, [ids], [0.5], scores_known=True).runs[0].reading
    assert 0 < known.skipped <= 0.5 and known.share == known.needed / known.blocks < 1
    assert [row["share left out, at most"] for row in found.rows()] == ["all is read", "0", "0.99"]
    assert len(found.to_json()["runs"]) == 2


def test_what_it_cannot_be_done_for(shallow, tmp_path):
    model = workbench.load(shallow, backend="torch", max_tokens=16)
    with pytest.raises(ProtocolError, match=r"a threshold is 1\.5"):
        bounded_attention(model, [[1, 2]], [1.5])
    with pytest.raises(ProtocolError, match="at least two tokens"):
        bounded_attention(model, [[1]], [0.1])
    with pytest.raises(ProtocolError, match="another cache than int8"):
        bounded_attention(
            workbench.load(shallow, backend="torch", cache="int8", max_tokens=16), [[1, 2]], [0.1]
        )
    with pytest.raises(ProtocolError, match=r"layers\.0\.attn\.context has a window"):
        bounded_attention(model.with_window(8), [[1, 2]], [0.1])
    random = reference_on(write_random(tmp_path / "random", STACKABLE), dtype="f16", max_tokens=64)
    ids = random_ids(STACKABLE.vocab, 40)
    assert bounded_attention(random, [ids], [0.0]).runs[0].same.all()  # as its f16 runs, not as an f32 model
