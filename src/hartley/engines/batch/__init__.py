"""Many prompts through one engine, or one engine on each of many workers; killed at any moment, it can go on.

The prompts are cut into shards by their place in the file. A shard is answered whole, kept whole and never again, and
the draws of a prompt depend on its id and the run's seed alone: neither batches nor order nor workers nor a restart
change a text. (Beyond what an engine itself lets a batch change, by rounding: see its class.)
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Event
from typing import Any

from hartley.engines.batch.prompts import Prompt, Shards, read, survey
from hartley.engines.batch.work import Job, Shard, Store, answer, facts, seed_of

__all__ = ["Job", "Outcome", "Prompt", "answer", "read", "run", "seed_of", "survey"]


@dataclass
class Outcome:
    """What a run came to."""

    rows: int  #: prompts in the file
    before: int = 0  #: of them answered when this run began
    prompts: int = 0  #: answered by this run
    tokens: int = 0  #: drawn by this run
    errors: int = 0  #: prompts that could not be answered
    error: str | None = None  #: the first of those
    seconds: float = 0.0  #: from the open engine to the last shard
    cancelled: bool = False

    @property
    def missing(self) -> int:
        """Prompts that are still to be answered."""
        return self.rows - self.before - self.prompts


def run(
    job: Job,
    store: Store,
    *,
    ray: str | None = None,
    workers: int | None = None,
    record: dict[str, Any] | None = None,
    cancel: Event | None = None,
    begun: Callable[[Outcome], None] = lambda outcome: None,
    drawn: Callable[[int, int], None] = lambda prompts, tokens: None,
) -> Outcome:
    """Answer every prompt of the job that ``store`` does not have yet.

    ``ray`` is the address of a cluster, "local" for one that is started here, None for no cluster; ``workers`` is how
    many engines it has, one for each node by default. ``record`` is kept beside the settings. ``begun`` is told when
    work begins, ``drawn`` of answers as they end. ``cancel``, or Ctrl-C, ends the run after its last whole shard.

    Raises ``ValueError`` for prompts that cannot be read or are not those the run was begun with, other settings, a
    bad sampler; ``OSError`` when the disk is full, with what was done kept.
    """
    found = survey(job.prompts)
    outcome = Outcome(found.rows)
    settings = {"prompts": {"rows": found.rows, "sha256": found.sha256}, **job.settings()}
    with store.locked():
        store.check(settings)
        with _crew(job, ray, workers) as crew:
            store.begin({**settings, **crew.facts}, {"source": job.prompts, **(record or {})})
            done = store.done()
            total = -(-found.rows // job.shard)
            pending = [shard for shard in range(total) if shard not in done]
            outcome.before = found.rows - sum(min(job.shard, found.rows - shard * job.shard) for shard in pending)
            begun(outcome)
            start = time.perf_counter()
            try:
                for shard in crew.work(store, pending, cancel, drawn) if pending else ():
                    outcome.prompts += shard.prompts
                    outcome.tokens += shard.tokens
                    outcome.errors += shard.errors
                    outcome.error = outcome.error or shard.error
            except KeyboardInterrupt:
                outcome.cancelled = True
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                kept = f"{outcome.before + outcome.prompts} of {outcome.rows} prompts are safe"
                again = "make room and give the same command again to go on"
                raise OSError(error.errno, f"{error.strerror}: {kept}; {again}") from error
            outcome.seconds = time.perf_counter() - start
        store.clean()
    outcome.cancelled = outcome.cancelled or outcome.missing > 0
    return outcome


class _Alone:
    """One engine in this process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.engine = job.open()
        self.facts = facts(self.engine, job)

    def work(
        self, store: Store, pending: Sequence[int], cancel: Event | None, drawn: Callable[[int, int], None]
    ) -> Iterator[Shard]:
        shards = Shards(self.job.prompts, self.job.shard)
        for shard in pending:
            answers = answer(self.engine, self.job, shards.take(shard), cancel=cancel, drawn=drawn)
            if answers is None:
                return
            store.write(shard, answers)
            yield Shard.of(answers)


def _crew(job: Job, ray: str | None, workers: int | None) -> AbstractContextManager[Any]:
    if ray is None:
        return nullcontext(_Alone(job))
    from hartley.engines.batch.cluster import crew

    return crew(job, ray, workers)
