"""A drawn token and what is known of it."""

from typing import Any, NamedTuple

from torch import Tensor


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
    top_tokens: Tensor  #: ``[B, up to 8]`` the model's most probable tokens
    top_log_probs: Tensor  #: ``[B, up to 8]`` their log-probabilities under the model; -inf past the last token

    def row(self, i: int) -> dict[str, Any]:
        """Row ``i`` in plain Python numbers, for a log or a client."""
        return {name: values[i].tolist() for name, values in self._asdict().items()}
