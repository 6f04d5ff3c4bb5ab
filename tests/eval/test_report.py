"""How figures are shown that are very large, or do not exist."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eval.losses import kernel_loss
from eval.perplexity import perplexity
from eval.report import Tabular, plus_minus, ppl_text, show
from workbench.model_bench.table import change_text


@pytest.mark.parametrize(
    ("ppl", "se", "said"),
    [
        (7.36071, 0.16402, "7.3607 ± 0.1640"),
        (99999.9, None, "99999.9000"),
        (1e5, 1234.5, "1.000e+05 ± 1.234e+03"),
        (3.2e301, 2e300, "3.200e+301 ± 2.000e+300"),
        (math.inf, math.nan, "beyond 1e308"),
        (None, None, "beyond 1e308"),
        (12.0, math.nan, "12.0000"),
    ],
)
def test_a_perplexity_is_short_where_its_digits_mean_nothing(ppl, se, said):
    assert ppl_text(ppl, se) == said


def test_an_error_that_does_not_exist_is_not_a_number_to_show():
    assert plus_minus(math.nan, ".1e") == plus_minus(None, ".1e") == ""
    assert plus_minus(math.nan, ".1e", "one window") == " (one window)"
    assert show(math.nan) == "–" and show(math.inf) == "inf" and show(0.123456) == "0.1235"
    assert change_text(0.5, math.nan) == "+0.500" and change_text(2.5e7, 1e6) == "+2.50e+07 ± 1.00e+06"


def test_one_window_and_one_token_say_why_they_have_no_error(tiny, prose):
    one = perplexity(tiny, prose, "disjoint-64", baseline=tiny.perturbed(0.05, 1), max_windows=1)
    assert f"(± {one.ppl_se:.4f}; one window has no clustered error)" in one.summary()
    assert "in 1 window, the first of" in one.summary()
    token = perplexity(tiny, prose, "disjoint-2", baseline=tiny.perturbed(0.05, 1), max_windows=1)
    assert "(one token has no error)" in token.summary()
    for shown in (one.summary(), one._repr_html_(), token.summary(), token._repr_html_()):
        assert "nan" not in shown
    d = np.array([0.5])
    assert "nan" not in str(kernel_loss(d, d - 0.25, np.zeros(1, int)))


def test_a_table_shows_a_dash():
    class One(Tabular):
        def rows(self):
            return [{"cause": "a", "± clustered": math.nan}]

    assert str(One()).splitlines()[-1].split() == ["a", "–"]
