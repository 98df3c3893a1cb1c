"""The entropy of a step of which only some log-probabilities are known: an interval, and how an interval is written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NamedTuple

import numpy as np

SUM_TOLERANCE = 1e-4  # that of hartley.info.bounds


class Known(NamedTuple):
    """Log-probabilities (nats) that are known of a distribution.

    ``capped``: no other token is more probable than the least of ``listed``; then ``drawn`` may be one more token.
    """

    listed: list[float]
    capped: bool
    drawn: float | None = None


class Bounds(NamedTuple):
    """The least and the greatest entropy in nats; ``high`` is None where the vocabulary size would be needed."""

    low: float
    high: float | None


def bounds_of(known: Sequence[Known | None], vocab_size: int | None = None) -> list[Bounds | None]:
    """The interval of each step's entropy, by :func:`hartley.info.entropy_bounds`; None where nothing is known.

    Raises ``ValueError`` that begins with ``token 7: `` (counted from 1) where the numbers contradict each other or
    ``vocab_size``.

    >>> bounds_of([Known([math.log(0.5), math.log(0.25)], True)], 4)[0]
    Bounds(low=1.0397207708399179, high=1.2130075659799042)
    >>> bounds_of([Known([math.log(0.5)], False)])[0].high is None
    True
    """
    from hartley.info import entropy_bounds  # torch: seconds, for commands that only write a page

    found: list[Bounds | None] = [None] * len(known)
    groups: dict[tuple[int, bool], list[int]] = {}
    for place, one in enumerate(known):
        if one is None or not one.listed:
            continue
        if one.capped:
            groups.setdefault((len(one.listed), one.drawn is not None), []).append(place)
        else:
            found[place] = _uncapped(one.listed, vocab_size, place)
    for (_, extra), places in groups.items():
        rows = [known[place] or Known([], True) for place in places]
        top = np.array([one.listed for one in rows], np.float64)
        drawn = np.array([one.drawn for one in rows], np.float64) if extra else None
        sums = np.exp(top).sum(-1) + (np.exp(drawn) if drawn is not None else 0.0)
        if (sums > 1 + SUM_TOLERANCE).any():
            worst = int(np.argmax(sums > 1 + SUM_TOLERANCE))
            raise ValueError(_too_much(places[worst], float(sums[worst])))
        try:
            low, high = entropy_bounds(top, vocab_size, drawn)
        except ValueError:
            for number, place in enumerate(places):  # once more one by one, to name the token
                try:
                    entropy_bounds(top[number], vocab_size, None if drawn is None else drawn[number])
                except ValueError as error:
                    raise ValueError(f"token {place + 1}: {error}") from error
            raise
        for place, least, most in zip(places, low.tolist(), high.tolist(), strict=True):
            found[place] = Bounds(max(least, 0.0), most if math.isfinite(most) else None)
    return found


def _uncapped(listed: Sequence[float], vocab_size: int | None, place: int) -> Bounds:
    """As :func:`hartley.info.entropy_bounds`, when the other tokens can have any share of what is left.

    Entropy is concave in the shares: least when one token has it all, greatest when all have the same.
    """
    shares = [math.exp(value) for value in listed]
    total = math.fsum(shares)
    if total > 1 + SUM_TOLERANCE:
        raise ValueError(_too_much(place, total))
    rest = max(0.0, 1 - total)
    others = None if vocab_size is None else vocab_size - len(listed)
    if others is not None and (others < 0 or (others == 0 and rest > SUM_TOLERANCE)):
        raise ValueError(
            f"token {place + 1}: vocab_size {vocab_size} is too small for {len(listed)} tokens of sum {total:.7g}"
        )
    own = -math.fsum(share * math.log(share / (total + rest)) for share in shares if share > 0) / (total + rest)
    if rest == 0 or others == 0:
        return Bounds(max(own, 0.0), max(own, 0.0))
    low = own - rest * math.log(rest)
    return Bounds(max(low, 0.0), None if others is None else own + rest * math.log(others / rest))


def _too_much(place: int, total: float) -> str:
    return f"token {place + 1}: the probabilities that are told must sum to at most 1; they sum to {total:.7g}"


def put_bounds(tokens: Sequence[dict[str, Any]], known: Sequence[Known | None], vocab_size: int | None = None) -> None:
    """Write ``entropy_low`` and ``entropy_high`` (None: not limited) into the tokens of which they are known."""
    for token, bounds in zip(tokens, bounds_of(known, vocab_size), strict=True):
        if bounds is not None:
            token["entropy_low"], token["entropy_high"] = bounds


def ends(token: Mapping[str, Any]) -> Bounds | None:
    """The interval of a token's entropy: a point where the entropy itself is told, None where nothing is."""
    if token.get("entropy") is not None:
        return Bounds(token["entropy"], token["entropy"])
    if token.get("entropy_low") is not None:
        return Bounds(token["entropy_low"], token.get("entropy_high"))
    return None


def is_interval(tokens: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the entropy of any of these is not told but bounded."""
    return any(token.get("entropy") is None and token.get("entropy_low") is not None for token in tokens)


def mean_bounds(tokens: Iterable[Mapping[str, Any]]) -> Bounds | None:
    """The interval of the mean entropy; None where no token has one."""
    known = [bounds for token in tokens if (bounds := ends(token)) is not None]
    if not known:
        return None
    highs = [bounds.high for bounds in known if bounds.high is not None]
    low = math.fsum(bounds.low for bounds in known) / len(known)
    return Bounds(low, math.fsum(highs) / len(known) if len(highs) == len(known) else None)


def written(bounds: Bounds | None, unit: str = "", digits: int = 2) -> str:
    """An interval, rounded outwards, so that what lies in it lies in what is written.

    >>> written(Bounds(1.2034, 1.3411), "nats"), written(Bounds(1.2, None), "nats")
    ('1.20–1.35 nats', 'at least 1.20 nats')
    """
    if bounds is None:
        return "–"
    low = outward(bounds.low, digits, ROUND_FLOOR)
    if bounds.high is None:
        return f"at least {low} {unit}".rstrip()
    return f"{low}–{outward(bounds.high, digits, ROUND_CEILING)} {unit}".rstrip()


def outward(value: float, digits: int, way: str) -> str:
    """A number to ``digits`` decimals, rounded one way (``ROUND_FLOOR`` or ``ROUND_CEILING``)."""
    return f"{Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), way):,f}"


def entropy_written(token: Mapping[str, Any], unit: str = "nats", digits: int = 2) -> str:
    """The entropy of a token: one number where it is told, else an interval, rounded outwards."""
    if token.get("entropy") is not None:
        return f"{token['entropy']:.{digits}f} {unit}".rstrip()
    return written(ends(token), unit, digits)
