"""What a sampler is: immutable settings that turn a model's distribution into the one a token is drawn from."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import torch
from torch import Tensor

from hartley.decoding.draw import Draw
from hartley.info.head import Head

Rule = Callable[[Head], Head]
State = Any  # None, a tensor with one row per sequence, or a tuple of states
PerRow = float | Tensor  # one value, or a tensor [B] of one per row
Generator = torch.Generator | Sequence[torch.Generator]

P = ParamSpec("P")


class Sampler:
    """Immutable settings; what runs is :meth:`mask` on logits, or :meth:`step`, which also draws.

    To write one, give :meth:`apply`; a sampler that learns from what was drawn gives :meth:`init` and :meth:`update`
    too. State travels beside the sampler, never inside it.
    """

    name: str
    settings: dict[str, Any]
    truncates = True  #: it removes tokens
    rules_alone = False  #: it sets the cut-off by itself: no truncation may stand beside it, and nothing after it

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.settings = settings

    def init(self, batch: int) -> State:
        """The state of ``batch`` new sequences."""
        return None

    def apply(self, head: Head, state: State) -> Head:
        """The distribution to draw from, given the one that came in."""
        raise NotImplementedError

    def update(self, state: State, draw: Draw) -> State:
        """The state after a draw."""
        return state

    def mask(self, logits: Tensor, state: State = None) -> Tensor:
        """Return ``logits [B, V]`` as this sampler leaves them: removed tokens at -inf, a temperature divided in.

        The result has the dtype of ``logits``. Raises ``ValueError`` naming a row that is NaN, +inf or all -inf.
        """
        head = Head.of(logits)
        return masked(logits, self.apply(head, self.init(logits.shape[0]) if state is None else state))

    def step(self, logits: Tensor, state: State, generator: Generator) -> tuple[Draw, State]:
        """Draw one token for each row of ``logits [B, V]`` and return it with the next state.

        ``generator`` is one ``torch.Generator``, or one per row: then a row's draw does not depend on the rest of the
        batch. ``state`` None starts new sequences. Raises ``ValueError`` naming a row that is NaN, +inf or all -inf.
        """
        rows = logits.shape[0] if logits.ndim == 2 else 0
        head = Head.of(logits)
        if state is None:
            state = self.init(rows)
        head = self.apply(head, state)
        draw = Draw.of(head, head.draw(_seeds(generator, rows).to(logits.device)))
        return draw, self.update(state, draw)

    def __str__(self) -> str:
        """The text form, which :func:`hartley.decoding.parse` reads back."""
        items: list[str] = []
        for place, (key, value, default) in enumerate(self._parameters()):
            if place == 0 or not _same(value, default):
                items.append(f"{self.name if place == 0 else f'{self.name}_{key}'}={_text(value)}")
        return ",".join(items)

    def __repr__(self) -> str:
        given = [
            _text(value) if place == 0 else f"{key}={_text(value)}"
            for place, (key, value, default) in enumerate(self._parameters())
            if place == 0 or not _same(value, default)
        ]
        return f"{self.name}({', '.join(given)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sampler) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def _parameters(self) -> list[tuple[str, Any, Any]]:
        signature = inspect.signature(BUILDERS[self.name]) if self.name in BUILDERS else None
        return [
            (key, value, signature.parameters[key].default if signature else inspect.Parameter.empty)
            for key, value in self.settings.items()
        ]


class Truncation(Sampler):
    """A sampler whose whole method is a rule from head to head."""

    def __init__(self, name: str, settings: dict[str, Any], rule: Rule) -> None:
        super().__init__(name, settings)
        self.rule = rule

    def apply(self, head: Head, state: State) -> Head:
        """Keep what the rule keeps."""
        return self.rule(head)


class Chain(Sampler):
    """Samplers one after the other, each working on what the one before it left."""

    def __init__(self, samplers: tuple[Sampler, ...]) -> None:
        super().__init__("chain", {})
        self.samplers = samplers
        self.truncates = any(sampler.truncates for sampler in samplers)
        self.rules_alone = any(sampler.rules_alone for sampler in samplers)

    def init(self, batch: int) -> State:
        """A tuple: the state of each sampler."""
        return tuple(sampler.init(batch) for sampler in self.samplers)

    def apply(self, head: Head, state: State) -> Head:
        """Thread the head through the samplers."""
        for sampler, own in zip(self.samplers, state, strict=True):
            head = sampler.apply(head, own)
        return head

    def update(self, state: State, draw: Draw) -> State:
        """Each sampler's state after the draw."""
        return tuple(sampler.update(own, draw) for sampler, own in zip(self.samplers, state, strict=True))

    def __str__(self) -> str:
        return ",".join(str(sampler) for sampler in self.samplers)

    def __repr__(self) -> str:
        return f"chain({', '.join(repr(sampler) for sampler in self.samplers)})"


