"""The effective number of features: the perplexity of how activation mass is shared between codes."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from hartley.info.checks import check_count, check_positive
from hartley.info.distribution import tensor_of

EPS = 1e-10  # added to each share before the entropy; the paper's


class EffectiveCount(NamedTuple):
    """How many equally used features would share the activation mass as evenly."""

    effective_features: float  #: exp(entropy), 1 .. K
    entropy: float  #: nats
    shares: NDArray[np.float64]  #: [K], each feature's part of the mass


def effective_features(codes: Any, *, eps: float = EPS) -> EffectiveCount:
    """Return exp(H) of the shares p_i = mean |a_i| / sum_j mean |a_j| that K features have of the activation mass.

    ``codes`` [..., K] are the features' activations: a tensor, an array, or a SciPy sparse matrix [N, K]. Their signs
    do not count, and neither does which features are active together: two features always on together and two never on
    together both give 2. ``eps`` is added to every share, so that dead features count for almost nothing. Sums are
    float64. Codes that are all zero have no shares: everything is NaN, with a ``RuntimeWarning``.

    Raises ``ValueError`` for no row or no feature, and for NaN and infinity.

    >>> import numpy as np
    >>> found = effective_features(np.array([[1.0, 0.0, 3.0], [1.0, 0.0, 1.0]]))
    >>> found.shares.round(3).tolist(), round(found.effective_features, 3)
    ([0.333, 0.0, 0.667], 1.89)

    Source: Bereska et al. 2025, "Superposition as Lossy Compression", arXiv 2512.13568.
    """
    check_positive("eps", eps)
    if not isinstance(codes, Tensor) and not sparse.issparse(codes):
        codes = np.asarray(codes)
    if codes.ndim == 0 or 0 in codes.shape:
        raise ValueError(f"codes must have at least one row and one feature; got shape {tuple(codes.shape)}")
    return _count(_sums("codes", codes).mass, eps)


def superposition_ratio(codes: Any, n_neurons: int, *, eps: float = EPS) -> float:
    """Return psi = F / N, the effective features of ``codes`` [..., K] for each of ``n_neurons``.

    Above 1 the layer holds more features than neurons, in superposition; below 1 it is redundant or has room. Takes and
    refuses what `effective_features` does.

    >>> round(superposition_ratio(torch.eye(4), n_neurons=2), 6)
    2.0
    """
    check_count("n_neurons", n_neurons)
    return effective_features(codes, eps=eps).effective_features / n_neurons


class EffectiveFeatures(BaseEstimator):
    """`effective_features` of a stream of codes, in the memory of two numbers a feature.

    ``partial_fit`` takes codes [N, K] (array, tensor or SciPy sparse), ``merge`` what another one has seen; the result
    does not depend on the order or the split, to the rounding of float64 sums. ``eps`` as in `effective_features`.

    Attributes: ``effective_features_``, ``entropy_`` (nats), ``shares_`` [K], ``dead_fraction_`` (the share of features
    that were never active), ``l0_`` (the mean number of active features in a sample), ``n_samples_``.

    Raises ``ValueError`` for NaN, infinity and codes of another width; codes that are all zero give NaN and warn.

    >>> seen = EffectiveFeatures().partial_fit(torch.eye(3)).merge(EffectiveFeatures().partial_fit(torch.eye(3)))
    >>> round(seen.effective_features_, 6), seen.l0_, seen.dead_fraction_, seen.n_samples_
    (3.0, 1.0, 0.0, 6)

    Source: as `effective_features`.
    """

    n_features_in_: int  #: K
    effective_features_: float
    entropy_: float
    shares_: NDArray[np.float64]
    dead_fraction_: float
    l0_: float
    n_samples_: int

    def __init__(self, *, eps: float = EPS) -> None:
        self.eps = eps

    def fit(self, X: Any, y: Any = None) -> EffectiveFeatures:
        """Forget what was seen, and take the codes ``X`` [N, K]; return itself."""
        return self._take(X, reset=True)

    def partial_fit(self, X: Any, y: Any = None) -> EffectiveFeatures:
        """Take more codes, ``X`` [N, K]; return itself."""
        return self._take(X, reset=not hasattr(self, "n_samples_"))

    def merge(self, other: EffectiveFeatures) -> EffectiveFeatures:
        """Add what ``other`` has seen, which must have as many features; return itself."""
        if not hasattr(other, "n_samples_"):
            return self
        if hasattr(self, "n_samples_"):
            if self.n_features_in_ != other.n_features_in_:
                raise ValueError(f"other must have {self.n_features_in_} features; got {other.n_features_in_}")
            return self._set(self._seen.plus(other._seen))
        self.n_features_in_ = other.n_features_in_
        return self._set(other._seen)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _take(self, X: Any, reset: bool) -> EffectiveFeatures:
        check_positive("eps", self.eps)
        if isinstance(X, Tensor):
            X = X.detach()
            if X.ndim != 2 or 0 in X.shape:
                raise ValueError(f"X must be [N, K] with at least one row and feature; got shape {tuple(X.shape)}")
            if not reset and X.shape[1] != self.n_features_in_:
                raise ValueError(f"X must have {self.n_features_in_} features, as before; got {X.shape[1]}")
            self.n_features_in_ = X.shape[1]
        else:
            X = validate_data(self, X, reset=reset, accept_sparse=("csr", "csc"), dtype=(np.float64, np.float32))
        sums = _sums("X", X)
        return self._set(sums if reset else self._seen.plus(sums))

    def _set(self, seen: _Sums) -> EffectiveFeatures:
        self._seen = seen
        self.effective_features_, self.entropy_, self.shares_ = _count(seen.mass, self.eps)
        self.n_samples_ = seen.rows
        self.dead_fraction_ = float((seen.active == 0).mean())
        self.l0_ = float(seen.active.sum() / seen.rows)
        return self


class _Sums(NamedTuple):
    """What is kept of codes."""

    mass: NDArray[np.float64]  # [K], sum of |a|
    active: NDArray[np.int64]  # [K], how often a was not 0
    rows: int

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(self.mass + other.mass, self.active + other.active, self.rows + other.rows)


def _sums(name: str, codes: Any) -> _Sums:
    if sparse.issparse(codes):
        size = abs(codes)
        mass = np.asarray(size.sum(0, dtype=np.float64)).ravel()
        active = np.asarray((size != 0).sum(0, dtype=np.int64)).ravel()
        rows = codes.shape[0]
    else:
        values = codes.detach() if isinstance(codes, Tensor) else tensor_of(name, codes)[0]
        values = values.reshape(-1, values.shape[-1])
        values = values if values.is_floating_point() else values.double()
        # No |a| is stored: the norm and the count read the codes as they lie
        mass = torch.linalg.vector_norm(values, 1, dim=0, dtype=torch.float64).cpu().numpy()
        active = torch.count_nonzero(values, dim=0).cpu().numpy()
        rows = len(values)
    if not np.isfinite(mass).all():
        at = int(np.flatnonzero(~np.isfinite(mass))[0])
        raise ValueError(f"{name} must be finite; got {'NaN' if np.isnan(mass[at]) else 'infinity'} in feature {at}")
    return _Sums(mass, active, rows)


def _count(mass: NDArray[np.float64], eps: float) -> EffectiveCount:
    top = mass.max()
    if top == 0:
        warnings.warn("all codes are zero, so no feature has a share; the count is NaN", RuntimeWarning, stacklevel=3)
        return EffectiveCount(math.nan, math.nan, np.full_like(mass, math.nan))
    scaled = mass / top  # a sum of the largest float64s would overflow
    shares = scaled / scaled.sum()
    smoothed = (shares + eps) / (shares + eps).sum()
    entropy = float(-(smoothed * np.log(smoothed)).sum())
    return EffectiveCount(math.exp(entropy), entropy, shares)
