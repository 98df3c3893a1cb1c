"""STEER: weigh each token's policy loss down by how much its update is predicted to change the entropy.

The published form and the code its authors released are two algorithms. The published one: ``estimator="omega"``,
``mapping="exp"``, ``floor=0`` (the defaults). The released one: ``estimator="official"`` with ``mapping="exp"``,
``floor=0.02`` or with ``mapping="linear"``, its default.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from hartley.info.checks import check_fraction, check_non_negative, check_one_of
from hartley.info.processes import Group, gather
from hartley.training.rl.aggregate import LossAggMode, aggregate
from hartley.training.rl.selection import quantile
from hartley.training.rl.surrogate import LOG_RATIO, mean_of, read_tokens, surrogate

Estimator = Literal["omega", "official", "exact"]
Mapping = Literal["exp", "linear"]


def entropy_change(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    entropy: Tensor,
    clipped: Tensor | None = None,
    estimator: Estimator = "omega",
    *,
    logits: Tensor | None = None,
) -> Tensor:
    """How much the policy-gradient step of each token lowers the entropy at its position, to first order.

    A step of size eta on this token's logits changes the entropy by about ``-eta`` times the result (nats). With p the
    token's probability now, r = p / p_old and H the entropy at its position:

    - ``"omega"``, the published one: r A p (1 - p) (ln p + H), as if the token's own logit alone moved; 0 where PPO
      clips the token.
    - ``"official"``, the released code's: r A (1 - p) (ln p + H), one factor p fewer, and not 0 where clipped.
    - ``"exact"``: r A (p (ln p + H) - sum_v p_v^2 (ln p_v + H)), the derivative along all logits, which it needs
      (``logits``, at the temperature of the log-probabilities); 0 where clipped.

    ``log_prob``, ``old_log_prob``, ``advantages``, ``entropy`` (nats) and ``clipped`` (bool) are of one shape ``[...]``
    and so is the result, which carries no gradient; ``logits`` is ``[..., V]``. The entropy must be of the same
    temperature as the log-probabilities. Raises ``ValueError`` for another estimator or missing logits.

    >>> one, p, h = torch.ones(3), torch.tensor([0.9, 0.05, 0.5]), torch.tensor([0.5, 2.0, 1.0])
    >>> entropy_change(p.log(), p.log(), one, h)
    tensor([ 0.0355, -0.0473,  0.0767])
    >>> entropy_change(p.log(), p.log(), one, h, estimator="official").abs()
    tensor([0.0395, 0.9459, 0.1534])

    Source: Hao et al. 2025, "Rethinking Entropy Interventions in RLVR", eq. 8.
    """
    check_one_of("estimator", estimator, ("omega", "official", "exact"))
    log_p, old, advantages, entropy = (
        x.detach() if x.dtype == torch.float64 else x.detach().float()
        for x in (log_prob, old_log_prob, advantages, entropy)
    )
    p = log_p.exp()
    pull = (log_p - old).clamp(-LOG_RATIO, LOG_RATIO).exp() * advantages
    if estimator == "official":
        p, old_p = p.clamp(1e-8, 1 - 1e-8), old.exp().clamp(1e-8, 1)
        found = advantages / old_p * p * (1 - p) * (p.log() + entropy)
        return found.nan_to_num(0, 0, 0)
    if estimator == "omega":
        found = pull * p * (1 - p) * (log_p + entropy)
    else:
        if logits is None:
            raise ValueError("logits must be given with estimator='exact', [..., V]; got None")
        log_all = (logits.detach() if logits.dtype == torch.float64 else logits.detach().float()).log_softmax(-1)
        typical = (log_all + entropy[..., None]).masked_fill(log_all == -torch.inf, 0)
        found = pull * (p * (log_p + entropy) - (log_all.exp().square() * typical).sum(-1))
    return found if clipped is None else found.masked_fill(clipped, 0)


def steer_weights(
    omega: Tensor,
    mask: Tensor,
    lambda_min: float = 0.8,
    mapping: Mapping = "exp",
    *,
    floor: float = 0.0,
    lambda_max: float = 1.2,
    top: float = 1.0,
    group: Group = None,
) -> Tensor:
    """A weight for each token from its predicted change of entropy, whatever the change's sign; 0 where masked.

    ``"exp"``: ``lambda_min ** (|omega| / M)``, M the largest |omega| of the kept tokens or ``floor`` if that is larger;
    between ``lambda_min`` and 1. ``top=0.99`` makes M that quantile instead, so that one outlier does not lift all the
    other weights; what lies above has ``lambda_min``. ``"linear"``: from ``lambda_max`` at the smallest |omega| to
    ``lambda_min`` at the largest; their mean where all are the same. The extremes are over what is given, and the other
    processes of ``group``. No gradient; ``omega`` and ``mask`` have one shape, any.

    >>> steer_weights(torch.tensor([0.0, 0.01, -0.02, 0.1, 9.0]), torch.tensor([1, 1, 1, 1, 0]))
    tensor([1.0000, 0.9779, 0.9564, 0.8000, 0.0000])

    Source: Hao et al. 2025, "Rethinking Entropy Interventions in RLVR", eq. 10.
    """
    check_fraction("lambda_min", lambda_min)
    check_one_of("mapping", mapping, ("exp", "linear"))
    check_fraction("top", top)
    check_non_negative("floor", floor)
    if omega.shape != mask.shape:
        raise ValueError(f"omega and mask must have one shape; got {tuple(omega.shape)} and {tuple(mask.shape)}")
    kept = mask.bool()
    size = torch.where(kept, omega.detach().abs(), 0)
    everyone, _ = gather(size[kept], group)
    if len(everyone) == 0:
        return torch.zeros_like(size)
    if mapping == "linear":
        low, high = everyone.min(), everyone.max()
        share = torch.where(high > low, (size - low) / (high - low), 0.5)
        weights = lambda_max - share * (lambda_max - lambda_min)
    else:
        largest = everyone.max() if top == 1 else quantile(size, mask, top, group=group)
        largest = largest.clamp(min=floor)
        share = torch.where(largest > 0, size / largest, 0).clamp(max=1)
        weights = (share * math.log(lambda_min)).exp()
    return torch.where(kept, weights, 0)


def steer_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    entropy: Tensor,
    mask: Tensor,
    *,
    lambda_min: float = 0.8,
    estimator: Estimator = "omega",
    mapping: Mapping = "exp",
    floor: float = 0.0,
    lambda_max: float = 1.2,
    top: float = 1.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = 0.28,
    dual_clip: float | None = 10.0,
    loss_agg_mode: LossAggMode = "token-mean",
    batch_size: Tensor | float | None = None,
    norm_length: int | None = None,
    logits: Tensor | None = None,
    group: Group = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """PPO's clipped loss, each token weighed by `steer_weights` of its `entropy_change`.

    Parameters
    ----------
    log_prob, old_log_prob, advantages, mask
        As in `read_tokens`.
    entropy
        Of the whole distribution at each position ``[B, T]``, nats, at the temperature of the log-probabilities.
    estimator, logits
        As in `entropy_change`.
    lambda_min, mapping, floor, lambda_max, top, group
        As in `steer_weights`. ``lambda_min=1`` is the plain loss.
    epsilon, epsilon_high, dual_clip
        PPO's clip, and the largest ratio that counts where the advantage is negative (None: no such limit).
    loss_agg_mode, batch_size, norm_length
        As in `aggregate`. The weights are not renormalised to mean 1.
    weights
        The weights ``[B, T]``, where they were found over more than this micro-batch.

    Returns
    -------
    The loss, and ``weight_mean``, ``weight_min``, ``weight_max``, ``clip_fraction_high`` and ``clip_fraction_low``
    (shares of the kept tokens clipped above and below) and ``ppo_kl`` (mean of ln p_old / p, nats).

    >>> log_prob = torch.tensor([[-0.1, -2.0]], requires_grad=True)
    >>> entropy, mask = torch.tensor([[0.5, 1.5]]), torch.ones(1, 2)
    >>> loss, metrics = steer_loss(log_prob, log_prob.detach(), torch.ones(1), entropy, mask)
    >>> round(metrics["weight_min"], 4), round(loss.item(), 4)
    (0.8, -0.8385)

    Source: Hao et al. 2025, "Rethinking Entropy Interventions in RLVR", eq. 11.
    """
    tokens = read_tokens(log_prob, old_log_prob, advantages, mask)
    terms = surrogate(tokens, epsilon, epsilon_high)
    if weights is None:
        weights = token_weights(
            *tokens, entropy=entropy, lambda_min=lambda_min, estimator=estimator, mapping=mapping, floor=floor,
            lambda_max=lambda_max, top=top, epsilon=epsilon, epsilon_high=epsilon_high, logits=logits, group=group,
        )  # fmt: skip
    loss = terms.loss
    if dual_clip is not None:
        if dual_clip <= 1:
            raise ValueError(f"dual_clip must be above 1, or None; got {dual_clip}")
        loss = torch.where(tokens.advantages < 0, loss.clamp(max=-tokens.advantages * dual_clip), loss)
    kept = weights[tokens.mask] if bool(tokens.mask.any()) else weights.new_zeros(1)
    metrics = {
        "weight_mean": float(kept.mean()),
        "weight_min": float(kept.min()),
        "weight_max": float(kept.max()),
        "clip_fraction_high": mean_of((terms.clipped & (tokens.advantages > 0)).float(), tokens.mask),
        "clip_fraction_low": mean_of((terms.clipped & (tokens.advantages < 0)).float(), tokens.mask),
        "ppo_kl": mean_of(-tokens.log_ratio, tokens.mask),
    }
    values = weights * loss
    return aggregate(values, tokens.mask, loss_agg_mode, batch_size=batch_size, norm_length=norm_length), metrics


def token_weights(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    entropy: Tensor,
    lambda_min: float = 0.8,
    estimator: Estimator = "omega",
    mapping: Mapping = "exp",
    floor: float = 0.0,
    lambda_max: float = 1.2,
    top: float = 1.0,
    epsilon: float = 0.2,
    epsilon_high: float | None = 0.28,
    logits: Tensor | None = None,
    group: Group = None,
) -> Tensor:
    """The weights that `steer_loss` gives, of its arguments; for tokens of many micro-batches call it on all of them.

    No gradient; 0 where masked.
    """
    tokens = read_tokens(log_prob, old_log_prob, advantages, mask)
    if entropy.shape != tokens.mask.shape:
        raise ValueError(f"entropy must have log_prob's shape, {tuple(tokens.mask.shape)}; got {tuple(entropy.shape)}")
    entropy = torch.where(tokens.mask, entropy, 0)
    clipped = surrogate(tokens, epsilon, epsilon_high).clipped
    omega = entropy_change(*tokens[:3], entropy, clipped, estimator, logits=logits)
    return steer_weights(omega, mask, lambda_min, mapping, floor=floor, lambda_max=lambda_max, top=top, group=group)
