"""A model whose every distribution is known: a Markov chain over a few letters."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

LETTERS = "abcdefgh"


class Letters:
    """One token a letter; ``mark`` puts the token of a text's beginning before it, as some tokenizers do."""

    def __init__(self, mark: bool = False) -> None:
        self.mark = mark

    def encode(self, text: str) -> list[int]:
        return [len(LETTERS)] * self.mark + [LETTERS.index(letter) for letter in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("<s>" if id == len(LETTERS) else LETTERS[id] for id in ids)


class Chain:
    """A reader that looks back at the last two tokens, and counts what it was given to read."""

    def __init__(self, seed: int = 0, context: int = 1000, mark: bool = False, name: str = "chain") -> None:
        size = len(LETTERS) + 1
        self.table = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(size, 0.5), (size, size))).log()
        self.vocab_size, self.context_length, self.model_name = size, context, name
        self.tokenizer = Letters(mark)
        self.reads: list[int] = []

    def score(self, ids: Sequence[int]) -> Tensor:
        assert 0 < len(ids) <= self.context_length
        self.reads.append(len(ids))
        now = torch.tensor(list(ids))
        before = torch.cat([now[:1] * 0, now[:-1]])
        return self.table[before, now].float()

    def write(self, length: int, seed: int) -> str:
        generator = torch.Generator().manual_seed(seed)
        ids = [0]
        while len(ids) < length:
            p = self.table[ids[-2] if len(ids) > 1 else 0, ids[-1]].exp()[: len(LETTERS)]
            ids.append(int(torch.multinomial(p, 1, generator=generator)))
        return self.tokenizer.decode(ids)
