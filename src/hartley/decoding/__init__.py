"""Sampling: turn a model's distribution into the one a token is drawn from, and say what was drawn."""

from hartley.decoding.budget import STRATEGIES, DiffAdaptRouter, Strategy
from hartley.decoding.conformance import check_sampler
from hartley.decoding.cutoffs import epsilon_cutoff, eta_cutoff
from hartley.decoding.difficulty import Thresholds, fit_thresholds, label_difficulty, trace_entropy
from hartley.decoding.difficulty_probe import DifficultyProbe
from hartley.decoding.draw import Draw
from hartley.decoding.entropy_top_k import entropy_to_k, entropy_top_k
from hartley.decoding.in_context_navigation import InContextNavigator
from hartley.decoding.logits_processor import as_logits_processor
from hartley.decoding.min_p import min_p
from hartley.decoding.mirostat import mirostat
from hartley.decoding.path_top_p import path_top_p
from hartley.decoding.sampler import Sampler, Truncation, chain, sampler, truncation
from hartley.decoding.temperature import temperature
from hartley.decoding.text import parse
from hartley.decoding.top_h import top_h
from hartley.decoding.top_k import top_k
from hartley.decoding.top_n_sigma import top_n_sigma
from hartley.decoding.top_p import top_p
from hartley.decoding.typical_p import typical_p

__all__ = [
    "STRATEGIES",
    "DiffAdaptRouter",
    "DifficultyProbe",
    "Draw",
    "InContextNavigator",
    "Sampler",
    "Strategy",
    "Thresholds",
    "Truncation",
    "as_logits_processor",
    "chain",
    "check_sampler",
    "entropy_to_k",
    "entropy_top_k",
    "epsilon_cutoff",
    "eta_cutoff",
    "fit_thresholds",
    "label_difficulty",
    "min_p",
    "mirostat",
    "parse",
    "path_top_p",
    "sampler",
    "temperature",
    "top_h",
    "top_k",
    "top_n_sigma",
    "top_p",
    "trace_entropy",
    "truncation",
    "typical_p",
]
