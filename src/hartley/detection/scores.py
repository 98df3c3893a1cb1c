"""The statistics of a text under a model, token by token, from logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hartley.detection.protocol import Transformation
from hartley.info import token_cumulants
from hartley.info.checks import check_positive

LAMBDAS = (0.02, 0.05, 0.1, 0.2, 0.4, -0.02, -0.05, -0.1, -0.2, -0.4)
"""The grid of bets: positive ones win on text more surprising than the model's own, negative ones on less."""

CHUNK = 256  # positions that a sampler transforms together


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model made of the N tokens of a text that it had a prediction for; nats, float64.

    Scores of consecutive parts of a text can be joined: ``first + second``.
    """

    surprisal: Tensor  # [N]: inf where the token could not have been drawn
    entropy: Tensor  # [N]
    varentropy: Tensor  # [N], nats^2
    functions: Tensor  # [N, 10]: ln E[exp(lambda * surprisal)] for each of LAMBDAS

    @property
    def n_tokens(self) -> int:
        """N."""
        return len(self.surprisal)

    @property
    def log_perplexity(self) -> float:
        """Mean surprisal, nats a token; NaN without tokens."""
        return float(self.surprisal.mean())

    @property
    def mean_entropy(self) -> float:
        """Mean entropy, nats a token; NaN without tokens."""
        return float(self.entropy.mean())

    @property
    def statistic(self) -> float:
        """T, log-perplexity less mean entropy, nats a token: 0 on average if the model wrote the text."""
        return float((self.surprisal - self.entropy).mean())

    @property
    def total_variance(self) -> float:
        """Variance of N T if the model wrote the text, nats^2."""
        return float(self.varentropy.sum())

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            *(
                torch.cat([getattr(self, name), getattr(other, name)])
                for name in ("surprisal", "entropy", "varentropy", "functions")
            )
        )

    def __getitem__(self, part: slice) -> Scores:
        """The scores of some of the tokens."""
        return Scores(self.surprisal[part], self.entropy[part], self.varentropy[part], self.functions[part])


def score_from_logits(
    logits: Tensor,
    input_ids: Tensor | Sequence[int],
    attention_mask: Tensor | None = None,
    *,
    skip: int | Sequence[int] = 0,
    temperature: float = 1.0,
    sampler: Transformation | None = None,
    floor: float | None = None,
) -> Any:
    """Return the :class:`Scores` of a text, or a list of them for a batch, from a model's logits.

    Parameters
    ----------
    logits
        ``[T, V]`` or ``[B, T, V]``, of any floating dtype; row t predicts token t + 1. Half precision is read as
        float32, and better never made: rounding the logits biases the statistic.
    input_ids
        ``[T]`` or ``[B, T]``. The first token has no prediction, so N = T - 1.
    attention_mask
        ``[B, T]`` (or ``[T]``), 0 or False at padding, on either side; padding changes nothing.
    skip
        How many leading tokens belong to somebody else (a prompt): they are context and are not judged. One number or
        one a row.
    temperature, sampler
        How the text is supposed to have been drawn: surprisal and entropy are taken under that same distribution.
        ``sampler`` is anything with ``mask(logits) -> logits`` and without memory; not both.
    floor
        In (0, 1): the probability that a token outside the sampler's support is given. It does not change any
        guarantee, since under the sampler such a token never comes. Without it the surprisal is inf.

    Raises ``ValueError`` for shapes that do not fit, a token outside the vocabulary, a setting out of range, a sampler
    with memory, and a row that is NaN, +inf or all -inf; ``TypeError`` for what is no array of the kind.

    >>> logits = torch.tensor([[0.5, 0.25, 0.25]]).log().expand(4, 3)
    >>> found = score_from_logits(logits, [0, 2, 2, 1])
    >>> found.n_tokens, round(found.log_perplexity, 6), round(found.mean_entropy, 6)
    (3, 1.386294, 1.039721)

    Source: Radvand et al. 2025, section 3; the logarithm of sum p^(1 - lambda) is what the E-value needs.
    """
    ids = torch.as_tensor(input_ids)
    single = logits.ndim == 2
    rows, ids = (logits[None], ids[None]) if single else (logits, ids)
    mask = torch.ones_like(ids) if attention_mask is None else torch.as_tensor(attention_mask)
    mask = mask.reshape(1, -1) if mask.ndim == 1 else mask
    if rows.ndim != 3 or ids.shape != rows.shape[:2] or mask.shape != ids.shape:
        raise ValueError(
            "logits, input_ids and attention_mask must have shapes [T, V], [T], [T] or [B, T, V], [B, T], [B, T]; got "
            f"{tuple(logits.shape)}, {tuple(torch.as_tensor(input_ids).shape)}, {tuple(mask.shape)}"
        )
    skips = [skip] * len(ids) if isinstance(skip, int) else list(skip)
    if len(skips) != len(ids) or min(skips, default=0) < 0:
        raise ValueError(f"skip must be at least 0, one number or one for each of {len(ids)} texts; got {skip!r}")
    transform = transformation(temperature, sampler)
    check_floor(floor)
    found = [
        _score(row, row_ids, row_mask.bool(), first, transform, floor)
        for row, row_ids, row_mask, first in zip(rows, ids, mask, skips, strict=True)
    ]
    return found[0] if single else found


def transformation(temperature: float, sampler: Transformation | None) -> Transformation | None:
    """The one way in which the text is supposed to have been drawn, None for the model as it is."""
    check_positive("temperature", temperature)
    if sampler is None:
        return None if temperature == 1 else _Temperature(temperature)
    if temperature != 1:
        raise ValueError(f"temperature must stay 1 where a sampler is given; got {temperature}: put it in the sampler")
    if not callable(getattr(sampler, "mask", None)):
        raise TypeError(f"sampler must have mask(logits) -> logits; got {sampler!r}")
    if callable(begin := getattr(sampler, "init", None)) and _remembers(begin(1)):
        raise ValueError(
            f"sampler must be without memory; got {sampler}, whose distribution depends on what was drawn before"
        )
    return sampler


def check_floor(floor: float | None) -> None:
    """Refuse a floor that is no probability."""
    if floor is not None and not 0 < floor < 1:
        raise ValueError(f"floor must be None or in (0, 1); got {floor!r}")


class _Temperature:
    """Logits divided by one number."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def mask(self, logits: Tensor) -> Tensor:
        return logits / self.temperature


