from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hartley.engines import open_engine
from hartley.models import Model, load
from tiny_models import tiny_tokenizer, write_folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A tiny random Llama in a folder, with its packed forms in a cache of its own."""
    directory = tmp_path_factory.mktemp("tiny")
    write_folder(directory, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARTLEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load(directory, progress=lambda message: None)


@pytest.fixture(scope="session", params=["transformers", "onnx float32", "onnx int8"])
def engine(request: pytest.FixtureRequest, tiny: Model) -> Any:
    """Every engine on the tiny model."""
    name, *dtype = request.param.split()
    return open_engine(tiny, name, *dtype, device="cpu")


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

    def keep(self, rows: Sequence[int]) -> None:
        self.answers = [self.answers[row] for row in rows]

    def close(self) -> None:
        self.engine.open -= 1


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
def moby_dick() -> str:
    return (Path(__file__).parents[1] / "data" / "moby_dick.txt").read_text(encoding="utf-8")
