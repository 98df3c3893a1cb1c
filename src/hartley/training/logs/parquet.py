"""Logs in Parquet: a column for each number beside a step, or the tidy columns step, name and value."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

from hartley.training.logs.points import STEPS, Point


class ParquetFile:
    """One Parquet file, read whole when it has changed; one without an end yet is left for the next look.

    Several rows of one step (TRL's tables of completions) are averaged. Without a step column the number of the row
    stands for it, and a note says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._seen: tuple[int, int] | None = None
        self._given: dict[tuple[int, str], float] = {}

    def look(self) -> list[Point]:
        """The values that are new or have changed since the last look."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        facts = self.path.stat()
        seen = (facts.st_mtime_ns, facts.st_size)
        if seen == self._seen:
            return []
        self.notes = []
        try:
            table = pq.ParquetFile(self.path).read()
        except (pa.ArrowInvalid, OSError):
            self.notes = [f"{self.path} is not whole, or no Parquet; it is read at the next look"]
            return []
        self._seen = seen
        found = self._points(table)
        new = [point for point in found if not _same(self._given.get(point[:2]), point.value)]
        self._given.update({point[:2]: point.value for point in new})
        return new

    def _points(self, table: Any) -> list[Point]:
        import pyarrow as pa

        columns = dict(zip(table.column_names, table.columns, strict=True))
        step = next((name for name in STEPS if name in columns), None)
        if step is None:
            steps: list[int | None] = list(range(table.num_rows))
            self.notes = [
                f"{self.path}: there is no column step, global_step or _step; the number of the row stands for it"
            ]
        else:
            steps = [None if value is None else int(value) for value in columns[step].to_pylist()]
        if {"name", "value"} <= set(columns):
            cells = zip(steps, columns["name"].to_pylist(), columns["value"].to_pylist(), strict=True)
        else:
            wanted = {
                name: column.to_pylist()
                for name, column in columns.items()
                if name not in STEPS and (pa.types.is_floating(column.type) or pa.types.is_integer(column.type))
            }
            cells = (
                (at, name, value) for name, values in wanted.items() for at, value in zip(steps, values, strict=True)
            )
        groups: dict[tuple[int, str], list[float]] = defaultdict(list)
        lost = 0
        for at, name, value in cells:
            if at is None:
                lost += 1
            else:
                groups[at, str(name)].append(math.nan if value is None else float(value))
        if lost:
            self.notes.append(f"{self.path}: {lost} values have no step and are left out")
        if any(len(values) > 1 for values in groups.values()):
            self.notes.append(f"{self.path}: several rows of one step are averaged")
        return [Point(at, name, math.fsum(values) / len(values)) for (at, name), values in groups.items()]


def _same(a: float | None, b: float) -> bool:
    return a is not None and (a == b or (math.isnan(a) and math.isnan(b)))
