"""A uniform sample of rows in bounded memory that is the same whatever the order and the split of the stream."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from hartley.info.checks import check_count
from hartley.representation.rows import as_array


class Reservoir:
    """Keep ``size`` rows of all that pass, each row with the same chance, decided by a hash of its content.

    The rows with the smallest hashes stay, so any order, any split and any merge of the same rows keep the same sample
    (bottom-k sampling). Rows that are equal bit for bit share a hash: they stay or go together, up to the size.

    ``n_seen_`` counts the rows that passed; ``sample_ [min(size, N), D]`` holds those that stayed, float32 or float64
    as they came (half precision becomes float32), ordered by hash. ``random_state`` chooses the hash.

    >>> import torch
    >>> rows = torch.arange(12.0).reshape(6, 2)
    >>> whole = Reservoir(3).partial_fit(rows)
    >>> parts = Reservoir(3).partial_fit(rows[4:]).merge(Reservoir(3).partial_fit(rows[:4]))
    >>> bool((whole.sample_ == parts.sample_).all()), parts.n_seen_
    (True, 6)

    Source: Cohen & Kaplan 2007, "Summarizing data using bottom-k sketches".
    """

    def __init__(self, size: int, random_state: int = 0) -> None:
        check_count("size", size)
        self.size = size
        self.random_state = random_state
        self.n_seen_ = 0
        self.sample_ = np.empty((0, 0), np.float32)
        self._keys = np.empty(0, np.uint64)

    def partial_fit(self, X: ArrayLike | Tensor) -> Reservoir:
        """Let the rows of ``X [..., D]`` pass.

        Raises ``ValueError`` for rows of another width than those before and for no axis at all.
        """
        rows = _rows(X)
        if self.n_seen_ and rows.shape[1] != self.sample_.shape[1]:
            raise ValueError(f"X must have {self.sample_.shape[1]} features, as the rows before; got {rows.shape[1]}")
        seen, keys = len(rows), _hashes(rows, self.random_state)
        if len(self._keys) == self.size:  # most rows of a long stream fall here, before anything is copied
            near = keys < self._keys[-1]
            rows, keys = rows[near], keys[near]
        return self._take(rows, keys, seen)

    def merge(self, other: Reservoir) -> Reservoir:
        """Add what another one has seen, which must have the same ``size`` and ``random_state``."""
        mine, theirs = (self.size, self.random_state), (other.size, other.random_state)
        if mine != theirs:
            raise ValueError(f"other must have size and random_state {mine}, as this one; got {theirs}")
        return self._take(other.sample_, other._keys, other.n_seen_)

    def _take(self, rows: np.ndarray, keys: np.ndarray, seen: int) -> Reservoir:
        self.n_seen_ += seen
        if len(rows) == 0:
            return self
        everything = np.concatenate([self.sample_, rows]) if len(self.sample_) else rows
        all_keys = np.concatenate([self._keys, keys])
        first = np.argsort(all_keys, kind="stable")[: self.size]
        self.sample_, self._keys = everything[first], all_keys[first]
        return self


def _rows(X: ArrayLike | Tensor) -> np.ndarray:
    rows = np.asarray(as_array(X))
    if rows.ndim == 0:
        raise ValueError(f"X must have a feature axis; got the scalar {rows}")
    rows = rows.astype(np.promote_types(rows.dtype, np.float32), copy=False)
    return rows.reshape(-1, rows.shape[-1])


def _hashes(rows: np.ndarray, seed: int) -> np.ndarray:
    """A multilinear hash modulo 2^64 of each row's bits, mixed until its upper bits depend on all of them."""
    words = np.ascontiguousarray(rows + 0.0).view(np.uint32).astype(np.uint64)  # + 0.0: -0 and 0 are one number
    drawn = np.random.default_rng(seed).integers(0, 2**64, words.shape[1] + 1, np.uint64, endpoint=False)
    keys = (words * (drawn[1:] | np.uint64(1))).sum(1) + drawn[0]  # a row of zeros has its chance too
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):  # MurmurHash3's finaliser
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    return keys ^ (keys >> np.uint64(33))
