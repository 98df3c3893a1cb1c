"""Exact expectations over all samples, the identities of Grassberger's G, shapes and errors. Nothing here is random."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma, exp1
from scipy.stats import binom, multinomial, poisson

from hartley.info.estimators import Estimate, grassberger, miller_madow, plugin
from hartley.info.measures import entropy, varentropy

ESTIMATORS = {"plugin": plugin, "miller_madow": miller_madow, "grassberger": grassberger}
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
histograms = st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any).map(np.array)


def g(n):
    """Grassberger's G, read off a histogram of one outcome."""
    return np.log(n) - grassberger(np.asarray(n)[..., None]).value


@given(histograms)
def test_plugin_is_the_entropy_of_the_frequencies(counts):
    value, stderr = plugin(counts)
    assert value == pytest.approx(entropy(counts=counts), abs=1e-13)
    assert stderr == pytest.approx(math.sqrt(varentropy(counts=counts) / counts.sum()), abs=1e-9)


@given(histograms)
def test_miller_madow_adds_the_first_order_bias(counts):
    value, stderr = miller_madow(counts)
    assert value == pytest.approx(plugin(counts).value + ((counts > 0).sum() - 1) / (2 * counts.sum()), abs=1e-12)
    assert stderr == plugin(counts).stderr


def test_g_by_its_recurrence():
    """G(1) = -gamma - ln 2, G(2) = G(1) + 2, G(2k + 1) = G(2k), G(2k + 2) = G(2k) + 2 / (2k + 1)."""
    n = np.arange(1, 2001)
    expected = np.empty(2001)
    expected[1] = -np.euler_gamma - math.log(2)
    expected[2] = expected[1] + 2
    for k in range(1, 1000):
        expected[2 * k + 1] = expected[2 * k]
        expected[2 * k + 2] = expected[2 * k] + 2 / (2 * k + 1)
    np.testing.assert_allclose(g(n), expected[1:], rtol=0, atol=2e-12)


@pytest.mark.parametrize("rate", [0.1, 0.5, 1, 2, 5, 20, 100])
def test_g_is_nearly_unbiased_for_poisson_counts(rate):
    """E[n G(n)] = r ln r + r E1(2r): the error is exponentially small in the expected count."""
    n = np.arange(1, int(rate + 20 * math.sqrt(rate) + 40))
    mean = (poisson.pmf(n, rate) * n * g(n)).sum()
    assert mean == pytest.approx(rate * math.log(rate) + rate * exp1(2 * rate), abs=1e-10 * rate + 1e-12)


@pytest.mark.parametrize("n", [10, 30, 100])
@pytest.mark.parametrize("p", [0.15, 0.3, 0.5])
def test_expectation_over_every_sample_of_two_outcomes(n, p):
    k = np.arange(n + 1)
    chance = binom.pmf(k, n, p)
    true = entropy(probs=np.array([p, 1 - p]))
    bias = {name: (chance * f(np.stack([k, n - k], -1)).value).sum() - true for name, f in ESTIMATORS.items()}
    assert bias["plugin"] < 0
    assert bias["plugin"] == pytest.approx(-1 / (2 * n), rel=0.35)
    assert abs(bias["miller_madow"]) < abs(bias["plugin"]) / 2
    assert abs(bias["grassberger"] - (math.log(n) - digamma(n))) < 0.1 * math.exp(-2 * n * p) + 1e-12  # ~ 1 / 2n


def test_expectation_with_more_outcomes_than_observations():
    """Six outcomes, four observations: the order of merit that the docstrings promise."""
    p = np.array([0.3, 0.25, 0.2, 0.1, 0.1, 0.05])
    samples = np.array([s for s in np.ndindex(*(5,) * 6) if sum(s) == 4])
    chance = multinomial.pmf(samples, 4, p)
    assert chance.sum() == pytest.approx(1)
    bias = [(chance * f(samples).value).sum() - entropy(probs=p) for f in ESTIMATORS.values()]
    assert bias[0] < bias[1] < bias[2]
    assert abs(bias[2]) < abs(bias[1]) < abs(bias[0])


@each_estimator
@pytest.mark.parametrize("p", [0.05, 0.2, 0.35])
def test_standard_error_against_the_exact_deviation(estimator, p):
    n = 400
    k = np.arange(n + 1)
    chance = binom.pmf(k, n, p)
    value, stderr = estimator(np.stack([k, n - k], -1))
    mean = (chance * value).sum()
    deviation = math.sqrt((chance * (value - mean) ** 2).sum())
    assert (chance * stderr).sum() == pytest.approx(deviation, rel=0.05)


@each_estimator
def test_uniform_counts_have_no_first_order_error(estimator):
    assert estimator(np.full(7, 30)).stderr == pytest.approx(0, abs=1e-9)


@each_estimator
@given(histograms, st.integers(0, 4), st.randoms())
def test_empty_outcomes_and_their_order_do_not_matter(estimator, counts, extra, random):
    shuffled = [*counts, *[0] * extra]
    random.shuffle(shuffled)
    assert np.array(estimator(np.array(shuffled))) == pytest.approx(np.array(estimator(counts)), abs=1e-9)


@each_estimator
def test_axes_bases_and_kinds(estimator):
    counts = np.random.default_rng(0).integers(0, 50, size=(3, 4, 5))
    value, stderr = estimator(counts)
    assert isinstance(estimator(counts), Estimate)
    assert value.shape == stderr.shape == (3, 4)
    assert value[1, 2] == pytest.approx(estimator(counts[1, 2]).value)
    np.testing.assert_allclose(estimator(np.moveaxis(counts, -1, 0), axis=0).value, value)
    assert estimator(counts, keepdims=True).stderr.shape == (3, 4, 1)
    np.testing.assert_allclose(estimator(counts, base=2), np.array((value, stderr)) / math.log(2))
    as_torch = estimator(torch.from_numpy(counts))
    assert as_torch.value.dtype == as_torch.stderr.dtype == torch.float64
    np.testing.assert_allclose(as_torch.value.numpy(), value)
    assert estimator(torch.from_numpy(counts).float()).value.dtype == torch.float64
    assert isinstance(estimator(np.array([3, 4])).value, np.float64)


@each_estimator
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[3.0, 4.0], [1.5, 2.0]], "counts must be whole numbers; got 1.5 in row 1"),
        ([[3, -1]], "counts must not be negative; got -1.0 in row 0"),
        ([[3, 1], [0, 0]], "counts must not be all zero; got nothing but 0 in row 1"),
        ([math.nan, 1.0], "counts must be finite; got NaN or inf"),
        ([], "counts must hold at least one value"),
        (5, "axis -1 is out of range: counts has 0 dimensions"),
    ],
)
def test_what_is_not_a_histogram_is_refused(estimator, counts, message):
    with pytest.raises(ValueError, match=message):
        estimator(np.array(counts))


@each_estimator
def test_what_is_no_number_is_a_type_error(estimator):
    with pytest.raises(TypeError, match="counts must be an array of real numbers"):
        estimator(np.array(["a"]))