def _remembers(state: Any) -> bool:
    return any(map(_remembers, state)) if isinstance(state, tuple) else state is not None


def _score(
    logits: Tensor, ids: Tensor, mask: Tensor, skip: int, transform: Transformation | None, floor: float | None
) -> Scores:
    places = mask.nonzero().squeeze(-1)
    if len(places) and int(places[-1] - places[0]) + 1 != len(places):
        raise ValueError("attention_mask must hide padding at the ends of a text; got a hole inside one")
    start = int(places[0]) if len(places) else 0
    stop = start + len(places)
    first = max(start + 1, start + skip)  # the first token has no prediction
    if first >= stop:
        return empty()
    return score_tokens(logits[first - 1 : stop - 1], ids[first:stop], transform, floor)


def score_tokens(logits: Tensor, tokens: Tensor, transform: Transformation | None, floor: float | None) -> Scores:
    """The scores of ``tokens [N]``, each drawn from the row of ``logits [N, V]`` beside it."""
    if transform is None:
        return _floored(token_cumulants(logits, tokens, LAMBDAS), floor)
    parts = [
        token_cumulants(transform.mask(part.float() if part.itemsize < 4 else part), written, LAMBDAS)
        for part, written in zip(logits.split(CHUNK), tokens.split(CHUNK), strict=True)
    ]
    return _floored([torch.cat(column) for column in zip(*parts, strict=True)], floor)


def _floored(found: Sequence[Tensor], floor: float | None) -> Scores:
    surprisal, entropy, varentropy, functions = (part.cpu() for part in found)
    if floor is not None:
        surprisal = torch.where(surprisal.isinf(), -torch.tensor(floor, dtype=torch.float64).log(), surprisal)
    return Scores(surprisal, entropy, varentropy, functions)


def empty() -> Scores:
    """The scores of no token."""
    nothing = torch.zeros(0, dtype=torch.float64)
    return Scores(nothing, nothing, nothing, torch.zeros(0, len(LAMBDAS), dtype=torch.float64))
