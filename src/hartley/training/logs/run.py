"""All logs of a run: the files below a folder, read together and again as they grow."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hartley.training.logs.columns import Column, canonical, meaning
from hartley.training.logs.events import EventFile
from hartley.training.logs.json_files import JsonLines, TrainerState
from hartley.training.logs.parquet import ParquetFile
from hartley.training.logs.points import Point, Reader

KINDS = "events.out.tfevents.*, trainer_state.json, *.jsonl and *.parquet"
ROUNDING = 1e-6  # relative: TensorBoard keeps single precision


@dataclass
class Series:
    """A column: its points by step, in order, under the name that all files share."""

    name: str
    points: dict[int, float] = field(default_factory=dict[int, float])

    @property
    def steps(self) -> list[int]:
        """The steps with a value, rising; NaN and infinities are left out."""
        return [step for step in sorted(self.points) if math.isfinite(self.points[step])]

    @property
    def values(self) -> list[float]:
        """The finite values, in the order of `steps`."""
        return [self.points[step] for step in self.steps]

    @property
    def bad_steps(self) -> list[int]:
        """Steps whose value is NaN, null or infinite."""
        return [step for step in sorted(self.points) if not math.isfinite(self.points[step])]


class RunLogs:
    """The logs below a folder, or one log; `look` again to see what has come.

    Names that TensorBoard and ``trainer_state.json`` spell differently become one (`canonical`). Where files disagree
    on a value, the one changed last is taken and a note says so: after a resumed run that is the later attempt.
    Raises ``ValueError`` for a path that is not there, a folder without logs and a file of no known kind.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.series: dict[str, Series] = {}
        self.readers: dict[Path, Reader] = {}
        self._from: dict[tuple[int, str], Path] = {}
        self._apart: dict[str, tuple[int, float, float]] = {}
        self._count = 0
        if not self.path.exists():
            raise ValueError(f"there is no run at {self.path}")
        if self.path.is_file() and _kind(self.path) is None:
            raise ValueError(f"{self.path} is no training log that can be read; known are {KINDS}")
        self.look()
        if not self.readers:
            raise ValueError(f"there is no training log in {self.path}; looked for {KINDS}")

    def look(self) -> int:
        """Read what has come since the last look, new files included; return how many points that is."""
        files = [self.path] if self.path.is_file() else list(_files(self.path))
        for file in files:
            if file not in self.readers and (kind := _kind(file)) is not None:
                self.readers[file] = kind(file)
        before = self._count
        for file in sorted(self.readers, key=_changed):
            try:
                points = self.readers[file].look()
            except FileNotFoundError:  # a checkpoint that was rotated away: what it said stays
                continue
            for point in points:
                self._take(point, file)
        return self._count - before

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        return sorted(self.readers)

    @property
    def settings(self) -> dict[str, Any]:
        """The trainer's arguments, where an event file holds them."""
        return {name: value for one in self.readers.values() for name, value in getattr(one, "settings", {}).items()}

    @property
    def last_step(self) -> int | None:
        """The last step with any value."""
        return max((step for one in self.series.values() for step in one.points), default=None)

    @property
    def notes(self) -> list[str]:
        """What could not be read as it stands, a sentence each without its end."""
        found = [note for reader in self.readers.values() for note in reader.notes]
        for name, (step, old, new) in self._apart.items():
            found.append(
                f"{name}: files disagree, first at step {step} ({old:.6g}, {new:.6g}); the later file is taken"
            )
        for one in self.series.values():
            if bad := one.bad_steps:
                found.append(
                    f"{one.name} is NaN, null or infinite at {len(bad)} of {len(one.points)} steps, first at {bad[0]}"
                )
        return found

    def meaning(self, name: str) -> Column | None:
        """What a column really is; None where it is unknown."""
        return meaning(name, self.series)

    def points(self) -> Iterator[Point]:
        """The tidy table: (step, name, value), column by column."""
        for one in self.series.values():
            for step in sorted(one.points):
                yield Point(step, one.name, one.points[step])

    def _take(self, point: Point, file: Path) -> None:
        name = canonical(point.name)
        series = self.series.setdefault(name, Series(name))
        key = (point.step, name)
        if (old := series.points.get(point.step)) is None:
            self._count += 1
        elif self._from[key] != file and not _close(old, point.value):
            self._apart.setdefault(name, (point.step, old, point.value))
        elif self._from[key] != file:
            return  # the same, perhaps in single precision
        series.points[point.step] = point.value
        self._from[key] = file


def _kind(path: Path) -> Any:
    if path.name.startswith("events.out.tfevents."):
        return EventFile
    if path.name == "trainer_state.json":
        return TrainerState
    return {".jsonl": JsonLines, ".ndjson": JsonLines, ".parquet": ParquetFile}.get(path.suffix)


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if _kind(path := Path(place) / name) is not None:
                yield path


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _close(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= ROUNDING * max(abs(a), abs(b))
