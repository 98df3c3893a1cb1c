"""Pretrain on unlabelled rows, then fit a small head to labelled ones: the pieces, and what they are worth."""

from hartley.representation.pretraining.contrastive import ContrastivePretrainer
from hartley.representation.pretraining.erm import ClusterLabels, PretrainedERM
from hartley.representation.pretraining.factor import FactorPretrainer
from hartley.representation.pretraining.mixture import MixturePretrainer
from hartley.representation.pretraining.risk import (
    ExcessRiskCurve,
    advantage,
    bayes_risk,
    excess_risk_curve,
    informativeness,
    linear_bayes,
    linear_excess_risk,
)

__all__ = [
    "ClusterLabels",
    "ContrastivePretrainer",
    "ExcessRiskCurve",
    "FactorPretrainer",
    "MixturePretrainer",
    "PretrainedERM",
    "advantage",
    "bayes_risk",
    "excess_risk_curve",
    "informativeness",
    "linear_bayes",
    "linear_excess_risk",
]
