"""What a reader of a training log gives: points of a tidy table, and notes on what it could not take."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
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


class Unfinished(ValueError):
    """A file that cannot be read as it is now; says why."""


class WholeFile:
    """A file that is read whole when it has changed, of which each look gives what is new.

    One that is being written is left for the next look, with a note until then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._seen: tuple[int, int] | None = None
        self._given: dict[tuple[int, str], float] = {}

    def read(self) -> list[Point]:
        """All values of the file, notes put into ``notes``; raises `Unfinished` for one that is not whole."""
        raise NotImplementedError

    def look(self) -> list[Point]:
        """The values that are new or have changed since the last look."""
        facts = self.path.stat()
        seen = (facts.st_mtime_ns, facts.st_size)
        if seen == self._seen:
            return []
        self.notes = []
        try:
            found = self.read()
        except Unfinished as error:
            self.notes = [f"{self.path} {error}; it is read at the next look"]
            return []
        self._seen = seen
        new = [point for point in found if not _same(self._given.get(point[:2]), point.value)]
        self._given.update({point[:2]: point.value for point in new})
        return new


def _same(a: float | None, b: float) -> bool:
    return a is not None and (a == b or (math.isnan(a) and math.isnan(b)))


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
