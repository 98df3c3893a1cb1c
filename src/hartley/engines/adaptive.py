"""Budgets by difficulty on a real model: measure questions, read their hidden states, plan how to answer new ones."""

import hashlib
import math
import os
from collections.abc import Sequence
from threading import Event
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hartley.decoding import chain
from hartley.decoding.budget import STRATEGIES, DiffAdaptRouter, Strategy
from hartley.decoding.difficulty_probe import DifficultyProbe
from hartley.engines.answers import is_correct
from hartley.engines.loop import Request, generate
from hartley.engines.protocol import check_ids

BATCH = 8  # prompts whose hidden states are read together


class Plan(NamedTuple):
    """How to answer one prompt."""

    strategy: str  #: "easy", "normal" or "hard"
    prompt: str  #: the prompt with the strategy's own after it, not yet in a chat template
    temperature: float  #: 0 is greedy
    max_tokens: int
    confidence: float  #: probability the probe gave its first choice


class Measured(NamedTuple):
    """What a model's samples show of a question."""

    accuracy: float  #: share that gave the answer
    entropy: float  #: nats: mean over the samples of their mean over tokens, at temperature 1; NaN without a token
    tokens: int  #: of all samples


class Identity(NamedTuple):
    """Whose hidden states they are."""

    model_id: str  #: name, dtype and a hash of the weights: quantised weights are another model
    template_hash: str  #: of the chat template, "plain" without one


def plan(
    engine: Any,
    prompts: Sequence[str],
    probe: str | os.PathLike[str],
    *,
    max_tokens: int,
    chat: bool | None = None,
    strategies: Sequence[Strategy] = STRATEGIES,
    confidence: float = 0.0,
) -> list[Plan]:
    """Read each prompt once and say how to answer it: a :class:`Plan` for each, in order.

    ``engine`` is a :class:`hartley.engines.transformers.TransformersEngine`, ``probe`` the file of a trained
    :class:`hartley.decoding.DifficultyProbe`, ``max_tokens`` the budget of which each strategy takes its share.
    ``chat`` puts the prompts in the model's chat template (None: if it has one), as when the probe was made.

    Raises ``ValueError`` for an engine without hidden states, a probe of another model, dtype or chat template, an
    empty prompt or one longer than the context; ``FileNotFoundError`` where there is no probe.
    """
    who = identity(engine, chat)
    router = DiffAdaptRouter(
        DifficultyProbe.load(probe, model_id=who.model_id, template_hash=who.template_hash),
        strategies,
        confidence=confidence,
    )
    if not prompts:
        return []
    hidden = final_hidden(engine, prompts, chat)
    sure = router.probe.predict_proba(hidden).max(-1).tolist()
    return [
        Plan(one.name, one.question(text), one.temperature, one.max_tokens(max_tokens), probability)
        for one, text, probability in zip(router.route_all(hidden), prompts, sure, strict=True)
    ]


def final_hidden(engine: Any, prompts: Sequence[str], chat: bool | None = None) -> Tensor:
    """Last-layer hidden state ``[N, D]`` at the final token of each prompt, before anything is generated.

    Raises ``ValueError`` for an engine that has none to give and for a prompt it cannot read, naming it.
    """
    _check_engine(engine)
    ids = [_ids(engine, text, chat) for text in prompts]
    for place, one in enumerate(ids):
        check_ids(engine, one, f"prompt {place}")
        if len(one) == engine.context_length:
            raise ValueError(f"prompt {place} fills the context of {len(one)} tokens; nothing can follow")
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))  # alike in length: little padding
    groups = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    found = torch.cat([engine.final_hidden([ids[place] for place in group]) for group in groups])
    return torch.empty_like(found).index_copy_(0, torch.tensor(order), found)


def measure(
    engine: Any,
    question: str,
    answer: str,
    *,
    samples: int = 10,
    max_tokens: int = 256,
    seed: int = 0,
    chat: bool | None = None,
    cancel: Event | None = None,
) -> Measured | None:
    """Answer a question ``samples`` times at temperature 1, and say how often rightly and how surely.

    Sample i has the seed ``seed + i``. :func:`hartley.engines.answers.is_correct` judges. None if ``cancel`` was set
    meanwhile. Raises ``ValueError`` for what :func:`hartley.engines.generate` refuses.
    """
    ids = _ids(engine, question, chat)
    texts = [""] * samples
    entropies: list[list[float]] = [[] for _ in texts]
    requests = [Request(ids, chain(), max_tokens, seed + i) for i in range(samples)]
    for step in generate(engine, requests, cancel=cancel):
        texts[step.index] += step.text
        if step.draw is None:
            return None
        entropies[step.index].append(step.draw["entropy"])
    means = [math.fsum(trace) / len(trace) for trace in entropies if trace]
    return Measured(
        sum(is_correct(text, answer) for text in texts) / samples,
        math.fsum(means) / len(means) if means else math.nan,
        sum(map(len, entropies)),
    )


def identity(engine: Any, chat: bool | None = None) -> Identity:
    """The model and the chat template that a probe is bound to."""
    _check_engine(engine)
    template = engine.tokenizer.template if _templated(engine, chat) else None
    return Identity(
        f"{engine.model_name} {engine.dtype} {engine.fingerprint()}",
        "plain" if template is None else hashlib.sha256(template.encode()).hexdigest()[:16],
    )


def _check_engine(engine: Any) -> None:
    if not hasattr(engine, "final_hidden"):
        raise ValueError(
            f"engine {engine.name!r} gives no hidden states, which a difficulty probe reads; use engine='transformers'"
        )


def _templated(engine: Any, chat: bool | None) -> bool:
    return engine.tokenizer.template is not None if chat is None else chat


def _ids(engine: Any, text: str, chat: bool | None) -> list[int]:
    if not text.strip():
        raise ValueError(f"a prompt is empty, got {text!r}; give some text")
    return engine.tokenizer.chat(text) if _templated(engine, chat) else engine.tokenizer.encode(text)
