"""Latents in which dynamics are linear, z' = z K, shaped by information: the pieces of the loss, and the loss.

Latents are rows everywhere, so K multiplies from the right; its transpose is the K of a column convention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from hartley.info.checks import check_count, check_positive
from hartley.info.distribution import tensor_of, working_dtype
from hartley.representation.spectrum import entropy_of_shares

FLOOR = 1e-8  # added to each share of the variance, so that a mode that died has a gradient to come back by


def latent_entropy(z: Tensor) -> Tensor:
    """Return S = -tr(rho ln rho), nats, of rho = C / tr C for the covariance C of latents ``z [..., D]``; 0-d.

    exp(S) is the effective number of dimensions, 1 to D. Differentiable; computed in float64, returned in the dtype of
    ``z`` (float32 for half precision). Moving, scaling or turning the latents changes nothing. When all are the same
    (to rounding) there is no spectrum, and S is 0, not the ln D that a regularised covariance would give.

    Raises ``ValueError`` for fewer than two latents.

    >>> round(float(latent_entropy(torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]]))), 6)  # 9 : 1
    0.325083

    Source: Cheng et al. 2026, arXiv 2510.13025, the term of predictive sufficiency.
    """
    rows = z.reshape(-1, z.shape[-1]) if z.ndim else z.reshape(1, 1)
    if len(rows) < 2:
        raise ValueError(f"z must hold at least two latents; got shape {tuple(z.shape)}")
    dtype = working_dtype(z.dtype)
    exact = rows.double()
    centred = exact - exact.mean(0)
    total = centred.square().sum()
    if bool(total <= (4 * torch.finfo(dtype).eps) ** 2 * exact.square().sum()):
        return (0 * exact).sum().to(dtype)
    gram = (
        centred.mT @ centred if rows.shape[1] <= len(rows) else centred @ centred.mT
    )  # the same spectrum but for zeros
    return entropy_of_shares(torch.linalg.eigvalsh(gram / total).clamp(min=0), floor=FLOOR).to(dtype)


def temporal_infonce(z: Tensor, *, n_neighbors: int = 3, temperature: float = 0.1) -> Tensor:
    """Return the InfoNCE loss that tells a latent's neighbours in time from the rest of its sequence, nats; 0-d.

    Minus it is, up to a constant, a lower bound on the information that neighbours share. Anchors of ``z [B, T, D]``
    are those with ``n_neighbors`` k on both sides; the 2 k are positives, all other times of the sequence negatives;
    scores are cosines over ``temperature``. Mean over anchors and sequences, at least 0; 0 where T <= 2 k + 1 leaves no
    anchor or no negative. Norms do not count, so keep a reconstruction beside it; a period shorter than T makes true
    neighbours negatives.

    Raises ``ValueError`` for another shape and settings outside their range.

    >>> round(float(temporal_infonce(torch.ones(1, 12, 3), n_neighbors=2)), 4)  # all alike: -ln(4 / 11)
    1.0116

    Source: Cheng et al. 2026, arXiv 2510.13025, the term of temporal coherence.
    """
    check_count("n_neighbors", n_neighbors)
    check_positive("temperature", temperature)
    if z.ndim != 3:
        raise ValueError(f"z must have shape [B, T, D]; got {tuple(z.shape)}")
    k, length = n_neighbors, z.shape[1]
    if length <= 2 * k + 1:
        return (0 * z).sum()
    unit = F.normalize(z.to(working_dtype(z.dtype)), dim=-1)
    scores = unit[:, k : length - k] @ unit.mT / temperature  # [B, anchors, T]
    times = torch.arange(length, device=z.device)
    apart = (times[k : length - k, None] - times).abs()
    log_shares = scores.masked_fill(apart == 0, -torch.inf).log_softmax(-1)
    return -log_shares.masked_fill(apart > k, -torch.inf).logsumexp(-1).mean()


def ridge_koopman(z: Tensor, z_next: Tensor, *, ridge: float = 0.1) -> Tensor:
    """Return K ``[D, D]`` that carries rows ``z [..., T, D]`` to ``z_next``, by ridge regression.

    K = (Z'Z + ridge I)^-1 Z'Z_next for each sequence, then the mean over the sequences. With few steps or little
    variance the ridge shrinks it. Raises ``ValueError`` for shapes that differ and a ``ridge`` not above 0.

    >>> z = torch.tensor([[1.0], [0.5], [0.25]])
    >>> ridge_koopman(z[:-1], z[1:], ridge=1e-9)
    tensor([[0.5000]])

    Source: Cheng et al. 2026, arXiv 2510.13025 and its experiments.
    """
    check_positive("ridge", ridge)
    if z.ndim < 2 or z.shape != z_next.shape:
        raise ValueError(f"z and z_next must both be [..., T, D]; got {tuple(z.shape)} and {tuple(z_next.shape)}")
    steps, width = z.shape[-2:]
    eye = ridge * torch.eye(min(steps, width), dtype=z.dtype, device=z.device)
    if steps < width:
        found = z.mT @ torch.linalg.solve(z @ z.mT + eye, z_next)
    else:
        found = torch.linalg.solve(z.mT @ z + eye, z.mT @ z_next)
    return found.reshape(-1, width, width).mean(0)


def gaussian_lagged_mi(operator: Any, noise: Any, covariance: Any, n_steps: int = 1) -> Any:
    """Return I(z_t; z_{t+n}), nats, of a linear Gaussian process z' = z K + N(0, noise) with ``covariance`` at t.

    All three are ``[D, D]``, ``operator`` in the convention of rows. In float64 and differentiable; tensors give a 0-d
    tensor, arrays a NumPy number. Raises ``ValueError`` for shapes that do not fit and ``noise`` that is not positive
    definite.

    >>> round(float(gaussian_lagged_mi([[0.9]], [[0.1]], [[1.0]])), 6)  # ln(1 + 0.81 / 0.1) / 2
    1.104137

    Source: Cheng et al. 2026, arXiv 2510.13025; the mutual information of a Gaussian channel.
    """
    check_count("n_steps", n_steps)
    k, numpy = tensor_of("operator", operator)
    k = k.double()
    sigma, c = (tensor_of(name, v)[0].to(k) for name, v in (("noise", noise), ("covariance", covariance)))
    if k.ndim != 2 or len({k.shape, k.mT.shape, sigma.shape, c.shape}) > 1:
        shapes = ", ".join(str(tuple(m.shape)) for m in (k, sigma, c))
        raise ValueError(f"operator, noise and covariance must all be [D, D]; got {shapes}")
    between, signal = torch.zeros_like(sigma), c
    for _ in range(n_steps):
        between = k.mT @ between @ k + sigma
        signal = k.mT @ signal @ k
    factor, bad = torch.linalg.cholesky_ex(between)
    if bool(bad):
        raise ValueError(f"noise must be symmetric and positive definite; got {sigma.tolist()}")
    whitened = torch.linalg.solve_triangular(
        factor, torch.linalg.solve_triangular(factor, signal, upper=False).mT, upper=False
    )
    eye = torch.eye(len(k), dtype=k.dtype, device=k.device)
    found = torch.linalg.slogdet(eye + (whitened + whitened.mT) / 2).logabsdet / 2
    return found.detach().numpy()[()] if numpy else found


class WaterFilling(NamedTuple):
    """How a budget of variance is shared out, and up to which level."""

    variances: np.ndarray
    level: float


def water_filling(gains: ArrayLike, budget: float) -> WaterFilling:
    """Return the variances c_j = max(0, level - 1 / gain_j) of sum ``budget`` that maximise sum ln(1 + gain_j c_j).

    What maximal mutual information under a fixed trace does: weak modes get nothing, which is why the loss adds an
    entropy. Raises ``ValueError`` for gains or a budget not above 0.

    >>> water_filling([10, 1], 2.0)
    WaterFilling(variances=array([1.45, 0.55]), level=1.55)

    Source: Cheng et al. 2026, arXiv 2510.13025; Cover & Thomas, section 9.4.
    """
    check_positive("budget", budget)
    a = np.asarray(gains, np.float64)
    if a.ndim != 1 or a.size == 0 or not (np.isfinite(a) & (a > 0)).all():
        raise ValueError(f"gains must be a list of numbers above 0; got {a.tolist()}")
    floors = np.sort(1 / a)
    levels = (budget + floors.cumsum()) / np.arange(1, len(a) + 1)
    level = float(levels[levels > floors][-1])
    return WaterFilling(np.maximum(0.0, level - 1 / a), level)


class KoopmanTerms(NamedTuple):
    """The loss and what it is made of, 0-d each; entropy and infonce in nats, the others mean squares."""

    total: Tensor
    prediction: Tensor
    reconstruction: Tensor
    consistency: Tensor
    infonce: Tensor
    entropy: Tensor


def koopman_loss(
    z: Tensor,
    x: Tensor,
    decoder: Callable[[Tensor], Tensor],
    operator: Tensor | None = None,
    *,
    mi_weight: float = 0.02,
    consistency_weight: float = 1.0,
    entropy_weight: float = 0.02,
    reconstruction_weight: float = 0.1,
    n_neighbors: int = 3,
    temperature: float = 0.1,
    ridge: float = 0.1,
) -> KoopmanTerms:
    """Return the loss of a Koopman autoencoder on windows: small when the latents are linear, coherent and many.

    total = |dec(z K) - x'|^2 + reconstruction_weight |dec(z) - x|^2 + consistency_weight |z' - z K|^2
    + mi_weight InfoNCE - entropy_weight S

    Parameters
    ----------
    z
        Latents ``[B, T, d]`` of the windows, from an encoder of your own.
    x
        States ``[B, T, D]``.
    decoder
        Latents ``[..., d]`` to states ``[..., D]``.
    operator
        K ``[d, d]``, z' = z K, to be learned. None: that of `ridge_koopman` on these windows, without a gradient.
    mi_weight, consistency_weight, entropy_weight, reconstruction_weight
        All terms are means, over steps too. The paper's weights belong to sums over the steps of a window: divide them
        by T (2, 2 and 0.5 at T = 16 are 0.125, 0.125 and 0.03 here).
    n_neighbors, temperature
        As in `temporal_infonce`.
    ridge
        As in `ridge_koopman`.

    The entropy is subtracted, as in the paper; the code released with it adds it. Raises ``ValueError`` for shapes that
    do not fit.

    >>> z = torch.tensor([[[1.0], [0.5], [0.25]]])
    >>> koopman_loss(z, z, lambda z: z, torch.tensor([[0.5]])).total
    tensor(0.)

    Source: Cheng et al. 2026, arXiv 2510.13025, the loss of the autoencoder.
    """
    if z.ndim != 3 or x.ndim < 3 or z.shape[:2] != x.shape[:2] or z.shape[1] < 2:
        raise ValueError(
            f"z and x must be [B, T, d] and [B, T, ...] with T at least 2; got {tuple(z.shape)} and {tuple(x.shape)}"
        )
    if operator is None:
        with torch.no_grad():
            operator = ridge_koopman(z[:, :-1], z[:, 1:], ridge=ridge)
    ahead = z[:, :-1] @ operator
    prediction = F.mse_loss(decoder(ahead), x[:, 1:])
    reconstruction = F.mse_loss(decoder(z), x)
    consistency = F.mse_loss(ahead, z[:, 1:])
    infonce = temporal_infonce(z, n_neighbors=n_neighbors, temperature=temperature)
    entropy = latent_entropy(z)
    total = prediction + reconstruction_weight * reconstruction + consistency_weight * consistency
    if mi_weight:  # no gradient is worked out for a term that has no weight
        total = total + mi_weight * infonce
    if entropy_weight:
        total = total - entropy_weight * entropy
    return KoopmanTerms(total, prediction, reconstruction, consistency, infonce, entropy)
