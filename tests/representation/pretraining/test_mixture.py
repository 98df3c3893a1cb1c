"""Mixtures of round Gaussians: the posterior, EM's ascent, and planted components."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import MixturePretrainer

U = np.array([1.2, -0.5])


def planted(n=300, seed=0, size=1.0):
    """Rows, and which of four corners each belongs to."""
    rng = np.random.default_rng(seed)
    z = rng.integers(4, size=n)
    return 5 * np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])[z] + size * rng.normal(size=(n, 2)), z


def test_two_centres_have_a_sigmoid_for_a_posterior():
    model = MixturePretrainer(2, random_state=0).fit(planted()[0])
    model.means_ = np.stack([U, -U])
    X = planted(20)[0] / 5
    np.testing.assert_allclose(model.transform(X)[:, 0], expit(2 * X @ U), atol=1e-12)
    density = sum(norm.pdf(X - sign * U).prod(1) for sign in (1, -1)) / 2
    np.testing.assert_allclose(model.score_samples(X), np.log(density), rtol=1e-9)


@pytest.mark.parametrize(("size", "error"), [(1.0, 0.158655), (2.0, 0.022750)])
def test_bayes_error_between_two_centres(size, error):
    """Q(|u|), by the posterior that is known, within five standard errors of 200,000 draws."""
    rng = np.random.default_rng(0)
    model = MixturePretrainer(2, n_init=1, random_state=0).fit(planted(10)[0])
    model.means_ = np.array([[size, 0.0], [-size, 0.0]])
    z = rng.integers(2, size=200_000)
    X = model.means_[z] + rng.normal(size=(len(z), 2))
    wrong = (model.transform(X).argmax(1) != z).mean()
    assert wrong == pytest.approx(error, abs=5 * math.sqrt(error / len(z)))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["unit", "shared"]))
@settings(max_examples=20, deadline=None)
def test_each_step_of_em_is_likelier_and_posteriors_sum_to_one(seed, noise):
    X = planted(60, seed, size=2.0)[0]
    longer = [
        MixturePretrainer(3, noise=noise, n_init=1, max_iter=steps, tol=0.0, random_state=seed).fit(X)
        for steps in (1, 2, 3, 10)
    ]
    found = [model.log_likelihood_ for model in longer]
    assert found == pytest.approx(sorted(found), abs=1e-12)
    assert longer[-1].log_likelihood_ == pytest.approx(longer[-1].score(X))
    posterior = longer[-1].transform(X)
    assert (posterior >= 0).all()
    np.testing.assert_allclose(posterior.sum(1), 1)


@pytest.mark.parametrize("noise", ["unit", "shared"])
def test_finds_planted_components_whatever_their_order(noise):
    X, z = planted(size=1.0 if noise == "unit" else 0.5)
    model = MixturePretrainer(4, noise=noise, random_state=0).fit(X)
    labels = model.transform(X).argmax(1)
    assert len({(a, b) for a, b in zip(labels, z, strict=True)}) == 4
    if noise == "shared":
        assert model.noise_variance_ == pytest.approx(0.25, rel=0.2)
    else:
        assert model.noise_variance_ == 1
    assert model.log_likelihood_ == max(model.log_likelihoods_)
    again = MixturePretrainer(4, noise=noise, random_state=0).fit(torch.tensor(X))
    np.testing.assert_array_equal(again.means_, model.means_)
    assert isinstance(again.transform(torch.tensor(X)), torch.Tensor)


def test_one_component_is_the_mean_and_repeated_rows_leave_one_out():
    X = planted(50)[0]
    model = MixturePretrainer(1, noise="shared").fit(X)
    np.testing.assert_allclose(model.means_[0], X.mean(0))
    assert model.noise_variance_ == pytest.approx(((X - X.mean(0)) ** 2).mean())
    same = MixturePretrainer(3, random_state=0).fit(np.ones((5, 2)))
    np.testing.assert_allclose(same.transform(np.ones((1, 2))), 1 / 3)


@pytest.mark.parametrize(
    ("changed", "rows", "match"),
    [
        ({"n_components": 9}, 5, "n_components must be at most the n_samples = 5; got 9"),
        ({"n_components": 5, "noise": "shared"}, 5, "more distinct rows than n_components=5 with noise='shared'"),
        ({"n_components": 2, "noise": "diag"}, 5, "noise must be one of 'unit', 'shared'; got 'diag'"),
        ({"n_components": 2, "tol": -1.0}, 5, "tol must be finite and at least 0; got -1"),
    ],
)
def test_refuses(changed, rows, match):
    with pytest.raises(ValueError, match=match):
        MixturePretrainer(**changed).fit(planted(rows)[0])


@parametrize_with_checks([MixturePretrainer(1, n_init=1), MixturePretrainer(2, n_init=2, max_iter=5)])
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
