"""Training: losses, controllers and monitors that hold or measure an entropy while a model learns."""

from hartley.training import losses, rl
from hartley.training.bit_scaling import BitScalingLaw
from hartley.training.monitor import (
    CollapseAlarm,
    Forecast,
    OverOptimisationMonitor,
    Reading,
    Signal,
    expectation_adjusted_distinct,
    forecast_ceiling,
    read_sums,
    top_k_sums,
)
from hartley.training.preference import (
    DPOLoss,
    IPOLoss,
    SLiCHingeLoss,
    dpo_loss,
    ipo_loss,
    sequence_log_probs,
    slic_hinge_loss,
)
from hartley.training.quantize import fake_quantize, quantize_model_, total_bits

__all__ = [
    "BitScalingLaw",
    "CollapseAlarm",
    "DPOLoss",
    "Forecast",
    "IPOLoss",
    "OverOptimisationMonitor",
    "Reading",
    "SLiCHingeLoss",
    "Signal",
    "dpo_loss",
    "expectation_adjusted_distinct",
    "fake_quantize",
    "forecast_ceiling",
    "ipo_loss",
    "losses",
    "quantize_model_",
    "read_sums",
    "rl",
    "sequence_log_probs",
    "slic_hinge_loss",
    "top_k_sums",
    "total_bits",
]
