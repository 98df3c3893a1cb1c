"""Diffusion spectral mutual information: how much of a representation's spread a label accounts for."""

from __future__ import annotations

import math
import random as python_random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_consistent_length
from torch import Tensor

from hartley.info import entropy
from hartley.info.checks import check_base, check_count
from hartley.info.distribution import tensor_of
from hartley.representation.diffusion_operator import DiffusionOperator, Normalization, Sigma, bandwidth
from hartley.representation.diffusion_spectral import RandomState, diffusion_spectral_entropy
from hartley.representation.rows import fitted_rows, rows_of

SATURATED = 0.98  # share of the largest entropy above which points are called isolated


class MutualInformation(NamedTuple):
    """What `diffusion_spectral_mutual_information` found."""

    value: float
    standard_error: float  # over the random subsets
    clusters: NDArray[np.int64]  # [N], 0 .. C - 1
    per_class: NDArray[np.float64]  # [C]: the entropy of random subsets less that of the class
    sigma: float


def diffusion_spectral_mutual_information(
    Z: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    n_repetitions: int = 5,
    n_clusters: int = 10,
    measure: Callable[[Tensor], float] | None = None,
    sigma: Sigma = 10.0,
    t: float = 1,
    normalization: Normalization = "symmetric",
    alpha: float = 0.5,
    base: float | None = 2,
    random_state: RandomState | Literal["compat"] = None,
) -> MutualInformation:
    """Return by how much knowing ``y`` lowers the diffusion spectral entropy of ``Z``, bits.

    sum_c (n_c / N) (mean of the entropy of ``n_repetitions`` random subsets of n_c rows - that of the rows of class c):
    subsets, since the entropy grows with the number of points.

    Parameters
    ----------
    Z
        Rows ``[N, D]``.
    y
        Integers or strings ``[N]`` are classes as they stand; floats ``[N]`` are cut into ``n_clusters`` bins of equal
        width; vectors ``[N, E]`` are clustered into as many (spectral clustering). Giving the clusters of an earlier
        result spares the time when only ``Z`` changes.
    measure
        Takes rows and returns an entropy, in place of the diffusion's: `classic_shannon_entropy` for instance. Its own
        settings then hold, not those here.
    sigma, t, normalization, alpha, base
        As in `diffusion_spectral_entropy`; the same bandwidth for every subset.
    random_state
        An int or a NumPy Generator for the subsets; "compat" draws them as the authors' code does (Python's generator
        with seed 0, anew for each class).

    It is no Shannon mutual information: not symmetric, and it may be slightly below 0. A class of one row adds 0, a
    single class gives 0. Warns where the entropy of the subsets is above 0.98 of its largest value: the points are
    isolated at this bandwidth, and a low value then does not mean little information.

    Raises ``ValueError`` for NaN, infinity, lengths that differ, and settings outside their range.

    >>> Z, y = np.repeat([[0.0], [10.0]], 20, axis=0), np.repeat([0, 1], 20)
    >>> round(diffusion_spectral_mutual_information(Z, y, sigma=1.0, random_state=0).value, 6)
    1.0

    Source: Liao et al. 2023, arXiv 2312.04823.
    """
    check_count("n_repetitions", n_repetitions)
    check_base(base)
    rows = rows_of("Z", Z)
    clusters = _clusters(y, len(rows), n_clusters)
    width = bandwidth(rows, sigma)

    def diffusion(subset: Tensor) -> float:
        return diffusion_spectral_entropy(
            subset, sigma=width, t=t, normalization=normalization, alpha=alpha, base=base, max_samples=None
        )

    found = measure or diffusion
    counts = np.bincount(clusters)
    inside = np.array([found(rows[_on(clusters == c, rows)]) for c in range(len(counts))])
    subsets = _subsets(len(rows), counts, n_repetitions, random_state)
    whole = np.array([[found(rows[_on(places, rows)]) for places in drawn] for drawn in subsets])
    shares, per_class = counts / len(rows), whole.mean(1) - inside
    if measure is None:
        unit = math.log(base) if base is not None else 1.0
        _warn_if_isolated(float(shares @ whole.mean(1)), float(shares @ np.log(counts)) / unit, width)
    spread = whole.var(1, ddof=1) / n_repetitions if n_repetitions > 1 else np.zeros(len(counts))
    error = math.sqrt(float(shares**2 @ spread))
    return MutualInformation(float(shares @ per_class), error, clusters, per_class, width)


