"""The text form of a sampler: ``temperature=1.5,top_h=0.4``, applied in the order written."""

import difflib
import inspect
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch

from hartley.decoding.sampler import BUILDERS, Sampler, chain
from hartley.info.head import Head

#: Single settings are chained in this order: that of transformers, then what it does not have
ORDER = (
    "temperature", "top_h", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_n_sigma",
    "entropy_top_k", "mirostat",
)  # fmt: skip

_ITEM = re.compile(r"\s*([A-Za-z_0-9]+)\s*=\s*([^,]*?)\s*")


def parse(text: str) -> Sampler:
    """Read the text form; ``str(sampler)`` writes it, and the two agree.

    A sampler's first setting carries its name; the others follow as ``name_setting=value``, and a sampler whose first
    setting has a default may be named by another one alone (``mirostat_tau=3``). One value per row is written ``[0.9
    0.8]``. Empty text samples from the model as it is. Raises ``ValueError`` for what it cannot read, naming it and the
    nearest known name.

    >>> parse("temperature=1.5, top_h=0.4")
    chain(temperature(1.5), top_h(0.4))
    >>> str(parse("mirostat=2,mirostat_tau=3,mirostat_eta=1"))
    'mirostat=2,mirostat_tau=3,mirostat_eta=1'
    """
    known = known_settings()
    given: dict[str, dict[str, Any]] = {}
    order: list[tuple[str, dict[str, Any]]] = []
    for item in filter(str.strip, text.split(",")):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"sampler text {item.strip()!r} is not of the form name=value")
        key, value = match.groups()
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(BUILDERS))}"
            raise ValueError(f"unknown sampler setting {key!r}; {hint}")
        name, setting = known[key]
        if name not in given or setting in given[name]:  # a second temperature is a sampler of its own
            given[name] = {}
            order.append((name, given[name]))
        given[name][setting] = _value(key, value)
    return chain(*[_build(name, settings) for name, settings in order])


def joined(settings: Mapping[str, Any]) -> str:
    """The text form of settings that were given one by one, whose samplers are chained in the order of :data:`ORDER`.

    >>> joined({"mirostat_tau": 3.0, "temperature": 1.5})
    'temperature=1.5,mirostat_tau=3.0'
    """
    known = known_settings()
    names = [*ORDER, *BUILDERS]
    return ",".join(f"{key}={settings[key]}" for key in sorted(settings, key=lambda key: names.index(known[key][0])))


@lru_cache(maxsize=1024)
def parse_request(text: str) -> Sampler:
    """Read the text form that came with a request for one sequence, and try it: what breaks has to break here.

    Raises ``ValueError`` for what :func:`parse` refuses, one value per row, a setting that is no number, and a sampler
    that fails on a row of logits.
    """
    if "[" in text:
        raise ValueError(f"sampler {text!r} has a value for each row of a batch; give one number")
    try:
        sampler = parse(text)
        sampler.apply(Head.of(torch.linspace(-4.0, 4.0, 64, dtype=torch.float64)[None]), sampler.init(1))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"sampler {text!r} cannot run: {error}") from error
    for part in getattr(sampler, "samplers", [sampler]):
        for name, value in part.settings.items():
            if value != value:
                raise ValueError(f"{part.name}_{name} must be a number, got {value} in {text!r}")
    return sampler


def known_settings() -> dict[str, tuple[str, str]]:
    """Every key of the text form, with its sampler and the setting it gives."""
    keys: dict[str, tuple[str, str]] = {}
    for name, builder in BUILDERS.items():
        for place, setting in enumerate(inspect.signature(builder).parameters):
            keys[name if place == 0 else f"{name}_{setting}"] = (name, setting)
    return keys


def _build(name: str, settings: dict[str, Any]) -> Sampler:
    parameters = inspect.signature(BUILDERS[name]).parameters
    main, first = next(iter(parameters.items()))
    if main not in settings and first.default is inspect.Parameter.empty:
        raise ValueError(f"{name}_{next(iter(settings))} is given without {name}=VALUE")
    return BUILDERS[name](**settings)


def _value(key: str, text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        numbers = [_value(key, part) for part in text[1:-1].split()]
        if numbers and all(isinstance(number, int | float) for number in numbers):
            return torch.tensor(numbers)
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        if isinstance(value, int) and abs(value) >= 1 << 62:
            raise ValueError(f"{key} must be less than 2**62, got {text}")
        return value
    if not re.fullmatch(r"[A-Za-z_.]+", text):
        raise ValueError(f"{key}={text!r} is neither a number nor a word")
    return text
