"""Budgets by difficulty: each class of question has its prompt, temperature and share of the token budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from hartley.decoding.difficulty import DIFFICULTIES
from hartley.decoding.difficulty_probe import DifficultyProbe
from hartley.info.checks import check_count, check_fraction, check_non_negative

MIN_TOKENS = 64  # no cap is lower, unless the caller's own budget is


@dataclass(frozen=True)
class Strategy:
    """How to answer one class of questions.

    ``prompt`` is appended to the question, ``temperature`` 0 means greedy, and ``max_tokens_fraction`` in (0, 1] is the
    share of the caller's token budget. Raises ``ValueError`` for numbers outside their range.

    >>> brief = Strategy("easy", "Answer at once.", temperature=0.5, max_tokens_fraction=0.4)
    >>> brief.max_tokens(1000)
    400
    >>> brief.vllm(1000)
    {'temperature': 0.5, 'max_tokens': 400}

    Source: Liu et al. 2026, "DiffAdapt", section 4.
    """

    name: str
    prompt: str
    temperature: float
    max_tokens_fraction: float

    def __post_init__(self) -> None:
        check_non_negative("temperature", self.temperature)
        check_fraction("max_tokens_fraction", self.max_tokens_fraction)

    def max_tokens(self, budget: int) -> int:
        """The cap, in tokens: this strategy's share of ``budget``, at least 64 tokens, never above ``budget``."""
        check_count("budget", budget)
        return min(budget, max(MIN_TOKENS, round(self.max_tokens_fraction * budget)))

    def question(self, text: str) -> str:
        """The question with this strategy's prompt after it, so that the plain question's cached prefix is reused."""
        return f"{text}\n\n{self.prompt}" if self.prompt else text

    def transformers(self, budget: int) -> dict[str, Any]:
        """Keywords for transformers' ``GenerationConfig`` or ``generate``."""
        if self.temperature == 0:
            return {"do_sample": False, "max_new_tokens": self.max_tokens(budget)}
        return {"do_sample": True, "temperature": self.temperature, "max_new_tokens": self.max_tokens(budget)}

    def vllm(self, budget: int) -> dict[str, Any]:
        """Keywords for vLLM's ``SamplingParams``, where temperature 0 is greedy."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens(budget)}

    def openai(self, text: str, budget: int) -> dict[str, Any]:
        """Fields of an OpenAI chat request for the question ``text``; temperature 0 is greedy there."""
        return {"messages": [{"role": "user", "content": self.question(text)}], **self.vllm(budget)}


STRATEGIES = (
    Strategy("easy", "Give the answer directly, then check it once and stop.", 0.5, 0.4),
    Strategy("normal", "Work through this step by step, and state the answer at the end.", 0.8, 1.0),
    Strategy(
        "hard",
        "Tokens are limited. Choose the most promising approach, keep to it, and state your best answer early; if it "
        "does not work out, say so and stop.",
        0.4,
        0.5,
    ),
)
"""The paper's temperatures and shares; the prompts are ours. Hard gets less than normal: more tokens rarely save it."""


class DiffAdaptRouter:
    """Choose a strategy from the hidden state of a question, before anything is generated.

    Parameters: ``probe``, trained; ``strategies``, one each named "easy", "normal" and "hard"; ``confidence`` in
    [0, 1], below which the probe's first choice is not followed and the question is treated as normal (ours; 0, the
    paper's rule, always follows it; :meth:`DifficultyProbe.calibrate` first).
    Raises: ``ValueError`` for other strategies or another confidence.

    >>> import numpy as np
    >>> probe = DifficultyProbe(hidden_size=16).fit(np.repeat(np.eye(2), 20, 0), ["easy"] * 20 + ["hard"] * 20)
    >>> router = DiffAdaptRouter(probe)
    >>> router.route(np.array([1.0, 0.0])).transformers(1000)
    {'do_sample': True, 'temperature': 0.5, 'max_new_tokens': 400}

    Source: Liu et al. 2026, "DiffAdapt", section 5.
    """

    def __init__(
        self, probe: DifficultyProbe, strategies: Sequence[Strategy] = STRATEGIES, *, confidence: float = 0.0
    ) -> None:
        names = sorted(strategy.name for strategy in strategies)
        if names != sorted(DIFFICULTIES):
            raise ValueError(f"strategies must be named {', '.join(DIFFICULTIES)}, one each; got {', '.join(names)}")
        if not (math.isfinite(confidence) and 0 <= confidence <= 1):
            raise ValueError(f"confidence must be in [0, 1]; got {confidence}")
        self.probe = probe
        self.strategies = {strategy.name: strategy for strategy in strategies}
        self.confidence = confidence

    def route(self, hidden: ArrayLike | Tensor) -> Strategy:
        """The strategy for one question, from its hidden state ``[D]``."""
        return self.route_all([hidden] if not isinstance(hidden, Tensor) else hidden[None])[0]  # type: ignore[list-item]

    def route_all(self, hidden: ArrayLike | Tensor) -> list[Strategy]:
        """The strategies for several questions, from their hidden states ``[N, D]``."""
        labels = self.probe.predict(hidden)
        sure = self.probe.predict_proba(hidden).max(-1) >= self.confidence
        return [self.strategies[name] for name in np.where(sure, labels, "normal").tolist()]
