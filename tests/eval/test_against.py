"""Many models against one baseline: the figures of `eval.statistics.divergence`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.against import Against
from eval.statistics import divergence


@pytest.mark.parametrize("apart", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("vocabulary", [7, 3000, 140_000])
def test_kl_is_that_of_whole_distributions(vocabulary, apart):
    generator = np.random.default_rng(0)
    base = (4 * generator.standard_normal((9, vocabulary))).astype(np.float32)
    other = (base + 0.5 + apart * generator.standard_normal(base.shape)).astype(np.float32)
    expected = divergence(other, base, np.zeros(9, int)).kl
    baseline = Against(torch.from_numpy(base))
    found = baseline.kl(torch.from_numpy(other))
    size = 1e-7 / apart  # the baseline is kept in f32
    assert found == pytest.approx(expected, rel=1e-6 + 4 * size)
    assert found.sum() == pytest.approx(expected.sum(), rel=1e-6 + size)
    assert baseline.kl(torch.from_numpy(base)).max() < 1e-14
    assert baseline.kl(torch.from_numpy(base + 100)).max() < 1e-10, "a constant is in no probability"


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 4\], but must be \[2, 5\]"):
        Against(torch.zeros(2, 5)).kl(torch.zeros(2, 4))
