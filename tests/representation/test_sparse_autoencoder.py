"""Tied sparse autoencoders: the sheet's closed forms, the gradient, planted features, and what the estimator keeps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from hartley.representation import SparseAutoencoder, TiedSAE, effective_features, measure_dictionary
from hartley.representation import sparse_autoencoder as module

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def planted(samples: int = 1500, width: int = 6, seed: int = 0) -> torch.Tensor:
    """One neuron a feature, seldom active together."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(samples, width, generator=g) * (torch.rand(samples, width, generator=g) < 0.3)


def test_positive_and_negative_neurons_are_four_features():
    sae = TiedSAE(2, 4)
    sae.weight.data = torch.cat([torch.eye(2), -torch.eye(2)])
    h = torch.tensor([[3.0, -2.0]])
    assert sae.encode(h).tolist() == [[3.0, 0.0, 0.0, 2.0]]
    assert sae(h).tolist() == h.tolist()
    assert sae.loss(h, 0.1).item() == pytest.approx(0.1 * 5 / 4)


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 1, 3, 9]), st.sampled_from([0.0, 0.7]))
@settings(max_examples=25)
def test_the_gradient_is_that_of_the_loss(seed, top_k, penalty):
    g = torch.Generator().manual_seed(seed)
    sae = TiedSAE(4, 9, top_k, g)
    sae.bias.data = torch.randn(9, generator=g)
    x = torch.randn(5, 4, generator=g)
    sae.loss(x, penalty).backward()
    expected = [value.grad.clone() for value in sae.parameters()]
    loss = module._loss_and_gradient(sae, x, penalty)
    torch.testing.assert_close(loss, sae.loss(x, penalty).detach())
    for value, grad in zip(sae.parameters(), expected, strict=True):
        torch.testing.assert_close(value.grad, grad, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
@settings(max_examples=25)
def test_top_k_keeps_the_largest_codes_and_no_more(seed, k):
    g = torch.Generator().manual_seed(seed)
    every, few = TiedSAE(4, 9, None, g), TiedSAE(4, 9, k)
    few.load_state_dict(every.state_dict())
    x = torch.randn(6, 4, generator=g)
    full, kept = every.encode(x), few.encode(x)
    assert ((kept == full) | (kept == 0)).all()
    assert ((kept > 0).sum(1) <= k).all()
    torch.testing.assert_close(kept.sum(1), full.topk(k).values.sum(1))


def test_one_feature_a_neuron_counts_about_as_many():
    sae = SparseAutoencoder(learning_rate=1e-2, random_state=0).fit(planted())
    assert sae.n_iter_ < sae.max_epochs
    found = sae.measure(planted())
    assert found.effective_features == pytest.approx(6, abs=0.1)
    assert found.reconstruction_error < 0.01
    assert found.ratio == found.effective_features / 6
    assert found.entropy == pytest.approx(math.log(found.effective_features))


def test_says_when_it_was_still_learning():
    with pytest.warns(ConvergenceWarning, match="lower at epoch 4, the last: max_epochs"):
        unfinished = SparseAutoencoder(max_epochs=4, random_state=0).fit(planted())
    assert unfinished.measure(planted()).effective_features > 12  # of 6


def test_measure_is_the_definition_over_any_batches():
    rows = planted(300) + 5
    sae = SparseAutoencoder(max_epochs=3, random_state=1, expansion_factor=2).fit(rows)
    codes = sae.transform(rows)
    gone = (sae.inverse_transform(codes) - rows).double()
    expected = effective_features(codes)
    batches = measure_dictionary(sae.sae_, rows.split(70))
    for found in (sae.measure(rows), batches):
        assert found.effective_features == pytest.approx(expected.effective_features, rel=1e-6)
        assert found.dead_fraction == (codes == 0).all(0).double().mean()
        assert found.l0 == pytest.approx(float((codes > 0).double().sum(1).mean()))
        assert found.reconstruction_error == pytest.approx(float(gone.square().sum() / rows.square().sum()), rel=1e-5)
        spread = (rows.double() - rows.double().mean(0)).square().sum()
        assert found.unexplained_variance == pytest.approx(float(gone.square().sum() / spread), rel=1e-5)
        assert found.n_samples == 300


def test_arrays_and_tensors_come_back_as_they_came():
    rows = planted(64)
    sae = SparseAutoencoder(max_epochs=2, random_state=0).fit(rows.double())
    assert isinstance(sae.transform(rows), torch.Tensor)
    codes = sae.transform(rows.numpy())
    assert codes.dtype == np.float32
    np.testing.assert_array_equal(codes, sae.transform(rows).numpy())
    by_hand = np.maximum(rows.numpy() @ sae.components_.T + sae.intercept_, 0)
    np.testing.assert_allclose(codes, by_hand, atol=1e-6)
    assert sae.components_.shape == (24, 6)
    assert list(sae.get_feature_names_out())[:2] == ["sparseautoencoder0", "sparseautoencoder1"]


def test_a_seed_is_a_result_and_the_best_epoch_is_kept():
    rows = planted(200)
    settings = {"max_epochs": 40, "patience": 2, "learning_rate": 0.3, "random_state": 3}
    first, second = (SparseAutoencoder(**settings).fit(rows) for _ in range(2))
    np.testing.assert_array_equal(first.components_, second.components_)
    assert first.n_iter_ < 40
    longer = clone(first).set_params(patience=40).fit(rows)
    assert longer.loss_ <= first.loss_


def test_best_weights_are_a_copy(monkeypatch):
    """What is restored is what the best epoch left, not the weights that were trained on."""
    losses = iter([3.0, 1.0, 2.0, 2.0])
    seen = []

    def step(sae, batch, penalty):
        sae.weight.grad, sae.bias.grad = torch.ones_like(sae.weight), torch.zeros_like(sae.bias)
        seen.append(sae.weight.detach().clone())
        return torch.tensor(next(losses))

    monkeypatch.setattr(module, "_loss_and_gradient", step)
    sae = SparseAutoencoder(max_epochs=9, patience=2, random_state=0).fit(planted(10))
    assert sae.loss_ == 1.0
    assert sae.n_iter_ == 4
    np.testing.assert_array_equal(sae.components_, seen[2].numpy())  # after the second epoch's step


def test_few_odd_rows():
    one = SparseAutoencoder(max_epochs=5, random_state=0).fit(torch.ones(1, 3)).measure(torch.ones(1, 3))
    assert one.n_samples == 1
    assert math.isnan(one.unexplained_variance)
    constant = SparseAutoencoder(max_epochs=200, random_state=0).fit(torch.ones(50, 3)).measure(torch.ones(50, 3))
    assert constant.reconstruction_error < 0.05
    with pytest.warns(RuntimeWarning, match="all codes are zero"):
        empty = measure_dictionary(TiedSAE(2, 4), [torch.zeros(3, 2)])
    assert math.isnan(empty.effective_features)
    assert math.isnan(empty.reconstruction_error)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"expansion_factor": 0.5}, "expansion_factor must be finite and at least 1; got 0.5"),
        ({"l1_lambda": -1.0}, "l1_lambda must be finite and at least 0; got -1"),
        ({"top_k": 99}, "top_k must be at most the 12 features; got 99"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1; got 0"),
        ({"max_epochs": 0}, "max_epochs must be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0"),
    ],
)
def test_refuses_settings(changed, match):
    with pytest.raises(ValueError, match=match):
        SparseAutoencoder(**changed).fit(torch.ones(4, 3))


def test_refuses_rows():
    with pytest.raises(ValueError, match="X contains NaN"):
        SparseAutoencoder().fit(torch.full((4, 3), torch.nan))
    with pytest.raises(ValueError, match="batches must hold at least one row"):
        measure_dictionary(TiedSAE(2, 4), [])
    with pytest.raises(ValueError, match="batches must have 2 neurons"):
        measure_dictionary(TiedSAE(2, 4), [torch.ones(1, 2), torch.ones(1, 3)])


@parametrize_with_checks([SparseAutoencoder(max_epochs=2)])
def test_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)
