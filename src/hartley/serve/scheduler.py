"""Continuous batching: one thread owns the engine, and requests join and leave between its steps."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

from hartley.engines.loop import Batch, Request, Row, Step, batch_of, rows_of

READ = 256  # tokens of prompts read between two steps, so that who streams already does not wait for who comes

log = logging.getLogger("hartley.serve")


class Full(Exception):
    """No place is left to wait in."""


class Draining(Exception):
    """The server is ending and takes no new work."""


class Stream:
    """The steps of one submission, as they are drawn: ``async for step in stream``; leaving ``async with`` cancels."""

    def __init__(self, scheduler: "Scheduler", rows: list[Row]) -> None:
        self.scheduler = scheduler
        self.waiting = deque(rows)  # rows that are not begun
        self.unfinished = len(rows)
        self.numbers = {row.index: index for index, row in enumerate(rows)}
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[list[Step] | Exception] = asyncio.Queue()
        self._steps: deque[Step] = deque()

    def cancel(self) -> None:
        """Take the rows out before the next step; the stream then ends."""
        self.scheduler.cancel(self)

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> Step:
        """The next step of any row; raises what went wrong in the engine."""
        while not self._steps:
            if self.unfinished == 0:
                raise StopAsyncIteration
            arrived = await self._arrived.get()
            if isinstance(arrived, Exception):
                self.unfinished = 0
                raise arrived
            self._steps += arrived
        step = self._steps.popleft()
        self.unfinished -= step.finish is not None
        return replace(step, index=self.numbers[step.index])

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *error: object) -> None:
        self.cancel()

    def put(self, arrived: list[Step] | Exception) -> None:
        """From the engine's thread: hand on what was drawn, or what went wrong."""
        try:
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, arrived)
        except RuntimeError:  # its loop has ended, and nobody reads
            log.debug("a stream's event loop is closed")


