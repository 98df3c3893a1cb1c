"""What pretraining is worth: exact excess risks in the factor model, and rules of thumb."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_random_state

from hartley.info.checks import check_count, check_non_negative, check_positive
from hartley.representation.pretraining.factor import FactorPretrainer
from hartley.representation.rows import Floats

PENALTIES = tuple(10.0**power for power in range(-1, 5))  # of the ridge that is told the best of them


def linear_bayes(B: ArrayLike, beta: ArrayLike) -> Floats:
    """Return w* = (B B^T + I)^-1 B beta [D], which predicts E[y | x] for x = B z + mu, y = beta^T z + noise.

    ``B`` [D, r], ``beta`` [r]; z and mu standard normal. Solved in r dimensions (Woodbury): B (I + B^T B)^-1 beta.

    >>> linear_bayes([[2.0], [0.0]], [1.0]).tolist()
    [0.4, 0.0]
    """
    loadings, weights = _model(B, beta)
    return loadings @ np.linalg.solve(np.eye(len(weights)) + loadings.T @ loadings, weights)


def bayes_risk(B: ArrayLike, beta: ArrayLike, noise: float) -> float:
    """Return the least mean squared error, noise^2 + beta^T (I + B^T B)^-1 beta, that any prediction of y from x has.

    >>> round(bayes_risk([[2.0], [0.0]], [1.0], noise=0.1), 4)  # 0.01 + 0.2
    0.21
    """
    check_non_negative("noise", noise)
    loadings, weights = _model(B, beta)
    return noise**2 + float(weights @ np.linalg.solve(np.eye(len(weights)) + loadings.T @ loadings, weights))


def linear_excess_risk(w: ArrayLike, B: ArrayLike, beta: ArrayLike) -> Any:
    """Return (w - w*)^T (B B^T + I) (w - w*), what w^T x costs beyond the Bayes risk: exact, no test set.

    ``w`` [..., D], the rest as in `linear_bayes`; the result is [...], in the unit of y squared. Raises ``ValueError``
    for shapes that do not fit and numbers that are not finite.

    >>> round(float(linear_excess_risk([0.0, 0.0], [[2.0], [0.0]], [1.0])), 4)  # 1 - 0.2
    0.8

    Source: Ge et al. 2024, arXiv 2303.01566, the factor model.
    """
    loadings, _ = _model(B, beta)
    weights = np.asarray(w, dtype=np.float64)
    if weights.ndim == 0 or weights.shape[-1] != len(loadings) or not np.isfinite(weights).all():
        raise ValueError(f"w must hold finite numbers of shape [..., {len(loadings)}]; got shape {weights.shape}")
    gap = weights - linear_bayes(B, beta)
    return (gap**2).sum(-1) + ((gap @ loadings) ** 2).sum(-1)


class ExcessRiskCurve(NamedTuple):
    """Excess risks of the same data sets, by repeat."""

    ms: tuple[int, ...]  #: unlabelled rows
    ns: tuple[int, ...]  #: labelled rows
    pretrained: Floats  #: [len(ms), len(ns), repeats]
    ridge: Floats  #: [len(ns), repeats], at the best of six penalties, chosen by the true risk
    least_squares: Floats  #: [len(ns), repeats], of least norm where N < D
    bayes_risk: float


def excess_risk_curve(
    ms: Sequence[int],
    ns: Sequence[int],
    *,
    B: ArrayLike,
    beta: ArrayLike,
    noise: float = 0.1,
    repeats: int = 20,
    random_state: Any = None,
) -> ExcessRiskCurve:
    """Draw from the factor model x = B z + mu, y = beta^T z + noise, and compare pretraining with learning from labels.

    Pretraining fits `FactorPretrainer` (unit noise, mean 0, as many latents as ``B`` [D, r] has) to m unlabelled rows
    and least squares without an intercept to n labelled ones; fewer labels than latents get the solution of least norm.
    Its rivals see the n labelled rows alone, and ridge regression is told which of six penalties has the least true
    risk. Risks are exact (`linear_excess_risk`), in the unit of y squared. In a repeat, smaller sizes are the first
    rows of larger ones.

    Raises ``ValueError`` for sizes, shapes and numbers outside their range.

    >>> curve = excess_risk_curve([50, 5000], [10], B=2 * np.eye(20)[:, :2], beta=[1.0, 1.0], repeats=5, random_state=0)
    >>> few, many = curve.pretrained.mean(-1)[:, 0]
    >>> bool(many < few < curve.ridge.mean())
    True

    Source: Ge et al. 2024, arXiv 2303.01566, the factor model.
    """
    for name, sizes in (("ms", ms), ("ns", ns)):
        if not len(sizes):
            raise ValueError(f"{name} must hold at least one size; got none")
        for size in sizes:
            check_count(name, size)
    check_count("repeats", repeats)
    loadings, weights = _model(B, beta)
    least = bayes_risk(B, beta, noise)
    random = check_random_state(random_state)
    pretrained = np.empty((len(ms), len(ns), repeats))
    ridge, least_squares = np.empty((len(ns), repeats)), np.empty((len(ns), repeats))
    for repeat in range(repeats):
        unlabelled, _ = _draw(random, max(ms), loadings, weights, noise)
        rows, y = _draw(random, max(ns), loadings, weights, noise)
        for i, m in enumerate(ms):
            model = FactorPretrainer(len(weights), assume_centered=True).fit(unlabelled[:m])
            features = model.transform(rows)
            projection = model.transform(np.eye(len(loadings)))
            heads = [np.linalg.lstsq(features[:n], y[:n], rcond=None)[0] for n in ns]
            pretrained[i, :, repeat] = linear_excess_risk(np.array([projection @ head for head in heads]), B, beta)
        for j, n in enumerate(ns):
            alone = _ridge(rows[:n], y[:n])
            risks = linear_excess_risk(alone, B, beta)
            least_squares[j, repeat], ridge[j, repeat] = risks[0], risks[1:].min()
    return ExcessRiskCurve(tuple(ms), tuple(ns), pretrained, ridge, least_squares, least)


def advantage(m: int, n: int, C_phi: float, C_psi: float, C_composite: float) -> float:
    """Return sqrt(C_composite / n) / (sqrt(C_phi / m) + sqrt(C_psi / n)): above 1, pretraining should win.

    A rule of thumb from the orders of the two bounds, without their constants. ``m`` unlabelled and ``n`` labelled
    rows; complexities in numbers of parameters: for the factor model C_phi = D r, C_psi = r, C_composite = D; for a
    mixture C_phi = D K, C_psi = K, C_composite = D K.

    >>> round(advantage(20_000, 20, C_phi=300, C_psi=3, C_composite=100), 2)
    4.39

    Source: Ge et al. 2024, arXiv 2303.01566, theorem of the framework; constants left out.
    """
    check_count("m", m)
    check_count("n", n)
    for name, value in (("C_phi", C_phi), ("C_psi", C_psi), ("C_composite", C_composite)):
        check_positive(name, value)
    return math.sqrt(C_composite / n) / (math.sqrt(C_phi / m) + math.sqrt(C_psi / n))


def informativeness(B: ArrayLike, B_star: ArrayLike) -> float:
    """Return how much farther apart two factor models are with their latents seen than without: at least 1.

    The Hellinger distance of the two laws of (x, z), after the rotation of ``B`` [D, r] nearest to ``B_star`` [D, r],
    over that of the two laws of x. Large: rows of x hardly tell two models apart whose latents differ, and pretraining
    needs many. It stands for the paper's kappa at one pair of models, up to constants: there the upper distance is the
    total variation, which lies between the Hellinger distance squared and sqrt(2) times it, and the rotation that makes
    it least. Equal models leave 0 / 0: NaN.

    >>> strong, weak = ([[2.0], [0.0]], [[2.0], [0.2]]), ([[0.2], [0.0]], [[0.2], [0.02]])
    >>> round(informativeness(*strong), 2), round(informativeness(*weak), 2)
    (1.12, 5.09)

    Source: Ge et al. 2024, arXiv 2303.01566, the definition of informativeness.
    """
    one, other = (np.asarray(value, dtype=np.float64) for value in (B, B_star))
    if one.ndim != 2 or one.shape != other.shape or not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError(
            f"B and B_star must hold finite numbers of one shape [D, r]; got {one.shape} and {other.shape}"
        )
    left, _, right = np.linalg.svd(one.T @ other)
    apart = one @ left @ right - other
    # Both joint laws have determinant 1, and their mean covariance I + apart^T apart / 4
    joint = -0.5 * np.linalg.slogdet(np.eye(one.shape[1]) + apart.T @ apart / 4)[1]
    halves = [np.linalg.slogdet(np.eye(one.shape[1]) + b.T @ b)[1] for b in (one, other)]
    both = np.concatenate([one, other], 1) / math.sqrt(2)
    mean = np.linalg.slogdet(np.eye(both.shape[1]) + both.T @ both)[1]
    seen = 0.25 * sum(halves) - 0.5 * mean
    far, near = -math.expm1(joint), -math.expm1(seen)  # squared distances
    return math.sqrt(far / near) if near > 1e-14 else math.nan


def _model(B: ArrayLike, beta: ArrayLike) -> tuple[Floats, Floats]:
    loadings, weights = np.asarray(B, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if loadings.ndim != 2 or weights.shape != loadings.shape[1:]:
        raise ValueError(f"B must be [D, r] and beta [r]; got shapes {loadings.shape} and {weights.shape}")
    if not (np.isfinite(loadings).all() and np.isfinite(weights).all()):
        raise ValueError("B and beta must be finite; got NaN or infinity")
    return loadings, weights


def _draw(random: np.random.RandomState, count: int, B: Floats, beta: Floats, noise: float) -> tuple[Floats, Floats]:
    """Rows [count, D] and their y [count]."""
    z = random.standard_normal((count, len(beta)))
    rows = z @ B.T + random.standard_normal((count, len(B)))
    return rows, z @ beta + noise * random.standard_normal(count)


def _ridge(rows: Floats, y: Floats) -> Floats:
    """Weights [1 + len(PENALTIES), D]: without a penalty (least norm), and with each."""
    left, values, right = np.linalg.svd(rows, full_matrices=False)
    kept = values > values[0] * max(rows.shape) * np.finfo(np.float64).eps
    plain = np.where(kept, 1 / np.where(kept, values, 1), 0)
    filters = np.stack([plain, *(values / (values**2 + penalty) for penalty in PENALTIES)])
    return (filters * (left.T @ y)) @ right
