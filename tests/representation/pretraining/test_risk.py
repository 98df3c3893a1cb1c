"""Excess risks: exact against simulation and by hand, their two limits, and the rules of thumb."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from hartley.representation import excess_risk_curve, linear_excess_risk
from hartley.representation.pretraining import advantage, bayes_risk, informativeness, linear_bayes


def model(seed, d=7, r=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(d, r)), rng.normal(size=r), rng.normal(size=(4, d))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_the_bayes_predictor_solves_the_normal_equations_and_risk_is_what_it_costs(seed):
    B, beta, w = model(seed)
    sigma = B @ B.T + np.eye(7)
    best = linear_bayes(B, beta)
    np.testing.assert_allclose(sigma @ best, B @ beta, atol=1e-9)
    mse = 0.01 + beta @ beta - 2 * w @ B @ beta + np.einsum("ni,ij,nj->n", w, sigma, w)
    np.testing.assert_allclose(linear_excess_risk(w, B, beta), mse - bayes_risk(B, beta, 0.1), atol=1e-9)
    assert linear_excess_risk(best, B, beta) == pytest.approx(0, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_latents_seen_are_farther_apart_and_a_rotation_is_no_distance(seed):
    B, _, _ = model(seed)
    other = B + 0.1 * np.random.default_rng(seed + 1).normal(size=B.shape)
    turn = ortho_group.rvs(3, random_state=seed)
    found = informativeness(other, B)
    assert found >= 1
    assert informativeness(other @ turn, B) == pytest.approx(found, rel=1e-6)
    assert math.isnan(informativeness(B @ turn, B))


def test_weak_factors_inform_less():
    apart = [informativeness(size * np.array([[1.0], [0.0]]), size * np.array([[1.0], [0.1]])) for size in (4, 1, 0.25)]
    assert apart == sorted(apart)
    assert apart[-1] > 3


def test_both_limits_of_the_curve():
    """Many unlabelled rows leave the head's own risk, few leave a floor that no number of labels removes."""
    rng = np.random.default_rng(0)
    B = rng.normal(size=(20, 2))
    B *= 2 / np.linalg.norm(B, axis=0)
    curve = excess_risk_curve([100, 50_000], [50, 5000], B=B, beta=[1.0, -1.0], repeats=20, random_state=0)
    mean = curve.pretrained.mean(-1)
    head = 2 * curve.bayes_risk / (50 - 2 - 1)
    error = curve.pretrained[1, 0].std() / math.sqrt(20)
    assert mean[1, 0] == pytest.approx(head, abs=4 * error)
    assert mean[0, 1] > 5 * mean[1, 1]
    assert curve.ridge.mean(-1)[1] < mean[0, 1]  # labels enough: supervised learning wins
    assert mean[1, 0] < curve.ridge.mean(-1)[0] < curve.least_squares.mean(-1)[0]
    again = excess_risk_curve([100], [50], B=B, beta=[1.0, -1.0], repeats=2, random_state=0)
    assert again.pretrained.shape == (1, 1, 2)


def test_rule_of_thumb():
    assert advantage(10_000, 10, C_phi=100, C_psi=1, C_composite=100) == pytest.approx(
        math.sqrt(10) / (0.1 + math.sqrt(0.1))
    )
    assert advantage(100, 10_000, C_phi=300, C_psi=3, C_composite=100) < 1 < advantage(20_000, 20, 300, 3, 100)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: linear_bayes([[1.0]], [1.0, 2.0]), r"B must be \[D, r\] and beta \[r\]; got shapes"),
        (lambda: linear_bayes([[np.nan]], [1.0]), "B and beta must be finite"),
        (
            lambda: linear_excess_risk([1.0], [[1.0], [0.0]], [1.0]),
            r"w must hold finite numbers of shape \[\.\.\., 2\]",
        ),
        (lambda: excess_risk_curve([], [1], B=[[1.0]], beta=[1.0]), "ms must hold at least one size"),
        (lambda: excess_risk_curve([1], [0], B=[[1.0]], beta=[1.0]), "ns must be a whole number of at least 1; got 0"),
        (lambda: bayes_risk([[1.0]], [1.0], -1), "noise must be finite and at least 0; got -1"),
        (lambda: advantage(1, 1, 0, 1, 1), "C_phi must be finite and above 0; got 0"),
        (lambda: informativeness([[1.0]], [[1.0], [2.0]]), "B and B_star must hold finite numbers of one shape"),
    ],
)
def test_refuses(call, match):
    with pytest.raises(ValueError, match=match):
        call()
