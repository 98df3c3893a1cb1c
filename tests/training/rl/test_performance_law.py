import numpy as np
import pytest

from hartley.training.rl import EntropyPerformanceLaw


def test_an_exact_law_is_recovered():
    h = np.linspace(0.01, 2, 30)
    law = EntropyPerformanceLaw().fit(h, -0.2 * np.exp(h) + 0.8)
    assert (law.a_, law.b_, law.ceiling_) == pytest.approx((0.2, 0.8, 0.6))
    assert law.ceiling_interval_ == pytest.approx((0.6, 0.6))
    assert law.rmse_ == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(law.predict([[0.0], [1.0]]), [[0.6], [0.8 - 0.2 * np.e]])


def test_is_the_least_squares_line():
    rng = np.random.default_rng(0)
    h, r = rng.uniform(0, 2, 40), rng.normal(size=40)
    slope, height = np.polyfit(np.exp(h), r, 1)
    law = EntropyPerformanceLaw().fit(h, r)
    assert (law.a_, law.b_) == pytest.approx((-slope, height))


def test_the_interval_covers_as_often_as_it_says():
    """400 runs of 25 points: a 90% percentile bootstrap covers the ceiling in 82% to 96% of them."""
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(400):
        h = np.linspace(0.1, 1.5, 25)
        law = EntropyPerformanceLaw(n_bootstrap=200, confidence=0.9, random_state=seed)
        law.fit(h, -0.2 * np.exp(h) + 0.8 + 0.05 * rng.normal(size=25))
        low, high = law.ceiling_interval_
        covered += low <= 0.6 <= high
    assert 0.82 < covered / 400 < 0.96


def test_blocks_widen_the_interval_of_points_that_follow_each_other():
    rng = np.random.default_rng(2)
    noise = np.zeros(200)
    for i in range(1, 200):
        noise[i] = 0.95 * noise[i - 1] + 0.02 * rng.normal()
    h = np.linspace(2, 0.1, 200)
    score = -0.2 * np.exp(h) + 0.8 + noise

    def width(length):
        low, high = EntropyPerformanceLaw(block_length=length).fit(h, score).ceiling_interval_
        return high - low

    assert width(20) > 1.5 * width(1)


def test_the_interval_of_the_line_holds_the_line():
    rng = np.random.default_rng(3)
    h = rng.uniform(0.1, 2, 50)
    law = EntropyPerformanceLaw().fit(h, -0.2 * np.exp(h) + 0.8 + 0.05 * rng.normal(size=50))
    low, high = law.interval(h)
    assert low.shape == h.shape
    assert ((low < law.predict(h)) & (law.predict(h) < high)).all()
    at_zero = law.interval(0.0)
    assert at_zero == pytest.approx(law.ceiling_interval_)


@pytest.mark.parametrize(
    ("h", "r", "said"),
    [
        ([1, 2], [1, 2], r"N at least 3; got \(2,\) and \(2,\)"),
        ([1, 2, 3], [1, 2], r"\[N\] alike"),
        ([1, 1, 1], [1, 2, 3], "entropy must vary"),
        ([1, 2, float("nan")], [1, 2, 3], "must be finite"),
    ],
)
def test_errors(h, r, said):
    with pytest.raises(ValueError, match=said):
        EntropyPerformanceLaw().fit(h, r)
