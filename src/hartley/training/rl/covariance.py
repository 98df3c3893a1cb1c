"""Why entropy falls under policy gradients, and two losses that touch only the tokens that make it fall.

To first order an update lowers the entropy by the covariance of log-probability and advantage. A few tokens carry most
of it; Clip-Cov takes their gradient away, KL-Cov ties them to the old policy.
"""

from typing import Literal

import torch
from torch import Tensor

from hartley.info import logits_statistics
from hartley.info.checks import check_non_negative, check_one_of
from hartley.info.processes import Group, total
from hartley.training.rl.aggregate import LossAggMode, aggregate
from hartley.training.rl.selection import at_random, largest, quantile, share_of
from hartley.training.rl.surrogate import Tokens, mean_of, read_tokens, surrogate


def token_entropy(logits: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """Shannon entropy of the whole distribution at each position, in nats, of the logits divided by ``temperature``.

    ``logits`` is ``[..., V]``, ``mask`` and the result ``[...]``; what the mask drops is 0, whatever its logits are.
    Differentiable; half precision is computed in float32. Errors as in `hartley.info.logits_statistics`.

    >>> token_entropy(torch.tensor([[0.0, 0.0], [5.0, torch.nan]]), torch.tensor([1, 0]))
    tensor([0.6931, 0.0000])
    """
    kept = None if mask is None else mask.bool()
    return logits_statistics(logits, temperature=temperature, mask=kept).entropy


def policy_entropy(
    logits: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0, group: Group = None
) -> Tensor:
    """Mean of `token_entropy` over the kept tokens, those of the other processes of ``group`` included; 0 if there is
    none.

    Nats, 0-d. Differentiable without a ``group``; with one it is a measurement, without gradients.

    >>> policy_entropy(torch.zeros(1, 3, 4), torch.tensor([[1, 1, 0]]))
    tensor(1.3863)

    Source: Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning", eq. 3.
    """
    tokens = token_entropy(logits, mask, temperature=temperature)
    kept = torch.ones_like(tokens) if mask is None else mask.bool()
    found, count = tokens.sum(), kept.sum()
    if group is not None:
        found, count = total(torch.stack([found.double(), count.double()]), group)
    return (found / count.clamp(min=1)).to(tokens.dtype)


def token_covariance(log_prob: Tensor, advantages: Tensor, mask: Tensor, *, group: Group = None) -> Tensor:
    """(ln p - mean ln p)(A - mean A) of each kept token, 0 elsewhere; their mean is the covariance (1 / N).

    ``log_prob`` (nats, of the policy as it is at this update), ``advantages`` and ``mask`` as in `read_tokens`. The
    means are over the kept tokens, those of the other processes of ``group`` included. The result carries no gradient.

    >>> log_prob, advantages = torch.tensor([-0.1, -2.0, -0.5, -3.0]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    >>> token_covariance(log_prob, advantages, torch.ones(4))
    tensor([ 1.3000, -0.6000, -0.9000,  1.6000])

    Source: Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning", eq. 10.
    """
    return _covariance(read_tokens(log_prob, log_prob, advantages, mask), group)


def _covariance(tokens: Tokens, group: Group) -> Tensor:
    log_prob, advantages = tokens.log_prob.detach(), tokens.advantages
    sums = torch.stack([log_prob.double().sum(), advantages.double().sum(), tokens.mask.sum().double()])
    log_prob_sum, advantage_sum, count = total(sums, group)
    count = count.clamp(min=1)
    product = (log_prob - (log_prob_sum / count).to(log_prob)) * (advantages - (advantage_sum / count).to(log_prob))
    return torch.where(tokens.mask, product, 0)


def clip_cov_tokens(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    ratio: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    thresholds: Literal["value", "quantile"] = "value",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    generator: torch.Generator | None = None,
    group: Group = None,
) -> Tensor:
    """The tokens whose gradient Clip-Cov takes away (bool): a random few of those whose covariance lies in a band.

    ``max(1, floor(ratio * N))`` of the N kept tokens are drawn from those that PPO's clip leaves alone and whose
    `token_covariance` lies strictly between ``cov_low`` and ``cov_high``; none where there is none, or for a ratio of
    0. With ``thresholds="quantile"`` the two are shares of the kept tokens instead: 0.998 and 1 are the band from the
    0.998-quantile to the largest value, which is left out. Shapes and errors as in `read_tokens`; ``generator`` and
    ``group`` as in `at_random`.
    """
    check_one_of("thresholds", thresholds, ("value", "quantile"))
    tokens = read_tokens(log_prob, old_log_prob, advantages, mask)
    found = _covariance(tokens, group)
    low, high = cov_low, cov_high
    if thresholds == "quantile":
        for name, value in (("cov_low", low), ("cov_high", high)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a share in [0, 1] with thresholds='quantile'; got {value}")
        low, high = (quantile(found, tokens.mask, q, group=group) for q in (low, high))
    clipped = surrogate(tokens, epsilon, epsilon_high).clipped
    eligible = tokens.mask & ~clipped & (found > low) & (found < high)
    return at_random(eligible, share_of(ratio, int(total(tokens.mask.sum(), group))), generator=generator, group=group)


def clip_cov_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    ratio: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    thresholds: Literal["value", "quantile"] = "value",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    loss_agg_mode: LossAggMode = "token-mean",
    batch_size: Tensor | float | None = None,
    norm_length: int | None = None,
    generator: torch.Generator | None = None,
    group: Group = None,
    tokens: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """PPO's clipped loss without the gradient of a few tokens of high covariance, so that entropy falls more slowly.

    Parameters
    ----------
    log_prob, old_log_prob, advantages, mask
        As in `read_tokens`.
    ratio, cov_low, cov_high, thresholds, generator, group
        As in `clip_cov_tokens`. ``ratio`` is a fraction: 2e-4 is 0.02 %. The band of 1 to 5 suits normalised advantages
        and the spread of a language model's log-probabilities.
    epsilon, epsilon_high
        PPO's clip, [1 - epsilon, 1 + epsilon_high]. The paper's recipe sets both to 1.
    loss_agg_mode, batch_size, norm_length
        As in `aggregate`; the chosen tokens stay in the denominator.
    tokens
        The chosen tokens ``[B, T]``, where they were chosen over more than this micro-batch.

    Returns
    -------
    The loss, and ``selected`` (share of the kept tokens), ``clip_fraction`` (share that PPO clips), ``covariance``
    (the mean; nats) and ``ppo_kl`` (mean of ln p_old / p, nats), all of what is given here.

    >>> log_prob = torch.tensor([[-0.1, -2.0], [-0.5, -3.0]], requires_grad=True)
    >>> advantages, mask = torch.tensor([1.0, -1.0]), torch.ones(2, 2)
    >>> loss, metrics = clip_cov_loss(log_prob, log_prob.detach(), advantages, mask, ratio=0.5)
    >>> loss.backward()
    >>> log_prob.grad
    tensor([[-0.0000, -0.2500],
            [ 0.2500,  0.0000]])
    >>> metrics["selected"]
    0.5

    Source: Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning", section 4.2.
    """
    read = read_tokens(log_prob, old_log_prob, advantages, mask)
    if tokens is None:
        tokens = clip_cov_tokens(
            *read, ratio=ratio, cov_low=cov_low, cov_high=cov_high, thresholds=thresholds, epsilon=epsilon,
            epsilon_high=epsilon_high, generator=generator, group=group,
        )  # fmt: skip
    terms = surrogate(read, epsilon, epsilon_high)
    loss = terms.loss.masked_fill(tokens, 0)
    metrics = {
        "selected": mean_of(tokens.float(), read.mask),
        "clip_fraction": mean_of(terms.clipped.float(), read.mask),
        "covariance": mean_of(_covariance(read, None), read.mask),
        "ppo_kl": mean_of(-read.log_ratio, read.mask),
    }
    return aggregate(loss, read.mask, loss_agg_mode, batch_size=batch_size, norm_length=norm_length), metrics


def kl_cov_tokens(
    log_prob: Tensor, advantages: Tensor, mask: Tensor, *, ratio: float = 2e-3, group: Group = None
) -> Tensor:
    """The tokens that KL-Cov ties to the old policy (bool): the share ``ratio`` with the largest `token_covariance`.

    ``max(1, floor(ratio * N))`` of the N kept tokens, none for a ratio of 0; ties go to the earlier.
    """
    read = read_tokens(log_prob, log_prob, advantages, mask)
    return largest(_covariance(read, group), read.mask, ratio, group=group)


def kl_cov_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    ratio: float = 2e-3,
    beta: float = 1.0,
    loss_agg_mode: LossAggMode = "token-mean",
    batch_size: Tensor | float | None = None,
    norm_length: int | None = None,
    group: Group = None,
    tokens: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The policy-gradient surrogate -A r, and ``beta |ln p / p_old|`` on the few tokens of largest covariance.

    No ratio is clipped in this loss. At the first update after a rollout, where p = p_old, the penalty has no gradient:
    it needs two or more updates a rollout to act.

    Parameters
    ----------
    log_prob, old_log_prob, advantages, mask
        As in `read_tokens`.
    ratio
        Share of the tokens, a fraction: the paper's 0.2 % (7B) is 2e-3, its 0.02 % (32B) 2e-4. 0 selects none.
    beta
        Weight of the penalty. The paper uses 1; verl's dataclass has 0.1.
    loss_agg_mode, batch_size, norm_length
        As in `aggregate`.
    group
        The processes over which the tokens are chosen; None chooses among those given here.
    tokens
        The chosen tokens ``[B, T]``, where they were chosen over more than this micro-batch.

    Returns
    -------
    The loss, and ``selected`` (share of the kept tokens), ``covariance`` (the mean; nats) and ``ppo_kl`` (mean of
    |ln p / p_old|, nats), all of what is given here.

    >>> log_prob = torch.tensor([[-0.1, -2.0], [-0.5, -3.0]], requires_grad=True)
    >>> old, advantages, mask = log_prob.detach() - 0.1, torch.tensor([0.0, 0.0]), torch.ones(2, 2)
    >>> loss, metrics = kl_cov_loss(log_prob, old, advantages, mask, ratio=0.25)
    >>> round(loss.item(), 4), metrics["selected"]
    (0.025, 0.25)

    Source: Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning", section 4.2.
    """
    check_non_negative("beta", beta)
    read = read_tokens(log_prob, old_log_prob, advantages, mask)
    if tokens is None:
        tokens = largest(_covariance(read, group), read.mask, ratio, group=group)
    distance = read.log_ratio.abs()
    loss = -read.advantages * read.log_ratio.exp() + beta * torch.where(tokens, distance, 0)
    metrics = {
        "selected": mean_of(tokens.float(), read.mask),
        "covariance": mean_of(_covariance(read, None), read.mask),
        "ppo_kl": mean_of(distance, read.mask),
    }
    return aggregate(loss, read.mask, loss_agg_mode, batch_size=batch_size, norm_length=norm_length), metrics
