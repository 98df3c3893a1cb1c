"""What detection asks of a model and of a sampler; every engine of ``hartley.engines`` and every sampler gives it."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Encoder(Protocol):
    """Text to token ids and back."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ...


class Reader(Protocol):
    """A model that reads a text as it stands."""

    @property
    def model_name(self) -> str:
        """What verdicts call it."""
        ...

    @property
    def vocab_size(self) -> int:
        """V, the number of logits."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens it can read at once."""
        ...

    @property
    def tokenizer(self) -> Encoder:
        """Its tokenizer."""
        ...

    def score(self, ids: Sequence[int]) -> Tensor:
        """Logits ``[T, V]``: row t is the distribution of what follows ``ids[:t + 1]``."""
        ...


class Transformation(Protocol):
    """What was done to the model's distribution before tokens were drawn: a sampler without memory."""

    def mask(self, logits: Tensor) -> Tensor:
        """``logits [N, V]`` as they were drawn from, removed tokens at -inf."""
        ...
