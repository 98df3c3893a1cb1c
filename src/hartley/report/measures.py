"""What texts of several samplers are compared by, with a standard error over the seeds."""

import io
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from hartley.report.summary import distinct_n, mean_and_error, repeated_ngrams, totals

Run = Mapping[str, Any]  # sampler, prompt, seed, tokens
Table = dict[str, dict[str, tuple[float | None, float | None]]]


class Measure(NamedTuple):
    """A column of the table."""

    key: str
    title: str
    unit: str


MEASURES = (
    Measure("mean_surprisal", "surprisal", "nats a token"),
    Measure("mean_entropy", "entropy", "nats a token"),
    Measure("distinct_3", "distinct-3", "share of 3-grams"),
    Measure("repeated_3", "repeated 3-grams", "share of 3-grams"),
    Measure("bits_per_byte", "surprisal", "bits per byte"),
    Measure("mean_kept", "kept", "tokens"),
)


def measure(runs: Sequence[Run]) -> Table:
    """Mean and standard error of each of the ``MEASURES`` for each sampler, over the seeds.

    One seed gives one number: distinct-3 over its texts together, the others as the mean of its texts; the 3-grams are
    of token ids (of token texts where there are no ids). With a single seed there is no error.
    """
    names = list(dict.fromkeys(run["sampler"] for run in runs))
    table: Table = {}
    for name in names:
        seeds: dict[int, list[Run]] = {}
        for run in runs:
            if run["sampler"] == name:
                seeds.setdefault(run["seed"], []).append(run)
        found = [_of_one_seed(group) for group in seeds.values()]
        table[name] = {column.key: mean_and_error(one[column.key] for one in found) for column in MEASURES}
    return table


def _of_one_seed(runs: Sequence[Run]) -> dict[str, float | None]:
    each = [totals(run["tokens"]) for run in runs]
    grams = [_ids(run) for run in runs]
    found = {column.key: mean_and_error(one.get(column.key) for one in each)[0] for column in MEASURES}
    found["distinct_3"] = distinct_n(grams)
    found["repeated_3"] = mean_and_error(repeated_ngrams(text) for text in grams)[0]
    return found


def _ids(run: Run) -> list[Hashable]:
    return [token["text"] if token.get("token_id") is None else token["token_id"] for token in run["tokens"]]


def measured(mean: float | None, error: float | None) -> str:
    """A mean and its standard error to two figures of the error.

    >>> measured(1.23456, 0.0213), measured(0.5, None), measured(None, None)
    ('1.235 ± 0.021', '0.500', '–')
    """
    if mean is None:
        return "–"
    digits = 3 if abs(mean) < 100 else 1
    if error:
        digits = min(4, max(0, 1 - math.floor(math.log10(error))))
    return f"{mean:,.{digits}f}" + ("" if error is None else f" ± {error:,.{digits}f}" if error else " ± 0")


def finding(table: Table) -> str:
    """A sentence on who came out lowest in surprisal and in repetition, and who cannot be told apart from that.

    Two samplers are told apart when their means differ by more than twice the standard error of the difference (their
    seeds taken as independent); without errors, with one seed, nothing is claimed.

    >>> low, high = (1.0, 0.1), (2.0, 0.1)
    >>> finding({"a": {"mean_surprisal": low, "repeated_3": low}, "b": {"mean_surprisal": high, "repeated_3": low}})
    'Lowest surprisal: a; fewest repeated 3-grams: not told apart'
    """
    facts: list[str] = []
    for key, words in (("mean_surprisal", "Lowest surprisal"), ("repeated_3", "fewest repeated 3-grams")):
        known = {name: line[key] for name, line in table.items() if line[key][0] is not None}
        if len(known) < 2:
            continue
        if any(error is None for _, error in known.values()):
            return "One seed: no error bars, so nothing can be told apart"
        least, error = min((mean or 0.0, error or 0.0) for mean, error in known.values())
        near = [
            name for name, (mean, own) in known.items() if (mean or 0.0) - least <= 2 * math.hypot(error, own or 0.0)
        ]
        facts.append(f"{words}: {'not told apart' if len(near) == len(known) else ' or '.join(near)}")
    return "; ".join(facts)


def figure(table: Table, format: str) -> bytes:
    """The table as small dot plots with error bars (one standard error over seeds), "svg" or "png"."""
    import matplotlib
    from matplotlib.figure import Figure

    names = list(table)
    with matplotlib.rc_context({"font.size": 9, "svg.hashsalt": "hartley", "svg.fonttype": "path"}):
        figure = Figure(figsize=(10, 1.6 + 2 * (0.6 + 0.28 * len(names))), layout="constrained")
        panels = figure.subplots(2, 3, sharey=True)
        for panel, column in zip(panels.flat, MEASURES, strict=True):
            for place, name in enumerate(names):
                mean, error = table[name][column.key]
                if mean is not None:
                    colour = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")[place % 6]
                    panel.errorbar(mean, place, xerr=error, fmt="o", color=colour, capsize=3)
            panel.set_xlabel(f"{column.title} ({column.unit})")
            panel.set_yticks(range(len(names)), [_short(name) for name in names])
            panel.set_ylim(len(names) - 0.5, -0.5)
            if column.key == "mean_kept":
                panel.set_xscale("log")
            panel.margins(x=0.15)
            panel.grid(axis="x", alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(_short(finding(table), 110), fontsize=11)
        target = io.BytesIO()
        figure.savefig(target, format=format, dpi=150, metadata={"Date": None} if format == "svg" else {})
    return target.getvalue()


def _short(text: str, most: int = 32) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
