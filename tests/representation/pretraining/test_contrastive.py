"""Contrastive pretraining: a closed form, the gradient, and the latents of two noisy views."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad

from hartley.representation import ContrastivePretrainer
from hartley.representation.pretraining import contrastive


def views(n=1500, d=6, r=2, seed=0):
    """Two noisy views of the same latents, and the directions they lie in."""
    rng = np.random.default_rng(seed)
    z, B = rng.normal(size=(n, r)), 1.5 * rng.normal(size=(r, d))
    return z @ B + rng.normal(size=(n, d)), z @ B + rng.normal(size=(n, d)), B


@pytest.mark.parametrize("agree", [0.6, 0.9])
def test_signs_that_agree_by_a_share_of_related_pairs(agree):
    """x, x' = -1 or 1; the best w^2 is the log odds of t = "they agree" over both kinds of pairs."""
    counts = [round(200 * share) for share in (agree, 1 - agree, 0.5, 0.5)]
    x, partners, related = np.ones(400), np.repeat([1.0, -1.0, 1.0, -1.0], counts), np.repeat([1, 0], 200)
    model = ContrastivePretrainer(1).fit(x[:, None], partners=partners[:, None], related=related)
    right = agree / 2 + 0.25
    assert model.components_.item() ** 2 == pytest.approx(math.log(right / (1 - right)), abs=1e-4)
    assert model.loss_ == pytest.approx(-right * math.log(right) - (1 - right) * math.log(1 - right), abs=1e-8)
    assert model.log_ratio([[1.0]], [[-1.0]])[0] == pytest.approx(-(model.components_.item() ** 2))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_the_gradient_is_that_of_the_loss(seed):
    rng = np.random.default_rng(seed)
    rows, others, t = rng.normal(size=(8, 3)), rng.normal(size=(8, 3)), rng.integers(2, size=8).astype(float)
    arguments = (rows, others, t)
    off = check_grad(
        lambda w: contrastive._loss(w, *arguments)[0], lambda w: contrastive._loss(w, *arguments)[1], rng.normal(size=6)
    )
    assert off < 1e-5


def test_two_views_show_the_directions_of_the_latents():
    one, other, B = views(20_000)
    model = ContrastivePretrainer(2, random_state=0).fit(one, partners=other)
    found, true = np.linalg.qr(model.components_.T)[0], np.linalg.qr(B.T)[0]
    assert np.linalg.svd(found.T @ true)[1].min() > 0.97
    assert model.loss_ < math.log(2)
    assert model.log_ratio(one, other).mean() > model.log_ratio(one, other[::-1]).mean()
    again = ContrastivePretrainer(2, random_state=0).fit(torch.tensor(one), partners=torch.tensor(other))
    np.testing.assert_array_equal(again.components_, model.components_)
    np.testing.assert_array_equal(again.transform(torch.tensor(one)), one @ model.components_.T)


def test_nothing_related_learns_nothing():
    rng = np.random.default_rng(0)
    model = ContrastivePretrainer(1, random_state=0).fit(
        rng.normal(size=(3000, 4)), partners=rng.normal(size=(3000, 4))
    )
    assert model.loss_ == pytest.approx(math.log(2), abs=0.005)
    constant = ContrastivePretrainer(1, random_state=0).fit(np.zeros((5, 2)), partners=np.zeros((5, 2)))
    assert constant.loss_ == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("n", "more", "match"),
    [
        (4, {"partners": np.zeros((3, 6))}, "partners must have the 4 rows of X; got 3"),
        (4, {"partners": np.zeros((4, 5))}, "X has 5 features, but ContrastivePretrainer is expecting 6"),
        (
            4,
            {"partners": np.zeros((4, 6)), "related": [0, 1, 2, 1]},
            "related must hold 0 or 1 for each of the 4",
        ),
        (1, {"partners": np.zeros((1, 6))}, "X must have at least 2 rows to make unrelated pairs of"),
        (4, {"partners": np.full((4, 6), np.nan)}, "contains NaN"),
    ],
)
def test_refuses(n, more, match):
    with pytest.raises(ValueError, match=match):
        ContrastivePretrainer(2).fit(views(n)[0], **more)
    with pytest.raises(ValueError, match="n_components must be at most the 6 features; got 7"):
        ContrastivePretrainer(7).fit(views(4)[0], partners=views(4)[1])
