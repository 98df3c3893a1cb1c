"""A bandit that punishes early certainty: a decoy that pays well and is likely, a better action that is rarely tried.

128 contexts of 32 actions each. Action 0 pays 0.6 and begins at probability 0.5; one hidden action a context pays 1.0
and begins near 0.006; the others pay 0. A tabular softmax policy learns from 8 samples a context, their rewards
normalised as GRPO does, in 8 updates of plain gradient descent on the same samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hartley.training.rl import token_covariance, token_entropy

CONTEXTS, ACTIONS, SAMPLES, UPDATES = 128, 32, 8, 8
DECOY_REWARD, DECOY_PROBABILITY, HIDDEN_PROBABILITY = 0.6, 0.5, 0.006
RATE = 0.5  # of each context's own logits, for the mean over its samples

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(log_prob, old_log_prob, advantages, logits), the first three [contexts, samples], to a loss."""


def of_tokens(loss: Callable[..., tuple[Tensor, dict[str, float]]], **settings: Any) -> Loss:
    """A policy loss of `hartley.training.rl` that needs no entropies."""
    return lambda log_prob, old, advantages, logits: loss(
        log_prob, old, advantages, torch.ones_like(log_prob), **settings
    )[0]


class Curve(NamedTuple):
    """One run, at the beginning of each rollout and after the last."""

    entropy: NDArray[np.float64]  # nats, mean over contexts
    reward: NDArray[np.float64]  # expected under the policy
    covariances: NDArray[np.float64]  # of the tokens at the last update of the first rollout


class Bandit(NamedTuple):
    """The rewards and the logits a run begins with, both [contexts, actions]."""

    reward: Tensor
    logits: Tensor


def bandit(seed: int) -> Bandit:
    """A bandit whose hidden actions come from the seed."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randint(1, ACTIONS, (CONTEXTS,), generator=generator)
    rows = torch.arange(CONTEXTS)
    reward = torch.zeros(CONTEXTS, ACTIONS)
    reward[:, 0] = DECOY_REWARD
    reward[rows, hidden] = 1.0
    rest = (1 - DECOY_PROBABILITY - HIDDEN_PROBABILITY) / (ACTIONS - 2)
    probs = torch.full((CONTEXTS, ACTIONS), rest)
    probs[:, 0] = DECOY_PROBABILITY
    probs[rows, hidden] = HIDDEN_PROBABILITY
    return Bandit(reward, probs.log())


def normalised(rewards: Tensor) -> Tensor:
    """Each reward less its group's mean, over its standard deviation, ``[contexts, samples]``."""
    return (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-6)


def learn(loss: Loss, rollouts: int, seed: int) -> Curve:
    """Train with a loss; the same seed gives the same bandit and the same draws while the policies agree."""
    problem = bandit(seed)
    generator = torch.Generator().manual_seed(seed + 10_000)
    logits = problem.logits.clone().requires_grad_()
    entropy, reward, covariances = [], [], np.zeros(0)

    def look() -> None:
        entropy.append(float(token_entropy(logits.detach()).mean()))
        reward.append(float((logits.detach().softmax(-1) * problem.reward).sum(-1).mean()))

    for rollout in range(rollouts):
        look()
        probs = logits.detach().softmax(-1)
        actions = torch.multinomial(probs, SAMPLES, replacement=True, generator=generator)
        advantages = normalised(problem.reward.gather(-1, actions))
        old = probs.log().gather(-1, actions)
        for update in range(UPDATES):
            log_prob = logits.log_softmax(-1).gather(-1, actions)
            if rollout == 0 and update == UPDATES - 1:
                found = token_covariance(log_prob, advantages, torch.ones_like(log_prob))
                covariances = found.flatten().double().numpy()
            (gradient,) = torch.autograd.grad(loss(log_prob, old, advantages, logits), logits)
            with torch.no_grad():
                logits -= RATE * CONTEXTS * gradient
    look()
    return Curve(np.array(entropy), np.array(reward), covariances)
