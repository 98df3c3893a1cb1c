"""Reinforcement learning: what drives entropy down, losses that hold it up, and controllers that keep a target."""

from hartley.training.rl.aggregate import LossAggMode, aggregate, batch_sizes
from hartley.training.rl.controllers import (
    ConstantCoefficient,
    Controller,
    DeltaController,
    EntropyMeter,
    PIController,
)
from hartley.training.rl.covariance import (
    clip_cov_loss,
    clip_cov_tokens,
    kl_cov_loss,
    kl_cov_tokens,
    policy_entropy,
    token_covariance,
    token_entropy,
)
from hartley.training.rl.modules import ClipCovLoss, KLCovLoss, PolicyLoss, SteerLoss
from hartley.training.rl.performance_law import EntropyPerformanceLaw
from hartley.training.rl.selection import top_entropy_mask
from hartley.training.rl.steer import entropy_change, steer_loss, steer_weights, token_weights
from hartley.training.rl.surrogate import ppo_loss

__all__ = [
    "ClipCovLoss",
    "ConstantCoefficient",
    "Controller",
    "DeltaController",
    "EntropyMeter",
    "EntropyPerformanceLaw",
    "KLCovLoss",
    "LossAggMode",
    "PIController",
    "PolicyLoss",
    "SteerLoss",
    "aggregate",
    "batch_sizes",
    "clip_cov_loss",
    "clip_cov_tokens",
    "entropy_change",
    "kl_cov_loss",
    "kl_cov_tokens",
    "policy_entropy",
    "ppo_loss",
    "steer_loss",
    "steer_weights",
    "token_covariance",
    "token_entropy",
    "token_weights",
    "top_entropy_mask",
]
