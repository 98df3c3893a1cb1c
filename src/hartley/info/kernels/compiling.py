"""A kernel's first call compiles it: where that takes long, a line on stderr says so."""

import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager

PATIENCE = 6.0  # seconds: reading compiled code from numba's cache takes less


@contextmanager
def announced(what: str) -> Generator[None]:
    """Say that ``what`` is being compiled if the block takes longer than reading it from the cache would."""
    note = f"hartley: compiling {what}, once on this machine\n"
    timer = threading.Timer(PATIENCE, lambda: (sys.stderr.write(note), sys.stderr.flush()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
