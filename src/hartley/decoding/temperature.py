"""Temperature: divide every logit by one number, which flattens (above 1) or sharpens (below 1) the distribution."""

import torch
from torch import Tensor

from hartley.decoding.sampler import PerRow, Sampler, State, column, sampler
from hartley.info.checks import check_non_negative
from hartley.info.head import Head


class Temperature(Sampler):
    """See :func:`temperature`."""

    truncates = False

    def apply(self, head: Head, state: State) -> Head:
        """Divide, or keep the most probable token where the temperature is 0."""
        value: PerRow = self.settings["temperature"]
        values = torch.as_tensor(value)
        if bool((values == 1).all()):
            return head
        if not bool((values == 0).any()):
            return head.temper(value)
        head = head.keep(lambda head: greedy_rows(head, values))
        return head.temper(values.masked_fill(values == 0, 1.0))


def greedy_rows(head: Head, values: Tensor) -> Tensor:
    """Keep the first token of the rows at temperature 0, and everything in the others."""
    first = torch.arange(head.tokens.shape[1], device=head.tokens.device) == 0
    return (first | (column(values.reshape(-1)) != 0)).expand_as(head.tokens)


@sampler
def temperature(temperature: PerRow) -> Sampler:
    """Divide the logits by ``temperature``; 0 always takes the most probable token (the lowest id among equals).

    ``temperature`` is at least 0, one value or ``[B]``. Raises ``ValueError`` if it is negative or not finite.

    >>> import torch
    >>> temperature(2.0).mask(torch.tensor([[2.0, 1.0, 0.0]]))
    tensor([[1.0000, 0.5000, 0.0000]])

    Source: Ackley, Hinton & Sejnowski 1985, section 2.
    """
    check_non_negative("temperature", temperature)
    return Temperature("temperature", {"temperature": temperature})
