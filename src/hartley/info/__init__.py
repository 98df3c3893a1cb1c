"""The mathematics the rest is built from: entropies, estimators, bounds, the Head of a distribution."""

from hartley.info.attention import HeadEntropy, attention_entropy, causal_mask, head_entropy
from hartley.info.bounds import Interval, entropy_bounds, top_p_size_bounds, varentropy_bounds
from hartley.info.cross_entropy_method import Bernoulli, Categorical, CrossEntropyMethod, Gaussian
from hartley.info.cumulants import Cumulants, token_cumulants
from hartley.info.divergences import cross_entropy, js_divergence, kl_divergence, mutual_information
from hartley.info.estimators import Estimate, grassberger, miller_madow, plugin
from hartley.info.head import Head
from hartley.info.linear import (
    LinearTeacher,
    TokenStatistics,
    TopKTeacher,
    linear_statistics,
    logits_statistics,
)
from hartley.info.measures import (
    entropy,
    perplexity,
    renyi_entropy,
    surprisal,
    top_k_entropy,
    top_k_mass,
    varentropy,
)
from hartley.info.transport import sinkhorn_distance, sinkhorn_plan

__all__ = [
    "Bernoulli",
    "Categorical",
    "CrossEntropyMethod",
    "Cumulants",
    "Estimate",
    "Gaussian",
    "Head",
    "HeadEntropy",
    "Interval",
    "LinearTeacher",
    "TokenStatistics",
    "TopKTeacher",
    "attention_entropy",
    "causal_mask",
    "cross_entropy",
    "entropy",
    "entropy_bounds",
    "grassberger",
    "head_entropy",
    "js_divergence",
    "kl_divergence",
    "linear_statistics",
    "logits_statistics",
    "miller_madow",
    "mutual_information",
    "perplexity",
    "plugin",
    "renyi_entropy",
    "sinkhorn_distance",
    "sinkhorn_plan",
    "surprisal",
    "token_cumulants",
    "top_k_entropy",
    "top_k_mass",
    "top_p_size_bounds",
    "varentropy",
    "varentropy_bounds",
]
