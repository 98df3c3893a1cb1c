"""Logs in JSON: one record a line (TRL, verl's file logger, anybody's), and the trainer's ``trainer_state.json``."""

import json
from pathlib import Path
from typing import Any

from hartley.training.logs.points import Point, Unfinished, WholeFile, numbers, step_of

MOST = 3  # lines that a note names


class JsonLines:
    """One record a line, ``{"step": 3, "loss": 0.1}`` or verl's ``{"step": 3, "data": {...}}``.

    A last line that is no whole record is left for the next look. Lines that are no JSON object are passed by and
    counted in the notes. A record without a step has the number of its line, and a note says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self._at = 0  # bytes read
        self._line = 0
        self._bad: list[int] = []
        self._stepless = 0
        self._records = 0

    def look(self) -> list[Point]:
        """The numbers of the lines that were written whole since the last look."""
        if self.path.stat().st_size < self._at:  # written anew
            self._start()
        with self.path.open("rb") as file:
            file.seek(self._at)
            content = file.read()
        found: list[Point] = []
        for line in content.splitlines(keepends=True):
            record = _parsed(line)
            if not line.endswith(b"\n") and not isinstance(record, dict):
                break  # half written
            self._at += len(line)
            self._line += 1
            if not line.strip():
                continue
            if not isinstance(record, dict):
                self._bad.append(self._line)
                continue
            found += self._points(record)
        return found

    @property
    def notes(self) -> list[str]:
        """What was passed by, and what had no step."""
        found: list[str] = []
        if self._bad:
            named = ", ".join(map(str, self._bad[:MOST])) + (", ..." if len(self._bad) > MOST else "")
            many = len(self._bad) > 1
            found.append(
                f"{self.path}: line{'s' * many} {named} {'are' if many else 'is'} no JSON object and left out "
                f"({len(self._bad)} of {self._line})"
            )
        if self._stepless and self._records:
            found.append(
                f"{self.path}: {self._stepless} of {self._records} records have no step (step, global_step or _step); "
                "the number of the line stands for it"
            )
        return found

    def _points(self, record: dict[str, Any]) -> list[Point]:
        data = record.get("data")
        whole = {**record, **data} if isinstance(data, dict) else record
        whole = {name: value for name, value in whole.items() if name != "data" or not isinstance(value, dict)}
        step = step_of(record)
        step = step_of(whole) if step is None else step
        values = [(name, value) for name, value in numbers(whole) if name not in ("step", "_step", "global_step")]
        if not values:
            return []
        self._records += 1
        if step is None:
            self._stepless += 1
            step = self._line
        return [Point(step, name, value) for name, value in values]


class TrainerState(WholeFile):
    """The ``log_history`` of a transformers checkpoint."""

    def read(self) -> list[Point]:
        """Every number of the history at a step."""
        try:
            history = json.loads(self.path.read_bytes())["log_history"]
            records = [(step_of(record), record) for record in history]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            about = "is half written" if isinstance(error, ValueError) else "has no log_history"
            raise Unfinished(about) from error
        return [
            Point(step, name, value)
            for step, record in records
            if step is not None
            for name, value in numbers(record)
            if name != "step"
        ]


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        return None
