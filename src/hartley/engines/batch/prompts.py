"""Prompts from a Parquet, JSONL or CSV file anywhere fsspec reaches, a few at a time however long the file is."""

import hashlib
import json
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

ENDINGS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
PACKED = (".gz", ".bz2", ".xz", ".zst")  # a JSONL or CSV file may be compressed
LONGEST = 2**20  # bytes of a line or a CSV row: a longer one is a file without line ends
ROWS = 1024  # taken from a Parquet file at once


class Prompt(NamedTuple):
    """A prompt and the name it goes by; without ids in the file, that is its place in it: "0", "1", ..."""

    id: str
    text: str | None  #: None where the file has null


class Survey(NamedTuple):
    """What one reading of the whole file says."""

    rows: int
    sha256: str  #: of all ids and prompts, so that a changed file is noticed


def read(source: str) -> Iterator[Prompt]:
    """Yield the prompts of ``source``, a local path or an fsspec URL, in their order and in flat memory.

    Columns ``prompt`` (text) and, if given, ``id`` (text or integers); others are left alone. Raises ``ValueError``
    for an unknown ending, a missing column, a value of another type or text that is not UTF-8, naming the line, and
    ``OSError`` for a file that cannot be read.
    """
    kind = _kind(source)
    with _opened(source, packed=kind != "parquet") as file:
        try:
            yield from {"parquet": _parquet, "jsonl": _jsonl, "csv": _csv}[kind](file, source)
        except UnicodeDecodeError as error:
            raise ValueError(f"{source} is not UTF-8: {error}") from error


def survey(source: str) -> Survey:
    """Read ``source`` once, before anything is spent on it: how many prompts, which, and that no id comes twice.

    Takes 8 bytes of memory for each prompt that has an id. Raises ``ValueError`` for a file without a prompt and for
    an id that comes twice, naming it, and what :func:`read` raises.
    """
    digest, hashes, rows = hashlib.sha256(), array("Q"), 0
    for rows, (name, text) in enumerate(read(source), 1):
        for part in (name, text):
            encoded = b"" if part is None else part.encode("utf-8")
            digest.update(b"%d:" % (-1 if part is None else len(encoded)))
            digest.update(encoded)
        if name != str(rows - 1) or hashes:
            if not hashes:
                hashes.extend(_hash(str(row)) for row in range(rows - 1))
            hashes.append(_hash(name))
    if not rows:
        raise ValueError(f"{source} holds no prompt")
    order = np.frombuffer(hashes, np.uint64)
    order.sort()  # in place: the array is ours
    twice = set(order[1:][order[1:] == order[:-1]].tolist())
    if twice:
        met: set[str] = set()
        for name, _ in read(source):
            if name in met:
                raise ValueError(f"{source}: the id {name!r} comes twice; every prompt needs its own")
            if _hash(name) in twice:
                met.add(name)
    return Survey(rows, digest.hexdigest())


class Shards:
    """The prompts of a file in pieces of ``size``, by place; asked for in rising order, the file is read once."""

    def __init__(self, source: str, size: int) -> None:
        self.source, self.size = source, size
        self.rows: Iterator[Prompt] = iter(())
        self.next: int | None = None

    def take(self, shard: int) -> list[Prompt]:
        """The prompts of piece ``shard``, from 0."""
        if self.next is None or shard < self.next:
            self.rows, self.next = read(self.source), 0
        while self.next < shard:
            for _ in islice(self.rows, self.size):
                pass
            self.next += 1
        self.next += 1
        return list(islice(self.rows, self.size))


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")


def _kind(source: str) -> str:
    name = source.lower().split("?")[0]
    for packed in PACKED:
        if name.endswith(packed) and not name.endswith(".parquet" + packed):
            name = name.removesuffix(packed)
            break
    kind = next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)
    if kind is None:
        raise ValueError(f"prompts must be a file that ends in {', '.join(ENDINGS)} (or .jsonl.gz ...), got {source!r}")
    return kind


@contextmanager
def _opened(source: str, *, packed: bool) -> Iterator[Any]:
    import fsspec

    file: Any = fsspec.open(source, "rb", compression="infer" if packed else None)
    with file as opened:
        yield opened


def _jsonl(file: Any, source: str) -> Iterator[Prompt]:
    number = found = 0
    with_ids: bool | None = None
    while line := file.readline(LONGEST + 1):
        number += 1
        where = f"{source}, line {number}"
        if len(line) > LONGEST:
            raise ValueError(f"{where} is longer than {LONGEST} bytes")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} must be a JSON object, got {type(row).__name__}")
        with_ids = _check_columns(row, where) if with_ids is None else with_ids
        if "prompt" not in row or ("id" in row) != with_ids:
            raise ValueError(f"{where} has the columns {_names(row)}; every line needs those of the first one")
        yield _prompt(row.get("id") if with_ids else found, row["prompt"], where)
        found += 1


def _csv(file: Any, source: str) -> Iterator[Prompt]:
    import pyarrow as pa
    from pyarrow import csv

    with _opened(source, packed=True) as head:
        first = head.read(LONGEST)
    if not first.strip():
        return
    parse = csv.ParseOptions(newlines_in_values=True)
    whole = csv.ReadOptions(block_size=LONGEST, use_threads=False)
    try:
        names = csv.open_csv(pa.BufferReader(first), read_options=whole, parse_options=parse).schema.names
        columns = ["id", "prompt"] if _check_columns(names, source) else ["prompt"]
        text = csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False
        )
        batches = csv.open_csv(file, read_options=whole, parse_options=parse, convert_options=text)
        yield from _of_batches(batches, source, columns)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source}: {error}") from error


def _parquet(file: Any, source: str) -> Iterator[Prompt]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=2**20)
        columns = ["id", "prompt"] if _check_columns(table.schema_arrow.names, source) else ["prompt"]
        yield from _of_batches(table.iter_batches(batch_size=ROWS, columns=columns), source, columns)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source}: {error}") from error


def _of_batches(batches: Any, source: str, columns: list[str]) -> Iterator[Prompt]:
    row = 0
    for batch in batches:
        for at in range(0, batch.num_rows, ROWS):
            part = batch.slice(at, ROWS)
            ids = part.column("id").to_pylist() if "id" in columns else range(row, row + part.num_rows)
            for id, prompt in zip(ids, part.column("prompt").to_pylist(), strict=True):
                yield _prompt(id, prompt, f"{source}, row {row}")
                row += 1


def _check_columns(names: Any, where: str) -> bool:
    """Whether there are ids; ``ValueError`` unless there is one column of prompts."""
    names = list(names)
    if "prompt" not in names:
        raise ValueError(f"{where} has no column 'prompt'; its columns are {_names(names)}")
    for name in ("id", "prompt"):
        if names.count(name) > 1:
            raise ValueError(f"{where} has {names.count(name)} columns {name!r}; one is allowed")
    return "id" in names


def _names(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


def _prompt(id: Any, text: Any, where: str) -> Prompt:
    if isinstance(id, bool) or not isinstance(id, int | str):
        raise ValueError(f"{where}: id must be text or an integer, got {id!r}")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{where}: prompt must be text, got {type(text).__name__}")
    id = str(id)
    try:
        id.encode("utf-8")
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, which JSON can spell
        raise ValueError(f"{where} has no form in UTF-8: {error.reason}") from error
    return Prompt(id, text)
