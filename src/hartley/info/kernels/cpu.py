"""The CPU kernels for float32 logits, in numba: each function restates one of ``reference.py``, the definition.

Here tensors become arrays and back; the work is in ``cpu_rows.py`` (passes over rows) and ``cpu_lists.py``. numba takes
compiled code from its cache while the file of a function is unchanged: after an edit of ``cpu_scalars.py`` alone, touch
the other two.
"""

# numba ships no types
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownParameterType=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false, reportGeneralTypeIssues=false, reportCallIssue=false

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hartley.info.kernels import cpu_lists, cpu_rows
from hartley.info.kernels.cpu_rows import BINS, RUN
from hartley.info.kernels.reference import Facts, Kept, KeptSet, Listed, Statistics

NARROW = 256  # lists up to this length are cut after they are written, longer ones before

_NO_COUNTS = np.zeros((0, BINS), np.int32)


class Index:
    """What helps to find the largest logits of a row: the maximum of each run and, once needed, a histogram."""

    def __init__(self, run_max: Any, counts: Any = None) -> None:
        self.run_max = run_max
        self._counts = counts

    def counts(self, logits: Any) -> Any:
        """Histogram of each row below its largest logit, int32 ``[B, BINS]``."""
        if self._counts is None:
            self._counts = np.zeros((logits.shape[0], BINS), np.int32)
            cpu_rows.histogram(logits, self.run_max, self._counts)
        return self._counts