@dataclass
class _Job:
    """Work of :meth:`Scheduler.call`, and what is left of it once it turned out to be a generator."""

    function: Callable[[], Any]
    future: Future[Any]
    turns: Iterator[Any] | None = None

    def end(self, result: Any) -> None:
        """Tell who waits, if somebody still does, what came of it or went wrong."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Scheduler:
    """Up to ``streams`` rows run together on ``engine``, and up to ``queue`` wait, each submission getting its turn.

    What a row draws depends on its request alone, not on who else is there, as the engine's own batches promise.
    Between two steps prompts are read, 256 tokens at most, and the work of :meth:`call` is done, a turn of it. When
    nothing is left to do the engine's memory of the rows is given back.
    """

    def __init__(self, engine: Any, *, streams: int = 16, queue: int = 64) -> None:
        for name, value in {"streams": streams, "queue": queue}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.engine = engine
        self.streams = streams
        self.queue = queue
        self.batch: Batch = batch_of(engine)
        self._numbers = count()
        self._owners: dict[Row, Stream] = {}  # of the rows that are begun
        self._reading: tuple[Row, Iterator[None]] | None = None
        self._turns: deque[Stream] = deque()  # those with rows that are not begun, in the order they get a turn
        self._jobs: deque[_Job] = deque()
        self._job: _Job | None = None
        self._leaving: list[Stream] = []
        self._changed = threading.Condition()
        self._draining = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="hartley-engine", daemon=True)

    @property
    def waiting(self) -> int:
        """Rows that are not begun."""
        with self._changed:
            return sum(len(stream.waiting) for stream in self._turns)

    @property
    def running(self) -> int:
        """Rows being read or continued."""
        return len(self._owners)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> Stream:
        """Queue requests, all of them or none; the stream, read in the running event loop, has their steps.

        Raises what :func:`hartley.engines.generate` does for a bad request, :class:`Full` where not all of them can
        wait, :class:`Draining` once the server is ending.
        """
        rows = rows_of(self.engine, requests)
        for row in rows:
            row.index = next(self._numbers)  # among all rows; the stream knows which of its own it is
        stream = Stream(self, rows)
        with self._changed:
            if self._draining:
                raise Draining("the server is ending")
            waiting = sum(len(other.waiting) for other in self._turns)
            if waiting + len(rows) > self.queue:
                raise Full(f"{waiting} wait already, and no more than {self.queue} can")
            self._turns.append(stream)
            self._changed.notify()
        return stream

    def call(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run ``function(*args)`` on the engine's thread between steps; of a generator, a turn each time.

        The future has what it returns, or raises; cancelling it ends the work at its next turn. Raises :class:`Full`
        and :class:`Draining` as :meth:`submit` does.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._draining:
                raise Draining("the server is ending")
            if len(self._jobs) >= self.queue:
                raise Full(f"{self.queue} texts wait to be read already")
            self._jobs.append(_Job(partial(function, *args), future))
            self._changed.notify()
        return future

    def cancel(self, stream: Stream) -> None:
        """Take a stream's rows out before the next step."""
        with self._changed:
            if not stream.cancelled:
                stream.cancelled = True
                self._leaving.append(stream)
                self._changed.notify()

    async def drain(self, seconds: float) -> None:
        """Refuse new work, give the rest up to ``seconds`` to end, and end what is left as "cancelled"."""
        with self._changed:
            self._draining = True
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end and (self._owners or self._turns or self._jobs or self._job):
            await asyncio.sleep(0.02)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End everything, and the thread."""
        with self._changed:
            self._draining = self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while self._wait():
            try:
                self._leave()
                self._work_on_job()
                self._read()
                if self.batch.rows:
                    self._step()
            except Exception as error:  # of the engine: all rows are in doubt, and the next ones get a new batch
                broken, self.batch = self.batch, batch_of(self.engine)
                self._end(set(self._owners.values()), error)
                with suppress(Exception):
                    broken.close()
        with self._changed:
            streams = {*self._turns, *self._owners.values()}
            jobs, self._jobs = [*self._jobs, *([self._job] if self._job else [])], deque()
        self._end(streams)
        for job in jobs:
            job.end(Draining("the server is ending"))
        self.batch.close()

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when it is time to end."""
        with self._changed:
            while not (self._closing or self._leaving or self._jobs or self._job or self._turns or self._owners):
                self.batch.close()
                self._changed.wait()
            return not self._closing

    def _leave(self) -> None:
        with self._changed:
            leaving, self._leaving = self._leaving, []
        self._end(leaving)

    def _work_on_job(self) -> None:
        """A turn of the work of :meth:`call`."""
        if self._job is None:
            with self._changed:
                if not self._jobs:
                    return
                self._job = self._jobs.popleft()
        job, self._job = self._job, None
        if job.future.cancelled():  # whoever wanted it went away
            return
        try:
            if job.turns is None:
                made = job.function()
                if not isinstance(made, Iterator):
                    job.end(made)
                    return
                job.turns = made
            next(job.turns)
            self._job = job
        except StopIteration as end:
            job.end(end.value)
        except Exception as error:
            job.end(error)

    def _read(self) -> None:
        """Read prompts of rows that wait, while there are places and tokens to spend."""
        left = READ
        while left > 0 and (self._reading is not None or self._begin()):
            assert self._reading is not None
            row, turns = self._reading
            left -= min(READ, len(row.prompt))
            try:
                next(turns)
            except StopIteration:
                self._reading = None
            except Exception as error:
                self._end([self._owners[row]], error)

    def _begin(self) -> bool:
        """Begin the next row that waits, one of each submission in turn; whether there was one, and a place."""
        with self._changed:
            if not self._turns or len(self._owners) >= self.streams:
                return False
            stream = self._turns.popleft()
            row = stream.waiting.popleft()
            if stream.waiting:
                self._turns.append(stream)
            self._owners[row] = stream
        self._reading = row, self.batch.add(row)
        return True

    def _step(self) -> None:
        steps = self.batch.step()
        rows = {row.index: row for row in self.batch.rows}
        drawn: dict[Stream, list[Step]] = {}
        for step in steps:
            drawn.setdefault(self._owners[rows[step.index]], []).append(step)
        for row in [row for row in self._owners if row.finish is not None]:
            del self._owners[row]  # before its client learns that it has ended, and looks
        for stream, own in drawn.items():
            stream.put(own)
        self.batch.advance()

    def _end(self, streams: Collection[Stream], error: Exception | None = None) -> None:
        """End streams before their time: as cancelled, or with what went wrong."""
        if error is not None:
            log.error("the engine failed", exc_info=error)
        for stream in streams:
            with self._changed:
                waiting, stream.waiting = stream.waiting, deque()
                if stream in self._turns:
                    self._turns.remove(stream)
            begun = [row for row, owner in self._owners.items() if owner is stream]
            for row in begun:
                del self._owners[row]
            if self._reading is not None and self._reading[0] in begun:
                self._reading = None
            stream.put(error or [row.cancelled() for row in (*begun, *waiting)])
            self.batch.drop([row for row in begun if row in self.batch.rows])
