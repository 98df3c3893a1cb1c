"""The bit-level law: planted constants come back, precisions compare at equal bits, nothing is extrapolated."""

import numpy as np
import pytest
from hypothesis import strategies as st

from hartley.training import BitScalingLaw
from strategies import law

BITS = np.geomspace(1e5, 1e8, 8)


@law(st.floats(1, 100), st.floats(0.05, 0.8), st.sampled_from([1.0, 1e6]))
def test_planted_power_law_comes_back(scale, alpha, unit):
    found = BitScalingLaw().fit(BITS * unit, scale * BITS**-alpha, [4] * len(BITS)).laws_[4]
    assert found.alpha == pytest.approx(alpha, rel=1e-6)
    assert found.scale == pytest.approx(scale * unit**alpha, rel=1e-6)
    assert (found.floor, found.low, found.high) == (0, BITS[0] * unit, BITS[-1] * unit)


@law(st.floats(5, 500), st.floats(0.1, 0.8), st.floats(0.2, 3))
def test_planted_floor_comes_back(scale, alpha, floor):
    metric = floor + scale * BITS**-alpha
    found = BitScalingLaw(floor=True).fit(BITS, metric, ["w4"] * len(BITS)).laws_["w4"]
    np.testing.assert_allclose([found.scale, found.alpha, found.floor], [scale, alpha, floor], rtol=0.01)


def test_a_law_without_a_floor_is_found_with_one_allowed():
    found = BitScalingLaw(floor=True).fit(BITS, 20 * BITS**-0.3, [4] * len(BITS)).laws_[4]
    assert found.floor < 1e-4 * 20 * BITS[-1] ** -0.3
    assert found.alpha == pytest.approx(0.3, rel=0.01)


def test_one_wild_run_does_not_move_the_law():
    metric = 1 + 50 * BITS**-0.4
    metric[2] *= 1.5
    found = BitScalingLaw(floor=True).fit(BITS, metric, [4] * len(BITS)).laws_[4]
    np.testing.assert_allclose([found.alpha, found.floor], [0.4, 1], rtol=0.05)


def crossing():
    """4 bits is better below 1e6 bits, 8 above."""
    metric = {4: 10 * (BITS / 1e6) ** -0.1, 8: 10 * (BITS / 1e6) ** -0.2}
    return BitScalingLaw().fit(np.tile(BITS, 2), np.concatenate([metric[4], metric[8]]), [4] * 8 + [8] * 8)


def test_the_best_precision_changes_where_the_curves_cross():
    found = crossing()
    assert [found.best_precision(budget) for budget in (2e5, 9e5, 1.1e6, 5e7)] == [4, 4, 8, 8]
    assert found.at(1e6) == {4: pytest.approx(10), 8: pytest.approx(10)}
    assert found.predict([1e5, 1e7], 8) == pytest.approx([10 * 0.1**-0.2, 10 * 10**-0.2])


def test_equal_bits_are_not_equal_parameters():
    """Twice the parameters at half the width: worse at every size, better at every budget."""
    parameters = np.geomspace(1e4, 1e7, 6)
    found = BitScalingLaw().fit(
        np.concatenate([8 * parameters, 4 * parameters]),
        np.concatenate([parameters**-0.1, 1.02 * parameters**-0.1]),
        ["8"] * 6 + ["4"] * 6,
    )
    assert found.best_precision(8e5) == "4"


def test_comparison_is_by_what_was_measured():
    """A precision that bends away from its own law is judged by its points."""
    found = BitScalingLaw().fit([1e5, 1e6, 1e7] * 2, [10, 9, 1, 8, 6, 4], [4] * 3 + [8] * 3)
    assert found.at(1e6) == {4: pytest.approx(9), 8: pytest.approx(6)}
    assert found.best_precision(1e6) == 8
    assert found.at(10**6.5)[4] == pytest.approx(3)


def test_runs_of_one_size_are_averaged():
    found = BitScalingLaw().fit([1e5, 1e5, 1e6], [2, 8, 1], [4, 4, 4])
    assert [(point.bits, point.metric) for point in found.points_] == [(1e5, pytest.approx(4)), (1e6, 1)]


def test_nothing_is_extrapolated_unless_asked():
    found = BitScalingLaw().fit([1e5, 1e6, 1e6, 1e7], [4, 2, 3, 1.5], [4, 4, 8, 8])
    assert set(found.at(2e5)) == {4}
    assert found.best_precision(5e6) == 8
    assert found.at(5e6, extrapolate=True)[4] == pytest.approx(4 * 50 ** -np.log10(2))
    assert found.best_precision(5e6, extrapolate=True) == 4
    with pytest.raises(ValueError, match=r"budget must be among the bits measured \(4 from 100000 to 1e\+06; 8"):
        found.best_precision(1e8)
    with pytest.raises(ValueError, match=r"bits must be from 100000 to 1e\+06, where 4 was measured"):
        found.predict(2e6, 4)
    assert found.predict(2e6, 4, extrapolate=True) == pytest.approx(2 * 2 ** -np.log10(2))


@law(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=4, max_size=12, unique_by=lambda pair: pair[0]))
def test_the_frontier_is_what_nothing_smaller_beats(pairs):
    bits, metric = (np.array(each, float) for each in zip(*pairs, strict=True))
    names = [i % 2 for i in range(len(bits))]
    found = BitScalingLaw().fit(bits, metric, names)
    expected = {b for b, m in pairs if not any(b2 <= b and m2 <= m and (b2, m2) != (b, m) for b2, m2 in pairs)}
    assert {point.bits for point in found.frontier()} == expected
    metrics = [point.metric for point in found.frontier()]
    assert metrics == sorted(metrics, reverse=True)


def test_what_does_not_fit_is_named():
    fit = BitScalingLaw().fit
    with pytest.raises(ValueError, match="must have one length; got 2, 1, 2"):
        fit([1, 2], [1], [4, 4])
    with pytest.raises(ValueError, match="metric must be finite and above 0; got -1"):
        fit([1, 2], [1, -1], [4, 4])
    with pytest.raises(ValueError, match="at least 2 sizes of precision 8; got 1"):
        fit([1, 2, 3, 3], [1, 1, 1, 1], [4, 4, 8, 8])
    with pytest.raises(ValueError, match="at least 3 sizes of precision 4; got 2"):
        BitScalingLaw(floor=True).fit([1, 2], [1, 1], [4, 4])
    with pytest.raises(ValueError, match="at least one run; got none"):
        fit([], [], [])
    with pytest.raises(ValueError, match="precision must be one of 4; got 8"):
        fit([1, 2], [2, 1], [4, 4]).predict(1, 8)
    with pytest.raises(ValueError, match="fit must come first"):
        BitScalingLaw().frontier()
