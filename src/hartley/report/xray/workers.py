"""Where the parts of an examination are computed: in this process, or by the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

AHEAD = 8  # parts that are handed out at least before the first is done


class Run(Protocol):
    """Calls a function with each of some tuples of arguments; gives their places and results as they are done."""

    def __call__(
        self, function: Callable[..., Any], given: Iterable[tuple[Any, ...]], /
    ) -> Generator[tuple[int, Any]]: ...


def here(function: Callable[..., Any], given: Iterable[tuple[Any, ...]], /) -> Generator[tuple[int, Any]]:
    """One after the other, in this process.

    >>> list(here(max, [(1, 2), (3, 0)]))
    [(0, 2), (1, 3)]
    """
    for place, arguments in enumerate(given):
        yield place, function(*arguments)


@contextmanager
def workers(address: str | None) -> Iterator[Run]:
    """A `Run` by the cluster at ``address``, as `hartley.engines.ray_cluster.cluster` takes it; None for `here`.

    Functions have to be importable by the workers. Who stops early, and closes the iterator, cancels what is not done.
    """
    if address is None:
        yield here
        return
    from hartley.engines.ray_cluster import cause, cluster, shares

    with cluster(address) as ray:
        nodes, asks = shares(ray)

        def run(function: Callable[..., Any], given: Iterable[tuple[Any, ...]], /) -> Generator[tuple[int, Any]]:
            call = ray.remote(max_retries=3, **asks)(function)
            waiting = enumerate(given)
            pending: dict[Any, int] = {}
            try:
                while True:
                    for place, arguments in islice(waiting, max(AHEAD, 2 * nodes) - len(pending)):
                        pending[call.remote(*arguments)] = place
                    if not pending:
                        return
                    (done, *_), _ = ray.wait(list(pending))
                    try:
                        result = ray.get(done)
                    except Exception as error:  # Ray wraps what a worker raised
                        raise cause(error) from error
                    yield pending.pop(done), result
            finally:
                for one in pending:
                    ray.cancel(one, force=True)

        yield run
