"""The policy losses as modules: settings in one object, which trainers take.

Each works in two steps that can be taken apart. ``choose`` decides over any number of tokens which of them are touched
and how much; ``forward`` is the loss of one micro-batch, given what was chosen or choosing itself. ``as_advantages``
says the same to a trainer that has its own clipped surrogate: with these advantages it has this loss's gradient.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hartley.info.checks import check_fraction, check_non_negative, check_one_of
from hartley.info.processes import Group
from hartley.training.rl.aggregate import LossAggMode
from hartley.training.rl.covariance import clip_cov_loss, clip_cov_tokens, kl_cov_loss, kl_cov_tokens
from hartley.training.rl.selection import share_of
from hartley.training.rl.steer import Mapping, steer_loss, token_weights
from hartley.training.rl.surrogate import LOG_RATIO

Value = tuple[Tensor, dict[str, float]]


class PolicyLoss(nn.Module, ABC):
    """A policy loss: its settings, whom it touches, and its value.

    ``epsilon``, ``epsilon_high`` and ``dual_clip`` are those of the surrogate it rests on; an ``epsilon`` of None is a
    surrogate whose ratio is not clipped.
    """

    epsilon: float | None = None
    epsilon_high: float | None = None
    dual_clip: float | None = None

    def __init__(self, loss_agg_mode: LossAggMode) -> None:
        super().__init__()
        self.loss_agg_mode: LossAggMode = loss_agg_mode

    @abstractmethod
    def choose(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        group: Group = None,
    ) -> Tensor:
        """Tokens (bool) or weights in the shape of ``log_prob``, ``[B, T]``, or ``[N]`` for tokens of many batches."""

    @abstractmethod
    def as_advantages(self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, chosen: Tensor) -> Tensor:
        """The advantages ``[B, T]`` with which the surrogate has this loss's gradient at these log-probabilities.

        ``advantages`` is ``[B, T]`` or ``[B, 1]``.
        """

    @abstractmethod
    def _value(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None,
        chosen: Tensor,
        **aggregation: Any,
    ) -> Value: ...

    def forward(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        group: Group = None,
        chosen: Tensor | None = None,
        batch_size: Tensor | float | None = None,
        norm_length: int | None = None,
    ) -> Value:
        """The loss and its metrics; ``chosen`` where ``choose`` was called on more than this micro-batch."""
        given = (log_prob, old_log_prob, advantages, mask, entropy)
        if chosen is None:
            chosen = self.choose(*given, generator=generator, group=group)
        return self._value(
            *given, chosen, loss_agg_mode=self.loss_agg_mode, batch_size=batch_size, norm_length=norm_length
        )


class ClipCovLoss(PolicyLoss):
    """`clip_cov_loss` as a module.

    >>> log_prob = torch.tensor([[-0.1, -2.0], [-0.5, -3.0]])
    >>> loss, metrics = ClipCovLoss(ratio=0.5)(log_prob, log_prob, torch.tensor([1.0, -1.0]), torch.ones(2, 2))
    >>> metrics["selected"]
    0.5
    """

    def __init__(
        self,
        *,
        ratio: float = 2e-4,
        cov_low: float = 1.0,
        cov_high: float = 5.0,
        thresholds: Literal["value", "quantile"] = "value",
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        loss_agg_mode: LossAggMode = "token-mean",
    ) -> None:
        super().__init__(loss_agg_mode)
        share_of(ratio, 1)
        check_one_of("thresholds", thresholds, ("value", "quantile"))
        check_non_negative("epsilon", epsilon)
        self.clip = {"epsilon": epsilon, "epsilon_high": epsilon_high}
        self.band: Any = {"ratio": ratio, "cov_low": cov_low, "cov_high": cov_high, "thresholds": thresholds}
        self.epsilon, self.epsilon_high = epsilon, epsilon_high

    def choose(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        group: Group = None,
    ) -> Tensor:
        """The tokens of `clip_cov_tokens`."""
        given = (log_prob, old_log_prob, advantages, mask)
        return clip_cov_tokens(*given, **self.band, **self.clip, generator=generator, group=group)

    def as_advantages(self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, chosen: Tensor) -> Tensor:
        """0 at the chosen tokens."""
        return advantages.expand_as(log_prob).masked_fill(chosen, 0)

    def _value(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None,
        chosen: Tensor,
        **aggregation: Any,
    ) -> Value:
        return clip_cov_loss(log_prob, old_log_prob, advantages, mask, tokens=chosen, **self.clip, **aggregation)


class KLCovLoss(PolicyLoss):
    """`kl_cov_loss` as a module.

    >>> log_prob = torch.tensor([[-0.1, -2.0], [-0.5, -3.0]])
    >>> loss, metrics = KLCovLoss(ratio=0.25)(log_prob, log_prob, torch.tensor([1.0, -1.0]), torch.ones(2, 2))
    >>> metrics["selected"]
    0.25
    """

    def __init__(self, *, ratio: float = 2e-3, beta: float = 1.0, loss_agg_mode: LossAggMode = "token-mean") -> None:
        super().__init__(loss_agg_mode)
        share_of(ratio, 1)
        check_non_negative("beta", beta)
        self.ratio, self.beta = ratio, beta

    def choose(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        group: Group = None,
    ) -> Tensor:
        """The tokens of `kl_cov_tokens`."""
        return kl_cov_tokens(log_prob, advantages, mask, ratio=self.ratio, group=group)

    def as_advantages(self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, chosen: Tensor) -> Tensor:
        """A - beta sign(ln r) / r at the chosen tokens, whose surrogate -A r then has the penalty's gradient too."""
        log_ratio = (log_prob - old_log_prob).detach().clamp(-LOG_RATIO, LOG_RATIO)
        return advantages - torch.where(chosen, self.beta * log_ratio.sign() * (-log_ratio).exp(), 0)

    def _value(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None,
        chosen: Tensor,
        **aggregation: Any,
    ) -> Value:
        return kl_cov_loss(log_prob, old_log_prob, advantages, mask, beta=self.beta, tokens=chosen, **aggregation)


