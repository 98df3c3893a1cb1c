"""Results as JSON can hold them."""

import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """The same value with None for every number that is not finite, and its text for what JSON has no word for.

    Keys become texts, lists and tuples become lists.

    >>> plain({"p": [0.5, float("nan")], "n": 3, "decision": None})
    {'p': [0.5, None], 'n': 3, 'decision': None}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]  # pyright: ignore[reportUnknownVariableType]
    return str(value)
