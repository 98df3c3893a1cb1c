"""The folder of a batch run: what is in it is whole, written once, of one driver and of one set of settings."""

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout
from pyarrow import parquet

from hartley.report.summary import repeated_ngrams, totals

FORMAT = 1  # of a run's folder: raise it when the columns or the files change
PART = ".part"  # the ending of a file that is still being written

TEXTS = pa.schema(
    {
        "id": pa.string(),
        "prompt": pa.string(),
        "text": pa.string(),
        "finish_reason": pa.string(),  # stop, length or error
        "error": pa.string(),
        "seed": pa.int64(),  # the one with which this text is drawn alone
        "strategy": pa.string(),  # of an adaptive run: easy, normal or hard
        "n_tokens": pa.int32(),
        "n_bytes": pa.int32(),
        "mean_entropy": pa.float64(),  # nats a token
        "mean_varentropy": pa.float64(),  # nats^2
        "mean_surprisal": pa.float64(),  # nats a token
        "bits_per_byte": pa.float64(),
        "bits_per_byte_entropy": pa.float64(),
        "mean_kept": pa.float64(),
        "min_kept": pa.int32(),
        "max_kept": pa.int32(),
        "mean_mass": pa.float64(),
        "repeated_3": pa.float64(),  # share of 3-grams
    }
)
TOKENS = pa.schema(
    {
        "id": pa.string(),
        "position": pa.int32(),
        "token_id": pa.int32(),
        "text": pa.string(),  # what became certain with this token: joined, they are the text
        "surprisal": pa.float32(),  # nats
        "entropy": pa.float32(),  # nats
        "varentropy": pa.float32(),  # nats^2
        "rank": pa.int32(),
        "kept": pa.int32(),
        "mass": pa.float32(),
    }
)


class RunFolder:
    """``RUN/run.json``, ``RUN/texts/*.parquet`` and ``RUN/tokens/*.parquet``.

    A shard is a file of tokens, then a file of texts under the same name: the second one commits it. Both are written
    beside their place, flushed to disk and renamed, so a kill leaves at most files that nobody counts.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if "://" in os.fspath(path):
            raise ValueError(f"out must be a folder on this machine or on a shared filesystem, got {os.fspath(path)!r}")
        self.path = Path(path).absolute()
        self.texts, self.tokens = self.path / "texts", self.path / "tokens"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, made if need be, against another driver.

        Raises ``ValueError`` while another one has it, for a file, and for a folder with anything else in it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"out {self.path} is a file; give a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        if not self._record.exists():
            strange = [entry.name for entry in self.path.iterdir() if not self._ours(entry)]
            if strange:
                raise ValueError(f"out {self.path} is not empty and no run (it holds {strange[0]!r}, but no run.json)")
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ValueError(f"out {self.path} is being written by another hartley batch") from error
        try:
            self.clean()
            yield
        finally:
            (self.path / ".lock").unlink(missing_ok=True)
            lock.release()

    def settings(self) -> dict[str, Any] | None:
        """What ``run.json`` says; None for a run that is new. ``ValueError`` for one of another format."""
        return settings_of(self.path) if self._record.exists() else None

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ``ValueError``, naming the first one, if the run was begun with other ``settings`` than these."""
        before = self.settings() or {}
        for key, value in settings.items():
            if key in before and before[key] != value:
                raise ValueError(
                    f"out {self.path} was begun with {key} {before[key]!r}, now it is {value!r}; "
                    "go on with the same settings, or give another --out"
                )

    def begin(self, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Record ``settings``, which a run is held to, and ``facts``, which are for its reader."""
        self.check(settings)
        if not self._record.exists():
            content = json.dumps({"format": FORMAT, **settings, **facts}, ensure_ascii=False, indent=1) + "\n"
            write_whole(self._record, lambda file: file.write(content.encode("utf-8")))
        for part in (self.texts, self.tokens):
            part.mkdir(exist_ok=True)

    def clean(self) -> None:
        """Remove what a killed run left: parts of files, and tokens whose texts never came."""
        for place in (self.path, self.texts, self.tokens):
            for part in place.glob(f"*{PART}"):
                part.unlink(missing_ok=True)
        texts, tokens = ({file.name for file in part.glob("*.parquet")} for part in (self.texts, self.tokens))
        for part, names in ((self.texts, texts - tokens), (self.tokens, tokens - texts)):
            for name in names:
                (part / name).unlink(missing_ok=True)

    def done(self) -> set[int]:
        """The shards that are here, whole."""
        texts, tokens = ({file.stem for file in part.glob("*.parquet")} for part in (self.texts, self.tokens))
        return {int(name) for name in texts & tokens}

    def has(self, shard: int) -> bool:
        """Whether a shard is here, whole."""
        return all((part / _name(shard)).exists() for part in (self.texts, self.tokens))

    def write(self, shard: int, answers: Sequence[Mapping[str, Any]]) -> None:
        """Commit a shard: a dict for each prompt, with ``TEXTS``' first columns and its ``tokens`` as dicts.

        Whoever finds the shard there leaves it. Raises ``OSError`` when the disk is full; nothing stays behind then.
        """
        tokens = [{**token, "id": answer["id"]} for answer in answers for token in answer["tokens"]]
        for part, rows, schema in (
            (self.tokens, tokens, TOKENS),
            (self.texts, [_described(answer) for answer in answers], TEXTS),
        ):
            if self.has(shard):
                return
            table = pa.Table.from_pylist(rows, schema=schema)
            write_whole(
                part / _name(shard), lambda file, table=table: parquet.write_table(table, file, compression="zstd")
            )

    @property
    def _record(self) -> Path:
        return self.path / "run.json"

    def _ours(self, entry: Path) -> bool:
        if entry in (self.texts, self.tokens):
            return entry.is_dir() and not any(entry.iterdir())
        return entry.name == ".lock" or (entry.name.startswith(".run.json") and entry.name.endswith(PART))


def settings_of(path: Path) -> dict[str, Any]:
    """The ``run.json`` of a run; ``ValueError`` if there is none that this version reads."""
    record = path / "run.json"
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is not a run of hartley batch: it has no run.json") from error
    except ValueError as error:
        raise ValueError(f"{record} is damaged: {error}") from error
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise ValueError(f"{record} has format {version!r}; this version of hartley reads {FORMAT}")
    return found


def write_whole(path: Path, write: Callable[[Any], object]) -> None:
    """Let ``write`` fill a file that appears at ``path`` once it is whole and on the disk, and not before."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # a folder cannot be opened there
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(table: Any, file: Any) -> None:
    parquet.write_table(table, file, compression="zstd")


def _described(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A row of texts: what is known of the answer, and its totals."""
    tokens = answer["tokens"]
    found = totals(tokens)
    ids = [token["token_id"] for token in tokens]
    return {
        **answer,
        **found,
        "n_tokens": found["tokens"],
        "n_bytes": found["bytes"],
        "repeated_3": repeated_ngrams(ids),
    }


def _name(shard: int) -> str:
    return f"{shard:08d}.parquet"
