"""An engine whose every word is written beforehand, to test what is made of it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tiny_models import tiny_tokenizer


class Backend:
    """The tokenizer of the tiny models, as an engine's tokenizer."""

    stop_ids = frozenset({0, 2})

    def __init__(self) -> None:
        self.backend = tiny_tokenizer()

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=False)


class Script:
    """An engine that goes on with the text it was given for each prompt, whatever is drawn."""

    name, model_name, dtype, vocab_size, context_length = "script", "script", "float32", 268, 64

    def __init__(self, *answers: list[int]) -> None:
        self.tokenizer = Backend()
        self.answers = answers
        self.open = 0
        self.batches: list[int] = []

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> "ScriptSession":
        self.open += 1
        return ScriptSession(self, [list(answer) for answer in self.answers[: len(prompts)]])

    def score(self, ids: Sequence[int]) -> Tensor:
        raise NotImplementedError


class ScriptSession:
    def __init__(self, engine: Script, answers: list[list[int]]) -> None:
        self.engine, self.answers = engine, answers

    def logits(self) -> Tensor:
        self.engine.batches.append(len(self.answers))
        logits = torch.full((len(self.answers), self.engine.vocab_size), -torch.inf)
        for row, answer in enumerate(self.answers):
            logits[row, answer[0]] = 0.0
        return logits

    def append(self, tokens: Sequence[int]) -> None:
        assert [answer.pop(0) for answer in self.answers] == list(tokens)

    def add(self, prompt: Sequence[int], room: int) -> Iterator[None]:
        self.answers.append(list(self.engine.answers[prompt[-1] % len(self.engine.answers)]))
        return iter(())

    def keep(self, rows: Sequence[int]) -> None:
        self.answers = [self.answers[row] for row in rows]

    def close(self) -> None:
        self.engine.open -= 1
