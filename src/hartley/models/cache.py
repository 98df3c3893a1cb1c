"""The user's cache of converted models: each folder is built beside its place and moved there whole, or not at all."""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

Progress = Callable[[str], None]


def cache_directory() -> Path:
    """Where converted models are kept: ``$HARTLEY_CACHE``, or the platform's own cache folder for ``hartley``."""
    return Path(os.environ.get("HARTLEY_CACHE") or platformdirs.user_cache_dir("hartley", appauthor=False))


def say(message: str) -> None:
    """Write a line of progress to standard error, where it cannot mix with a command's output."""
    print(message, file=sys.stderr, flush=True)


def build_once(target: Path, build: Callable[[Path], None], *, needs: int = 0, progress: Progress = say) -> Path:
    """Return ``target``, a folder that ``build(empty_folder)`` fills the first time it is asked for.

    The folder appears whole or not at all: it is built beside its place, flushed to disk and renamed. Of several
    processes one builds and the others wait for it; what a killed one left half done is removed by the next.

    ``needs`` is the disk space in bytes the result takes. Raises ``OSError`` (``ENOSPC``) when that is more than the
    disk has left, and whatever ``build`` raises; nothing stays behind in either case.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     place = build_once(Path(folder) / "greeting", lambda scratch: (scratch / "a.txt").write_text("hello"))
    ...     (place / "a.txt").read_text()
    'hello'
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"Waiting for another process that is building {target} ...")
        lock.acquire()
    try:
        if target.is_dir():
            return target
        for stale in target.parent.glob(f"{target.name}.part-*"):  # its maker is gone: we hold the lock
            shutil.rmtree(stale, ignore_errors=True)
        free = shutil.disk_usage(target.parent).free
        if free < needs:
            raise OSError(
                errno.ENOSPC,
                f"converting the model needs about {needs / 1e6:.4g} MB and {free / 1e6:.4g} MB are free; make room, "
                "or set HARTLEY_CACHE to a folder on a larger disk",
                str(target.parent),
            )
        scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.part-", dir=target.parent))
        try:
            build(scratch)
            for file in scratch.iterdir():
                _flush(file)
            _flush(scratch)
            scratch.replace(target)
            _flush(target.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # gone already where all went well
        return target
    finally:
        lock.release()


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # a folder cannot be opened there, and a rename needs no help
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
