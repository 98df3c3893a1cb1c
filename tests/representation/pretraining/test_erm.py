"""Pretrained ERM: rotations and relabelled components change no prediction, and heads of each kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group
from sklearn.base import is_classifier, is_regressor
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import (
    ClusterLabels,
    ContrastivePretrainer,
    FactorPretrainer,
    MixturePretrainer,
    PretrainedERM,
    linear_excess_risk,
)

B = 2 * np.random.default_rng(7).normal(size=(12, 2))


def drawn(n, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    return z @ B.T + rng.normal(size=(n, 12)), z @ [1.0, -1.0]


class Turned(FactorPretrainer):
    """The same model with other loadings of the same law."""

    def __init__(self, n_components, seed=0):
        super().__init__(n_components, assume_centered=True)
        self.seed = seed

    def fit(self, X, y=None):
        super().fit(X)
        turn = ortho_group.rvs(self.n_components, random_state=self.seed)
        self.components_, self._projection = turn.T @ self.components_, self._projection @ turn
        return self


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_a_rotation_of_the_latents_changes_no_prediction_and_no_risk(seed):
    (X, y), (more, _) = drawn(30, seed), drawn(200, seed + 1)
    head = LinearRegression(fit_intercept=False)
    plain = PretrainedERM(FactorPretrainer(2, assume_centered=True), head).fit(X, y, more)
    turned = PretrainedERM(Turned(2, seed), head).fit(X, y, more)
    assert np.abs(turned.pretrainer_.components_ - plain.pretrainer_.components_).max() > 1e-6
    np.testing.assert_allclose(turned.predict(more), plain.predict(more), atol=1e-10)
    risks = [linear_excess_risk(model.predict(np.eye(12)), B, [1.0, -1.0]) for model in (plain, turned)]
    assert risks[0] == pytest.approx(risks[1], abs=1e-10)


@given(st.permutations(range(4)), st.integers(0, 99))
@settings(max_examples=20)
def test_a_permutation_of_the_components_changes_no_prediction(order, seed):
    rng = np.random.default_rng(seed)
    posterior, y = rng.dirichlet(np.full(4, 0.2), 30), rng.integers(3, size=30)
    plain, other = ClusterLabels().fit(posterior, y), ClusterLabels().fit(posterior[:, order], y)
    np.testing.assert_allclose(other.predict_proba(posterior[:, order]), plain.predict_proba(posterior), atol=1e-12)


def test_hard_components_predict_their_majority():
    z, y = np.array([0, 0, 0, 1, 1]), np.array(["a", "b", "b", "c", "c"])
    head = ClusterLabels().fit(np.eye(3)[z], y)
    assert head.predict(np.eye(3)).tolist() == ["b", "c", "b"]
    np.testing.assert_allclose(head.table_, [[1 / 3, 2 / 3, 0], [0, 0, 1], [0.2, 0.4, 0.4]])
    np.testing.assert_allclose(head.predict_proba([[0.5, 0.5, 0]]), [[1 / 6, 1 / 3, 1 / 2]])
    with pytest.raises(ValueError, match=r"a posterior has none; got -1\.0 at \(0, 1\)"):
        head.predict([[1.0, -1.0, 1.0]])


def test_a_few_labels_do_with_many_unlabelled_rows():
    (X, y), (more, truth) = drawn(10), drawn(3000, 1)
    pretrained = PretrainedERM(FactorPretrainer(2)).fit(X, y, more).score(more, truth)
    alone = LinearRegression().fit(X, y).score(more, truth)
    assert 1 - pretrained < 0.5 * (1 - alone)
    contrastive = PretrainedERM(ContrastivePretrainer(2, random_state=0))
    partners = more + np.random.default_rng(2).normal(size=more.shape)
    assert contrastive.fit(X, y, more, partners=partners).score(more, truth) > 0.8


def test_heads_by_default_and_by_choice():
    X, y = drawn(30)
    model = PretrainedERM(FactorPretrainer(2))
    assert type(model.fit(X, y).head_) is LinearRegression
    assert type(model.fit(X[:2], y[:2], X).head_).__name__ == "Ridge"
    assert is_regressor(model)
    assert not hasattr(model, "predict_proba")
    frozen = FrozenEstimator(PCA(2).fit(X))
    assert PretrainedERM(frozen).fit(X, y).pretrainer_ is frozen
    classifier = PretrainedERM(MixturePretrainer(4, random_state=0), ClusterLabels()).fit(X, y > 0)
    assert is_classifier(classifier)
    assert classifier.classes_.tolist() == [False, True]
    np.testing.assert_allclose(classifier.predict_proba(X).sum(1), 1)
    with pytest.raises(ValueError, match="X has 5 features, but PretrainedERM is expecting 12"):
        model.fit(X, y, X[:, :5])
    with pytest.raises(ValueError, match="contains NaN"):
        model.fit(X, y, np.full((3, 12), np.nan))


# PCA keeps all of what the checks draw, which has no latents to find
@parametrize_with_checks([PretrainedERM(PCA()), PretrainedERM(PCA(), LogisticRegression()), ClusterLabels()])
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