class DiffusionSpectralMutualInformation(BaseEstimator):
    """`diffusion_spectral_mutual_information` as an estimator; the settings are the same.

    Attributes
    ----------
    mutual_information_ : in bits, or in units of ``base``
    standard_error_ : of it, over the random subsets
    clusters_ : ``[N]``, the class of each row, 0 .. C - 1
    per_class_ : ``[C]``, what each class adds before it is weighted by its share
    sigma_ : the bandwidth that was used

    >>> from sklearn.datasets import load_iris
    >>> found = DiffusionSpectralMutualInformation(sigma="median", random_state=0).fit(*load_iris(return_X_y=True))
    >>> len(found.per_class_), bool(found.mutual_information_ > 0.5)
    (3, True)
    """

    def __init__(
        self,
        n_repetitions: int = 5,
        n_clusters: int = 10,
        measure: Callable[[Tensor], float] | None = None,
        sigma: Sigma = 10.0,
        t: float = 1,
        normalization: Normalization = "symmetric",
        alpha: float = 0.5,
        base: float | None = 2,
        random_state: RandomState | Literal["compat"] = None,
    ) -> None:
        self.n_repetitions = n_repetitions
        self.n_clusters = n_clusters
        self.measure = measure
        self.sigma = sigma
        self.t = t
        self.normalization = normalization
        self.alpha = alpha
        self.base = base
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> DiffusionSpectralMutualInformation:
        """Measure the rows ``X [N, D]`` against ``y``."""
        rows = fitted_rows(self, X, reset=True)
        found = diffusion_spectral_mutual_information(rows, y, **self.get_params())
        self.mutual_information_, self.standard_error_ = found.value, found.standard_error
        self.clusters_, self.per_class_, self.sigma_ = found.clusters, found.per_class, found.sigma
        return self


def classic_shannon_entropy(Z: ArrayLike | Tensor, *, bins: int = 2, base: float | None = 2) -> float:
    """Return the entropy of the rows of ``Z`` as cells of a histogram with ``bins`` of equal width a feature, bits.

    Each feature is scaled to 0 .. 1 first; one that never varies falls in the first bin. With many features every row
    has a cell of its own, and it is log2 N whatever the data: the baseline that the diffusion's entropy improves on.
    Raises ``ValueError`` for NaN, infinity, no row, or fewer than one bin.

    >>> classic_shannon_entropy([[0.0, 0.0], [1.0, 0.1], [0.9, 0.0], [0.1, 1.0]])
    1.5

    Source: Liao et al. 2023, arXiv 2312.04823, the baseline.
    """
    check_count("bins", bins)
    cells = _binned(rows_of("Z", Z).double(), bins)
    counts = torch.unique(cells, dim=0, return_counts=True)[1]
    return float(entropy(counts=counts, base=base))


def matrix_entry_entropy(
    Z: ArrayLike | Tensor,
    *,
    sigma: Sigma = 10.0,
    normalization: Normalization = "symmetric",
    alpha: float = 0.5,
    base: float | None = 2,
) -> float:
    """Return the entropy of the N^2 entries of the diffusion matrix P / N, bits: 0 to 2 log2 N.

    P is the operator of `diffusion_spectral_entropy`, whose settings these are, divided by its row sums.

    >>> matrix_entry_entropy([[0.0], [100.0], [200.0], [300.0]])
    2.0

    Source: Liao et al. 2023, arXiv 2312.04823, a variant in the authors' code.
    """
    check_base(base)
    rows = rows_of("Z", Z)
    operator = DiffusionOperator(rows, bandwidth(rows, sigma), normalization, alpha, torch.float64)
    nats = 0.0
    for places in torch.arange(len(rows), device=rows.device).split(1024):
        entries = operator.columns(places)  # K is symmetric: these are its rows
        entries = entries / (entries.sum(0) * len(rows))
        nats -= float(torch.special.xlogy(entries, entries).sum())
    return nats / math.log(base) if base is not None else nats


