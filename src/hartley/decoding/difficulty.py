"""How hard a question is for a model: the entropy of its traces and the share of right answers, made into a label."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hartley.info.head import Head

Difficulty = Literal["easy", "normal", "hard"]
DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "normal", "hard")

ALPHA, GAMMA = 0.8, 0.3  # ours: the paper reads its own off a plot and does not state them


class Thresholds(NamedTuple):
    """Where the label changes: accuracy from ``alpha`` on, entropy up to ``beta`` (nats), accuracy under ``gamma``."""

    alpha: float
    beta: float
    gamma: float


def trace_entropy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean entropy, over its generated tokens, of the distributions that a trace was drawn from; nats ``[...]``.

    Parameters: ``logits [..., T, V]``, the model's own (temperature 1, nothing removed), row t those that token t was
    drawn from; ``mask [..., T]``, True where a token was generated (not prompt, not padding), by default everywhere.
    Returns: float64 for float64 logits, else float32; NaN for a trace without a token. A mean, so that a trace said
    twice has the same entropy.
    Raises: ``ValueError`` for shapes that do not fit or, naming the row, for logits that are NaN, +inf or all -inf.

    >>> trace_entropy(torch.zeros(3, 8))
    tensor(2.0794)
    >>> trace_entropy(torch.zeros(2, 8), torch.tensor([False, False]))
    tensor(nan)

    Source: Liu et al. 2026, "DiffAdapt", section 2.
    """
    if logits.ndim < 2:
        raise ValueError(f"logits must have shape [..., T, V]; got {tuple(logits.shape)}")
    mask = torch.ones(logits.shape[:-1], dtype=torch.bool) if mask is None else mask.bool()
    if mask.shape != logits.shape[:-1]:
        raise ValueError(f"mask must have shape {tuple(logits.shape[:-1])}, one a token; got {tuple(mask.shape)}")
    mask = mask.to(logits.device)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    entropies = torch.zeros(mask.shape, dtype=wide, device=logits.device)
    if bool(mask.any()):
        entropies[mask] = Head.of(logits[mask], k=1).entropy.to(wide)
    return entropies.sum(-1) / mask.sum(-1)  # 0 / 0 is NaN


def label_difficulty(
    acc: ArrayLike, entropy: ArrayLike, alpha: float = ALPHA, beta: float = np.inf, gamma: float = GAMMA
) -> Difficulty | NDArray[np.str_]:
    """Label a question "normal", "hard" or "easy" by the model's accuracy and entropy on it.

    Right in a share of at least ``alpha`` of its samples with an entropy of at most ``beta``: normal. Right in fewer
    than ``gamma``: hard. Everything else, sure of nothing or thinking too much, is easy. "Hard" too where no sample had
    a token (NaN entropy).

    Parameters: ``acc`` in [0, 1] and ``entropy`` (nats, mean over the samples), scalars or arrays ``[N]``.
    Returns: a word, or an array of words ``[N]``.
    Raises: ``ValueError`` for an accuracy outside [0, 1], a negative entropy, and unless 0 <= gamma <= alpha <= 1.

    >>> label_difficulty(0.9, 0.4, beta=0.5), label_difficulty(0.9, 0.6, beta=0.5), label_difficulty(0.2, 0.4, beta=0.5)
    ('normal', 'easy', 'hard')

    Source: Liu et al. 2026, "DiffAdapt", the labelling rule.
    """
    acc, entropy = _checked(acc, entropy)
    if not 0 <= gamma <= alpha <= 1:
        raise ValueError(f"gamma and alpha must satisfy 0 <= gamma <= alpha <= 1; got gamma={gamma}, alpha={alpha}")
    if not beta >= 0:
        raise ValueError(f"beta must be at least 0 nats; got {beta}")
    hard = (acc < gamma) | np.isnan(entropy)
    labels = np.where((acc >= alpha) & (entropy <= beta), "normal", np.where(hard, "hard", "easy"))
    return labels if labels.ndim else str(labels)  # type: ignore[return-value]


def fit_thresholds(acc: ArrayLike, entropy: ArrayLike, alpha: float = ALPHA, gamma: float = GAMMA) -> Thresholds:
    """Thresholds for :func:`label_difficulty`: beta is the median entropy of the questions that the model can answer.

    ``acc [N]`` and ``entropy [N]`` as there; it can answer those with ``acc >= alpha`` (of all questions where there
    is none: then no label depends on beta). The defaults and the median are ours. Raises ``ValueError`` as
    ``label_difficulty`` does, and where no entropy is known.

    >>> fit_thresholds([1.0, 0.9, 0.8, 0.1], [0.2, 0.6, 0.3, 0.9])
    Thresholds(alpha=0.8, beta=0.3, gamma=0.3)
    """
    acc, entropy = _checked(acc, entropy)
    known = ~np.isnan(entropy)
    if not known.any():
        raise ValueError("entropy must be known for at least one question; every trace was empty")
    able = known & (acc >= alpha)
    beta = float(np.median(entropy[able if able.any() else known]))
    label_difficulty(acc, entropy, alpha, beta, gamma)  # refuses what cannot be thresholds
    return Thresholds(alpha, beta, gamma)


def _checked(acc: ArrayLike, entropy: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, e = np.asarray(acc, dtype=np.float64), np.asarray(entropy, dtype=np.float64)
    if a.shape != e.shape or a.ndim > 1:
        raise ValueError(f"acc and entropy must be two numbers or two arrays [N]; got shapes {a.shape} and {e.shape}")
    if not ((a >= 0) & (a <= 1)).all():
        raise ValueError(f"acc must be in [0, 1]; got {a[~((a >= 0) & (a <= 1))].flat[0]}")
    if not ((e >= 0) | np.isnan(e)).all() or np.isinf(e).any():
        raise ValueError(f"entropy must be finite and at least 0 nats; got {e[(e < 0) | np.isinf(e)].flat[0]}")
    return a, e
