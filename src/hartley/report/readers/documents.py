"""The JSON in a file, however it is laid out: one document, one a line, or the events of a stream."""

import json
from pathlib import Path
from typing import Any

LARGEST = 2 * 1024**3  # bytes; a file is read whole
FIELDS = ("event:", "id:", "retry:", ":")  # lines of an event stream that carry no data


def documents(path: Path) -> list[Any]:
    """The JSON values in a file: one document (a list of objects counts as several), JSON lines, or streamed events.

    Raises ``ValueError`` naming the file, and the line where there is one, for an empty file, one that is not UTF-8,
    not JSON or cut short.
    """
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"{path} has {size:,} bytes, more than the {LARGEST:,} that are read at once; split it")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at {error.start}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty; give the JSON that a provider answered, whole")
    if text.lstrip().startswith(("data:", *FIELDS)):
        return _events(path, text)
    try:
        found = _json(text)
    except json.JSONDecodeError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) > 1 and _whole(lines[0][1]):
            return [_line(path, number, line) for number, line in lines]
        raise _no_json(path, error, text) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON that can be read: {error}") from error
    if found == []:
        raise ValueError(f"{path} is empty: a list without a single response")
    return found if isinstance(found, list) and all(isinstance(one, dict) for one in found) else [found]


def _events(path: Path, text: str) -> list[Any]:
    found: list[Any] = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith(FIELDS):
            continue
        if not line.startswith("data:"):
            raise ValueError(f"{path}, line {number}: an event stream has lines of 'data: ...'; got {line[:40]!r}")
        data = line.removeprefix("data:").strip()
        if data != "[DONE]":
            found.append(_line(path, number, data))
    if not found:
        raise ValueError(f"{path} is empty: a stream without a single event")
    return found


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return _json(line)
    except json.JSONDecodeError as error:
        raise _no_json(path, error, line, number) from error
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not JSON that can be read: {error}") from error


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _whole(line: str) -> bool:
    try:
        return isinstance(_json(line), dict)
    except ValueError:
        return False


def _no_json(path: Path, error: json.JSONDecodeError, text: str, line: int | None = None) -> ValueError:
    place = f"line {line if line is not None else error.lineno}, column {error.colno}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return ValueError(f"{path} is cut short: the JSON breaks off at {place} ({error.msg})")
    return ValueError(f"{path} is not JSON: {place}: {error.msg}")
