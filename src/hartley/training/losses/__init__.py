"""Losses: each a function and a module with the same name, over rows of logits [..., V]."""

from hartley.training.losses.attention_entropy import EntropyRegularizer, regularized
from hartley.training.losses.divergences import (
    DivergenceLoss,
    forward_kl_loss,
    jensen_shannon_loss,
    reverse_kl_loss,
    skew_kl_loss,
    skew_reverse_kl_loss,
)
from hartley.training.losses.ldr import ALDRKLLoss, LDRKLLoss, aldr_kl_loss, as_compute_loss_func, ldr_kl_loss
from hartley.training.losses.pld import (
    PLDLoss,
    plackett_luce_log_prob,
    plackett_luce_loss,
    plackett_luce_sample,
    pld_loss,
    teacher_optimal_ranking,
)
from hartley.training.losses.sinkhorn_kd import SinKDLoss, SinkhornKDLoss, annealed, sinkhorn_kd_loss
from hartley.training.losses.topkld import TopKLDLoss, topkld_loss

__all__ = [
    "ALDRKLLoss",
    "DivergenceLoss",
    "EntropyRegularizer",
    "LDRKLLoss",
    "PLDLoss",
    "SinKDLoss",
    "SinkhornKDLoss",
    "TopKLDLoss",
    "aldr_kl_loss",
    "annealed",
    "as_compute_loss_func",
    "forward_kl_loss",
    "jensen_shannon_loss",
    "ldr_kl_loss",
    "plackett_luce_log_prob",
    "plackett_luce_loss",
    "plackett_luce_sample",
    "pld_loss",
    "regularized",
    "reverse_kl_loss",
    "sinkhorn_kd_loss",
    "skew_kl_loss",
    "skew_reverse_kl_loss",
    "teacher_optimal_ranking",
    "topkld_loss",
]
