"""The embedded model in others' layouts: the kernels' perplexity is that of the dequantized weights in transformers."""

from __future__ import annotations

import pytest

from tests.models.foreign.perplexity import LAYOUTS, perplexities
from workbench.runtime.device import adapter_missing


@pytest.mark.release
@pytest.mark.skipif(bool(adapter_missing()), reason="no WebGPU adapter")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_perplexity_is_that_of_the_dequantized_weights(tmp_path, layout):
    """To five digits; `python -m tests.models.foreign.perplexity` prints both for longer windows."""
    ours, theirs = perplexities(layout, tmp_path, windows=1, length=128)
    assert 5 < ours < 60
    assert ours == pytest.approx(theirs, rel=5e-6)
