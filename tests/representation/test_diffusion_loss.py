"""The differentiable diffusion spectral entropy: its value, its gradient by differences, and what it does to rows."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from hartley.representation import diffusion_spectral_entropy, diffusion_spectral_entropy_loss
from strategies import law, seeds

SETTINGS: list[dict[str, Any]] = [
    {"sigma": 1.0},
    {"sigma": 0.5, "t": 3},
    {"sigma": 1.0, "t": 0.5, "base": None},
    {"sigma": 0.7, "normalization": "anisotropic"},
    {"sigma": 0.7, "normalization": "anisotropic", "alpha": 1.0, "t": 2.5},
]


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed % 2**62), dtype=torch.float64)


def slope(Z: torch.Tensor, **settings: Any) -> torch.Tensor:
    Z = Z.detach().clone().requires_grad_()
    diffusion_spectral_entropy_loss(Z, **settings).backward()
    assert Z.grad is not None
    return Z.grad


@law(seeds(), st.integers(1, 30), st.integers(1, 5), st.sampled_from(SETTINGS), examples=40)
def test_it_is_the_measured_entropy(seed, n, d, settings):
    Z = drawn(seed, n, d)
    found = float(diffusion_spectral_entropy_loss(Z, **settings))
    rounding = 1e-6 if settings.get("t", 1) < 1 else 1e-9  # roots of eigenvalues that are rounding
    assert found == pytest.approx(diffusion_spectral_entropy(Z, **settings), abs=rounding)
    assert float(diffusion_spectral_entropy_loss(Z)) == pytest.approx(diffusion_spectral_entropy(Z), abs=1e-9)


def test_more_rows_than_a_tile():
    Z = drawn(0, 600, 2)
    found = float(diffusion_spectral_entropy_loss(Z, sigma=0.5))
    assert found == pytest.approx(diffusion_spectral_entropy(Z, sigma=0.5), abs=1e-9)
    turned, small = drawn(1, 600, 2), 1e-5
    step = diffusion_spectral_entropy(Z + small * turned, sigma=0.5) - diffusion_spectral_entropy(
        Z - small * turned, sigma=0.5
    )
    assert float((slope(Z, sigma=0.5) * turned).sum()) == pytest.approx(step / 2 / small, rel=1e-5)


def test_two_points_in_closed_form():
    """The shares are (1 +- g) / 2 with g = exp(-d^2 / 2)."""
    Z = torch.tensor([[0.0], [1.5]], dtype=torch.float64)
    g = math.exp(-(1.5**2) / 2)
    down = 1.5 * g / 2 * math.log2((1 - g) / (1 + g))
    assert slope(Z, sigma=1.0)[:, 0].tolist() == pytest.approx([down, -down], rel=1e-12)


@law(seeds(), st.integers(2, 7), st.integers(1, 4), st.sampled_from(SETTINGS), examples=15)
def test_the_gradient_is_that_of_differences(seed, n, d, settings):
    Z = drawn(seed, n, d).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: diffusion_spectral_entropy_loss(z, **settings), Z, atol=1e-5)


DEGENERATE = {
    "one row": torch.zeros(1, 3),
    "all equal": torch.full((6, 3), 7.0),
    "two heaps": torch.tensor([[0.0, 0.0]] * 4 + [[1.0, 2.0]] * 3),
    "a square": torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]),
    "far apart": 1e4 * torch.eye(5),
    "very far apart, in pairs": torch.tensor([[-1e9], [-1e9 - 1], [1e9], [1e9 + 1]]).double(),
    "nearly equal": torch.full((5, 2), 1.0) + 1e-7 * torch.eye(5, 2),
    "collinear": torch.arange(8.0)[:, None] * torch.ones(3),
}


@pytest.mark.parametrize("t", [0.5, 1, 20])
@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("normalization", ["symmetric", "anisotropic"])
def test_equal_eigenvalues_leave_value_and_gradient_finite(name, t, normalization):
    Z = DEGENERATE[name]
    for sigma in (1.0, 1e3):
        found = diffusion_spectral_entropy_loss(Z, sigma=sigma, t=t, normalization=normalization)
        assert 0 <= float(found) <= math.log2(len(Z)) + 1e-6
        assert slope(Z, sigma=sigma, t=t, normalization=normalization).isfinite().all()


def test_the_gradient_at_equal_eigenvalues_is_that_of_differences():
    """A square has an eigenvalue twice; with two rows in one place there is an eigenvalue 0."""
    for Z in (DEGENERATE["a square"], torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.7, 1.0], [-0.5, 0.4]])):
        Z = Z.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: diffusion_spectral_entropy_loss(z, sigma=1.0), Z, atol=1e-4)


def test_equal_rows_move_alike_and_lonely_ones_do_not_move():
    grad = slope(DEGENERATE["two heaps"].double(), sigma=1.0)
    assert torch.allclose(grad[:4], grad[0], atol=1e-12)
    assert grad.abs().max() > 1e-3
    assert not slope(DEGENERATE["far apart"], sigma=1.0).any()


@law(seeds(), st.integers(2, 12), st.integers(2, 4), st.sampled_from(SETTINGS))
def test_shifts_turns_and_scale_are_not_seen(seed, n, d, settings):
    """The laws of the value, as laws of its gradient."""
    Z = drawn(seed, n, d)
    grad = slope(Z, **settings)
    assert grad.sum(0).abs().max() < 1e-10
    assert (Z.T @ grad - grad.T @ Z).abs().max() < 1e-9  # no component along a rotation
    turn = torch.linalg.qr(drawn(seed + 1, d, d))[0]
    assert torch.allclose(slope(Z @ turn + 3, **settings), grad @ turn, atol=1e-7)
    wide = slope(2 * Z, **{**settings, "sigma": 2 * settings["sigma"]})
    assert torch.allclose(2 * wide, grad, atol=1e-7)


def test_ascent_spreads_points_and_descent_gathers_them():
    for sign in (1, -1):
        Z = (0.3 * drawn(0, 16, 2)).requires_grad_()
        spread, found = [float(torch.pdist(Z.detach()).mean())], []
        for _ in range(5):
            value = diffusion_spectral_entropy_loss(Z, sigma=1.0)
            found.append(value.item())
            (grad,) = torch.autograd.grad(value, Z)
            Z = (Z + sign * 0.2 * grad).detach().requires_grad_()
            spread.append(float(torch.pdist(Z.detach()).mean()))
        assert (sign * np.diff(found) > 0).all()
        assert (sign * np.diff(spread) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_fewer_bits(dtype):
    Z = drawn(0, 20, 4).to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diffusion_spectral_entropy_loss(Z.requires_grad_(), sigma=1.0)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(diffusion_spectral_entropy(Z.detach().double(), sigma=1.0), rel=1e-6)
    grad = slope(Z, sigma=1.0)
    assert grad.dtype == dtype
    assert torch.allclose(grad.double(), slope(Z.detach().double(), sigma=1.0), rtol=1e-2)


def test_the_median_counts_as_a_number():
    Z = drawn(0, 10, 3)
    median = float(torch.pdist(Z).sort().values[22])  # the middle of 45
    assert torch.allclose(slope(Z, sigma="median"), slope(Z, sigma=median), atol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"Z": np.zeros((2, 2))}, TypeError, "Z must be a torch tensor; got ndarray"),
        ({"Z": torch.tensor([[0.0], [math.nan]])}, ValueError, "Z must be finite; got nan in row 1"),
        ({"Z": torch.zeros(3)}, ValueError, r"Z must be \[N, D\]"),
        ({"sigma": 0.0}, ValueError, "sigma must be"),
        ({"t": 0}, ValueError, "t must be"),
        ({"base": 1}, ValueError, "base must be"),
        ({"normalization": "row"}, ValueError, "normalization must be one of"),
        ({"alpha": 2.0}, ValueError, r"alpha must be in \[0, 1\]"),
    ],
)
def test_refusals_name_the_argument(change, error, message):
    given: dict[str, Any] = {"Z": torch.eye(2), **change}
    with pytest.raises(error, match=message):
        diffusion_spectral_entropy_loss(**given)
