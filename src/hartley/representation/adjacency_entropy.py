"""Entropies of the spectrum of who is near whom, without a diffusion: of the kernel itself, of nearest neighbours."""

from __future__ import annotations

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hartley.info.checks import check_base, check_count
from hartley.representation.diffusion_operator import Sigma, bandwidth
from hartley.representation.rows import rows_of
from hartley.representation.spectrum import entropy_of_shares, von_neumann_entropy


def kernel_spectral_entropy(Z: ArrayLike | Tensor, *, sigma: Sigma = 10.0, base: float | None = 2) -> float:
    """Return the entropy of the eigenvalues of G_ij = exp(-|z_i - z_j|^2 / (2 sigma^2)), bits: 0 to log2 N.

    The von Neumann entropy of G / N. Unlike `diffusion_spectral_entropy`, whose ``sigma`` it shares, it sees how the
    points are shared out among clusters: k tight ones far apart have the entropy of their sizes.

    Raises ``ValueError`` for NaN, infinity, no row, and settings outside their range.

    >>> round(kernel_spectral_entropy([[0.0], [0.0], [0.0], [90.0]], sigma=1.0), 6)  # 3 : 1
    0.811278

    Source: Liao et al. 2023, arXiv 2312.04823, a variant in the authors' code.
    """
    rows = rows_of("Z", Z)
    kernel = (_distances(rows) / bandwidth(rows, sigma)).square_().div_(-2).exp_()
    return float(von_neumann_entropy(kernel, base=base))


def neighbor_spectral_entropy(Z: ArrayLike | Tensor, *, n_neighbors: int = 10, base: float | None = 2) -> float:
    """Return the entropy of |eigenvalue| of the matrix of nearest neighbours, bits: 0 to log2 N.

    A_ij is 1 where z_j is no further from z_i than its ``n_neighbors``-th nearest row, z_i itself the first of them;
    else 0. A is not symmetric, so its eigenvalues are complex; their moduli count. Ties are all neighbours, and of
    ``n_neighbors`` rows or fewer each is a neighbour of each: entropy 0. No scale enters. All eigenvalues of a general
    N x N matrix: several times as long as of a symmetric one.

    Raises ``ValueError`` for NaN, infinity, no row, and settings outside their range.

    >>> round(neighbor_spectral_entropy([[0.0], [1.0], [3.0]], n_neighbors=2), 6)  # eigenvalues 2, 1 and 0
    0.918296

    Source: Liao et al. 2023, arXiv 2312.04823, a variant in the authors' code.
    """
    check_count("n_neighbors", n_neighbors)
    check_base(base)
    distances = _distances(rows_of("Z", Z))
    reach = distances.kthvalue(min(n_neighbors, len(distances)), dim=1, keepdim=True).values
    moduli = torch.linalg.eigvals((distances <= reach).double()).abs()
    return float(entropy_of_shares(moduli)) / (math.log(base) if base is not None else 1.0)


def _distances(rows: Tensor) -> Tensor:
    """``[N, N]``, float64, by differences: equal distances are to be equal to the last bit."""
    rows = rows.double()
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
