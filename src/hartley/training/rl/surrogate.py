"""The clipped policy-gradient surrogate of PPO and GRPO, token by token: what the other losses change."""

from typing import NamedTuple

import torch
from torch import Tensor

from hartley.info.checks import check_non_negative
from hartley.info.processes import Group, total
from hartley.training.rl.aggregate import LossAggMode, aggregate

LOG_RATIO = 20.0  # nats; beyond it a ratio says no more than that it is extreme


class Tokens(NamedTuple):
    """Log-probabilities, advantages and mask of a batch of responses, checked, at least in float32."""

    log_prob: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    mask: Tensor  # bool

    @property
    def log_ratio(self) -> Tensor:
        """ln p / p_old, held within 20 nats."""
        return (self.log_prob - self.old_log_prob).clamp(-LOG_RATIO, LOG_RATIO)


def read_tokens(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, mask: Tensor) -> Tokens:
    """Check and align what every policy loss takes.

    ``log_prob`` (of the policy that learns) and ``old_log_prob`` (of the one that wrote the responses) are ``[B, T]``
    in nats, ``advantages`` ``[B, T]``, ``[B, 1]`` or ``[B]`` (one a response), ``mask`` ``[B, T]``. Tokens joined from
    several micro-batches may come flat, ``[N]`` all four. Half precision becomes float32. What the mask drops becomes
    0, with no gradient. Raises ``ValueError`` for shapes that disagree and for values that are not finite where the
    mask keeps.
    """
    shape = log_prob.shape
    if advantages.ndim == 1 and len(shape) == 2 and len(advantages) == shape[0]:
        advantages = advantages[:, None]
    given = {"old_log_prob": old_log_prob, "advantages": advantages, "mask": mask}
    for name, value in given.items():
        per_response = name == "advantages" and value.shape == (*shape[:1], 1)
        if value.shape != shape and not per_response:
            also = " or [B]" if name == "advantages" else ""
            raise ValueError(f"{name} must have log_prob's shape{also}, {tuple(shape)}; got {tuple(value.shape)}")
    kept = mask.bool()
    read = [
        _finite(name, value.expand(shape), kept)
        for name, value in (("log_prob", log_prob), ("old_log_prob", old_log_prob), ("advantages", advantages))
    ]
    return Tokens(read[0], read[1].detach(), read[2].detach(), kept)


def _finite(name: str, value: Tensor, kept: Tensor) -> Tensor:
    value = value if value.dtype == torch.float64 else value.float()
    value = torch.where(kept, value, 0)
    bad = ~value.detach().isfinite()
    if bool(bad.any()):
        place = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name} must be finite where the mask keeps; got {value.detach()[place].item()} at {place}")
    return value


class Surrogate(NamedTuple):
    """The two terms of each token whose larger one is PPO's loss."""

    plain: Tensor  # -A r
    limited: Tensor  # -A clamp(r)

    @property
    def loss(self) -> Tensor:
        """max(plain, limited)."""
        return torch.maximum(self.plain, self.limited)

    @property
    def clipped(self) -> Tensor:
        """Where the clip takes the gradient away (bool)."""
        return (self.limited > self.plain).detach()


def surrogate(tokens: Tokens, epsilon: float = 0.2, epsilon_high: float | None = None) -> Surrogate:
    """The terms of each token with the ratio held in [1 - epsilon, 1 + epsilon_high] (None: the same epsilon)."""
    check_non_negative("epsilon", epsilon)
    high = epsilon if epsilon_high is None else epsilon_high
    check_non_negative("epsilon_high", high)
    ratio = tokens.log_ratio.exp()
    return Surrogate(-tokens.advantages * ratio, -tokens.advantages * ratio.clamp(1 - epsilon, 1 + high))


def mean_of(values: Tensor, mask: Tensor, group: Group = None) -> float:
    """The mean over the kept tokens, those of the other processes included, as a number; 0 where none is kept."""
    kept = mask.bool()
    sums = torch.stack([torch.where(kept, values.detach(), 0).double().sum(), kept.sum().double()])
    value, count = total(sums, group).tolist()
    return value / max(count, 1.0)


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    loss_agg_mode: LossAggMode = "token-mean",
    batch_size: Tensor | float | None = None,
    norm_length: int | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """PPO's clipped policy loss, which GRPO minimises too: the baseline of the interventions beside it.

    Shapes and errors as in `read_tokens`, aggregation as in `aggregate`. Returns the loss and ``clip_fraction`` (of
    the kept tokens) and ``ppo_kl`` (mean of ln p_old / p, nats).

    >>> log_prob = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    >>> loss, metrics = ppo_loss(log_prob, log_prob.detach(), torch.tensor([1.0]), torch.ones(1, 2))
    >>> loss.item(), metrics
    (-1.0, {'clip_fraction': 0.0, 'ppo_kl': 0.0})

    Source: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq. 7.
    """
    tokens = read_tokens(log_prob, old_log_prob, advantages, mask)
    terms = surrogate(tokens, epsilon, epsilon_high)
    loss = aggregate(terms.loss, tokens.mask, loss_agg_mode, batch_size=batch_size, norm_length=norm_length)
    metrics = {
        "clip_fraction": mean_of(terms.clipped.float(), tokens.mask),
        "ppo_kl": mean_of(-tokens.log_ratio, tokens.mask),
    }
    return loss, metrics
