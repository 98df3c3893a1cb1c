"""Contraction coefficients: closed forms, no divergence beyond them, and pairs that come near."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.stats import norm

from hartley.representation import dobrushin, eta_kl, sdpi_dropconnect, sdpi_dropout, sdpi_gaussian
from strategies import law


@st.composite
def channels(draw: st.DrawFn, zeros: bool = True) -> np.ndarray:
    """Rows of distributions, some of their entries 0."""
    inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = random.dirichlet(np.full(outputs, draw(st.sampled_from([0.3, 1.0, 5.0]))), inputs)
    if zeros:
        kept = random.random(rows.shape) < draw(st.sampled_from([0.5, 1.0]))
        kept[np.arange(inputs), random.integers(outputs, size=inputs)] = True
        rows = np.where(kept, rows + 1e-6, 0)
    return rows / rows.sum(1, keepdims=True)


def test_closed_forms_of_layers():
    assert [sdpi_dropout(0.5, d) for d in (1, 2, 4)] == [0.5, 0.75, 0.9375]
    assert sdpi_dropconnect(0.5, 2, 2) == sdpi_dropout(0.5, 4)
    tanh = [sdpi_gaussian(2 * math.sqrt(d), eps) for d, eps in ((4, 1), (16, 1), (16, 4))]
    assert tanh == pytest.approx([0.9545, 0.99994, 0.6827], abs=5e-5)
    assert sdpi_gaussian(math.inf, 1.0) == 1.0
    assert sdpi_gaussian(0.0, 1.0) == 0.0


@given(st.floats(0, 1), st.integers(1, 50))
def test_dropout_passes_more_the_wider_and_the_less_is_dropped(delta, d):
    assert 0 <= sdpi_dropout(delta, d) <= sdpi_dropout(delta, d + 1) <= 1
    assert sdpi_dropout(delta / 2, d) >= sdpi_dropout(delta, d)
    assert sdpi_dropout(0.0, d) == 1.0
    assert sdpi_dropout(1.0, d) == 0.0


@given(st.floats(0, 50), st.floats(0.1, 10))
def test_noise_is_the_total_variation_of_the_two_farthest_gaussians(diameter, eps):
    assert sdpi_gaussian(diameter, eps) == pytest.approx(1 - 2 * norm.sf(diameter / 2 / eps), abs=1e-14)


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.3, 0.5])
def test_binary_symmetric_channel(flip):
    channel = [[1 - flip, flip], [flip, 1 - flip]]
    assert eta_kl(channel) == pytest.approx((1 - 2 * flip) ** 2, abs=1e-12)
    assert dobrushin(channel) == pytest.approx(1 - 2 * flip, abs=1e-12)


@pytest.mark.parametrize("erased", [0.0, 0.25, 1.0])
def test_erasure_channel(erased):
    channel = torch.tensor([[1 - erased, erased, 0], [0, erased, 1 - erased]])
    assert eta_kl(channel) == pytest.approx(1 - erased, abs=1e-12)
    assert dobrushin(channel) == pytest.approx(1 - erased, abs=1e-12)


def test_z_channel_is_reached_only_at_the_edge():
    assert eta_kl([[0.7, 0.3], [0.0, 1.0]]) == pytest.approx(0.7, abs=1e-12)


def test_one_input_and_equal_rows_carry_nothing():
    assert eta_kl([[0.2, 0.8]]) == dobrushin([[0.2, 0.8]]) == 0.0
    assert eta_kl([[0.2, 0.8]] * 3) == dobrushin([[0.2, 0.8]] * 3) == 0.0


@law(channels(), st.integers(0, 2**32))
def test_no_pair_of_inputs_keeps_more_than_eta(channel, seed):
    random = np.random.default_rng(seed)
    mu, nu = random.dirichlet(np.full(len(channel), 0.5), (2, 300))
    before, after = rel_entr(mu, nu).sum(1), rel_entr(mu @ channel, nu @ channel).sum(1)
    eta = eta_kl(channel)
    assert (after <= eta * before + 1e-10).all()
    assert eta <= dobrushin(channel) + 1e-12


@law(channels(zeros=False))
def test_some_pair_of_inputs_keeps_nearly_eta(channel):
    grid = np.linspace(0.001, 0.999, 999)[:, None]
    best = 0.0
    for i in range(len(channel)):
        for j in range(i):
            nu, mu = (b * channel[i] + (1 - b) * channel[j] for b in (grid, grid + 1e-4))
            step = rel_entr(grid + 1e-4, grid) + rel_entr(1 - grid - 1e-4, 1 - grid)
            best = max(best, float((rel_entr(mu, nu).sum(1, keepdims=True) / step).max()))
    assert eta_kl(channel) == pytest.approx(best, rel=0.02, abs=1e-4)


@law(channels(), channels())
def test_the_order_of_inputs_and_outputs_does_not_matter(channel, other):
    assert eta_kl(channel[::-1, ::-1]) == pytest.approx(eta_kl(channel), abs=1e-10)
    if channel.shape[1] == len(other):  # data processing
        assert eta_kl(channel @ other) <= eta_kl(channel) * eta_kl(other) + 1e-9


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sdpi_dropout(1.5, 2), r"delta must be in \[0, 1\]; got 1.5"),
        (lambda: sdpi_dropout(-0.1, 2), "delta must be .*; got -0.1"),
        (lambda: sdpi_dropout(0.5, 0), "d must be a whole number of at least 1; got 0"),
        (lambda: sdpi_dropconnect(0.5, 2, 0), "d_out must be"),
        (lambda: sdpi_gaussian(1.0, 0.0), "eps must be finite and above 0; got 0.0"),
        (lambda: sdpi_gaussian(float("nan"), 1.0), "diameter must be"),
        (lambda: dobrushin([0.5, 0.5]), r"channel must be \[inputs, outputs\]"),
        (lambda: eta_kl([[0.5, 0.5], [0.5, 0.6]]), r"channel's rows must be distributions; got row 1: \[0.5, 0.6\]"),
        (lambda: eta_kl([[float("nan"), 0.5]]), "got row 0"),
        (lambda: eta_kl([[1.5, -0.5]]), "got row 0"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
