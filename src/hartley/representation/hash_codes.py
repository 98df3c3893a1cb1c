"""How many examples share a neural code: redundancy, entropy, and estimators that count in streams."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from hartley.info.estimators import Estimate, plugin
from hartley.representation.rows import as_array

DIGEST = 16  # bytes: two of a billion different codes meet with a chance of 2e-21


def redundancy_ratio(codes: ArrayLike | Tensor) -> float:
    """Return the share of examples that another one stands for: (N - distinct codes) / N, in [0, 1).

    ``codes [N, B]`` are bool, or packed uint8. 0: every example has a code of its own; 1 - 1/N: all have the same.
    Raises ``ValueError`` for no codes and ``TypeError`` for another kind.

    >>> redundancy_ratio([[True, False], [True, False], [True, True], [False, False]])
    0.25

    Source: He et al. 2021, section 3.
    """
    counts = Counter(_digests(_code_bytes(codes)))
    return 1 - len(counts) / counts.total()


def code_entropy(codes: ArrayLike | Tensor, base: float | None = None) -> Estimate[Tensor]:
    """Return the entropy of the observed codes and its standard error, nats or units of ``base``.

    ``codes`` as in `redundancy_ratio`. It is at most ln N, which it reaches where no two examples share a code: then it
    says how many examples there were and nothing of the network. See :mod:`hartley.info.estimators` for the error.

    >>> value, error = code_entropy([[True], [True], [False], [False]], base=2)
    >>> float(value)
    1.0
    """
    counts = Counter(_digests(_code_bytes(codes)))
    return plugin(torch.tensor(list(counts.values())), base=base)


class HashCodes(BaseEstimator):
    """Count distinct codes in a stream of activations, however it is split and merged.

    A code is the row of bits X > 0. Kept are a 128-bit hash (BLAKE2b) and a count for each distinct code, about 200
    bytes each whatever the code's length.

    Attributes
    ----------
    n_samples_, n_distinct_
        Rows seen, and codes among them.
    redundancy_ratio_
        1 - n_distinct_ / n_samples_.
    entropy_, standard_error_
        Of the observed codes, nats; `code_entropy` says what they mean. One sample: 0 and 0.
    n_features_in_
        B, the bits of a code. Bits that never vary change nothing.

    >>> seen = HashCodes().partial_fit([[0.3, -1.0], [0.9, -0.1]]).merge(HashCodes().partial_fit([[-1.0, 2.0]]))
    >>> seen.n_samples_, seen.n_distinct_, round(seen.entropy_, 4)
    (3, 2, 0.6365)

    Source: He et al. 2021, section 3; the entropy is ours.
    """

    n_features_in_: int
    n_samples_: int

    def fit(self, X: ArrayLike | Tensor, y: object = None) -> HashCodes:
        """Count the codes of ``X [N, B]``, activations or bits, and forget earlier ones; errors as `partial_fit`."""
        return self._count(_bits(self, X, reset=True), fresh=True)

    def partial_fit(self, X: ArrayLike | Tensor, y: object = None) -> HashCodes:
        """Count the codes of ``X [N, B]`` too.

        Raises ``ValueError`` for NaN, infinity, no rows, and rows of another width than those before.
        """
        fresh = not hasattr(self, "n_samples_")
        return self._count(_bits(self, X, reset=fresh), fresh=fresh)

    def merge(self, other: HashCodes) -> HashCodes:
        """Add what ``other`` has counted; one that has seen nothing adds nothing. Returns itself.

        Raises ``ValueError`` for codes of another length.
        """
        if not hasattr(other, "n_samples_"):
            return self
        if not hasattr(self, "n_samples_"):
            self.n_features_in_, self.n_samples_, self._counts = other.n_features_in_, 0, Counter[bytes]()
        _check_width(self, other)
        self.n_samples_ += other.n_samples_
        self._counts.update(other._counts)
        return self

    @property
    def n_distinct_(self) -> int:
        """How many different codes were seen."""
        check_is_fitted(self)
        return len(self._counts)

    @property
    def redundancy_ratio_(self) -> float:
        """1 - n_distinct_ / n_samples_."""
        return 1 - self.n_distinct_ / self.n_samples_

    @property
    def entropy_(self) -> float:
        """Of the observed codes, nats."""
        return self._entropy()[0]

    @property
    def standard_error_(self) -> float:
        """Of ``entropy_``, nats."""
        return self._entropy()[1]

    def _entropy(self) -> tuple[float, float]:
        check_is_fitted(self)
        value, error = plugin(torch.tensor(sorted(self._counts.values())))  # sorted: no order changes a digit
        return float(value), float(error)

    def _count(self, bits: NDArray[np.bool_], fresh: bool) -> HashCodes:
        if fresh:
            self.n_samples_, self._counts = 0, Counter[bytes]()
        self.n_samples_ += len(bits)
        self._counts.update(_digests(np.packbits(bits, axis=1)))
        return self


class NeuralCodeTransformer(TransformerMixin, BaseEstimator):
    """Turn activations into codes, without the bits that were the same for every example seen in fitting.

    A constant bit tells no two examples apart. (The paper looks for them in training and test examples together: fit on
    both for that. It lets the test examples choose the features.)

    Attributes
    ----------
    ones_
        How many examples had each bit set, int64 ``[B]``.
    kept_
        The bits that vary, bool ``[B]``. Of one example, or of a network whose units are all dead or all on, none do,
        and `transform` gives rows of no bits.
    n_samples_, n_features_in_
        N and B.

    >>> codes = NeuralCodeTransformer().fit_transform([[0.5, 1.0, -1.0], [0.5, -2.0, 3.0]])
    >>> codes.astype(int).tolist()
    [[1, 0], [0, 1]]

    Source: He et al. 2021, section 3.
    """

    n_features_in_: int
    n_samples_: int
    ones_: NDArray[np.int64]

    def fit(self, X: ArrayLike | Tensor, y: object = None) -> NeuralCodeTransformer:
        """Find the bits of ``X [N, B]``, activations or bits, that vary; errors as `partial_fit`."""
        return self._count(_bits(self, X, reset=True), fresh=True)

    def partial_fit(self, X: ArrayLike | Tensor, y: object = None) -> NeuralCodeTransformer:
        """Let more examples say which bits vary.

        Raises ``ValueError`` for NaN, infinity, no rows, and rows of another width than those before.
        """
        fresh = not hasattr(self, "n_samples_")
        return self._count(_bits(self, X, reset=fresh), fresh=fresh)

    def merge(self, other: NeuralCodeTransformer) -> NeuralCodeTransformer:
        """Add what ``other`` has seen; one that has seen nothing adds nothing. Returns itself.

        Raises ``ValueError`` for codes of another length.
        """
        if not hasattr(other, "n_samples_"):
            return self
        if not hasattr(self, "n_samples_"):
            self.n_features_in_, self.n_samples_, self.ones_ = other.n_features_in_, 0, np.zeros_like(other.ones_)
        _check_width(self, other)
        self.n_samples_ += other.n_samples_
        self.ones_ = self.ones_ + other.ones_
        return self

    @property
    def kept_(self) -> NDArray[np.bool_]:
        """The bits that vary."""
        check_is_fitted(self)
        return (self.ones_ > 0) & (self.ones_ < self.n_samples_)

    def transform(self, X: ArrayLike | Tensor) -> NDArray[np.bool_]:
        """The bits of ``X [N, B]`` that vary, bool ``[N, kept]``.

        Raises ``ValueError`` as `partial_fit`.
        """
        check_is_fitted(self)
        return _bits(self, X, reset=False)[:, self.kept_]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # bits are bool
        return tags

    def _count(self, bits: NDArray[np.bool_], fresh: bool) -> NeuralCodeTransformer:
        if fresh:
            self.n_samples_, self.ones_ = 0, np.zeros(bits.shape[1], np.int64)
        self.n_samples_ += len(bits)
        self.ones_ = self.ones_ + bits.sum(0)
        return self


def _bits(estimator: Any, X: ArrayLike | Tensor, reset: bool) -> NDArray[np.bool_]:
    return np.asarray(validate_data(estimator, as_array(X), reset=reset)) > 0


def _check_width(mine: Any, other: Any) -> None:
    if mine.n_features_in_ != other.n_features_in_:
        raise ValueError(f"other must have {mine.n_features_in_} features, as this one; got {other.n_features_in_}")


def _code_bytes(codes: ArrayLike | Tensor) -> NDArray[np.uint8]:
    found = np.asarray(as_array(codes))
    if found.dtype not in (np.bool_, np.uint8):
        raise TypeError(f"codes must be bool, or uint8 with 8 bits packed in each; got {found.dtype}")
    if found.ndim != 2 or not len(found):
        raise ValueError(f"codes must have shape [N, B] with at least one row; got {found.shape}")
    return found if found.dtype == np.uint8 else np.packbits(found, axis=1)


def _digests(codes: NDArray[np.uint8]) -> Iterator[bytes]:
    return (hashlib.blake2b(row, digest_size=DIGEST).digest() for row in np.ascontiguousarray(codes))
