"""Texts drawn from a language model under several samplers, and what they are compared by."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hartley.decoding import Draw, Sampler
from hartley.decoding.sampler import Generator, State
from hartley.engines import Engine, Request, generate, logits_of
from hartley.info import Head
from hartley.papers.threads import one_thread
from hartley.report.summary import repeated_ngrams

STORIES = (
    "The lighthouse keeper had not spoken to anyone for three weeks when",
    "On the morning of the fair, the clockmaker's daughter found",
    "Nobody in the village remembered who had planted the orchard, but",
    "The last train of the evening stopped where there was no station, and",
    "My grandmother kept a map of the river in a tin box. One winter",
    "When the snow finally melted, the two brothers saw that",
    "The captain read the letter twice and then",
    "It was the smallest shop in the city, and behind its counter",
)
FIRST_SEED = 1000  # of the first text of every setting; the next texts take the next seeds


class Text(NamedTuple):
    """One text, token by token: arrays ``[T]``; surprisal and entropy of the model at temperature 1, nats."""

    tokens: np.ndarray
    surprisal: np.ndarray
    entropy: np.ndarray
    kept: np.ndarray  # tokens that could have been drawn


class Endless(Sampler):
    """Another sampler on a model that is kept from ending its text, so that every text has the same length."""

    def __init__(self, inner: Sampler, ends: frozenset[int]) -> None:
        super().__init__("endless", {"sampler": str(inner), "ends": " ".join(map(str, sorted(ends)))})
        self.inner = inner
        self.ends = sorted(ends)

    def init(self, batch: int) -> State:
        """The inner sampler's state."""
        return self.inner.init(batch)

    def step(self, logits: Tensor, state: State, generator: Generator) -> tuple[Draw, State]:
        """Draw as the inner sampler does, from the model without its end tokens."""
        return self.inner.step(logits.index_fill(1, torch.tensor(self.ends), -torch.inf), state, generator)


@one_thread()
def write(
    engine: Engine, samplers: Mapping[str, Sampler], prompts: Sequence[str | Sequence[int]], length: int
) -> dict[str, list[Text]]:
    """Continue every prompt by ``length`` tokens under every sampler; text i has the same prompt and seed in each."""
    return {
        name: _write(
            engine,
            [
                Request(prompt, Endless(sampler, engine.tokenizer.stop_ids), length, seed)
                for prompt, seed in zip(prompts, seeds(len(prompts)), strict=True)
            ],
        )
        for name, sampler in samplers.items()
    }


def _write(engine: Engine, requests: Sequence[Request]) -> list[Text]:
    drawn: list[list[tuple[int, float, float, int]]] = [[] for _ in requests]
    for step in generate(engine, requests):
        if step.draw is not None:
            draw = step.draw
            drawn[step.index].append((draw["token"], draw["surprisal"], draw["entropy"], draw["kept"]))
    return [Text(*(np.array(column) for column in zip(*rows, strict=True))) for rows in drawn]


def seeds(count: int) -> tuple[int, ...]:
    """The seeds of the first ``count`` texts of every setting."""
    return tuple(range(FIRST_SEED, FIRST_SEED + count))


@one_thread()
def read(engine: Engine, prompt: Sequence[int], tokens: Sequence[int]) -> Text:
    """What the model makes of ``tokens`` that somebody else wrote after ``prompt``."""
    logits = logits_of(engine, [*prompt, *tokens])[len(prompt) - 1 : -1]
    logits = logits.index_fill(1, torch.tensor(sorted(engine.tokenizer.stop_ids)), -torch.inf)
    head = Head.of(logits)
    written = torch.tensor(list(tokens))
    surprisal = head.logsumexp - logits.gather(1, written[:, None]).squeeze(1)
    return Text(written.numpy(), surprisal.numpy(), head.entropy.numpy(), np.full(len(written), logits.shape[1]))


def repetition(texts: Sequence[Text], n: int = 3) -> np.ndarray:
    """Share of the n-grams of each text that stood earlier in it, ``[N]``."""
    return np.array([repeated_ngrams(text.tokens.tolist(), n) for text in texts])


def mean_surprisal(texts: Sequence[Text]) -> np.ndarray:
    """Mean surprisal of each text under the model, nats ``[N]``."""
    return np.array([text.surprisal.mean() for text in texts])


def distinct(texts: Sequence[Text], n: int = 3) -> np.ndarray:
    """Share of the n-grams of each text that are different, ``[N]``."""
    return 1.0 - repetition(texts, n)