def _clusters(y: Any, count: int, n_clusters: int) -> NDArray[np.int64]:
    """The class of each row, 0 .. C - 1, in the sorted order of the classes."""
    check_count("n_clusters", n_clusters)
    if not isinstance(y, Tensor) and (names := np.asarray(y)).dtype.kind in "OSU":
        if not all(isinstance(name, str | bytes) for name in names.ravel()):
            raise ValueError("Unknown label type: y must be numbers or strings; got other objects")
        y = np.unique(names, return_inverse=True)[1]
    given = tensor_of("y", y)[0].detach().cpu()
    check_consistent_length(range(count), given)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.is_floating_point():
        if not bool(given.isfinite().all()):
            raise ValueError(f"y must be finite; got {float(given[~given.isfinite()][0])}")
        given = given.double()
        if given.ndim == 2:
            return _spectral(given.numpy(), n_clusters)
        given = _binned(given[:, None], n_clusters)[:, 0]
    if given.ndim != 1:
        raise ValueError(f"y must be [N] or, with floats, [N, E]; got shape {tuple(given.shape)} of {given.dtype}")
    return np.unique(given.numpy(), return_inverse=True)[1].astype(np.int64)


def _spectral(vectors: NDArray[np.float64], n_clusters: int) -> NDArray[np.int64]:
    from sklearn.cluster import SpectralClustering

    clustering = SpectralClustering(
        n_clusters=n_clusters, affinity="nearest_neighbors", assign_labels="cluster_qr", random_state=0
    )
    return np.unique(clustering.fit_predict(vectors), return_inverse=True)[1].astype(np.int64)


def _binned(values: Tensor, bins: int) -> Tensor:
    """The bin of each value ``[N, D]`` among equal ones between the least and the largest of its feature."""
    low, high = values.amin(0), values.amax(0)
    scaled = (values - low) / torch.where(high > low, high - low, 1)
    edges = torch.linspace(0, 1, bins + 1, dtype=values.dtype, device=values.device)[:-1]
    return torch.bucketize(scaled, edges, right=True) - 1


def _subsets(
    count: int, sizes: NDArray[np.int64], repetitions: int, random_state: RandomState | Literal["compat"]
) -> Iterator[list[NDArray[np.int64]]]:
    """For each class, the places of ``repetitions`` random subsets of its size."""
    random = None if isinstance(random_state, str) else np.random.default_rng(random_state)
    if isinstance(random_state, str) and random_state != "compat":
        raise ValueError(f'random_state must be an int, a Generator, None or "compat"; got {random_state!r}')
    for size in map(int, sizes):
        if random is not None:
            yield [random.choice(count, size, replace=False) for _ in range(repetitions)]
        else:
            legacy = python_random.Random(0)
            yield [np.array(legacy.sample(range(count), size)) for _ in range(repetitions)]


def _on(places: NDArray[Any], rows: Tensor) -> Tensor:
    return torch.from_numpy(places).to(rows.device)


def _warn_if_isolated(found: float, most: float, sigma: float) -> None:
    if most > 0 and found > SATURATED * most:
        warnings.warn(
            f"at sigma={sigma:.4g} the points are isolated (the entropy of random subsets is {found:.2f} of at most "
            f'{most:.2f}), so that no label can lower it; take a larger sigma, or "median"',
            stacklevel=3,
        )
