"""The same work on a Ray cluster: shards go through a Ray Data pipeline whose actors hold an engine each.

What travels is the number of a shard. An actor reads its prompts and writes its answers itself, so the prompts and the
run's folder must be where every node reaches them under the same name.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

from hartley.engines.batch.prompts import Shards
from hartley.engines.batch.work import Job, Shard, Store, answer, facts

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
BLOCKS = 2000  # of shards, at most: each is a task of the cluster


class Crew:
    """Engines on a cluster."""

    def __init__(self, ray: Any, job: Job, workers: int | None) -> None:
        self.ray, self.job = ray, job
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.workers = workers or len(nodes)
        # A core of each node is left for reading; the others are shared out, and with them the threads.
        cores = int(min(node.get("CPU", 1) for node in nodes))
        cards = sum(node.get("GPU", 0) for node in nodes) >= self.workers
        self.share = {"num_cpus": max(1, (cores - 1) // -(-self.workers // len(nodes))), "num_gpus": int(cards)}
        self.facts: dict[str, Any] = self._get(ray.remote(**self.share, max_retries=3)(_facts).remote(job))

    def work(
        self, store: Store, pending: Sequence[int], cancel: Event | None, drawn: Callable[[int, int], None]
    ) -> Iterator[Shard]:
        """Do the pending shards, and tell of each as it is done."""
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        shards: Any = ray.data.from_items(
            [{"shard": shard} for shard in pending], override_num_blocks=min(len(pending), BLOCKS)
        )
        done = shards.map_batches(
            Worker,
            fn_constructor_args=(self.job, store),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(pending))),
            **self.share,
        )
        try:
            for row in done.iter_rows():
                shard = Shard(int(row["prompts"]), int(row["tokens"]), int(row["errors"]), row["error"] or None)
                drawn(shard.prompts, shard.tokens)
                yield shard
                if cancel is not None and cancel.is_set():
                    return
        except Exception as error:  # Ray wraps what a worker raised, sometimes twice
            raise _cause(error) from error

    def _get(self, promise: Any) -> Any:
        try:
            return self.ray.get(promise)
        except Exception as error:
            raise _cause(error) from error


class Worker:
    """An engine, and the place in the prompts that it has reached."""

    def __init__(self, job: Job, store: Store) -> None:
        self.job, self.store = job, store
        self.engine = job.open()
        self.shards = Shards(job.prompts, job.shard)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Do the shards of a batch, unless another worker that was thought dead has done them."""
        found = [self._do(int(shard)) for shard in batch["shard"]]
        return {
            name: [getattr(one, name) if name != "error" else one.error or "" for one in found]
            for name in Shard._fields
        }

    def _do(self, shard: int) -> Shard:
        prompts = self.shards.take(shard)
        if self.store.has(shard):
            return Shard(len(prompts), 0, 0, None)
        answers = answer(self.engine, self.job, prompts)
        assert answers is not None  # nobody cancels here
        self.store.write(shard, answers)
        return Shard.of(answers)


@contextmanager
def crew(job: Job, address: str, workers: int | None) -> Iterator[Crew]:
    """Engines on the cluster at ``address`` ("local" starts one on this machine, and ends it).

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
        yield Crew(ray, job, workers)
    finally:
        ray.shutdown()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _facts(job: Job) -> dict[str, Any]:
    return facts(job.open(), job)


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


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, out of Ray's wrapping."""
    inner: BaseException | None = error
    while inner is not None:
        if type(inner).__module__.partition(".")[0] != "ray" and isinstance(inner, OSError | ValueError | ImportError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error
