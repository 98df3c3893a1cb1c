"""In how many directions a cloud of points extends: entropies and ranks of the spectrum of a matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from hartley.info.checks import check_base, check_positive, row_name
from hartley.info.distribution import Array, give, safe_log, shannon, tensor_of
from hartley.representation.rows import fitted_rows

ROUNDING = 1e-5  # relative: what a symmetric positive semidefinite matrix in float32 may be off by


def von_neumann_entropy(matrix: Array, *, base: float | None = None) -> Array:
    """Return -tr(A ln A) of each ``matrix`` after division by its trace, nats (``base=2``: bits).

    Parameters
    ----------
    matrix
        Symmetric positive semidefinite ``[..., D, D]``, of any trace: a covariance, a Gram matrix, a density matrix.
        A matrix of zeros has no direction, and its entropy is 0.
    base
        Of the logarithm: None for nats.

    Returns
    -------
    ``[...]`` in float64, between 0 (one direction) and ln D (all alike), differentiable in torch.

    Raises
    ------
    ValueError
        For a matrix that is not square, finite, symmetric and positive semidefinite to rounding (1e-5).

    >>> round(float(von_neumann_entropy(np.diag([0.5, 0.25, 0.25]), base=2)), 6)
    1.5

    Source: von Neumann 1927; of a covariance: Roy & Vetterli 2007, "The effective rank".
    """
    check_base(base)
    x, numpy = _matrix(matrix)
    return give(entropy_of_shares(_eigenvalues(x)), numpy, -1, False, base)


def effective_rank(matrix: Array) -> Array:
    """Return exp of the von Neumann entropy of each ``matrix``: how many equal directions would have that entropy.

    Takes and refuses what `von_neumann_entropy` does; between 1 and D, and 0 for a matrix of zeros. (Roy & Vetterli
    take the singular values of the data, which are the square roots of these eigenvalues, so theirs is the larger.)

    >>> round(float(effective_rank(np.eye(5))), 6)
    5.0
    """
    x, numpy = _matrix(matrix)
    return give(_rank(_eigenvalues(x)), numpy, -1, False, None)


def participation_ratio(matrix: Array) -> Array:
    """Return (tr A)^2 / tr(A^2) of each ``matrix``, a count of directions that needs no eigenvalues.

    Takes and refuses what `von_neumann_entropy` does; between 1 and the effective rank, and 0 for a matrix of zeros.

    >>> float(participation_ratio(np.diag([2.0, 1.0, 1.0])))
    2.6666666666666665

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality".
    """
    x, numpy = _matrix(matrix)
    return give(_participation(x.diagonal(dim1=-2, dim2=-1).sum(-1), x.square().sum((-2, -1))), numpy, -1, False, None)


def matrix_renyi_entropy(gram: Array, alpha: float = 2.0, *, base: float | None = None) -> Array:
    """Return ln(tr A^alpha) / (1 - alpha) of a Gram matrix scaled to A_ij = K_ij / (N sqrt(K_ii K_jj)), nats.

    Parameters
    ----------
    gram
        Symmetric positive semidefinite ``[..., N, N]`` with a diagonal above 0: a kernel between N samples.
    alpha
        Above 0; 1 is the von Neumann entropy, inf the largest eigenvalue alone. 2 needs no eigenvalues.
    base
        Of the logarithm: None for nats.

    Returns
    -------
    ``[...]`` in float64, between 0 (all samples alike) and ln N (all orthogonal); it never rises with ``alpha``.

    Raises ``ValueError`` as `von_neumann_entropy`, and for an ``alpha`` or a diagonal that is not above 0.

    >>> round(float(matrix_renyi_entropy(np.array([[1.0, 0.5], [0.5, 1.0]]), base=2)), 6)
    0.678072

    Source: Sanchez Giraldo, Rao & Principe 2014, "Measures of Entropy from Data Using Infinitely Divisible Kernels".
    """
    check_base(base)
    if alpha != math.inf:
        check_positive("alpha", alpha)
    x, numpy = _matrix(gram, "gram")
    diagonal = x.diagonal(dim1=-2, dim2=-1)
    bad = ~(diagonal > 0).all(-1)
    if bool(bad.any()):
        got = float(diagonal[bad].amin())
        raise ValueError(f"gram must have a diagonal above 0; got {got:.6g}{row_name(bad)}")
    scale = diagonal.rsqrt()
    a = x * scale[..., :, None] * scale[..., None, :] / x.shape[-1]
    if alpha == 2:
        found = -a.square().sum((-2, -1)).log()
    elif alpha == 1:
        found = entropy_of_shares(_eigenvalues(a))
    else:
        values = _eigenvalues(a)
        found = -values[..., -1].log() if alpha == math.inf else values.pow(alpha).sum(-1).log() / (1 - alpha)
    return give(found.clamp(min=0), numpy, -1, False, base)


class CovarianceSpectrum(BaseEstimator):
    """The spectrum of the covariance of rows, from a stream: any order, split or merge of the rows gives the same.

    Holds one D x D matrix in float64, whatever the number of rows.

    Attributes
    ----------
    eigenvalues_ : [D], descending, of the covariance with divisor N (the square of the rows' unit)
    von_neumann_entropy_ : of the eigenvalues as shares of their sum, nats, 0 to ln D
    effective_rank_ : exp of it
    participation_ratio_ : (sum of the eigenvalues)^2 / sum of their squares
    mean_ : [D]
    n_samples_, n_features_in_ : N and D

    Features that never vary add nothing. Where none varies, as with a single row, entropy and both ranks are 0. With
    fewer rows than features all are at most those of N - 1 directions: compare layers at the same N.

    >>> rows = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> whole = CovarianceSpectrum().fit(rows)
    >>> whole.eigenvalues_, round(whole.participation_ratio_, 4)
    (array([2. , 0.5]), 1.4706)
    >>> parts = CovarianceSpectrum().partial_fit(rows[2:]).merge(CovarianceSpectrum().partial_fit(rows[:2]))
    >>> parts.eigenvalues_, parts.n_samples_
    (array([2. , 0.5]), 4)

    Source: Chan, Golub & LeVeque 1979 for the merge.
    """

    n_samples_: int
    n_features_in_: int
    mean_: NDArray[np.float64]
    _scatter: NDArray[np.float64]
    _eigenvalues: NDArray[np.float64] | None

    def fit(self, X: Any, y: Any = None) -> CovarianceSpectrum:
        """Forget what was seen and take the rows ``X [N, D]``, an array or a tensor (there ``[..., D]``)."""
        self._forget()
        return self.partial_fit(X)

    def partial_fit(self, X: Any, y: Any = None) -> CovarianceSpectrum:
        """Add the rows ``X``.

        Raises ``ValueError`` for NaN, infinity, no row, and another number of features than before.
        """
        rows = fitted_rows(self, X, reset=not hasattr(self, "n_samples_")).double()
        shifted = rows - rows[0]  # so that a feature that never varies has no variance to the last bit
        offset = shifted.mean(0)
        centred = shifted - offset
        return self._add(len(rows), (rows[0] + offset).cpu().numpy(), (centred.T @ centred).cpu().numpy())

    def merge(self, other: CovarianceSpectrum) -> CovarianceSpectrum:
        """Add what another one has seen."""
        check_is_fitted(other, "n_samples_")
        if hasattr(self, "n_samples_") and other.n_features_in_ != self.n_features_in_:
            raise ValueError(f"other must have {self.n_features_in_} features, as this one; got {other.n_features_in_}")
        self.n_features_in_ = other.n_features_in_
        return self._add(other.n_samples_, other.mean_, other._scatter)

    @property
    def eigenvalues_(self) -> NDArray[np.float64]:
        """Descending, computed when first asked for."""
        check_is_fitted(self, "n_samples_")
        found = self._eigenvalues
        if found is None:
            values = torch.linalg.eigvalsh(torch.from_numpy(self._scatter / self.n_samples_))
            found = self._eigenvalues = values.clamp(min=0).flip(0).numpy()
        return found

    @property
    def von_neumann_entropy_(self) -> float:
        """Of the eigenvalues as shares of their sum, nats."""
        return float(entropy_of_shares(torch.from_numpy(self.eigenvalues_)))

    @property
    def effective_rank_(self) -> float:
        """exp of the von Neumann entropy."""
        return float(_rank(torch.from_numpy(self.eigenvalues_)))

    @property
    def participation_ratio_(self) -> float:
        """(sum of the eigenvalues)^2 / sum of their squares."""
        values = torch.from_numpy(self.eigenvalues_)
        return float(_participation(values.sum(), values.square().sum()))

    def _forget(self) -> None:
        for name in ("n_samples_", "mean_", "_scatter", "_eigenvalues"):
            vars(self).pop(name, None)

    def _add(self, count: int, mean: NDArray[np.float64], scatter: NDArray[np.float64]) -> CovarianceSpectrum:
        if not hasattr(self, "n_samples_"):
            self.n_samples_, self.mean_, self._scatter = count, mean.copy(), scatter.copy()
        else:
            total = self.n_samples_ + count
            apart = mean - self.mean_
            self.mean_ = self.mean_ + apart * (count / total)
            self._scatter = self._scatter + scatter + np.outer(apart, apart) * (self.n_samples_ * count / total)
            self.n_samples_ = total
        self._eigenvalues = None
        return self


def _matrix(values: Array, name: str = "matrix") -> tuple[Tensor, bool]:
    """In float64, having refused what is not square, finite and symmetric."""
    x, numpy = tensor_of(name, values)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] == 0:
        raise ValueError(f"{name} must be square, [..., D, D]; got shape {tuple(x.shape)}")
    x = x.double()
    seen = x.detach()
    bad = ~seen.isfinite().all(-1).all(-1)
    if bool(bad.any()):
        raise ValueError(f"{name} must be finite; got NaN or inf{row_name(bad)}")
    apart, largest = (seen - seen.mT).abs().amax((-2, -1)), seen.abs().amax((-2, -1))
    bad = apart > ROUNDING * largest
    if bool(bad.any()):
        raise ValueError(f"{name} must be symmetric; got entries {float(apart[bad][0]):.3g} apart{row_name(bad)}")
    return x, numpy


def _eigenvalues(matrix: Tensor) -> Tensor:
    """Ascending, none below 0."""
    values = torch.linalg.eigvalsh(matrix)
    low, high = values.detach()[..., 0], values.detach()[..., -1]
    bad = low < -ROUNDING * high.abs()
    if bool(bad.any()):
        got = float(low[bad][0])
        raise ValueError(f"matrix must be positive semidefinite; got the eigenvalue {got:.6g}{row_name(bad)}")
    return values.clamp(min=0)


def entropy_of_shares(eigenvalues: Tensor, *, floor: float = 0.0) -> Tensor:
    """Return the entropy of ``eigenvalues [..., D]``, none below 0, as shares of their sum, nats, ``[...]``.

    ``floor`` is added to each share, and the sum made 1 again: a direction without any then has the slope -ln floor to
    come back by, at the cost of about D floor ln(1 / floor) nats. Without it the slope there is 0.

    >>> entropy_of_shares(torch.tensor([2.0, 2.0, 0.0]))
    tensor(0.6931)
    """
    p = _shares(eigenvalues)
    if floor:
        p = _shares(p + floor)
    return shannon(safe_log(p), p).clamp(min=0)


def _shares(eigenvalues: Tensor) -> Tensor:
    total = eigenvalues.sum(-1, keepdim=True)
    return eigenvalues / torch.where(total > 0, total, 1)


def _rank(eigenvalues: Tensor) -> Tensor:
    return entropy_of_shares(eigenvalues).exp() * (eigenvalues.sum(-1) > 0)


def _participation(total: Tensor, squares: Tensor) -> Tensor:
    return total.square() / torch.where(squares > 0, squares, 1)
