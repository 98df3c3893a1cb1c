"""Effective features: closed forms, the laws of a perplexity, and a stream that no split changes."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from scipy.stats import entropy
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import EffectiveFeatures, effective_features, superposition_ratio

SHAPES = st.tuples(st.integers(1, 8), st.integers(1, 7))
CODES = arrays(np.float64, SHAPES, elements=st.just(0.0) | st.floats(0.01, 100)).filter(lambda a: a.any())


def law(test):
    return settings(max_examples=40)(given(CODES)(test))


def reference(codes: np.ndarray) -> float:
    """exp(H), written out."""
    shares = np.abs(codes).mean(0) / np.abs(codes).mean(0).sum()
    return math.exp(entropy((shares + 1e-10) / (shares + 1e-10).sum()))


@law
def test_is_the_definition_and_lies_between_one_and_all(codes):
    found = effective_features(codes)
    assert found.effective_features == pytest.approx(reference(codes), rel=1e-12)
    assert found.effective_features == pytest.approx(math.exp(found.entropy))
    assert 1 <= found.effective_features <= codes.shape[1] * (1 + 1e-12)
    assert superposition_ratio(codes, 3) == found.effective_features / 3


@law
def test_scale_signs_order_and_repetition_change_nothing(codes):
    found = effective_features(codes).effective_features
    rng = np.random.default_rng(0)
    for other in (
        codes * 37.5,
        codes * 1e300,
        codes * rng.choice([-1, 1], codes.shape),
        codes[rng.permutation(len(codes))],
        codes[:, rng.permutation(codes.shape[1])],
        np.concatenate([codes, codes]),
    ):
        assert effective_features(other).effective_features == pytest.approx(found, rel=1e-9)


@law
def test_halving_a_feature_multiplies_by_two_to_the_share_it_had(codes):
    found = effective_features(codes)
    halves = np.concatenate([codes[:, :1] / 2, codes[:, :1] / 2, codes[:, 1:]], 1)
    expected = found.effective_features * 2 ** found.shares[0]
    assert effective_features(halves).effective_features == pytest.approx(expected, rel=1e-7)


@given(SHAPES, st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_mixing_two_shares_never_lowers_the_entropy_below_their_mean(shape, seed):
    first, second = np.random.default_rng(seed).exponential(size=(2, *shape)) ** 3
    first, second = first / first.sum(), second / second.sum()
    mixed = effective_features(np.concatenate([first, second])).entropy
    assert mixed >= (effective_features(first).entropy + effective_features(second).entropy) / 2 - 1e-9


def test_closed_forms():
    assert effective_features(np.eye(64)).effective_features == pytest.approx(64, rel=1e-12)
    one = np.zeros((1, 64))
    one[0, 3] = 2.0
    assert effective_features(one).effective_features == pytest.approx(1.00000015, abs=1e-8)
    geometric = 0.5 ** np.arange(1, 21)[None]
    assert effective_features(geometric).effective_features == pytest.approx(3.99994, abs=1e-5)


def test_features_that_meet_count_like_features_that_do_not():
    """It surprises people: only the mean size of each feature counts."""
    together, apart = np.array([[1.0, 1.0], [0.0, 0.0]]), np.eye(2)
    assert effective_features(together)[:2] == effective_features(apart)[:2]
    assert effective_features(apart).effective_features == pytest.approx(2)


@pytest.mark.filterwarnings("ignore:all codes are zero")
@given(CODES, st.lists(st.integers(0, 8), max_size=3), st.booleans())
@settings(max_examples=40)
def test_any_split_and_any_order_give_the_same(codes, cuts, tensors):
    whole = EffectiveFeatures().fit(codes)
    parts = [part for part in np.split(codes, sorted(min(cut, len(codes)) for cut in cuts)) if len(part)]
    streamed, merged = EffectiveFeatures(), EffectiveFeatures()
    for part in reversed(parts):
        streamed.partial_fit(torch.tensor(part) if tensors else sparse.csr_matrix(part))
        merged.merge(EffectiveFeatures().partial_fit(part)).merge(EffectiveFeatures())
    for other in (streamed, merged):
        assert other.effective_features_ == pytest.approx(whole.effective_features_, rel=1e-9)
        np.testing.assert_allclose(other.shares_, whole.shares_, atol=1e-12)
        assert (other.n_samples_, other.dead_fraction_, other.l0_) == (
            len(codes),
            whole.dead_fraction_,
            pytest.approx((codes != 0).sum(1).mean()),
        )


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_summed_in_float64(kind):
    codes = torch.full((20_000, 2), 1.0).to(kind)
    codes[:, 1] = 0.0999
    expected = reference(codes.double().numpy())
    assert effective_features(codes).effective_features == pytest.approx(expected, rel=1e-9)


def test_leading_axes_integers_and_sparse_matrices():
    codes = np.arange(24).reshape(2, 3, 4)
    expected = reference(codes.reshape(6, 4).astype(float))
    for same in (
        codes,
        torch.tensor(codes),
        sparse.csr_matrix(codes.reshape(6, 4)),
        sparse.csc_array(codes.reshape(6, 4)),
    ):
        assert effective_features(same).effective_features == pytest.approx(expected)


def test_nothing_active_is_nan_and_warns():
    with pytest.warns(RuntimeWarning, match="all codes are zero"):
        found = effective_features(np.zeros((3, 4)))
    assert math.isnan(found.effective_features)
    with pytest.warns(RuntimeWarning, match="all codes are zero"):
        seen = EffectiveFeatures().partial_fit(torch.zeros(3, 4))
    assert math.isnan(seen.effective_features_)
    assert seen.dead_fraction_ == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert seen.partial_fit(torch.ones(1, 4)).effective_features_ == pytest.approx(4)


@pytest.mark.parametrize(
    ("codes", "match"),
    [
        (np.array([[1.0, np.nan]]), "codes must be finite; got NaN in feature 1"),
        (np.array([[np.inf, 1.0]]), "codes must be finite; got infinity in feature 0"),
        (np.empty((0, 3)), "at least one row"),
        (torch.tensor(1.0), "at least one row"),
    ],
)
def test_refuses(codes, match):
    with pytest.raises(ValueError, match=match):
        effective_features(codes)


def test_the_stream_refuses_another_width_and_nan():
    seen = EffectiveFeatures().partial_fit(torch.eye(3))
    with pytest.raises(ValueError, match="X must have 3 features, as before; got 2"):
        seen.partial_fit(torch.eye(2))
    with pytest.raises(ValueError, match="other must have 3 features; got 2"):
        seen.merge(EffectiveFeatures().partial_fit(torch.eye(2)))
    with pytest.raises(ValueError, match="X must be finite; got NaN in feature 0"):
        seen.partial_fit(torch.full((1, 3), torch.nan))
    assert seen.n_samples_ == 3
    with pytest.raises(ValueError, match="eps must be finite and above 0; got -1"):
        EffectiveFeatures(eps=-1).fit(torch.eye(2))


@parametrize_with_checks([EffectiveFeatures()])
@pytest.mark.filterwarnings("ignore:all codes are zero")
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
