"""The factor model: maximum likelihood, the posterior in both its forms, and a stream that no split changes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import FactorPretrainer

NOISES = ("unit", "shared", "diag")


def drawn(n=400, d=6, r=2, seed=0, size=1.5):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, r)) @ (size * rng.normal(size=(r, d))) + rng.normal(size=(n, d)) + 3


def covariance(model):
    return model.components_.T @ model.components_ + np.diag(model.noise_variance_)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("centered", [True, False])
def test_likelihood_and_posterior_are_those_of_the_gaussian(noise, centered):
    X = drawn()
    model = FactorPretrainer(2, noise=noise, assume_centered=centered).fit(X)
    sigma, B = covariance(model), model.components_.T
    expected = multivariate_normal(model.mean_, sigma).logpdf(X)
    np.testing.assert_allclose(model.score_samples(X), expected, rtol=1e-9)
    assert model.score(X) == pytest.approx(expected.mean())
    assert model.log_likelihood_ == pytest.approx(expected.mean(), abs=1e-9)
    long_way = (X - model.mean_) @ np.linalg.inv(sigma) @ B  # B^T (B B^T + Psi)^-1 x
    np.testing.assert_allclose(model.transform(X), long_way, atol=1e-9)
    posterior = np.eye(2) - B.T @ np.linalg.inv(sigma) @ B
    np.testing.assert_allclose(model.posterior_covariance_, posterior, atol=1e-9)
    free = 6 * 2 - 1 + {"unit": 0, "shared": 1, "diag": 6}[noise] + 6 * (not centered)
    assert model.bic_ == pytest.approx(-2 * expected.sum() + free * math.log(400))


def test_one_latent_by_hand():
    """B = (2, 0): h = 0.4 x_1 and posterior variance 0.2."""
    X = math.sqrt(5) * np.array([[1.0, 0], [-1, 0]]).repeat(2, 0) + np.array([[0, 1.0], [0, -1]] * 2)
    model = FactorPretrainer(1, assume_centered=True).fit(X)
    np.testing.assert_allclose(model.components_, [[2.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(model.transform([[1.0, 7.0]]), [[0.4]], atol=1e-12)
    np.testing.assert_allclose(model.posterior_covariance_, [[0.2]])


@given(st.integers(0, 2**32 - 1), st.sampled_from(["unit", "shared"]))
@settings(max_examples=25)
def test_no_other_loadings_are_likelier(seed, noise):
    rng = np.random.default_rng(seed)
    X = drawn(60, seed=seed)
    model = FactorPretrainer(2, noise=noise).fit(X)
    for scale in (1e-3, 0.1, 1.0):
        other = FactorPretrainer(2, noise=noise).fit(X)
        B = model.components_ + scale * rng.normal(size=model.components_.shape)
        sigma = B.T @ B + np.diag(other.noise_variance_)
        assert multivariate_normal(X.mean(0), sigma).logpdf(X).mean() <= model.log_likelihood_ + 1e-9


def test_all_latents_reproduce_a_covariance_above_the_noise_and_drop_what_is_below():
    X = drawn(size=3, r=6)
    C = np.cov(X.T, bias=True)
    assert np.linalg.eigvalsh(C)[0] > 1
    np.testing.assert_allclose(covariance(FactorPretrainer(6).fit(X)), C, rtol=1e-9)
    small = X / 1000
    assert not FactorPretrainer(2).fit(small).components_.any()
    assert not FactorPretrainer(2).fit(small).transform(small).any()


def test_agrees_with_scikit_learn():
    X = drawn(2000, d=8)
    ours = FactorPretrainer(2, noise="shared").fit(X)
    theirs = PCA(2).fit(X * math.sqrt(1999 / 2000))  # it divides by N - 1
    np.testing.assert_allclose(covariance(ours), theirs.get_covariance(), rtol=1e-6)
    analysis = FactorAnalysis(2, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(X)
    ours = FactorPretrainer(2, noise="diag").fit(X)
    assert ours.log_likelihood_ == pytest.approx(analysis.score(X), abs=1e-5)
    np.testing.assert_allclose(covariance(ours), analysis.get_covariance(), rtol=1e-3, atol=1e-3)


@given(st.lists(st.integers(0, 40), max_size=4), st.sampled_from(NOISES), st.booleans(), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_split_and_any_order_give_the_same(cuts, noise, centered, tensors):
    X = drawn(40) * [1, 1, 1, 1, 1, 100] + 1000
    chosen = {"n_components": 2, "noise": noise, "assume_centered": centered}
    whole, streamed, merged = FactorPretrainer(**chosen).fit(X), FactorPretrainer(**chosen), FactorPretrainer(**chosen)
    for part in reversed(np.split(X, sorted(cuts))):
        if len(part):
            streamed.partial_fit(torch.tensor(part) if tensors else part)
            merged.merge(FactorPretrainer(2).partial_fit(part)).merge(FactorPretrainer(1))
    for other in (streamed, merged):
        np.testing.assert_allclose(covariance(other), covariance(whole), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(other.transform(X), whole.transform(X), rtol=1e-6, atol=1e-6)
        assert other.bic_ == pytest.approx(whole.bic_)
        assert other.n_samples_ == 40


@pytest.mark.parametrize("noise", NOISES)
def test_one_row_and_constant_features(noise):
    one = FactorPretrainer(2, noise=noise).fit(np.full((1, 4), 7.0))
    assert not one.components_.any()
    np.testing.assert_array_equal(one.noise_variance_, 1)
    assert one.transform(np.full((1, 4), 9.0)).tolist() == [[0.0, 0.0]]
    X = np.concatenate([drawn(50), np.full((50, 1), 2.0)], 1)
    model = FactorPretrainer(2, noise=noise).fit(X)
    np.testing.assert_allclose(model.components_[:, -1], 0, atol=1e-9)
    assert np.isfinite(model.transform(X)).all()
    assert np.isfinite(model.score(X))


def test_tensors_come_back_as_tensors():
    X = drawn(50)
    model = FactorPretrainer(2).fit(torch.tensor(X))
    found = model.transform(torch.tensor(X))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found, model.transform(X))
    assert FactorPretrainer(2).fit(torch.tensor(X).bfloat16()).n_features_in_ == 6


def test_bic_finds_the_number_of_latents():
    X = drawn(2000, d=8, r=3)
    assert min(range(1, 7), key=lambda r: FactorPretrainer(r).fit(X).bic_) == 3


def test_a_factor_under_the_edge_is_not_found():
    """|b|^2 < sqrt(D / m): its direction is no better than chance; well above, it is found."""
    rng = np.random.default_rng(0)
    direction = np.eye(50)[0]
    overlap = []
    for size in (0.1, 1.5):
        X = rng.normal(size=(2000, 1)) * size * direction + rng.normal(size=(2000, 50))
        top = FactorPretrainer(1).fit(X).components_[0]
        overlap.append(abs(top[0]) / np.linalg.norm(top))
    assert overlap[0] < 0.5
    assert overlap[1] > 0.95


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"n_components": 7}, "n_components must be at most the 6 features; got 7"),
        ({"n_components": 6, "noise": "shared"}, "n_components must be less than the 6 features with noise='shared'"),
        ({"n_components": 0}, "n_components must be a whole number of at least 1; got 0"),
        ({"n_components": 1, "noise": "none"}, "noise must be one of 'unit', 'shared', 'diag'; got 'none'"),
    ],
)
def test_refuses(changed, match):
    with pytest.raises(ValueError, match=match):
        FactorPretrainer(**changed).fit(drawn(20))


def test_refuses_another_width_and_nan():
    model = FactorPretrainer(2).partial_fit(drawn(20))
    with pytest.raises(ValueError, match="other must have 6 features; got 5"):
        model.merge(FactorPretrainer(2).fit(drawn(20, d=5)))
    with pytest.raises(ValueError, match="X contains NaN"):
        model.partial_fit(np.full((1, 6), np.nan))
    assert model.n_samples_ == 20


@parametrize_with_checks([FactorPretrainer(1), FactorPretrainer(1, noise="diag")])
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
