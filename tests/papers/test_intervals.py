"""Student's interval: against SciPy's own, its coverage, and how rows are judged by it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hartley.papers.intervals import above, interval, rank_correlation, shown, within

numbers = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=12, unique=True)


@given(numbers)
def test_agrees_with_scipy(values: list[float]) -> None:
    found = interval(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [low, high], rtol=1e-9, atol=1e-9)


@given(numbers)
def test_a_value_and_its_negative_are_never_both_above_zero(values: list[float]) -> None:
    up, down = above("a", "", values, ""), above("a", "", [-value for value in values], "")
    assert not (up.holds and down.holds)


def test_covers_the_truth_as_often_as_it_says() -> None:
    """8,000 samples of 5 from a normal: the count is binomial, and falls outside these bounds once in a million."""
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(8000, 5))
    hits = sum(found.low <= 3.0 <= found.high for found in map(interval, draws))
    low, high = stats.binom.interval(1 - 1e-6, 8000, 0.95)
    assert low <= hits <= high


def test_rows_are_judged_by_the_whole_interval() -> None:
    wide, tight = [-1.0, 3.0], [0.9, 1.0, 1.1]
    assert above("a", "", tight, "").holds is True
    assert above("a", "", wide, "").holds is False
    assert within("a", "", tight, "", 1.3).holds is True
    assert within("a", "", tight, "", 1.1).holds is False  # the mean is, the interval is not
    assert shown("a", "", wide, "").holds is None


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match=r"values must be at least two.*got 1"):
        interval([1.0])


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=10), st.randoms(use_true_random=False))
def test_rank_correlation_is_spearmans(a: list[int], random) -> None:
    b = [random.randint(-5, 5) for _ in a]
    expected = 0.0 if len(set(a)) == 1 or len(set(b)) == 1 else stats.spearmanr(a, b).statistic
    assert rank_correlation(a, b) == pytest.approx(expected, abs=1e-12)
