"""TensorBoard's event files, read while they are written."""

import json
import struct
from pathlib import Path
from typing import Any

from hartley.training.logs.points import Point

HEADER, FOOTER = 12, 4  # bytes of a record's length with its checksum, and of the checksum of its content


class EventFile:
    """The scalars of one event file; a record that is cut off is left for the next look.

    ``settings`` are the arguments of the transformers trainer that wrote the file, where it wrote them (its sampling
    temperature among them). A record that fails its checksum ends the reading with a note of how many come after it.
    Raises ``ImportError`` naming the extra where tensorboard is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        except ImportError as error:
            raise ImportError('event files are read by tensorboard: pip install "hartley[watch]"') from error
        self.path = path
        self.notes: list[str] = []
        self.settings: dict[str, Any] = {}
        self._loader = EventFileLoader(str(path))
        self._read = 0  # records that the loader gave
        self._whole, self._at = 0, 0  # records that are there to their last byte, and where they end

    def look(self) -> list[Point]:
        """The scalars that were written whole since the last look."""
        found: list[Point] = []
        for event in self._loader.Load():
            self._read += 1
            for value in event.summary.value:
                kind = value.metadata.plugin_data.plugin_name
                if kind == "scalars":
                    found.append(Point(int(event.step), value.tag, _scalar(value)))
                elif value.tag.startswith("args/"):
                    self.settings = _settings(value)
        self.notes = [note] if (note := self._damage()) else []
        return found

    def _damage(self) -> str | None:
        """Whole records that the loader did not give: it stops without a word at one that fails its checksum."""
        self._count()
        if self._whole <= self._read:
            return None
        return (
            f"{self.path}: record {self._read + 1} of {self._whole} fails its checksum; it and the "
            f"{self._whole - self._read - 1} after it cannot be read"
        )

    def _count(self) -> None:
        """Walk the records that have come, by their lengths alone."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            while self._at + HEADER <= size:
                file.seek(self._at)
                end = self._at + HEADER + struct.unpack("<Q", file.read(8))[0] + FOOTER
                if end > size:
                    return
                self._at, self._whole = end, self._whole + 1


def _scalar(value: Any) -> float:
    from tensorboard.util.tensor_util import make_ndarray

    return float(make_ndarray(value.tensor).item())


def _settings(value: Any) -> dict[str, Any]:
    from tensorboard.util.tensor_util import make_ndarray

    try:
        text = make_ndarray(value.tensor).ravel()[0].decode()
        found = json.loads(text)
    except (ValueError, IndexError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
