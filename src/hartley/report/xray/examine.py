"""Examine a model: read the data once, then say what was seen; what is done when time is up or Ctrl-C comes counts."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any

import hartley
from hartley.models import Tokenizer
from hartley.report.xray.findings import (
    SCHEMA,
    Json,
    Progress,
    geometry,
    heads_of,
    layers_of,
    low_ranks,
    tokens_of,
    weigh,
    weights_of,
)
from hartley.report.xray.seen import GROUPS, Seen, see_batches, see_texts
from hartley.report.xray.subject import (
    Texts,
    check_context,
    choose_blocks,
    choose_modules,
    free_memory,
    open_language_model,
    open_module,
    parameters,
    read_texts,
)
from hartley.report.xray.workers import Run, here, workers
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
    context: int | None = None,
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
    context
        Tokens of a text at most, by default 256 or what the model reads.
    dtype
        In which a language model computes; the sums are in float32 and float64 whatever it is.
    budget
        Minutes: reading ends after 60 % of them, with what was read.
    ray
        The address of a Ray cluster ("local" starts one here) whose workers read the texts and take
        the spectra of layers and weights; the report is the same.
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
    read: Json = {}
    with ExitStack() as cluster:
        run: Run = here
        if loader is not None:
            module, batches = open_module(loader)
            places = list(enumerate(choose_modules(module, layers)))
            seen = _read(see_batches(module, [name for _, name in places], batches), None, end, stop, progress)
            name = model
            facts: Json = {"kind": "module", "source": loader, "dtype": _dtype(module)}
            parts, network, tokens = None, module, None
        else:
            found, network, tokenizer = open_language_model(model, dtype)
            parts = choose_blocks(anatomy(network), layers)
            places = [(block.number, block.name) for block in parts.blocks]
            longest = getattr(network.config, "max_position_embeddings", None) or 1 << 20
            texts = read_texts(tokenizer, data, longest, context)
            check_context(
                getattr(network.config.get_text_config(), "num_attention_heads", 1), texts.longest, free_memory()
            )
            run = cluster.enter_context(workers(ray))
            steps = (
                see_texts(network, parts, enumerate(texts.ids))
                if ray is None
                else _on_cluster(run, model, layers, dtype, texts)
            )
            seen = _read(steps, len(texts.ids), end, stop, progress)
            facts = {"kind": "language model", "source": texts.source, "sha256": texts.sha256, "dtype": dtype}
            if context is not None and texts.longest < context:
                seen.notes.add(f"no text has {context} tokens, as --context asks for: the longest has {texts.longest}")
            read["context"] = texts.longest
            facts["architecture"] = type(network).__name__
            tokens = tokens_of(seen, _decoder(tokenizer, texts))
            name = found.name
        weights = weights_of(_weighed(run, network, None if run is here else (model, dtype), progress))
        geometries = _geometries(run, seen, [layer for _, layer in places], progress)
    if note := low_ranks(seen, [layer for _, layer in places]):
        seen.notes.add(note)
    return {
        "schema": SCHEMA,
        "hartley": hartley.__version__,
        "model": {"name": name, "parameters": parameters(network), "width": _width(seen), **facts},
        "data": read | {"texts": seen.texts, "groups": min(GROUPS, seen.texts)},
        "layers": layers_of(seen, places, geometries),
        "heads": heads_of(seen, parts) if parts else [],
        "weights": weights,
        "tokens": tokens,
        "notes": sorted(seen.notes),
    }


def _read(steps: Generator[Seen], total: int | None, end: float, stop: Event | None, progress: Progress) -> Seen:
    seen: Seen | None = None
    why = None
    with closing(steps):  # also where it is left early: its hooks go, and what a cluster has not done
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


def _on_cluster(run: Run, model: str, layers: str | None, dtype: str, texts: Texts) -> Generator[Seen]:
    """The same reading by the workers of a cluster, each group of texts at once; merged exactly."""
    seen, numbered = Seen(), list(enumerate(texts.ids))
    with closing(
        run(_read_group, [(model, layers, dtype, numbered[group::GROUPS]) for group in range(GROUPS)])
    ) as read:
        for _, group in read:
            seen.merge(group)
            if seen.texts:
                yield seen


def _read_group(model: str, layers: str | None, dtype: str, texts: list[tuple[int, list[int]]]) -> Seen:
    if not texts:
        return Seen()
    network = _opened(model, dtype)
    *_, seen = see_texts(network, choose_blocks(anatomy(network), layers), texts)
    return seen


def _weighed(run: Run, network: Any, opened: tuple[str, str] | None, progress: Progress) -> list[Any]:
    """What `weigh` says of all weights, in their order; by workers where they can open the model."""
    tensors = dict(network.named_parameters())
    progress("weights", 0, 1)
    if opened is None:
        found = weigh(tensors)
    else:
        names = list(tensors)
        parts = run(_weigh_group, [(*opened, names[group::GROUPS]) for group in range(GROUPS)])
        places = {name: place for place, name in enumerate(names)}
        found = sorted((one for _, part in parts for one in part), key=lambda one: places[one[0].name])
    progress("weights", 1, 1)
    return found


def _weigh_group(model: str, dtype: str, names: list[str]) -> list[Any]:
    tensors = dict(_opened(model, dtype).named_parameters())
    return weigh({name: tensors[name] for name in names})


def _geometries(run: Run, seen: Seen, layers: list[str], progress: Progress) -> list[Json]:
    """Directions and spectral entropy of every layer."""
    found: list[Json] = [{}] * len(layers)
    progress("layers", 0, len(layers))
    for done, (place, one) in enumerate(run(geometry, ((seen.groups(layer),) for layer in layers)), 1):
        found[place] = one
        progress("layers", done, len(layers))
    return found


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
