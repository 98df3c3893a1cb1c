"""Logits tile by tile: those of a hidden state and an output layer, made when they are looked at, or ready ones."""

from collections.abc import Iterator

import torch
from torch import Tensor

from hartley.info.distribution import working_dtype

CELLS = {"cpu": 1 << 21}  # logits of a tile: 8 MB in float32 stay in a processor's cache
MANY = 1 << 26  # elsewhere, where a tile should fill the machine
LEAST, MOST = 2048, 16384  # columns of a tile


def cells(device: torch.device) -> int:
    """How many logits are looked at together."""
    return CELLS.get(device.type, MANY)


def spans(size: int, step: int) -> Iterator[slice]:
    """The slices of ``step``, the last one shorter, that cover ``size``."""
    return (slice(begin, min(begin + step, size)) for begin in range(0, size, step))


class Projected:
    """The logits ``hidden [N, D] @ weight [V, D].T + bias [V]``, soft-capped, times ``scale``; never all at once.

    Tiles come columns by columns, all rows of one span before the next; each is written over by the next.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        softcap: float | None,
        columns: int | None = None,
    ) -> None:
        self.dtype = working_dtype(torch.promote_types(hidden.dtype, weight.dtype))
        self.hidden, self.weight, self.bias = hidden.to(self.dtype), weight, bias
        self.device = hidden.device
        self.scale, self.softcap = scale, softcap
        self.shape = torch.Size((hidden.shape[0], weight.shape[0]))
        self.writable = softcap is None  # a tile may become its own slope
        fitting = cells(hidden.device) // max(1, hidden.shape[0])
        self.columns = min(columns or min(MOST, max(LEAST, fitting)), weight.shape[0])
        self.rows = max(1, cells(hidden.device) // self.columns)
        self._room = self.hidden.new_empty(0)
        self._layer: tuple[slice, Tensor] | None = None
        self._grads: list[Tensor | None] = [None, None, None]
        self._part = self._room

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """The logits ``[R, C]``, to be written over as one likes."""
        shape = rows.stop - rows.start, columns.stop - columns.start
        if self._room.numel() < shape[0] * shape[1]:
            self._room = self.hidden.new_empty(shape[0] * shape[1])
        found = self._room[: shape[0] * shape[1]].view(shape)
        torch.mm(self.hidden[rows], self._weight(columns).T, out=found)
        if self.bias is not None:
            found += self.bias[columns].to(self.dtype)
        if self.softcap is not None:
            found.div_(self.softcap).tanh_().mul_(self.softcap)
        return found.mul_(self.scale) if self.scale != 1 else found

    def want(self, hidden: bool, weight: bool, bias: bool) -> None:
        """Make room for the gradients that :meth:`pull` is to collect."""
        self._grads = [
            torch.zeros_like(self.hidden) if hidden else None,
            self._unfilled(self.weight) if weight else None,
            self.hidden.new_zeros(self.shape[1]) if bias else None,
        ]

    def _unfilled(self, like: Tensor) -> Tensor:
        """Room for a gradient that the first rows write over, all of it; without rows it is 0."""
        return torch.empty_like(like) if self.shape[0] else torch.zeros_like(like)

    def pull(self, rows: slice, columns: slice, tile: Tensor, slope: Tensor) -> None:
        """Add what ``slope [R, C]``, by logit, means for hidden state and layer; both arguments are used up."""
        if self.softcap is not None:
            slope.mul_(tile.div_(self.scale * self.softcap).square_().neg_().add_(1))
        if self.scale != 1:
            slope.mul_(self.scale)
        hidden, weight, bias = self._grads
        if hidden is not None:
            hidden[rows].addmm_(slope, self._weight(columns))
        if weight is not None:
            self._add(weight[columns], slope.T, self.hidden[rows], rows)
        if bias is not None:
            bias[columns] += slope.sum(0)

    def _add(self, grad: Tensor, left: Tensor, right: Tensor, rows: slice) -> None:
        """Add ``left @ right`` to a slice of the weight's gradient, which is rounded once, after all rows."""
        exact = grad.dtype == self.dtype
        if rows.start == 0:
            self._part = torch.mm(left, right, out=grad) if exact else left @ right
        else:
            self._part = self._part.addmm_(left, right)
        if rows.stop == self.shape[0] and not exact:
            grad.copy_(self._part)

    def grads(self) -> list[Tensor | None]:
        """The gradients by hidden state and bias, in the dtype that they are summed in, and by weight."""
        return self._grads

    def _weight(self, columns: slice) -> Tensor:
        if self._layer is None or self._layer[0] != columns:
            self._layer = columns, self.weight[columns].to(self.dtype)
        return self._layer[1]


class Ready:
    """The logits ``[N, V]`` that are there already, soft-capped, times ``scale``; whole rows at a time."""

    def __init__(self, logits: Tensor, scale: float, softcap: float | None) -> None:
        self.dtype = working_dtype(logits.dtype)
        self.logits, self.scale, self.softcap = logits, scale, softcap
        self.device = logits.device
        self.shape = logits.shape
        self.writable = False
        self.columns = logits.shape[1]
        self.rows = max(1, cells(logits.device) // self.columns)
        self._grad = logits

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """The logits ``[R, C]``, contiguous, perhaps the caller's own."""
        found = self.logits[rows, columns].to(self.dtype)
        if self.softcap is not None:
            found = (found / self.softcap).tanh_().mul_(self.softcap)
        return found.contiguous() if self.scale == 1 else found * self.scale

    def want(self, logits: bool, weight: bool, bias: bool) -> None:
        """Make room for the gradient that :meth:`pull` is to collect."""
        self._grad = torch.empty_like(self.logits, memory_format=torch.contiguous_format)

    def pull(self, rows: slice, columns: slice, tile: Tensor, slope: Tensor) -> None:
        """Put ``slope [R, C]``, by logit, where it belongs; it is used up."""
        if self.softcap is not None:
            slope.mul_(1 - (tile / (self.scale * self.softcap)).square())
        self._grad[rows, columns] = slope.mul_(self.scale) if self.scale != 1 else slope

    def grads(self) -> list[Tensor | None]:
        """The gradient by the logits; there is no layer."""
        return [self._grad, None, None]


Source = Projected | Ready
