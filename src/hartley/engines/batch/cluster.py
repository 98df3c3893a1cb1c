"""The same work on a Ray cluster: shards go through a Ray Data pipeline whose actors hold an engine each.

What travels is the number of a shard. An actor reads its prompts and writes its answers itself, so the prompts and the
run's folder must be where every node reaches them under the same name.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

from hartley.engines.batch.prompts import Shards
from hartley.engines.batch.work import Job, Shard, Store, answer, facts
from hartley.engines.ray_cluster import cause, cluster, shares

BLOCKS = 2000  # of shards, at most: each is a task of the cluster


class Crew:
    """Engines on a cluster."""

    def __init__(self, ray: Any, job: Job, workers: int | None) -> None:
        self.ray, self.job = ray, job
        self.workers, self.share = shares(ray, workers)
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
            raise cause(error) from error

    def _get(self, promise: Any) -> Any:
        try:
            return self.ray.get(promise)
        except Exception as error:
            raise cause(error) from error


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
    with cluster(address) as ray:
        yield Crew(ray, job, workers)


def _facts(job: Job) -> dict[str, Any]:
    return facts(job.open(), job)
