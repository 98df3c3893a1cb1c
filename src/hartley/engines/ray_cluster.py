"""A Ray cluster: one that is there, or one of this machine alone that listens on 127.0.0.1 and ends with its use."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Read when ray is imported and started. At its usual level it calls it an error that actors have arguments.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # a cluster of one machine listens on 127.0.0.1 alone
LOCAL = "local"
STARTS = 3  # Ray gives itself 30 s to start, which a busy machine does not always have


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """The module ``ray``, joined to the cluster at ``address`` ("local" starts one on this machine, and ends it).

    Raises ``ImportError`` naming the extra where Ray is missing, ``OSError`` for a cluster that cannot be reached.
    """
    for name, value in (QUIET | LOOPBACK if address == LOCAL else QUIET).items():
        os.environ.setdefault(name, value)
    try:
        with _no_stderr():  # where it tells that it was told to be quiet
            import ray
    except ImportError as error:
        raise ImportError('Ray is not installed: pip install "hartley[ray]"') from error
    scratch = tempfile.mkdtemp(prefix="hartley-ray-") if address == LOCAL else None
    local: dict[str, Any] = {
        "num_cpus": (os.cpu_count() or 1) + 1,  # one more than there are: reading needs a place, not a core
        "include_dashboard": False,
        "_temp_dir": scratch,
    }
    try:
        for left in range(STARTS if scratch else 1, 0, -1):
            try:
                with _no_stderr():
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.CRITICAL,
                        **(local if scratch else {}),
                    )
                break
            except Exception as error:  # Ray raises bare Exception, too
                ray.shutdown()
                if left == 1:
                    what = "start Ray on this machine" if scratch else f"join a Ray cluster at {address!r}"
                    raise OSError(f"cannot {what}: {error}") from error
        yield ray
    finally:
        ray.shutdown()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def shares(ray: Any, workers: int | None = None) -> tuple[int, dict[str, int]]:
    """How many workers there should be (one a node, if nobody says), and what each asks of the cluster."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    workers = workers or len(nodes)
    # A core of each node is left for reading; the others are shared out, and with them the threads.
    cores = int(min(node.get("CPU", 1) for node in nodes))
    cards = sum(node.get("GPU", 0) for node in nodes) >= workers
    return workers, {"num_cpus": max(1, (cores - 1) // -(-workers // len(nodes))), "num_gpus": int(cards)}


def cause(error: BaseException) -> BaseException:
    """What a worker raised, out of Ray's wrapping."""
    inner: BaseException | None = error
    while inner is not None:
        if type(inner).__module__.partition(".")[0] != "ray" and isinstance(inner, OSError | ValueError | ImportError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Send what is written to the file behind standard error, by any language, nowhere."""
    before = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(nowhere)
        os.close(before)
