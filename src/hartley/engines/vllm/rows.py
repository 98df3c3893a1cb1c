"""Samplers at work on rows that come, go and change places: what an engine that owns its decode loop needs of us.

An engine shows logits first and its token later, sometimes only at the next step, and sometimes throws the token away
(a chunk of a prompt, a preemption). So :meth:`Row.commit` moves a row's state only once its token is known to count.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hartley.decoding import Draw
from hartley.decoding.sampler import State, masked
from hartley.decoding.states import join, take
from hartley.engines.vllm.arguments import Arguments
from hartley.info.head import Head
from hartley.info.plain import plain

PARALLEL = 8  # rows from which the kernels share them out among threads

log = logging.getLogger("vllm.hartley")  # under vLLM's own logger, whose handler prints it


class Row:
    """One sequence: what it asked for, and where its sampler stands."""

    def __init__(self, asked: Arguments) -> None:
        self.asked = asked
        self.state: State = asked.sampler.init(1)
        self.stateful = _has_state(self.state)
        self.turn: Turn | None = None  # the last one, until its token was taken in or dropped
        self.place = 0  # among the rows of that turn
        self.seen = 0  # how many tokens the sequence had then: all of them (V2), or those drawn (V1)
        self.counts = True  # V2: the token of that turn goes on from the end of the prompt
        self.slot = 0  # V2

    def commit(self, counts: bool) -> None:
        """End the turn: its token is part of the sequence, or it was thrown away and the state stays."""
        if self.turn is not None and counts and self.stateful and self.turn.told:
            self.state = take(self.turn.after, [self.place])
        self.turn = None


class Turn:
    """What one step left of the rows that share a sampler: the distribution they are drawn from."""

    def __init__(self, rows: Sequence[Row], places: Sequence[int], head: Head, state: State) -> None:
        self.rows = rows
        self.places = places  # of the rows in the batch
        self.head = head
        self.state = state
        self.told = False
        self.after: State = None
        for place, row in enumerate(rows):
            row.turn, row.place = self, place

    def tell(self, tokens: Tensor) -> Draw:
        """Take in the drawn tokens ``[rows]``; -1, where there is none, stands for any."""
        logits = self.head.logits  # a kernel that reads a token's logit checks no bounds
        draw = Draw.of(self.head, tokens.to(logits.device, torch.int64).clamp(0, logits.shape[1] - 1))
        self.after = self.rows[0].asked.sampler.update(self.state, draw)
        self.told = True
        return draw


def mask(logits: Tensor, rows: Mapping[int, Row]) -> list[Turn]:
    """Apply each row's sampler to its place in ``logits [B, V]``, in place, and return what the steps left.

    A row that no sampler can work on (NaN, +inf, nothing but -inf) is left to the engine, and said so in its log.
    """
    groups: dict[str, list[int]] = {}
    for place, row in rows.items():
        row.turn = None
        groups.setdefault(row.asked.text, []).append(place)
    turns: list[Turn] = []
    for places in groups.values():
        group = [rows[place] for place in places]
        try:
            turns.append(_step(logits, group, places))
        except Exception:  # one request must not take down the others
            for place in places:
                try:
                    turns.append(_step(logits, [rows[place]], [place]))
                except Exception as error:
                    log.error("hartley left a row to vLLM, sampler %r: %s", rows[place].asked.text, error)
    return turns


def drawn(turns: Sequence[Turn], tokens: Tensor) -> dict[int, list[Any]]:
    """Tell the turns which ``tokens [B]`` the engine drew; returns the numbers asked for, in order, by place."""
    found: dict[int, list[Any]] = {}
    for turn in turns:
        at = torch.tensor(turn.places, device=tokens.device)
        draw = turn.tell(tokens.reshape(-1)[at])
        asked = [name for name in Draw._fields if any(name in row.asked.numbers for row in turn.rows)]
        values = {name: getattr(draw, name).tolist() for name in asked}
        for i, (place, row) in enumerate(zip(turn.places, turn.rows, strict=True)):
            if row.asked.numbers:
                found[place] = [plain(values[name][i]) for name in row.asked.numbers]
    return found


@contextmanager
def few_threads(rows: int) -> Iterator[None]:
    """Run our kernels in this thread alone where there are few rows.

    Threads have to meet, and where other processes hold the cores that took 25 ms instead of the 0.3 ms of one row's
    work. vLLM ties its worker to a core, and threads born there stay there: no more of them than cores.
    """
    import numba

    before = numba.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else before
    numba.set_num_threads(1 if rows < PARALLEL else min(before, cores))
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _copy(logits: Tensor, places: Sequence[int]) -> Tensor:
    """Rows of the engine's logits for us to keep, since it goes on to write into them."""
    if _plain(logits):
        return torch.from_numpy(logits.numpy()[list(places)])
    return logits[torch.tensor(places, device=logits.device)]


def _write(logits: Tensor, places: Sequence[int], rows: Tensor) -> None:
    if _plain(logits):
        logits.numpy()[list(places)] = rows.numpy()
    else:
        logits[torch.tensor(places, device=logits.device)] = rows


def _plain(logits: Tensor) -> bool:
    """Whether NumPy can copy rows: in this thread (see above), and faster than torch, which goes by element."""
    return logits.device.type == "cpu" and logits.dtype is torch.float32


def _step(logits: Tensor, rows: Sequence[Row], places: Sequence[int]) -> Turn:
    sampler = rows[0].asked.sampler
    state = join([row.state for row in rows]) if rows[0].stateful else rows[0].state
    part = _copy(logits, places)
    listed = 1 if rows[0].asked.text == "" and not any("top_tokens" in row.asked.numbers for row in rows) else 128
    whole = Head.of(part, listed)
    head = sampler.apply(whole, state)
    if head is not whole:
        _write(logits, places, masked(part, head))
    return Turn(rows, places, head, state)


def _has_state(state: State) -> bool:
    return any(map(_has_state, state)) if isinstance(state, tuple) else state is not None
