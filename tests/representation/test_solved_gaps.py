"""Cases with a closed form: the sheet's numbers, and the definitions restated by simulation and enumeration."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hartley.representation import (
    finite_weights_bound,
    gaussian_classification_bound,
    gaussian_kl,
    gibbs_generalization,
    kl_bound,
    sdpi_dropout,
)
from strategies import law


def test_gaussian_classification():
    assert gaussian_classification_bound([2], 2, 0.5)[0] == pytest.approx(0.588705, abs=1e-6)
    assert gaussian_classification_bound([64, 16, 4, 1], 20, 0.5) == pytest.approx(
        [0.906, 0.453, 0.226, 0.113], abs=5e-4
    )


@given(st.lists(st.integers(1, 500), min_size=1, max_size=5), st.integers(2, 10**6))
def test_narrower_layers_and_more_examples_have_smaller_bounds(widths, n):
    bounds = gaussian_classification_bound(sorted(widths, reverse=True), n, 1.0)
    assert (np.diff(bounds) <= 0).all()
    assert (gaussian_classification_bound(sorted(widths, reverse=True), n + 1, 1.0) < bounds).all()
    assert bounds[0] <= math.sqrt(2 * max(widths) / n)  # to 0 as n grows


def test_gaussian_classification_is_the_divergence_of_a_training_example():
    """Given the last weight w, an example of the training set is N(w, (1 - 1/n) I) and a new one N(mu, I)."""
    random, d, n = np.random.default_rng(0), 8, 10
    mu = np.full(d, d**-0.5)
    drawn = [
        gaussian_kl(mu + random.normal(size=d) / n**0.5, (1 - 1 / n) * np.eye(d), mu, np.eye(d)) for _ in range(4000)
    ]
    exact = d / 2 * math.log(n / (n - 1))
    assert exact == pytest.approx(0.421442, abs=1e-6)
    assert np.mean(drawn) == pytest.approx(exact, abs=5 * np.std(drawn) / 4000**0.5)
    assert gaussian_classification_bound([d], n, 0.5)[0] == pytest.approx(0.5 * math.sqrt(2 * exact))


def test_the_plug_in_finds_the_bound_of_the_solved_case():
    """With w held, from samples of both laws: the estimate of sqrt(2 sigma^2 D) at one w."""
    random, d, n = np.random.default_rng(1), 3, 5
    shift = random.normal(size=d) / n**0.5
    train = shift + (1 - 1 / n) ** 0.5 * random.normal(size=(20_000, d))
    exact = gaussian_kl(shift, (1 - 1 / n) * np.eye(d), np.zeros(d), np.eye(d))
    found = kl_bound(train, random.normal(size=(20_000, d)), sigma=0.5)
    assert found.distance == pytest.approx(exact, rel=0.1)
    assert found.bound == pytest.approx(0.5 * math.sqrt(2 * exact), rel=0.05)


@pytest.mark.parametrize(
    ("n", "p", "gamma", "gap", "bound"),
    [(10, 0.3, 5.0, 0.0521635, 0.25), (50, 0.3, 5.0, 0.00958591, 0.05), (10, 0.5, 20.0, 0.1215397, 1.0)],
)
def test_gibbs_numbers(n, p, gamma, gap, bound):
    found = gibbs_generalization([[0, 1], [1, 0]], [0.5, 0.5], gamma, data=[1 - p, p], n=n)
    assert found.gap == pytest.approx(gap, abs=5e-8)
    assert found.bound == pytest.approx(bound)
    assert (found.mutual_information + found.lautum_information) / gamma == pytest.approx(found.gap, abs=1e-12)


def test_gibbs_information():
    found = gibbs_generalization([[0, 1], [1, 0]], [0.5, 0.5], 5.0, data=[0.7, 0.3], n=10)
    assert found.mutual_information == pytest.approx(0.114705, abs=1e-6)


@st.composite
def gibbs_cases(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights, kinds = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    prior, data = random.dirichlet(np.ones(weights)), random.dirichlet(np.ones(kinds))
    if draw(st.booleans()):
        prior, data = (np.where(np.arange(len(v)) == 0, 0, v) if len(v) > 1 else v for v in (prior, data))
    losses = random.uniform(-1, 1, (weights, kinds))
    return losses, prior / prior.sum(), draw(st.floats(0.01, 30)), data / data.sum(), draw(st.integers(1, 4))


@law(gibbs_cases())
def test_gibbs_by_enumeration_of_every_training_set(case):
    losses, prior, gamma, data, n = case
    found = gibbs_generalization(losses, prior, gamma, data=data, n=n)
    gap, marginal, joint = 0.0, np.zeros(len(prior)), []
    for examples in itertools.product(range(len(data)), repeat=n):
        chance = float(np.prod(data[list(examples)]))
        risk = losses[:, list(examples)].mean(1)
        posterior = prior * np.exp(-gamma * (risk - risk.min()))
        posterior /= posterior.sum()
        gap += chance * float(posterior @ (losses @ data - risk))
        marginal += chance * posterior
        joint.append((chance, posterior))
    information = sum(
        chance * float(sum(p * math.log(p / m) for p, m in zip(post, marginal, strict=True) if p > 0))
        for chance, post in joint
        if chance > 0
    )
    assert found.gap == pytest.approx(gap, abs=1e-10)
    assert found.mutual_information == pytest.approx(information, abs=1e-10)
    assert found.gap == pytest.approx((found.mutual_information + found.lautum_information) / gamma, abs=1e-9)
    assert -1e-12 <= found.gap <= found.bound + 1e-12


def test_finite_weights():
    assert finite_weights_bound(2, 100, 1000, 0.5) == pytest.approx(0.5 * math.sqrt(2 * 100 * math.log(2) / 1000))
    # 64 parameters: one layer 8 wide, or four layers 4 wide; the deeper one shrinks the divergence more
    shallow, deep = sdpi_dropout(0.5, 8), sdpi_dropout(0.5, 4) ** 4
    assert deep < shallow
    assert finite_weights_bound(2, 64, 10, 0.5, contraction=deep) < finite_weights_bound(
        2, 64, 10, 0.5, contraction=shallow
    )
    assert finite_weights_bound(2, 64, 10, 0.5, contraction=0) == 0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: gaussian_classification_bound([4], 1, 0.5), "n must be at least 2; got 1"),
        (lambda: gaussian_classification_bound([4, 0], 9, 0.5), "d_layers must be .*; got 0 in row 1"),
        (lambda: gibbs_generalization([[0.0]], [0.9], 1.0, data=[1.0], n=1), "prior must be 1 probabilities .*; got"),
        (lambda: gibbs_generalization([[0.0]], [1.0], 1.0, data=[0.5, 0.5], n=1), "data must be 1 probabilities"),
        (lambda: gibbs_generalization([0.0], [1.0], 1.0, data=[1.0], n=1), r"losses must be finite, \[weights"),
        (lambda: gibbs_generalization(np.ones((1, 9)), [1.0], 1.0, data=np.ones(9) / 9, n=50), "at most 1000000 hist"),
        (lambda: finite_weights_bound(0, 1, 1, 1.0), "values must be"),
        (lambda: finite_weights_bound(2, 1, 1, 1.0, contraction=2.0), "contraction must be"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