def chain(*samplers: Sampler) -> Sampler:
    """Apply samplers in the order written; without any, sample from the model as it is.

    Raises ``ValueError`` where one sampler would silence another: mirostat sets the cut-off by itself, so only a
    temperature may stand before it and nothing after; the same truncation twice; anything after ``temperature(0)``,
    which leaves one token.

    >>> from hartley.decoding import temperature, top_h
    >>> chain(temperature(1.5), top_h(0.4))
    chain(temperature(1.5), top_h(0.4))
    """
    flat: list[Sampler] = []
    for sampler in samplers:
        flat.extend(sampler.samplers if isinstance(sampler, Chain) else [sampler])
    for place, sampler in enumerate(flat):
        for earlier in flat[:place]:
            why = _conflict(earlier, sampler)
            if why:
                raise ValueError(f"{earlier!r} and {sampler!r} cannot be chained: {why}")
    return flat[0] if len(flat) == 1 else Chain(tuple(flat))


def _conflict(earlier: Sampler, later: Sampler) -> str | None:
    if earlier.rules_alone:
        return f"{earlier.name} sets the cut-off by itself, so nothing may come after it"
    if later.rules_alone and earlier.truncates:
        return f"{later.name} sets the cut-off by itself, so only a temperature may come before it"
    if earlier.name == later.name and later.truncates:
        return f"{later.name} stands twice; keep the one you mean"
    if earlier.name == "temperature" and isinstance(zero := earlier.settings["temperature"], int | float) and zero == 0:
        return f"temperature(0) leaves one token, so {later.name} could change nothing"
    return None


BUILDERS: dict[str, Callable[..., Sampler]] = {}


def masked(logits: Tensor, head: Head) -> Tensor:
    """Write the distribution of ``head``, which was made of ``logits [B, V]``, back as logits of the same dtype."""
    if not head.restricted:
        return _tempered(logits, head.scale)
    slots = torch.where(head.filled, head.tokens, head.tokens[:, :1])  # an empty slot repeats the first token
    kept = _tempered(logits.gather(-1, slots), head.scale)
    return torch.full_like(logits, -torch.inf).scatter_(-1, slots, kept)


def _tempered(logits: Tensor, scale: Tensor) -> Tensor:
    """``logits * scale``; a row that would overflow in a narrow dtype moves down as a whole, which changes nothing."""
    exact = logits * scale[:, None]
    top = exact.amax(-1, keepdim=True)
    return torch.where(top.to(logits.dtype).isinf(), exact - top, exact).to(logits.dtype)


def sampler(build: Callable[P, Sampler]) -> Callable[P, Sampler]:
    """Register a builder under its own name, so that the text form and the command line find it."""
    BUILDERS[build.__name__] = build
    return build


def truncation(build: Callable[P, Rule]) -> Callable[P, Truncation]:
    """Turn a function that returns a rule ``head -> bool [B, K]`` into a registered builder of truncating samplers.

    A rule may look at the listed tokens alone: where it keeps the last one of a row that goes on, it is asked again
    with more.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def builder(*args: P.args, **kwargs: P.kwargs) -> Truncation:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return Truncation(build.__name__, dict(bound.arguments), build(*args, **kwargs))

    BUILDERS[build.__name__] = builder
    return builder


def column(value: PerRow) -> Any:
    """A setting ready to stand beside ``[B, K]``: a number as it is, one value per row as a column."""
    return value.reshape(-1, 1) if isinstance(value, Tensor) else value


def _seeds(generator: Generator, rows: int) -> Tensor:
    high = (1 << 63) - 1
    if isinstance(generator, torch.Generator):
        return torch.randint(high, (rows,), generator=generator, device=generator.device)
    if len(generator) != rows:
        raise ValueError(f"generator holds {len(generator)} generators for {rows} rows; give one, or one per row")
    return torch.cat([torch.randint(high, (1,), generator=g, device=g.device).cpu() for g in generator])


def _same(value: Any, default: Any) -> bool:
    return not isinstance(value, Tensor) and value == default


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        return "[" + " ".join(str(number) for number in value.cpu().numpy()) + "]"  # the shortest that reads back
    return f"{value:g}" if isinstance(value, float) and value == float(f"{value:g}") else str(value)
