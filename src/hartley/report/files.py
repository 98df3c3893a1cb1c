"""Files that appear whole or not at all, and a complaint before the work rather than after it."""

import os
import tempfile
from pathlib import Path


def check_writable(option: str, path: Path) -> None:
    """Raise ``ValueError`` naming ``option`` unless a file can be put at ``path``, in a folder that is there."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{option} {path}: the folder {folder} does not exist; make it first")
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; give the name of a file")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{option} {path}: the folder {folder} is not writable")


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write ``content`` (text as UTF-8) to a temporary name beside ``path`` and rename it there; return ``path``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder) / "a.txt", "whole").read_text()
    'whole'
    """
    handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
        os.chmod(name, 0o666 & ~_umask())  # mkstemp's files are their owner's alone
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
