"""Condition numbers of a model's weights: how unlike the directions of each tensor are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from hartley.representation.rows import as_array

FUSED = ("gate_up_proj", "down_proj", "gate_proj", "up_proj")  # 3-d parameters: one matrix for each expert
MAX_DIM = 16384  # PEFT's too: leaves out matrices with one row for each word
ROWS = 2048  # of a matrix that are taken to float64 together
GRAM_ERROR = 1e-4  # relative, of the smallest eigenvalue; a matrix that may be further off gets an SVD


@dataclass(frozen=True)
class WeightCondition:
    """What the singular values s of one weight say; of fused experts, the mean over them."""

    name: str  #: of the parameter, as in ``model.named_parameters()``
    shape: tuple[int, ...]
    kappa: float  #: largest s / smallest s, at least 1; inf where the matrix is singular
    sum_log_s: float  #: sum of ln s, nats: what a map of this weight adds to a Gaussian's entropy; -inf where singular
    effective_rank: float  #: exp of the entropy of s^2 / sum s^2: between 1 and the smaller side
    n_params: int
    kind: str  #: the module's place within its layer, such as "mlp.up_proj"

    @property
    def fused(self) -> bool:
        """Whether this is one tensor of many experts."""
        return _is_fused(self.name, len(self.shape))


def condition_numbers(
    model: nn.Module | Mapping[str, Tensor], *, include: str | None = None, max_dim: int | None = MAX_DIM
) -> list[WeightCondition]:
    """Return the condition number, log-volume and effective rank of every weight matrix, in the model's order.

    Parameters
    ----------
    model
        A module, or weights by name (a state dict). Tied weights count once. A convolution is the matrix of its first
        axis by all others. 3-d parameters of fused experts (``...gate_up_proj`` and the like) are averaged over them.
    include
        A regular expression to be found in the names.
    max_dim
        Matrices with a longer side are left out, None for none. 16384 leaves out most vocabularies.

    Left out too: vectors, matrices of one row or column, whose kappa is always 1, and matrices of zeros (fresh LoRA).

    Returns
    -------
    One `WeightCondition` each. Singular values come from the float64 eigenvalues of the Gram matrix of the smaller
    side, or from a float64 SVD where rounding may take 1e-4 of the smallest eigenvalue. Singular is a matrix whose
    smallest singular value is below 1.2e-7 of its largest, float32's rounding (of float64 weights: below 2.2e-16 times
    the longer side). Works on ``torch.get_num_threads()`` threads, one matrix each.

    Raises
    ------
    ValueError
        For NaN or infinity in a weight and one on the meta device, naming it, and where nothing is left to measure.
    TypeError
        For quantised weights: their numbers are not the matrix; dequantise the model.

    >>> found = condition_numbers({"layers.0.mlp.up_proj.weight": torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0]))})
    >>> found[0].kappa, round(found[0].sum_log_s / math.log(2), 6), found[0].kind
    (8.0, 6.0, 'mlp.up_proj')

    Source: Ludwig 2025, "The Condition Number as a Scale-Invariant Proxy for Information Encoding in Neural Units".
    """
    found = measure_weights(model, include, max_dim)
    if not found:
        where = "" if include is None else f" whose name has {include!r} in it"
        raise ValueError(
            f"model must hold a weight matrix{where} that is not 0 and has 2 to {max_dim} rows and columns"
        )
    return found


def measure_weights(
    model: nn.Module | Mapping[str, Tensor], include: str | None = None, max_dim: int | None = MAX_DIM
) -> list[WeightCondition]:
    """As `condition_numbers`, but of some of a model's weights, among which there may be nothing to measure.

    >>> measure_weights({"norm.weight": torch.ones(4)})
    []
    """
    weights = list(_weights(model, include, max_dim))
    with threadpool_limits(1, user_api="blas"):
        pool = ThreadPoolExecutor(torch.get_num_threads())
        try:
            return [each for each in pool.map(lambda given: _condition(*given), weights) if each is not None]
        finally:
            pool.shutdown(cancel_futures=True)


def gaussian_output_entropy(weight: ArrayLike | Tensor, cov: ArrayLike | Tensor | None = None) -> float:
    """Return the differential entropy of W x for Gaussian x, on the range of W, in nats.

    ``weight`` W is ``[m, n]``, ``cov`` the covariance ``[n, n]`` of x, None for the identity. With s the min(m, n)
    singular values of W cov^(1/2): (k / 2) ln(2 pi e) + sum ln s; -inf where one of them is 0. Raises ``ValueError``
    for shapes that do not fit, numbers that are not finite, and a covariance that is not symmetric positive definite.

    >>> [round(gaussian_output_entropy(np.diag(np.sqrt(s))), 6) for s in ([1.0, 1.0, 1.0], [2.5, 0.4, 0.1])]
    [4.256816, 3.105523]

    Source: Ludwig 2025, section 3.
    """
    matrix = _matrix("weight", weight)
    if cov is not None:
        covariance = _matrix("cov", cov)
        size = matrix.shape[1]
        if covariance.shape != (size, size) or not np.allclose(covariance, covariance.T):
            raise ValueError(f"cov must be symmetric, of shape {(size, size)}; got shape {covariance.shape}")
        try:
            matrix = matrix @ np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            raise ValueError("cov must be positive definite; an eigenvalue is 0 or below") from None
    k = min(matrix.shape)
    peak = np.abs(matrix).max()
    sum_log_s = _spectrum(matrix, np.finfo(np.float64).eps * max(matrix.shape)).sum_log_s if peak else -math.inf
    return k / 2 * math.log(2 * math.pi * math.e) + sum_log_s


class _Spectrum(NamedTuple):
    kappa: float
    sum_log_s: float
    effective_rank: float


class _Weight(NamedTuple):
    name: str
    values: Tensor
    kind: str


def _weights(model: nn.Module | Mapping[str, Tensor], include: str | None, max_dim: int | None) -> Iterator[_Weight]:
    named = model.named_parameters() if isinstance(model, nn.Module) else model.items()
    seen: set[tuple[object, ...]] = set()
    for name, values in named:
        if values.ndim < 2 or (include is not None and not re.search(include, name)):
            continue
        rows, columns = values.shape[1:] if _is_fused(name, values.ndim) else (len(values), values[0].numel())
        if min(rows, columns) < 2 or (max_dim is not None and max(rows, columns) > max_dim):
            continue
        place = (values.device, values.data_ptr(), values.shape, values.stride())
        if values.is_meta:
            raise ValueError(f"{name} is on the meta device and has no numbers; load the model with its weights")
        if not values.is_floating_point():
            raise TypeError(f"{name} must be floating point; got {values.dtype}: dequantise the model first")
        if place not in seen:
            seen.add(place)
            yield _Weight(name, values.detach(), _kind(name))


def _is_fused(name: str, ndim: int) -> bool:
    return ndim == 3 and name.rpartition(".")[2] in FUSED


def _kind(name: str) -> str:
    """The name without ``.weight``, what comes before its first number, and every number."""
    parts = name.removesuffix(".weight").split(".")
    number = next((at for at, part in enumerate(parts) if part.isdigit()), -1)
    words = [part for part in parts if not part.isdigit()]
    return ".".join([part for part in parts[number + 1 :] if not part.isdigit()] or words or ["weight"])


def _condition(name: str, values: Tensor, kind: str) -> WeightCondition | None:
    """None for zeros."""
    matrices = values if _is_fused(name, values.ndim) else values.reshape(1, len(values), -1)
    found: list[_Spectrum] = []
    for matrix in matrices:
        # float64 keeps its precision; everything else is known to float32's at best
        double = matrix.dtype == torch.float64
        array = (matrix if double else matrix.float()).cpu().numpy()
        peak = float(np.abs(array).max())
        if not math.isfinite(peak):
            raise ValueError(f"{name} must be finite; got {'NaN' if math.isnan(peak) else 'infinity'}")
        if peak > 0:
            least = np.finfo(np.float64).eps * max(array.shape) if double else float(np.finfo(np.float32).eps)
            found.append(_spectrum(array, least))
    if not found:
        return None
    means = _Spectrum(*(float(np.mean(numbers)) for numbers in zip(*found, strict=True)))
    return WeightCondition(name, tuple(values.shape), *means, n_params=values.numel(), kind=kind)


def _spectrum(matrix: NDArray[np.floating], least: float) -> _Spectrum:
    """Of a finite matrix that is not 0; singular where the smallest s is at most ``least`` times the largest."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    peak = float(np.abs(tall).max()) if matrix.dtype == np.float64 else 1.0  # so that no square overflows or vanishes
    gram = np.empty(0)
    for begin in range(0, len(tall), ROWS):
        rows = tall[begin : begin + ROWS].astype(np.float64)
        if peak != 1:
            rows /= peak
        gram = rows.T @ rows if begin == 0 else np.add(gram, rows.T @ rows, out=gram)
    squares = np.linalg.eigvalsh(gram)[::-1]
    rounding = np.finfo(np.float64).eps * math.sqrt(len(tall))  # of a sum of as many terms, beside the largest
    if squares[-1] * GRAM_ERROR < squares[0] * rounding:
        squares = np.linalg.svd(tall.astype(np.float64) / peak, compute_uv=False) ** 2
    shares = squares / squares.sum()
    some = shares[shares > 0]
    rank = math.exp(-float((some * np.log(some)).sum()))
    if squares[-1] <= least**2 * squares[0]:
        return _Spectrum(math.inf, -math.inf, rank)
    log_volume = 0.5 * float(np.log(squares).sum()) + len(squares) * math.log(peak)
    return _Spectrum(math.sqrt(squares[0] / squares[-1]), log_volume, rank)


def _matrix(name: str, values: ArrayLike | Tensor) -> NDArray[np.float64]:
    found = np.asarray(as_array(values), dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise ValueError(f"{name} must be a matrix with at least one row and column; got shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(f"{name} must be finite; got {found[~np.isfinite(found)][0]}")
    return found
