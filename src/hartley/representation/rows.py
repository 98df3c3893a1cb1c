"""Rows as estimators and functions take them, NumPy arrays or torch tensors, finite; results back in the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data
from torch import Tensor

from hartley.info.checks import row_name
from hartley.info.distribution import tensor_of, working_dtype

Floats = NDArray[np.floating[Any]]


def rows_of(name: str, values: ArrayLike | Tensor) -> Tensor:
    """Return ``values`` as floating-point rows ``[N, D]`` where they lie, half precision as float32, integers float64.

    Raises ``ValueError`` for another number of axes, no row, no feature, and for NaN or infinity, naming the row.

    >>> rows_of("Z", [[1.0, float("nan")]])
    Traceback (most recent call last):
    ValueError: Z must be finite; got nan in row 0
    """
    rows = tensor_of(name, values)[0].detach()
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"{name} must be [N, D] with a row and a feature at least; got shape {tuple(rows.shape)}")
    rows = rows.to(working_dtype(rows.dtype))
    good = rows.isfinite()
    if not bool(good.all()):
        raise ValueError(f"{name} must be finite; got {rows[~good][0].item()}{row_name(~good.all(1))}")
    return rows


def fitted_rows(estimator: BaseEstimator, values: Any, *, reset: bool) -> Tensor:
    """Return what an estimator is given as rows, having set or (``reset=False``) checked its ``n_features_in_``.

    Tensors may be ``[..., D]``; all else passes through scikit-learn's own validation first.
    """
    if not isinstance(values, Tensor):
        return tensor_of("X", validate_data(estimator, values, reset=reset, dtype=["float64", "float32"]))[0]
    rows = rows_of("X", values.reshape(-1, values.shape[-1]) if values.ndim > 2 else values)
    wanted = getattr(estimator, "n_features_in_", None)
    if reset or wanted is None:
        estimator.n_features_in_ = rows.shape[1]  # pyright: ignore[reportAttributeAccessIssue]
    elif rows.shape[1] != wanted:
        raise ValueError(f"X must have {wanted} features, as the rows before; got {rows.shape[1]}")
    return rows


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
