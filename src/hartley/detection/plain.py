"""Results as JSON can hold them."""

import math
from typing import Any


def plain(value: Any) -> Any:
    """The same dictionaries, with None for every number that is not finite.

    >>> plain({"p": {"less": 0.5, "greater": float("nan")}})
    {'p': {'less': 0.5, 'greater': None}}
    """
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
