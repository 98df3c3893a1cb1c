"""What every engine gives: a session holds a batch of sequences and says how each would go on."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from torch import Tensor

from hartley.models.tokenizer import TokenizerLike


class Session(Protocol):
    """Sequences being continued together, B of them at first."""

    def logits(self) -> Tensor:
        """Logits ``[B, V]``, float32, of the next token of every row."""
        ...

    def append(self, tokens: Sequence[int]) -> None:
        """Add one token to every row."""
        ...

    def add(self, prompt: Sequence[int], room: int) -> Iterator[None]:
        """Read another prompt, a part at each turn, while the other rows go on in between.

        After the last turn its row stands at the end, and no row's token must be waiting to be appended then.
        """
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, possibly none, renumbered in this order."""
        ...

    def close(self) -> None:
        """Give the memory back."""
        ...


class Engine(Protocol):
    """A model that is open."""

    name: str  #: "onnx", "transformers" or "llama"
    model_name: str
    dtype: str  #: of the weights as they are run: "int8", "float32", "bfloat16"
    vocab_size: int  #: V, the number of logits
    context_length: int  #: tokens a sequence can have, prompt included

    @property
    def tokenizer(self) -> TokenizerLike:
        """The model's tokenizer."""
        ...

    def start(self, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> Session:
        """Read the prompts, one row each, and keep place for ``room`` more tokens in each."""
        ...

    def score(self, ids: Sequence[int]) -> Tensor:
        """Logits ``[T, V]``, float32, on the CPU: row t is the distribution of what follows ``ids[:t + 1]``."""
        ...


def check_ids(engine: Engine, ids: Sequence[int], what: str) -> None:
    """Raise ``ValueError`` unless ``ids`` is a sequence the engine can read: not empty, known tokens, not too long."""
    if len(ids) == 0:
        raise ValueError(f"{what} is empty; give at least one token")
    for id in ids:
        if not 0 <= id < engine.vocab_size:
            raise ValueError(f"{what} holds token {id}; this model's tokens are 0 to {engine.vocab_size - 1}")
    if len(ids) > engine.context_length:
        raise ValueError(
            f"{what} has {len(ids)} tokens, more than the {engine.context_length} of the context of {engine.model_name}"
        )


def logits_of(engine: Engine, ids: Sequence[int]) -> Tensor:
    """Score a text as it stands (teacher forcing): logits ``[T, V]``, float32, where row t sees ``ids[:t + 1]``.

    Raises ``ValueError`` for no tokens, an unknown token, or more tokens than the context holds.
    """
    check_ids(engine, ids, "ids")
    return engine.score(ids)


def parts_of(engine: Engine, ids: Sequence[int]) -> Iterator[Tensor]:
    """The rows of :func:`logits_of` in parts, each to be used before the next is asked for.

    A long text's logits take much memory and time, and an engine that reads in parts need not hold or wait for them
    all. Raises what ``logits_of`` does.
    """
    check_ids(engine, ids, "ids")
    own = getattr(engine, "scores", None)
    return iter([engine.score(ids)]) if own is None else own(ids)


def gathered(parts: Iterable[Tensor], out: Tensor) -> Tensor:
    """Copy parts, one under the other, to ``out``."""
    at = 0
    for part in parts:
        out[at : at + len(part)] = part
        at += len(part)
    return out
