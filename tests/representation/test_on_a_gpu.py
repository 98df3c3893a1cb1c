"""On a GPU the measures give what they give in main memory, from the tensors as they lie there."""

import numpy as np
import pytest
import torch

from hartley.info.hamming import hamming_neighbors
from hartley.representation import (
    CovarianceSpectrum,
    DiffusionSpectralEntropy,
    HashCodes,
    condition_numbers,
    diffusion_spectral_entropy_loss,
    kernel_spectral_entropy,
    neighbor_spectral_entropy,
)

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normalization", ["symmetric", "anisotropic"])
@pytest.mark.parametrize(("rows", "t"), [(300, 1), (300, 0.5), (1500, 1), (1500, 3)])  # float64, and the ways beyond
def test_diffusion_spectral_entropy(rows, t, normalization):
    Z = drawn(rows, 5)
    there, here = (
        DiffusionSpectralEntropy(sigma=1.0, t=t, normalization=normalization).fit(z) for z in (Z.to(DEVICE), Z)
    )
    if rows > 1024:  # each is within 1e-4 bits of the truth, perhaps by different columns
        assert there.entropy_ == pytest.approx(here.entropy_, abs=2e-4)
    else:
        assert there.entropy_ == pytest.approx(here.entropy_, abs=1e-6)
        assert there.spectrum_ == pytest.approx(here.spectrum_, abs=1e-9)


def test_diffusion_spectral_entropy_by_lanczos():
    """The same probes, but rounding may choose other columns to take exactly: within four standard errors."""
    Z = drawn(1500, 5)
    there, here = (
        DiffusionSpectralEntropy(sigma=0.5, method="lanczos", random_state=0).fit(z) for z in (Z.to(DEVICE), Z)
    )
    error = np.hypot(there.standard_error_, here.standard_error_)
    assert 0 < error < 0.1
    assert there.entropy_ == pytest.approx(here.entropy_, abs=4 * error + there.truncation_ + here.truncation_)


def test_the_entropy_as_a_loss():
    grads = []
    for device in (DEVICE, "cpu"):
        Z = drawn(600, 4).to(device).requires_grad_()
        diffusion_spectral_entropy_loss(Z, sigma=1.0).backward()
        assert Z.grad is not None
        assert Z.grad.device == Z.device
        grads.append(Z.grad.cpu())
    assert torch.allclose(*grads, rtol=1e-4, atol=1e-7)


def test_entropies_of_adjacency():
    Z = drawn(200, 3)
    assert kernel_spectral_entropy(Z.to(DEVICE), sigma=1.0) == pytest.approx(kernel_spectral_entropy(Z, sigma=1.0))
    assert neighbor_spectral_entropy(Z.to(DEVICE)) == pytest.approx(neighbor_spectral_entropy(Z), abs=1e-3)


def test_covariance_spectrum():
    Z = drawn(400, 30) @ drawn(30, 30)
    there, here = CovarianceSpectrum(), CovarianceSpectrum()
    for part in Z.split(150):
        there.partial_fit(part.to(DEVICE))
        here.partial_fit(part)
    assert there.eigenvalues_ == pytest.approx(here.eigenvalues_, rel=1e-9, abs=1e-9)
    assert there.merge(here).effective_rank_ == pytest.approx(here.effective_rank_, rel=1e-9)


def test_condition_numbers():
    """Worked out in main memory, so the same to the last bit; a singular one among them."""
    weights = {"a.weight": drawn(40, 30), "b.weight": drawn(6, 4, 3, 3), "c.weight": torch.ones(5, 5)}
    there = condition_numbers({name: weight.to(DEVICE) for name, weight in weights.items()})
    assert there == condition_numbers(weights)
    assert there[2].kappa == np.inf


def test_hamming_search_and_codes():
    bits = drawn(300, 100) > 0
    packed = torch.from_numpy(np.packbits(bits.numpy(), axis=1))
    there = hamming_neighbors(packed[:40].to(DEVICE), packed.to(DEVICE), k=7)
    here = hamming_neighbors(packed[:40], packed, k=7)
    for found, expected in zip(there, here, strict=True):
        assert found.device.type == DEVICE
        assert torch.equal(found.cpu(), expected)
    few = drawn(300, 6)
    assert HashCodes().fit(few.to(DEVICE)).redundancy_ratio_ == HashCodes().fit(few).redundancy_ratio_ > 0
