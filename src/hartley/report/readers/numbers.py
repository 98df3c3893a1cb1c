"""Numbers and strings out of a file: each is checked, and what is wrong is named with its place and value."""

import math
from typing import Any

ROUNDING = 1e-6  # single precision may put a log-probability above 0, or an entropy below it, by this much
FLOOR = -9999.0  # what providers write for "very unlikely"; llama.cpp writes the lowest float


def shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def log_prob(value: Any, where: str) -> float:
    """A log-probability in nats, at most 0; -inf where the provider says no more than "very unlikely"."""
    if type(value) is float and FLOOR < value <= 0:  # nearly all of them
        return value
    number = real(value, where, "log-probability")
    if number > ROUNDING:
        raise ValueError(f"{where}: a log-probability must be at most 0; got {shown(number)}")
    return -math.inf if number <= FLOOR else min(number, 0.0)


def prob(value: Any, where: str) -> float:
    """The logarithm of a probability in [0, 1]."""
    number = real(value, where, "probability")
    if not 0 <= number <= 1 + ROUNDING:
        raise ValueError(f"{where}: a probability must be in [0, 1]; got {shown(number)}")
    return math.log(min(number, 1.0)) if number > 0 else -math.inf


def real(value: Any, where: str, name: str) -> float:
    """A number that is not NaN or +inf."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {name} must be a number; got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number) or number == math.inf:
        raise ValueError(f"{where}: {name} must be finite; got {'NaN' if math.isnan(number) else 'infinity'}")
    return number


def at_least(value: Any, least: float, where: str, name: str) -> float | None:
    """A finite number of at least ``least``, or None where there is none."""
    if value is None:
        return None
    number = real(value, where, name)
    if least - ROUNDING <= number < least:
        return least
    if not least <= number < math.inf:
        raise ValueError(f"{where}: {name} must be at least {least:g}; got {shown(value)}")
    return number


def whole(value: Any, least: int, where: str, name: str) -> int | None:
    """A whole number of at least ``least`` that fits in 63 bits, or None where there is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise ValueError(f"{where}: {name} must be a whole number of at least {least}; got {shown(value)}")
    return value


def string(value: Any, where: str, name: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name} must be a string; got {shown(value)}")
    return value


def raw_bytes(value: Any, where: str) -> bytes | None:
    """A list of bytes as OpenAI writes them, or None."""
    if value is None:
        return None
    try:
        return bytes(items(value, where, "bytes"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: bytes must be a list of numbers from 0 to 255; got {shown(value)}") from error


def items(value: Any, where: str, name: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: {name} must be a list; got {shown(value)}")
    return value


def mapping(value: Any, where: str, name: str) -> dict[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise ValueError(f"{where}: {name} must be an object; got {shown(value)}")
    return value


# The numbers that Hartley's own files and its plug-in give of a token, with the least each can be.
REALS = {"entropy": 0.0, "varentropy": 0.0, "mass": 0.0}
WHOLES = {"rank": 1, "kept": 1}


def own_numbers(found: dict[str, Any], where: str) -> dict[str, Any]:
    """``entropy`` (nats), ``varentropy`` (nats^2), ``mass``, ``rank`` and ``kept`` of a token, those that are told."""
    told: dict[str, Any] = {key: at_least(found.get(key), least, where, key) for key, least in REALS.items()}
    if told["mass"] is not None and told["mass"] > 1 + 1e-3:
        raise ValueError(f"{where}: mass must be at most 1; got {shown(told['mass'])}")
    told |= {key: whole(found.get(key), least, where, key) for key, least in WHOLES.items()}
    return {key: value for key, value in told.items() if value is not None}