class SteerLoss(PolicyLoss):
    """`steer_loss` as a module, with the estimators that need no logits.

    >>> log_prob, entropy = torch.tensor([[-0.1, -2.0]]), torch.tensor([[0.5, 1.5]])
    >>> loss, metrics = SteerLoss(lambda_min=0.5)(log_prob, log_prob, torch.ones(1), torch.ones(1, 2), entropy)
    >>> metrics["weight_min"]
    0.5
    """

    def __init__(
        self,
        *,
        lambda_min: float = 0.8,
        estimator: Literal["omega", "official"] = "omega",
        mapping: Mapping = "exp",
        floor: float = 0.0,
        lambda_max: float = 1.2,
        top: float = 1.0,
        epsilon: float = 0.2,
        epsilon_high: float | None = 0.28,
        dual_clip: float | None = 10.0,
        loss_agg_mode: LossAggMode = "token-mean",
    ) -> None:
        super().__init__(loss_agg_mode)
        check_fraction("lambda_min", lambda_min)
        check_one_of("estimator", estimator, ("omega", "official"))
        check_one_of("mapping", mapping, ("exp", "linear"))
        check_non_negative("epsilon", epsilon)
        self.clip = {"epsilon": epsilon, "epsilon_high": epsilon_high}
        self.weighing: Any = {
            "lambda_min": lambda_min, "estimator": estimator, "mapping": mapping, "floor": floor,
            "lambda_max": lambda_max, "top": top,
        }  # fmt: skip
        self.epsilon, self.epsilon_high, self.dual_clip = epsilon, epsilon_high, dual_clip

    def choose(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        group: Group = None,
    ) -> Tensor:
        """The weights of `token_weights`; ``entropy`` is needed."""
        given = (log_prob, old_log_prob, advantages, mask)
        return token_weights(*given, entropy=_needed(entropy), **self.weighing, **self.clip, group=group)

    def as_advantages(self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, chosen: Tensor) -> Tensor:
        """Each advantage times its weight."""
        return advantages * chosen

    def _value(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        mask: Tensor,
        entropy: Tensor | None,
        chosen: Tensor,
        **aggregation: Any,
    ) -> Value:
        given = (log_prob, old_log_prob, advantages, _needed(entropy), mask)
        return steer_loss(*given, weights=chosen, dual_clip=self.dual_clip, **self.clip, **aggregation)


def _needed(entropy: Tensor | None) -> Tensor:
    if entropy is None:
        raise ValueError("entropy must be given, in log_prob's shape and nats; got None")
    return entropy