def _deep(k: int, size: int) -> bool:
    """Whether the floor of the ``k`` largest takes a histogram of the row: the maxima of the runs are too few."""
    return 4 * k > -(-size // RUN) and 2 * k < size


def _packed(tensor: Tensor) -> Any:
    """An expanded tensor as an array of the one layout that the kernels are compiled for."""
    return np.ascontiguousarray(tensor.numpy())


def _passed(out: Any, log_sum: Any, sound: bool, index: Index) -> Statistics:
    top, entropy, varentropy = map(torch.from_numpy, out)
    return Statistics(top, torch.from_numpy(log_sum), entropy, varentropy, sound, index)


def _lists(rows: int, width: int) -> tuple[Any, Any, Any]:
    return np.empty((rows, width), np.int64), np.empty((rows, width), np.float32), np.empty(rows, np.int64)


def _listed(lists: tuple[Any, Any, Any], wanted: Any, size: int) -> Listed:
    tokens, log_probs, known = lists
    complete = (known < wanted) | (known == size)
    return Listed(*map(torch.from_numpy, (tokens, log_probs, known, complete)))


def statistics(logits: Tensor, scale: Tensor) -> Statistics:
    """See :func:`hartley.info.kernels.reference.statistics`."""
    rows, size = logits.shape
    run_max = np.empty((rows, -(-size // RUN)), np.float32)
    log_sum = np.empty(rows)
    out = np.empty((3, rows), np.float32)
    cpu_rows.statistics(logits.numpy(), scale.numpy(), run_max, log_sum, out)
    return _passed(out, log_sum, bool(np.isfinite(log_sum).all()), Index(run_max))


def look(logits: Tensor, scale: Tensor, k: int) -> tuple[Statistics, Listed]:
    """See :func:`hartley.info.kernels.reference.look`."""
    rows, size = logits.shape
    array, k = logits.numpy(), min(k, size)
    run_max = np.empty((rows, -(-size // RUN)), np.float32)
    counts = np.zeros((rows, BINS), np.int32) if _deep(k, size) else _NO_COUNTS
    log_sum = np.empty(rows)
    out = np.empty((3, rows), np.float32)
    lists = _lists(rows, k)
    sound = cpu_lists.look(array, array.view(np.int32), scale.numpy(), k, run_max, counts, log_sum, out, *lists)
    index = Index(run_max, None if counts is _NO_COUNTS else counts)
    return _passed(out, log_sum, sound, index), _listed(lists, k, size)


def largest(logits: Tensor, index: Index, k: Tensor, scale: Tensor, log_sum: Tensor, rows: Tensor | None) -> Listed:
    """See :func:`hartley.info.kernels.reference.largest`."""
    array, size = logits.numpy(), logits.shape[1]
    chosen = _chosen(logits, rows)
    wanted = np.minimum(k.numpy()[chosen], size)
    counts = index.counts(array) if any(_deep(each, size) for each in wanted.tolist()) else _NO_COUNTS
    floor = np.full(wanted.size, -np.inf, np.float32)
    cpu_lists.floors(index.run_max, counts, chosen, wanted, size, floor)
    return _list(logits, index, chosen, floor, wanted, scale, log_sum)


def above(logits: Tensor, index: Index, level: Tensor, scale: Tensor, log_sum: Tensor, rows: Tensor | None) -> Listed:
    """See :func:`hartley.info.kernels.reference.above`."""
    chosen = _chosen(logits, rows)
    floor = ((level + log_sum) / scale).float().numpy()[chosen]
    floor -= np.abs(floor) * np.float32(1e-6) + np.float32(1e-6)  # rounding must not lose a token; the rule is exact
    wanted = cpu_rows.count(logits.numpy(), index.run_max, chosen, floor)
    return _list(logits, index, chosen, floor, wanted, scale, log_sum)


def _chosen(logits: Tensor, rows: Tensor | None) -> Any:
    return np.arange(logits.shape[0]) if rows is None else rows.numpy()


def _list(logits: Tensor, index: Index, chosen: Any, floor: Any, wanted: Any, scale: Tensor, log_sum: Tensor) -> Listed:
    array, lists = logits.numpy(), _lists(chosen.size, wanted.max())
    bits = array.view(np.int32)
    cpu_lists.list_rows(array, bits, index.run_max, chosen, floor, wanted, scale.numpy(), log_sum.numpy(), *lists)
    return _listed(lists, wanted, logits.shape[1])


def depth(
    logits: Tensor,
    index: Index,
    scale: Tensor,
    log_sum: Tensor,
    level: Tensor,
    mass: Tensor,
    listed: tuple[Tensor, Tensor],
) -> Tensor:
    """See :func:`hartley.info.kernels.reference.depth`."""
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    counts = index.counts(logits.numpy())
    log_probs, known = (part.numpy() for part in listed)
    row = index.run_max, scale.numpy(), log_sum.numpy(), _packed(level), _packed(mass)
    cpu_lists.depth(counts, *row, log_probs, known, logits.shape[1], out.numpy())
    return out


def nucleus(log_probs: Tensor, known: Tensor, mass: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.nucleus`."""
    mask = torch.empty(log_probs.shape, dtype=torch.bool)
    cpu_lists.nucleus(log_probs.numpy(), known.numpy(), _packed(mass), mask.numpy())
    return mask


def nearest(log_probs: Tensor, known: Tensor, level: Tensor, mass: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.nearest`."""
    mask = torch.empty(log_probs.shape, dtype=torch.bool)
    cpu_lists.nearest(log_probs.numpy(), known.numpy(), level.numpy(), _packed(mass), mask.numpy())
    return mask


def deviation(logits: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.deviation`."""
    out = torch.empty(logits.shape[0])
    cpu_rows.deviation(logits.numpy(), out.numpy())
    return out


def restrict(tokens: Tensor, log_probs: Tensor, mask: Tensor, known: Tensor, start: Tensor, complete: Tensor) -> Kept:
    """See :func:`hartley.info.kernels.reference.restrict`."""
    rows, width = tokens.shape
    array = _packed(mask)
    if width > NARROW:
        width = max(np.count_nonzero(array, axis=1).max(), 1)
    kept = np.empty((rows, width), np.int64)
    kept_log_probs = np.empty((rows, width), np.float32)
    counts = np.empty((2, rows), np.int64)
    short = np.empty(rows, np.bool_)
    out = np.zeros((3, rows), np.float32)
    given = tokens.numpy(), log_probs.numpy(), array, known.numpy(), start.numpy(), complete.numpy()
    cpu_lists.restrict(*given, kept, kept_log_probs, out, counts, short)
    longest = max(counts[0].max(), 1)
    if longest < width:
        kept = np.ascontiguousarray(kept[:, :longest])
        kept_log_probs = np.ascontiguousarray(kept_log_probs[:, :longest])
    log_mass, entropy, varentropy = map(torch.from_numpy, out)
    count, place = map(torch.from_numpy, counts)
    return Kept(
        torch.from_numpy(kept),
        torch.from_numpy(kept_log_probs),
        count,
        log_mass,
        entropy,
        varentropy,
        place,
        int(counts[0].min()),
        torch.from_numpy(short) if short.any() else None,
    )


def race(tokens: Tensor, log_probs: Tensor, known: Tensor, seeds: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.race`."""
    out = torch.empty(tokens.shape[0], dtype=torch.int64)
    cpu_lists.race(tokens.numpy(), log_probs.numpy(), known.numpy(), seeds.numpy(), out.numpy())
    return out


def race_all(logits: Tensor, scale: Tensor, index: Index, seeds: Tensor) -> Tensor:
    """See :func:`hartley.info.kernels.reference.race_all`."""
    out = torch.empty(logits.shape[0], dtype=torch.int64)
    cpu_rows.race_all(logits.numpy(), scale.numpy(), index.run_max, seeds.numpy(), out.numpy())
    return out


def describe(logits: Tensor, index: Index, log_sum: Tensor, token: Tensor, kept: KeptSet | None) -> Facts:
    """See :func:`hartley.info.kernels.reference.describe`."""
    rows = logits.shape[0]
    array, own = logits.numpy(), log_sum.numpy()
    out = np.empty((3, rows), np.float32)
    counts = np.empty((2, rows), np.int64)
    if kept is None:
        nothing = np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32), np.zeros(rows, np.int64)
        cpu_lists.describe(array, index.run_max, own, token.numpy(), *nothing, nothing[2], own, out, counts)
        out[0], out[2] = -out[1], 1.0
        cpu_rows.finite(array, counts[1])
    else:
        given = (part.numpy() for part in kept)
        cpu_lists.describe(array, index.run_max, own, token.numpy(), *given, out, counts)
    return Facts(*map(torch.from_numpy, (out[0], out[1], counts[0], counts[1], out[2])))
