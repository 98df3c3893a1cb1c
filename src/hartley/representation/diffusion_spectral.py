"""Diffusion spectral entropy: the significant directions of a random walk over a cloud of points."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, overload

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from hartley.info.checks import check_base, check_count, check_one_of, check_positive
from hartley.representation.diffusion_operator import DiffusionOperator, Normalization, Sigma, bandwidth
from hartley.representation.lanczos import lanczos_entropy
from hartley.representation.low_rank import approximate, entropy_gap, rise, spectral_entropy
from hartley.representation.rows import fitted_rows, rows_of

Method = Literal["exact", "lanczos"]
RandomState = int | np.random.Generator | None

GOAL = 1e-4 * math.log(2)  # nats: how far the exact way may be off
DIRECT = 1024  # rows up to which all is float64, by either method: nothing is faster


@overload
def diffusion_spectral_entropy(
    Z: ArrayLike | Tensor,
    *,
    sigma: Sigma = ...,
    t: float = ...,
    normalization: Normalization = ...,
    alpha: float = ...,
    base: float | None = ...,
    max_samples: int | None = ...,
    method: Method = ...,
    random_state: RandomState = ...,
    return_spectrum: Literal[False] = ...,
) -> float: ...
@overload
def diffusion_spectral_entropy(
    Z: ArrayLike | Tensor,
    *,
    sigma: Sigma = ...,
    t: float = ...,
    normalization: Normalization = ...,
    alpha: float = ...,
    base: float | None = ...,
    max_samples: int | None = ...,
    method: Method = ...,
    random_state: RandomState = ...,
    return_spectrum: Literal[True],
) -> tuple[float, NDArray[np.float64]]: ...
def diffusion_spectral_entropy(
    Z: ArrayLike | Tensor,
    *,
    sigma: Sigma = 10.0,
    t: float = 1,
    normalization: Normalization = "symmetric",
    alpha: float = 0.5,
    base: float | None = 2,
    max_samples: int | None = 10_000,
    method: Method = "exact",
    random_state: RandomState = None,
    return_spectrum: bool = False,
) -> float | tuple[float, NDArray[np.float64]]:
    """Return the entropy of the spectrum of a diffusion over the rows of ``Z``: its significant directions, bits.

    With G_ij = exp(-|z_i - z_j|^2 / (2 sigma^2)) and q = G 1, the eigenvalues x of G_ij / sqrt(q_i q_j) give the
    probabilities x^t / sum x^t. 0 where all rows agree, log2 N where all are far apart.

    Parameters
    ----------
    Z
        Rows ``[N, D]``, an array or a tensor; on a GPU the work is done there.
    sigma
        Bandwidth in the unit of ``Z``; "median" takes the median distance above 0 between the first 1,000 rows (ours).
    t
        Steps of the diffusion, above 0: small eigenvalues fade as it grows, and the entropy never rises.
    normalization, alpha
        "symmetric" is what the authors' released code computes. "anisotropic" is the operator of the paper's text,
        G_ij / (q_i q_j)^alpha made a random walk; ``alpha`` in [0, 1], 0 is the symmetric one.
    base
        Of the logarithm: 2 for bits as in the paper, None for nats.
    max_samples
        More rows than this are sampled down to it; None for no limit.
    method
        "exact" is within 1e-4 bits of all N eigenvalues in float64, by the cheapest of three ways that is: a low-rank
        part whose remainder is bounded, float32 with a check of what it lost, float64 (always up to 1,024 rows, and for
        t < 1). It may need memory for N^2 numbers. "lanczos" never does, and is off by the standard error that
        `DiffusionSpectralEntropy` tells.
    random_state
        An int or a NumPy Generator: for the sample and for "lanczos".
    return_spectrum
        True returns the N eigenvalues too, descending; those that hold less than 1e-4 bits may be given as 0.

    The value depends on N, sigma, t and the scale of ``Z``: compare only what shares them.

    Raises
    ------
    ValueError
        For NaN, infinity, no row, settings outside their range, and ``return_spectrum`` by "lanczos".

    >>> round(diffusion_spectral_entropy([[0.0, 0.0], [1.0, 1.0]], sigma=1.0), 6)
    0.900046

    Source: Liao et al. 2023, "Assessing Neural Network Representations During Training Using Noise-Resilient Diffusion
    Spectral Entropy", arXiv 2312.04823. The constant that the authors' code adds to each probability (2e-16) is not.
    """
    if return_spectrum and method == "lanczos":
        raise ValueError('return_spectrum needs method="exact"; got "lanczos", which finds no spectrum')
    found = DiffusionSpectralEntropy(
        sigma=sigma,
        t=t,
        normalization=normalization,
        alpha=alpha,
        base=base,
        max_samples=max_samples,
        method=method,
        random_state=random_state,
    )._measure(rows_of("Z", Z))
    if return_spectrum:
        assert found.spectrum_ is not None
        return found.entropy_, found.spectrum_
    return found.entropy_


class DiffusionSpectralEntropy(BaseEstimator):
    """`diffusion_spectral_entropy` as an estimator; the settings are the same.

    Attributes
    ----------
    entropy_ : in bits, or in units of ``base``
    standard_error_ : of ``entropy_``, over the probes of "lanczos"; 0.0 by "exact"
    truncation_ : what the quadrature of "lanczos" adds to that at most (t = 1) or about; 0.0 by "exact"
    sigma_, n_samples_ : the bandwidth and the number of rows that were used
    spectrum_ : ``[N]``, descending; None by "lanczos"

    A sum over pairs of rows cannot be put together from shards, so there is no ``partial_fit``: keep a sample of the
    stream with `Reservoir` and fit that.

    >>> round(DiffusionSpectralEntropy(sigma=1.0).fit([[0.0], [9.0], [18.0], [27.0]]).entropy_, 6)
    2.0
    """

    spectrum_: NDArray[np.float64] | None

    def __init__(
        self,
        sigma: Sigma = 10.0,
        t: float = 1,
        normalization: Normalization = "symmetric",
        alpha: float = 0.5,
        base: float | None = 2,
        max_samples: int | None = 10_000,
        method: Method = "exact",
        random_state: RandomState = None,
    ) -> None:
        self.sigma: Sigma = sigma
        self.t = t
        self.normalization: Normalization = normalization
        self.alpha = alpha
        self.base = base
        self.max_samples = max_samples
        self.method: Method = method
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> DiffusionSpectralEntropy:
        """Measure the rows ``X [N, D]``, an array or a tensor (there ``[..., D]``)."""
        return self._measure(fitted_rows(self, X, reset=True))

    def _measure(self, rows: Tensor) -> DiffusionSpectralEntropy:
        check_positive("t", self.t)
        check_base(self.base)
        check_one_of("method", self.method, get_args(Method))
        random = np.random.default_rng(self.random_state)
        if self.max_samples is not None:
            check_count("max_samples", self.max_samples)
            if len(rows) > self.max_samples:
                places = random.choice(len(rows), self.max_samples, replace=False)
                rows = rows[torch.from_numpy(places).to(rows.device)]
        self.sigma_, self.n_samples_ = bandwidth(rows, self.sigma), len(rows)
        outright = self.method == "exact" or len(rows) <= DIRECT
        dtype = torch.float64 if outright else torch.float32
        operator = DiffusionOperator(rows, self.sigma_, self.normalization, self.alpha, dtype)
        if outright:
            spectrum = exact_spectrum(operator, self.t)
            self.spectrum_ = spectrum.cpu().numpy()
            nats = spectral_entropy(spectrum, self.t), 0.0, 0.0
        else:
            self.spectrum_ = None
            nats = lanczos_entropy(operator, self.t, GOAL, random)
        unit = math.log(self.base) if self.base is not None else 1.0
        self.entropy_, self.standard_error_, self.truncation_ = (value / unit for value in nats)
        return self


def exact_spectrum(operator: DiffusionOperator, t: float) -> Tensor:
    """The N eigenvalues, descending, float64, so well that the entropy of their powers is within 1e-4 bits."""
    count = len(operator)
    if count > DIRECT and t >= 1:
        part = approximate(operator, t, GOAL, count // 3 if t < 2 else count // 8)
        if part.gap <= GOAL:
            return torch.cat([part.eigenvalues, part.eigenvalues.new_zeros(count - len(part.eigenvalues))])
        # The eigenvalue 1 is known, and float32's errors are in proportion to the largest that is left
        values = _eigenvalues(operator.dense(torch.float32, deflated=True)).double()
        values[values.abs().argmin()] = 1  # in the place of the 0 that it left
        # What float32 lost: of the trace, and as eigenvalues below 0 with, about as many, above
        lost = abs(float(values.sum() - operator.diagonal.sum())) + 2 * float(values.clamp(max=0).sum().abs())
        values = values.clamp(min=0).sort(descending=True).values
        if entropy_gap(values.pow(t), rise(lost, t, count), count) <= GOAL:
            return values
    return _eigenvalues(operator.dense(torch.float64)).clamp(min=0).flip(0)


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Ascending, of a symmetric matrix that is spent on it."""
    if matrix.device.type != "cpu":
        return torch.linalg.eigvalsh(matrix)
    found = scipy.linalg.eigh(
        matrix.numpy().T, eigvals_only=True, driver="evd", overwrite_a=True, check_finite=False
    )  # transposed: the same matrix, in the order that LAPACK works on in place
    return torch.from_numpy(found)
