"""Structured logs: one JSON object a line, with no word of a prompt unless that was asked for."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger("hartley.serve")


class Lines(logging.Formatter):
    """A record as JSON: its time, level and message, and what it has under ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {"time": time, "level": record.levelname.lower(), "message": record.getMessage()}
        said |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0] is not None:
            # The words of an exception could be a prompt's; where it was raised cannot
            said["error"] = record.exc_info[0].__name__
            said["where"] = [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(record.exc_info[2])]
        return json.dumps(said, ensure_ascii=False)


def to_stderr() -> None:
    """Send every log of this process to standard error in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    log.setLevel(logging.INFO)
