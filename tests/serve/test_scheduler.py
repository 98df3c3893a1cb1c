import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hartley.decoding import chain, mirostat, temperature, top_h, top_k
from hartley.engines import Request, generate
from hartley.serve.scheduler import Draining, Full, Scheduler
from markov_engine import Markov

SAMPLERS = (chain(), chain(temperature(1.5), top_h(0.4)), mirostat(2, tau=3.0), top_k(3))


class Server:
    """A scheduler that is started and closed, with what a test watches."""

    def __init__(self, engine=None, **settings) -> None:
        self.scheduler = Scheduler(engine or Markov(), **settings)

    async def __aenter__(self) -> Scheduler:
        self.scheduler.start()
        return self.scheduler

    async def __aexit__(self, *error) -> None:
        await asyncio.to_thread(self.scheduler.close)


async def texts(scheduler: Scheduler, requests: list[Request]) -> list[list[int]]:
    stream = scheduler.submit(requests)
    found: list[list[int]] = [[] for _ in requests]
    async for step in stream:
        if step.token is not None:
            found[step.index].append(step.token)
    return found


def alone(engine, request: Request) -> list[int]:
    return [step.token for step in generate(engine, [request])]


@settings(max_examples=15)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from(SAMPLERS), st.integers(1, 12), st.integers(0, 9), st.integers(1, 3)),
        min_size=1,
        max_size=12,
    ),
    streams=st.integers(1, 5),
)
def test_nobody_changes_what_another_draws(asked, streams):
    engine = Markov()
    submissions = [[Request([10 + i, 5], one, most, seed)] * times for i, (one, most, seed, times) in enumerate(asked)]

    async def run():
        async with Server(engine, streams=streams) as scheduler:
            return await asyncio.gather(*(texts(scheduler, requests) for requests in submissions))

    for requests, found in zip(submissions, asyncio.run(run()), strict=True):
        assert found == [alone(engine, request) for request in requests]


def test_as_many_run_as_there_are_streams_and_each_submission_gets_its_turn():
    sizes, begun = [], []

    class Watched(Markov):
        def start(self, prompts, room):
            session = super().start(prompts, room)
            logits, add = session.logits, session.add
            session.logits = lambda: sizes.append(len(session.last)) or logits()
            session.add = lambda prompt, room: begun.append(prompt[0]) or add(prompt, room)
            return session

    async def run():
        async with Server(Watched(0.001), streams=2) as scheduler:
            many = scheduler.submit([Request([10, 5], chain(), 3, seed) for seed in range(4)])
            few = scheduler.submit([Request([20, 5], chain(), 3, 0)])
            for stream in (many, few):
                async for _ in stream:
                    pass
            assert scheduler.running == scheduler.waiting == 0

    asyncio.run(run())
    assert max(sizes) == 2
    assert sorted(begun) == [10, 10, 10, 10, 20]
    assert begun.index(20) <= 2  # and not behind all four


def test_who_finds_no_place_to_wait_is_told_at_once():
    async def run():
        async with Server(Markov(0.01), streams=1, queue=2) as scheduler:
            stream = scheduler.submit([Request([5], chain(), 50)])
            await anext(stream)
            others = scheduler.submit([Request([5], chain(), 2)] * 2)
            assert (scheduler.running, scheduler.waiting) == (1, 2)
            with pytest.raises(Full):
                scheduler.submit([Request([5], chain(), 2)])
            stream.cancel()
            assert [step.finish async for step in others].count("length") == 2

    asyncio.run(run())


def test_who_leaves_is_out_before_the_next_step_but_one():
    engine = Markov(0.02)

    async def run():
        async with Server(engine) as scheduler:
            stays = scheduler.submit([Request([7], chain(), 20, 1)])
            async with scheduler.submit([Request([5], chain(), 50), Request([6], chain(), 50)]) as stream:
                await anext(stream)
            begin = time.monotonic()
            rest = [step async for step in stream]
            assert {step.finish for step in rest[-2:]} == {"cancelled"}
            assert time.monotonic() - begin < 0.5  # 50 steps of 0.02 s would be 1.0
            assert scheduler.running == 1
            assert [step.token async for step in stays] == alone(engine, Request([7], chain(), 20, 1))

    asyncio.run(run())


def test_a_bad_request_is_refused_before_anything_runs():
    async def run():
        async with Server() as scheduler:
            with pytest.raises(ValueError, match="max_tokens must be at least 1, got 0 in request 1"):
                scheduler.submit([Request([5], chain()), Request([5], chain(), 0)])
            assert scheduler.waiting == 0

    asyncio.run(run())
    with pytest.raises(ValueError, match="streams must be at least 1, got 0"):
        Scheduler(Markov(), streams=0)


