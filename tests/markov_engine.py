"""An engine of a Markov source: a real distribution at every step, and nothing to load or to wait for."""

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from scripted_engine import Backend

SIZE = 268


class Markov:
    """The next token depends on the last one alone; ``pause`` seconds a step."""

    name, model_name, dtype, vocab_size, context_length = "markov", "markov", "float32", SIZE, 64

    def __init__(self, pause: float = 0.0) -> None:
        self.tokenizer = Backend()
        self.pause = pause
        self.table = 2 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> "MarkovSession":
        return MarkovSession(self, [prompt[-1] for prompt in prompts])

    def score(self, ids: Sequence[int]) -> Tensor:
        return self.table[list(ids)]


class MarkovSession:
    def __init__(self, engine: Markov, last: list[int]) -> None:
        self.engine, self.last = engine, last

    def logits(self) -> Tensor:
        time.sleep(self.engine.pause)
        return self.engine.table[self.last]

    def append(self, tokens: Sequence[int]) -> None:
        self.last = list(tokens)

    def add(self, prompt: Sequence[int], room: int) -> Iterator[None]:
        self.last = [*self.last, prompt[-1]]
        return iter(())

    def keep(self, rows: Sequence[int]) -> None:
        self.last = [self.last[row] for row in rows]

    def close(self) -> None:
        pass
