"""How figures are shown that are very large, or do not exist."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

from eval.comparison import Comparison
from eval.losses import kernel_loss
from eval.perplexity import perplexity
from eval.report import ONE_WINDOW, Tabular, errors_note, plus_minus, ppl_text, show
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
    assert f" ± {one.ppl_se:.4f} (tokens taken as independent; {ONE_WINDOW})" in one.summary()
    assert f"errors: ± is one standard error, tokens taken as independent; {ONE_WINDOW}" in one.summary()
    assert "in 1 window, the first of" in one.summary()
    token = perplexity(tiny, prose, "disjoint-2", baseline=tiny.perturbed(0.05, 1), max_windows=1)
    assert "(one token has no error)" in token.summary()
    for shown in (one.summary(), one._repr_html_(), token.summary(), token._repr_html_()):
        assert "nan" not in shown
    d = np.array([0.5])
    assert "nan" not in str(kernel_loss(d, d - 0.25, np.zeros(1, int)))


def test_what_plus_minus_is():
    """By the errors of all figures: which of the two is the larger."""
    assert errors_note([(1.0, 2.0), (0.1, 0.3)]) == "± is one standard error, clustered by window"
    assert errors_note([(1.0, 2.0), (0.1, None)]) == "± is one standard error, clustered by window"
    assert errors_note([(2.0, 1.0)]).endswith("as independent; clustered by window none is larger")
    assert errors_note([(2.0, 1.0), (1.0, 2.0)]).endswith(
        "or with tokens as independent where that is larger"
    )
    assert errors_note([(2.0, math.nan), (None, None)]).endswith(ONE_WINDOW)


def test_a_summary_gives_the_larger_error_and_says_which(tiny, prose):
    found = perplexity(tiny, prose, "disjoint-64", baseline=tiny.perturbed(0.2, 1))
    level = found.window_index % 2  # what windows share: half of the tokens are harder in both models
    apart = dataclasses.replace(found, token_nll=found.token_nll + level)
    assert apart.ppl_error == apart.ppl_se_clustered > 2 * apart.ppl_se
    clustered = (
        f"± {apart.ppl_error:.4f} (clustered by window; with tokens as independent ± {apart.ppl_se:.4f})"
    )
    assert clustered in apart.summary()
    mixed = dataclasses.replace(found, token_nll=found.token_nll - found.token_nll, baseline=None)
    spread = dataclasses.replace(mixed, token_nll=mixed.token_nll + np.arange(len(level)) % 2)
    assert spread.ppl_error == spread.ppl_se > 2 * spread.ppl_se_clustered
    plain = f"± {spread.ppl_error:.4f} (tokens taken as independent; clustered by window ± "
    assert plain in spread.summary()
    for pair in ((1e-3, 2e-3), (2e-3, 1e-3)):
        both = dict(zip(("ln_ratio_se", "ln_ratio_se_clustered"), pair, strict=True))
        shown = dataclasses.replace(found, baseline=dataclasses.replace(found.baseline, **both))
        assert re.search(r"ln ratio \S+ ± 2\.0e-03,", shown.summary())
        record = shown.to_json()["baseline"]
        assert record["ln_ratio_error"] == 2e-3 and [record[name] for name in both] == list(pair)
        assert Comparison.from_json(record) == shown.baseline


def test_a_table_shows_a_dash():
    class One(Tabular):
        def rows(self):
            return [{"cause": "a", "± clustered": math.nan}]

    assert str(One()).splitlines()[-1].split() == ["a", "–"]
