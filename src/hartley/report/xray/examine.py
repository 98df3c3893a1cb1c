"""Examine a model: read the data once, then say what was seen; what is done when time is up or Ctrl-C comes counts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import hartley
from hartley.models import Tokenizer
from hartley.report.xray.findings import SCHEMA, Json, Progress, heads_of, layers_of, tokens_of, weights_of
from hartley.report.xray.seen import GROUPS, Seen, see_batches, see_texts
from hartley.report.xray.subject import (
    Texts,
    choose_blocks,
    choose_modules,
    open_language_model,
    open_module,
    parameters,
    read_texts,
)
from hartley.representation.anatomy import anatomy

FOR_READING = 0.6  # of a budget; the rest is for the spectra of what was read
BEFORE = 12  # tokens shown before an uncertain one


def quiet(what: str, done: int, of: int) -> None:
    """Show no progress."""


def examine(
    model: str,
    *,
    data: Path | None = None,
    loader: str | None = None,
    layers: str | None = None,
    dtype: str = "float32",
    budget: float | None = None,
    ray: str | None = None,
    stop: Event | None = None,
    progress: Progress = quiet,
) -> Json:
    """Examine a language model on text, or the module that ``loader`` gives on its own batches; return the report.

    Parameters
    ----------
    model
        What `hartley.models.load` takes; only a name in the report where there is a ``loader``.
    data
        Text to read, as `read_texts` takes it.
    loader
        ``FILE.py:FUNCTION``, which returns ``(module, batches)``.
    layers
        Which blocks ("0,4-7"), or with a ``loader`` which modules ("encoder.*").
    dtype
        In which a language model computes; the sums are in float32 and float64 whatever it is.
    budget
        Minutes: reading ends after 60 % of them, with what was read.
    ray
        The address of a Ray cluster ("local" starts one here) whose workers read the texts; the report is the same.
    stop
        Once set, reading ends, with what was read.

    Returns
    -------
    The report, as ``xray.json`` holds it; without a clock or a random number, so that the same input gives the same.

    Raises
    ------
    ValueError
        As the parts do, and where reading ended before a first text was read.
    """
    if budget is not None and not (budget > 0 and math.isfinite(budget)):
        raise ValueError(f"--budget must be above 0 minutes; got {budget}")
    end = time.monotonic() + FOR_READING * 60 * budget if budget else math.inf
    if loader is not None:
        module, batches = open_module(loader)
        places = list(enumerate(choose_modules(module, layers)))
        seen = _read(see_batches(module, [name for _, name in places], batches), None, end, stop, progress)
        facts: Json = {"kind": "module", "source": loader, "dtype": _dtype(module)}
        parts, network, tokens = None, module, None
    else:
        found, network, tokenizer = open_language_model(model, dtype)
        parts = choose_blocks(anatomy(network), layers)
        places = [(block.number, block.name) for block in parts.blocks]
        texts = read_texts(tokenizer, data, getattr(network.config, "max_position_embeddings", None) or 1 << 20)
        steps = (
            see_texts(network, parts, enumerate(texts.ids))
            if ray is None
            else _on_cluster(ray, model, layers, dtype, texts)
        )
        seen = _read(steps, len(texts.ids), end, stop, progress)
        facts = {"kind": "language model", "source": texts.source, "sha256": texts.sha256, "dtype": dtype}
        facts["architecture"] = type(network).__name__
        tokens = tokens_of(seen, _decoder(tokenizer, texts))
        model = found.name
    progress("weights", 0, 1)
    weights = weights_of(network)
    progress("weights", 1, 1)
    return {
        "schema": SCHEMA,
        "hartley": hartley.__version__,
        "model": {"name": model, "parameters": parameters(network), "width": _width(seen), **facts},
        "data": {"texts": seen.texts, "groups": min(GROUPS, seen.texts)},
        "layers": layers_of(seen, places, progress),
        "heads": heads_of(seen, parts) if parts else [],
        "weights": weights,
        "tokens": tokens,
        "notes": sorted(seen.notes),
    }


def _read(steps: Iterator[Seen], total: int | None, end: float, stop: Event | None, progress: Progress) -> Seen:
    seen: Seen | None = None
    why = None
    for seen in steps:
        progress("reading", seen.texts, total or seen.texts)
        if seen.texts == total:
            break
        if stop is not None and stop.is_set():
            why = "was interrupted"
        elif time.monotonic() > end:
            why = "took its share of the budget"
        if why:
            of = f" of {total}" if total else ""
            seen.notes.add(f"reading {why}: {seen.texts}{of} texts were read")
            break
    if seen is None:
        raise ValueError("the loader's batches were empty: there is nothing to examine")
    return seen


def _on_cluster(address: str, model: str, layers: str | None, dtype: str, texts: Texts) -> Iterator[Seen]:
    """The same reading by the workers of a cluster, each group of texts at once; merged exactly."""
    from hartley.engines.ray_cluster import cause, cluster, shares

    seen = Seen()
    with cluster(address) as ray:
        read = ray.remote(max_retries=3, **shares(ray)[1])(_read_group)
        numbered = list(enumerate(texts.ids))
        pending = [read.remote(model, layers, dtype, numbered[group::GROUPS]) for group in range(GROUPS)]
        while pending:
            done, pending = ray.wait(pending)
            try:
                seen.merge(ray.get(done[0]))
            except Exception as error:  # Ray wraps what a worker raised
                raise cause(error) from error
            if seen.texts:
                yield seen


def _read_group(model: str, layers: str | None, dtype: str, texts: list[tuple[int, list[int]]]) -> Seen:
    if not texts:
        return Seen()
    network = _opened(model, dtype)
    *_, seen = see_texts(network, choose_blocks(anatomy(network), layers), texts)
    return seen


@cache
def _opened(model: str, dtype: str) -> Any:
    """The model, opened once in a worker for all the groups that come to it."""
    return open_language_model(model, dtype)[1]


def _decoder(tokenizer: Tokenizer, texts: Texts) -> Any:
    def decode(text: int, place: int) -> tuple[str, str]:
        ids = texts.ids[text]
        return tokenizer.decode(ids[max(0, place + 1 - BEFORE) : place + 1]), tokenizer.decode([ids[place + 1]])

    return decode


def _dtype(module: Any) -> str:
    return next((str(one.dtype).removeprefix("torch.") for one in module.parameters()), "none")


def _width(seen: Seen) -> int | None:
    """Features of a layer's output, where all layers have as many."""
    widths = {reservoir.sample_.shape[1] for reservoir in seen.samples.values()}
    return widths.pop() if len(widths) == 1 else None
