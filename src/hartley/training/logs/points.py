"""What a reader of a training log gives: points of a tidy table, and notes on what it could not take."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

STEPS = ("step", "global_step", "_step", "train/global_step", "training/global_step")


class Point(NamedTuple):
    """One value of one column: a line of the tidy table. NaN where the log says NaN or null."""

    step: int
    name: str
    value: float


class Reader(Protocol):
    """A file that may still grow; ``notes`` are sentences without an end."""

    notes: list[str]

    def look(self) -> list[Point]:
        """What has come since the last look."""
        ...


def step_of(record: Mapping[str, Any]) -> int | None:
    """The step that a record names, under one of the names that loggers use."""
    for name in STEPS:
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return int(value)
    return None


def numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a record by name, nested ones joined with a slash; null is NaN, text and lists are passed by."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif value is None:
            yield f"{prefix}{name}", math.nan
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)
