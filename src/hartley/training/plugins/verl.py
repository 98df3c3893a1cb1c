"""Our policy losses under verl's registry: ``actor_rollout_ref.actor.policy_loss.loss_mode=hartley_kl_cov``.

Written to the signature of verl 0.9.1. Settings are read where verl keeps them: ``policy_loss.clip_cov_ratio``,
``clip_cov_lb``, ``clip_cov_ub``, ``kl_cov_ratio`` and ``ppo_kl_coef`` (whose default there is 0.1, the paper's is 1),
``clip_ratio``, ``clip_ratio_low`` and ``clip_ratio_high``. verl calls a policy loss for one micro-batch of one process,
so tokens are chosen per micro-batch. It passes no entropies: STEER cannot be reached from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hartley.training.rl.aggregate import LossAggMode
from hartley.training.rl.covariance import clip_cov_loss, clip_cov_tokens, kl_cov_loss, kl_cov_tokens

Registered = tuple[Tensor, dict[str, Any]]


def register() -> tuple[str, ...]:
    """Register ``hartley_clip_cov`` and ``hartley_kl_cov`` with verl, and return their names.

    Call it in the processes that train, for example from the module that ``VERL_USE_EXTERNAL_MODULES`` names. Raises
    ``ImportError`` where verl is missing.
    """
    try:
        from verl.trainer.ppo.core_algos import register_policy_loss  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError("hartley.training.plugins.verl needs verl: pip install verl") from error
    return register_with(register_policy_loss)


def register_with(register_policy_loss: Callable[[str], Callable[..., Any]]) -> tuple[str, ...]:
    """Register with a decorator factory such as verl's ``register_policy_loss``."""
    losses = {"hartley_clip_cov": clip_cov, "hartley_kl_cov": kl_cov}
    for name, loss in losses.items():
        register_policy_loss(name)(loss)
    return tuple(losses)


def clip_cov(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: LossAggMode = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> Registered:
    """`clip_cov_loss` in verl's signature."""
    settings = _settings(config)
    low = config.clip_ratio if config.clip_ratio_low is None else config.clip_ratio_low
    high = config.clip_ratio if config.clip_ratio_high is None else config.clip_ratio_high
    clip = {"epsilon": low, "epsilon_high": high}
    tokens = clip_cov_tokens(
        log_prob, old_log_prob, advantages, response_mask, ratio=settings.clip_cov_ratio,
        cov_low=settings.clip_cov_lb, cov_high=settings.clip_cov_ub, **clip,
    )  # fmt: skip
    loss, metrics = clip_cov_loss(
        log_prob, old_log_prob, _weighed(advantages, rollout_is_weights), response_mask, tokens=tokens,
        **clip, **_aggregation(loss_agg_mode, config),
    )  # fmt: skip
    return _registered(loss, metrics, loss_agg_mode, config)


def kl_cov(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: LossAggMode = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> Registered:
    """`kl_cov_loss` in verl's signature."""
    settings = _settings(config)
    tokens = kl_cov_tokens(log_prob, advantages, response_mask, ratio=settings.kl_cov_ratio)
    loss, metrics = kl_cov_loss(
        log_prob, old_log_prob, _weighed(advantages, rollout_is_weights), response_mask,
        beta=settings.ppo_kl_coef, tokens=tokens, **_aggregation(loss_agg_mode, config),
    )  # fmt: skip
    return _registered(loss, metrics, loss_agg_mode, config)


def _settings(config: Any) -> Any:
    if config is None:
        raise ValueError("config must be verl's ActorConfig; got None")
    return config.policy_loss


def _weighed(advantages: Tensor, weights: Tensor | None) -> Tensor:
    """verl's rollout correction weighs the surrogate; weights are not negative, so its clip stays where it is."""
    return advantages if weights is None else advantages * weights


def _registered(loss: Tensor, metrics: dict[str, float], loss_agg_mode: LossAggMode, config: Any) -> Registered:
    """The loss and the metrics under verl's names; a sum must outlive the mean over the data-parallel processes."""
    if loss_agg_mode == "token-sum":
        loss = loss * config.global_batch_info.get("dp_size", 1)
    return loss, {"actor/pg_clipfrac": metrics["selected"], "actor/ppo_kl": metrics["ppo_kl"]}


def _aggregation(loss_agg_mode: LossAggMode, config: Any) -> dict[str, Any]:
    """Over the whole batch where verl tells its size: gradients are averaged over ``dp_size`` processes."""
    info = config.global_batch_info
    size = info.get("batch_num_tokens" if loss_agg_mode == "token-mean" else "global_batch_size")
    return {
        "loss_agg_mode": loss_agg_mode,
        "batch_size": None if size is None else size / info.get("dp_size", 1),
        "norm_length": info.get("loss_scale_factor"),
    }
