"""Diffusion spectral entropy as a term of a loss: a tensor with a gradient to the rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hartley.info.checks import check_base, check_positive
from hartley.info.distribution import working_dtype
from hartley.representation.diffusion_operator import DiffusionOperator, Normalization, Sigma, bandwidth
from hartley.representation.rows import rows_of
from hartley.representation.spectrum import entropy_of_shares

FLOOR = 2.0**-52  # the largest eigenvalue is 1: what is below this is rounding


def diffusion_spectral_entropy_loss(
    Z: Tensor,
    *,
    sigma: Sigma = 10.0,
    t: float = 1,
    normalization: Normalization = "symmetric",
    alpha: float = 0.5,
    base: float | None = 2,
) -> Tensor:
    """Return the entropy of `diffusion_spectral_entropy`, bits, 0-d, with a gradient to the rows ``Z [N, D]``.

    Add it to a loss to draw rows together, subtract it to spread them. The settings are those of that function; none
    of the rows is left out, and "median" counts as a number: no gradient passes through it.

    The work is in float64, the result in the dtype of ``Z`` (float32 for half precision). It takes all N eigenvalues
    and eigenvectors, N^3: meant for a batch. Equal eigenvalues, as of rows that are equal or far apart, are no trouble,
    since the gradient divides by no difference of theirs. An eigenvalue below 2e-16 counts as 2e-16 and has no slope,
    where -p ln p would have an infinite one; for t < 1 that floor may show in the value. Rows that are equal get the
    same gradient, so that it never parts them, and rows much further apart than ``sigma`` get none.

    Raises ``TypeError`` for what is no tensor; ``ValueError`` as `diffusion_spectral_entropy`.

    >>> Z = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    >>> found = diffusion_spectral_entropy_loss(Z, sigma=1.0)
    >>> found.backward()
    >>> round(found.item(), 4), Z.grad  # they are to move apart
    (0.9, tensor([[-0.2048, -0.2048],
            [ 0.2048,  0.2048]]))

    Source: Liao et al. 2023, arXiv 2312.04823.
    """
    if not isinstance(Z, Tensor):
        raise TypeError(f"Z must be a torch tensor; got {type(Z).__name__}: diffusion_spectral_entropy takes arrays")
    check_positive("t", t)
    check_base(base)
    width = bandwidth(rows_of("Z", Z), sigma)
    operator = DiffusionOperator(Z, width, normalization, alpha, torch.float64)
    values = torch.linalg.eigvalsh(operator.dense(torch.float64))  # its backward is V diag(slopes) V'
    found = entropy_of_shares(values.clamp(min=FLOOR).pow(t))
    return (found / (math.log(base) if base is not None else 1.0)).to(working_dtype(Z.dtype))
