"""Logs in Parquet: a column for each number beside a step, or the tidy columns step, name and value."""

import math
from collections import defaultdict
from typing import Any

from hartley.training.logs.points import STEPS, Point, Unfinished, WholeFile


class ParquetFile(WholeFile):
    """One Parquet file; one without an end yet is left for the next look.

    Several rows of one step (TRL's tables of completions) are averaged. Without a step column the number of the row
    stands for it, and a note says so.
    """

    def read(self) -> list[Point]:
        """Every number of the table at its step."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(self.path).read()
        except (pa.ArrowInvalid, OSError) as error:
            raise Unfinished("is not whole, or no Parquet") from error
        return self._points(table)

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
