"""Where the rows of a batch stand in an engine's memory: B rows at the places 0 to B - 1, in any order."""

from typing import Any

import numpy as np


def close_gaps(places: Any) -> list[tuple[int, int, int]]:
    """Moves ``(row, place, to)`` of the highest of ``places``, int ``[B]``, into those below B that are free.

    ``places`` is brought up to date.

    >>> places = np.array([4, 0, 3])
    >>> close_gaps(places), places.tolist()
    ([(0, 4, 1), (2, 3, 2)], [1, 0, 2])
    """
    size = len(places)
    free = sorted(set(range(size)) - set(places.tolist()))
    rows = np.flatnonzero(places >= size).tolist()
    moves = [(row, int(places[row]), to) for row, to in zip(rows, free, strict=True)]
    for row, _, to in moves:
        places[row] = to
    return moves


def in_order(places: Any) -> bool:
    """Whether row r stands at place r."""
    return bool((places == np.arange(len(places))).all())