def test_drain_lets_end_what_can_and_tells_the_rest():
    async def run():
        async with Server(Markov(0.01), streams=1) as scheduler:
            short = scheduler.submit([Request([5], chain(), 3)])
            long = scheduler.submit([Request([5], chain(), 60)])
            never = scheduler.submit([Request([5], chain(), 60)])
            draining = asyncio.create_task(scheduler.drain(0.25))
            await asyncio.sleep(0.01)
            with pytest.raises(Draining):
                scheduler.submit([Request([5], chain(), 3)])
            with pytest.raises(Draining):
                scheduler.call(int)
            found = [[step.finish async for step in stream] for stream in (short, long, never)]
            await draining
            return found

    short, long, never = asyncio.run(run())
    assert short == [None, None, "length"]
    assert long[-1] == never[-1] == "cancelled"
    assert 1 < len(long) < 60
    assert len(never) == 1


def test_drain_ends_at_once_when_nothing_runs():
    async def run():
        async with Server() as scheduler:
            begin = time.monotonic()
            await scheduler.drain(60)
            return time.monotonic() - begin

    assert asyncio.run(run()) < 5


def test_an_engine_that_fails_is_reported_and_used_again():
    class Fragile(Markov):
        broken = True

        def start(self, prompts, room):
            session = super().start(prompts, room)
            append = session.append

            def break_once(tokens):
                if self.broken:
                    raise RuntimeError("no memory")
                append(tokens)

            session.append = break_once
            return session

    engine = Fragile()

    async def run():
        async with Server(engine) as scheduler:
            stream = scheduler.submit([Request([5], chain(), 4)] * 2)
            with pytest.raises(RuntimeError, match="no memory"):
                async for _ in stream:
                    pass
            engine.broken = False
            assert await texts(scheduler, [Request([5], chain(), 4, 3)]) == [alone(engine, Request([5], chain(), 4, 3))]
            assert scheduler.running == 0

    asyncio.run(run())


def test_an_engine_that_fails_when_somebody_leaves_is_used_again():
    class Sticky(Markov):
        def start(self, prompts, room):
            session = super().start(prompts, room)

            def keep(rows):
                raise RuntimeError("they stick together")

            session.keep = keep
            return session

    async def run():
        async with Server(Sticky(0.01)) as scheduler:
            stays = scheduler.submit([Request([7], chain(), 40, 1)])
            async with scheduler.submit([Request([5], chain(), 40)]) as stream:
                await anext(stream)
            with pytest.raises(RuntimeError, match="they stick together"):
                async for _ in stays:
                    pass
            next_one = scheduler.submit([Request([7], chain(), 2, 1)])
            assert (await anext(next_one)).token == alone(Markov(), Request([7], chain(), 2, 1))[0]

    asyncio.run(run())


def test_work_that_nobody_waits_for_ends_at_its_next_turn():
    turns = []

    def work() -> Iterator[None]:
        for turn in range(1000):
            turns.append(turn)
            yield

    async def run():
        async with Server(Markov(0.01)) as scheduler:
            stream = scheduler.submit([Request([5], chain(), 30)])
            future = scheduler.call(work)
            await anext(stream)
            assert future.cancel()
            assert await asyncio.wrap_future(scheduler.call(len, "ab")) == 2
            seen = len(turns)
            async for _ in stream:
                pass
            assert len(turns) == seen < 10

    asyncio.run(run())


def test_a_prompt_that_cannot_be_read_concerns_nobody_else():
    class Picky(Markov):
        def start(self, prompts, room):
            session = super().start(prompts, room)
            add = session.add

            def refuse(prompt, room):
                if prompt[0] == 13:
                    raise RuntimeError("not this one")
                yield
                yield from add(prompt, room)

            session.add = refuse
            return session

    async def run():
        async with Server(Picky()) as scheduler:
            good = scheduler.submit([Request([5], chain(), 6, 3)])
            bad = scheduler.submit([Request([13], chain(), 6)])
            with pytest.raises(RuntimeError, match="not this one"):
                async for _ in bad:
                    pass
            assert [step.token async for step in good] == alone(Markov(), Request([5], chain(), 6, 3))

    asyncio.run(run())


def test_long_work_takes_turns_with_the_streams():
    happened = []

    class Watched(Markov):
        def start(self, prompts, room):
            session = super().start(prompts, room)
            logits = session.logits
            session.logits = lambda: happened.append("step") or logits()
            return session

    def work(count: int) -> Iterator[None]:
        for _ in range(count):
            happened.append("work")
            yield
        return count

    async def run():
        async with Server(Watched(0.005)) as scheduler:
            stream = scheduler.submit([Request([5], chain(), 20)])
            await anext(stream)
            assert await asyncio.wrap_future(scheduler.call(work, 5)) == 5
            assert await asyncio.wrap_future(scheduler.call(sum, [1, 2])) == 3
            with pytest.raises(ZeroDivisionError):
                await asyncio.wrap_future(scheduler.call(lambda: 1 // 0))
            async for _ in stream:
                pass

    asyncio.run(run())
    assert ("work", "work") not in pairwise(happened)


def test_memory_goes_back_when_nobody_is_there():
    closed = []

    class Watched(Markov):
        def start(self, prompts, room):
            session = super().start(prompts, room)
            session.close = lambda: closed.append(1)
            return session

    async def run():
        async with Server(Watched()) as scheduler:
            await texts(scheduler, [Request([5], chain(), 3)])
            for _ in range(100):
                if closed:
                    break
                await asyncio.sleep(0.01)
            assert closed

    asyncio.run(run())
