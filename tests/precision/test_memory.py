"""Fitting into a memory: what is promised is what `workbench info` forecasts of the converted model."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.precision.memory import device_bytes, expect, fit_allocation, fit_memory, total
from workbench.runtime.device import adapter_missing
from workbench.runtime.info import describe

#: So wide that weights outweigh what formats change of the activations, which have room for gate and up only where the
#: two are not stacked.
WIDE = CONFIG | {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "head_dim": 32}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source(write_checkpoint(tmp_path_factory.mktemp("wide"), random_state(WIDE), WIDE))


def test_the_highest_tier_that_fits_is_taken(source):
    tiers = fit_memory(source, 1 << 40).tiers
    assert [str(fmt) for fmt, _ in tiers] == ["f16"]
    with pytest.raises(
        WorkbenchError, match=r"even the smallest of f16, .*, int2 takes \d\.\d MiB .*--max-tokens"
    ):
        fit_memory(source, 1000)
    f16 = tiers[0][1]
    below = fit_memory(source, f16 - 1)
    assert str(below.format) == "int8" and total(below.forecast) < f16
    assert "f16 would take" in below.reason and "cache of 64 tokens" in below.reason
    assert fit_memory(source, total(below.forecast)).format == below.format
    assert fit_memory(source, f16 - 1, max_tokens=16).format == WeightFormat("f16")


def test_other_formats_of_some_matrices_are_counted(source):
    model = architecture_of(source.config)

    def kept(fmt):
        options = ConvertOptions(fmt, embedding=WeightFormat("f32"))
        return {name: options.choose(name, source.describe(name)[0], model)[0] for name in source.names()}

    plain, with_float = fit_memory(source, 1 << 40), fit_memory(source, 1 << 40, choose=kept)
    assert plain.format == with_float.format == WeightFormat("f16")
    assert total(with_float.forecast) == total(plain.forecast) + 97 * 256 * 2  # rows are padded to 64 columns
    assert str(fit_memory(source, total(plain.forecast), choose=kept).format) != "f16"


@pytest.mark.skipif(adapter_missing() is not None, reason="describe forecasts wgpu where there is an adapter")
def test_the_forecast_is_that_of_the_converted_model(checkpoints, tmp_path):
    source, fmt = checkpoints["untied"], WeightFormat("int4", block_size=32)
    matrices = [name for name in source.names() if len(source.describe(name)[0]) == 2]
    convert(source, tmp_path / "out", ConvertOptions(fmt))
    found, capacity = expect(source, dict.fromkeys(matrices, fmt))
    assert capacity == 64
    assert found == describe(tmp_path / "out", backend="wgpu").forecast


def test_an_allocation_fills_the_memory(table, checkpoints):
    source, middle = checkpoints["untied"], table.pareto().at_bits(6)
    limit = total(expect(source, middle.formats)[0])
    fitted = fit_allocation(table, source, limit)
    assert total(expect(source, fitted.formats)[0]) <= limit
    assert fitted.predicted_kl <= middle.predicted_kl
    assert fitted.target.startswith(f"{limit:,} bytes of memory, of which ")
    with pytest.raises(WorkbenchError, match="even the smallest of f32, int8/32, int4/32, int2/32 takes"):
        fit_allocation(table, source, 10_000)


def test_bytes_on_the_device_are_those_of_the_forecast(table, checkpoints):
    source, held = checkpoints["untied"], device_bytes(table, checkpoints["untied"])
    totals = [
        expect(source, dict.fromkeys(table.pareto().uniform(fmt).formats, fmt))[0].weights
        for fmt in table.formats
    ]
    assert np.diff(held.sum(0)).tolist() == np.diff(totals).tolist()
