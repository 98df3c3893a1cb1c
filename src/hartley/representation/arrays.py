"""Rows in, in the caller's kind of array, and results back out in the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

Floats = NDArray[np.floating[Any]]


def read_rows(estimator: BaseEstimator, X: Any, *, dtype: Any = np.float64, reset: bool = False) -> NDArray[Any]:
    """Return ``X`` [N, D], array or tensor (from any device), as an array of ``dtype`` that scikit-learn has checked.

    ``reset`` sets ``n_features_in_``; otherwise another width is refused. Raises ``ValueError`` for NaN and infinity.
    """
    return validate_data(estimator, as_array(X), reset=reset, dtype=dtype)  # pyright: ignore[reportReturnType]


def as_array(X: Any) -> Any:
    """Return a tensor (from any device, half precision as float32) as an array, and anything else as it is."""
    if not isinstance(X, Tensor):
        return X
    X = X.detach().cpu()
    return (X.float() if X.dtype in (torch.float16, torch.bfloat16) else X).numpy()


def like(result: NDArray[Any], X: Any) -> Any:
    """Return ``result`` as a tensor where ``X`` is one."""
    return torch.from_numpy(result) if isinstance(X, Tensor) else result
