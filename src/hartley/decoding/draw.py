"""A drawn token and what is known of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from hartley.info.head import Head

ALTERNATIVES = 20


class Draw(NamedTuple):
    """One token a row: tensors ``[B]`` unless said otherwise; entropies in nats, varentropies in nats^2.

    "The model" is its own distribution, at temperature 1 and with nothing removed; "drawn from" is what the sampler
    left of it.
    """

    token: Tensor
    log_prob: Tensor  #: under the distribution drawn from
    surprisal: Tensor  #: -log p under the model
    rank: Tensor  #: place in the model's order, 1 the most probable; ties by id
    entropy: Tensor  #: of the model
    varentropy: Tensor  #: of the model
    drawn_entropy: Tensor  #: of the distribution drawn from
    drawn_varentropy: Tensor  #: of the distribution drawn from
    kept: Tensor  #: how many tokens could have been drawn
    mass: Tensor  #: probability of those tokens under the model
    top_tokens: Tensor  #: ``[B, up to 20]`` the model's most probable tokens
    top_log_probs: Tensor  #: ``[B, up to 20]`` their log-probabilities under the model; -inf past the last token

    @classmethod
    def of(cls, head: Head, token: Tensor) -> Draw:
        """What ``head`` says of one token a row, int64 ``[B]``, whoever chose it; log_prob -inf if removed."""
        model, facts = head.origin, head.facts(token)
        return cls(
            token,
            facts.log_prob,
            facts.surprisal,
            facts.rank,
            model.entropy,
            model.varentropy,
            head.entropy,
            head.varentropy,
            facts.kept,
            facts.mass,
            model.tokens[:, :ALTERNATIVES],
            model.log_probs[:, :ALTERNATIVES],
        )

    def row(self, i: int) -> dict[str, Any]:
        """Row ``i`` in plain Python numbers, for a log or a client."""
        return {name: values[i].tolist() for name, values in self._asdict().items()}


def likeliest(row: Mapping[str, Any], most: int) -> list[tuple[int, float]]:
    """The model's most probable tokens in a row of :meth:`Draw.row`, up to ``most``, with log-probabilities in nats.

    >>> likeliest({"top_tokens": [5, 2, 0], "top_log_probs": [-0.2, -1.7, -float("inf")]}, 20)
    [(5, -0.2), (2, -1.7)]
    """
    pairs = zip(row["top_tokens"][:most], row["top_log_probs"][:most], strict=True)
    return [(token, value) for token, value in pairs if value is not None and math.isfinite(value)]
