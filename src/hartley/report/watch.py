"""What a training run says, from its logs: columns by what they are, alarms, and how far the score can go."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hartley.training.logs import Column, RunLogs, Series
from hartley.training.monitor import CollapseAlarm, OverOptimisationMonitor, forecast_ceiling

ROLES = {
    "entropy": "Entropy",
    "reward": "Reward",
    "kl": "KL divergence",
    "length": "Length",
    "likelihood": "Likelihood",
    "loss": "Loss",
}
"""The roles that are drawn, in this order; everything else is in the table."""
INDICATORS = ("eval/topk_entropy", "eval/topk_mass", "eval/logps_chosen")
FEWEST, MOST = 8, 500  # steps that a forecast is made from; of more, evenly spaced ones are taken


class Watched(NamedTuple):
    """A column of a run: its series, and what it is (None where unknown)."""

    series: Series
    column: Column | None

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.series.name

    @property
    def unit(self) -> str:
        """Its unit, where known."""
        return self.column.unit if self.column else ""

    @property
    def role(self) -> str:
        """What it is drawn with; "other" where nothing is known."""
        return self.column.role if self.column else "other"

    @property
    def says(self) -> str:
        """What it is, in a sentence; and, where it is known, who writes it."""
        if self.column is None:
            return "unknown column: what this number is cannot be told"
        return f"{self.column.says} ({self.column.source})"


class Alarm(NamedTuple):
    """Something to act on."""

    name: str  # of the column
    step: int
    words: str


class Ceiling(NamedTuple):
    """The score that R = b - a exp(H) forecasts for an entropy of 0, with a 95% interval."""

    entropy: str
    score: str
    ceiling: float
    low: float
    high: float
    pairs: list[tuple[float, float]]  # entropy (nats) and score, at common steps
    a: float
    b: float
    last: float  # the score now: mean of the last quarter


class State(NamedTuple):
    """A run as it stands."""

    logs: RunLogs
    columns: list[Watched]
    alarms: list[Alarm]
    forecast: Ceiling | None
    without: str  # why there is no forecast
    target: float | None

    def of(self, role: str) -> list[Watched]:
        """The columns of a role that have any number."""
        return [one for one in self.columns if one.role == role and one.series.steps]

    @property
    def unknown(self) -> list[Watched]:
        """The columns that are not in the table."""
        return [one for one in self.columns if one.column is None]


def state_of(logs: RunLogs, target: float | None = None) -> State:
    """Judge the logs as they are now; ``target`` is an entropy (nats a token) that the run should keep."""
    columns = [Watched(series, logs.meaning(name)) for name, series in sorted(logs.series.items())]
    known = [one for one in columns if one.column is not None]
    alarms = [alarm for one in known for alarm in _collapse(one, target)]
    alarms += _over_optimised(logs) + _drift(logs)
    forecast, without = forecast_of(columns)
    return State(logs, columns, alarms, forecast, without, target)


def shown(value: float) -> str:
    """A number of a log, four figures.

    >>> shown(0.123456), shown(12345.6)
    ('0.1235', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def note_of_temperature(logs: RunLogs) -> str | None:
    """What the trainer's own arguments say on the temperature that an entropy is tempered by."""
    value = logs.settings.get("temperature")
    if not isinstance(value, int | float):
        return None
    plain = " (so tempered and plain are the same)" if value == 1 else ""
    return f"The run's temperature is {value:g}{plain}, as its event file tells"


def _collapse(one: Watched, target: float | None) -> list[Alarm]:
    if one.column is None or one.column.entropy is None:
        return []
    nats = one.column.entropy.kind == "Shannon"
    found: list[Alarm] = []
    alarms = {"share": CollapseAlarm(share=0.2)}
    if target is not None and nats:
        alarms["target"] = CollapseAlarm(floor=target, share=None)
    for kind, alarm in alarms.items():
        for step, value in zip(one.series.steps, one.series.values, strict=True):
            if alarm.update(step, value):
                under = f"the target of {target:g} {one.unit}" if kind == "target" else "a fifth of its first value"
                words = f"fell under {under} at step {alarm.since:,} ({shown(alarm.first or 0.0)} at first, now "
                found.append(Alarm(one.name, step, f"{words}{shown(one.series.values[-1])} {one.unit})"))
    return found


def _over_optimised(logs: RunLogs) -> list[Alarm]:
    series = [logs.series.get(name) for name in INDICATORS]
    entropy, mass, logps = series
    if entropy is None or mass is None or logps is None:
        return []
    monitor = OverOptimisationMonitor()
    for step in sorted(set(entropy.points) & set(mass.points) & set(logps.points)):
        monitor.update(
            step,
            topk_entropy=entropy.points[step],
            topk_mass=mass.points[step],
            logps_chosen=logps.points[step],
        )
    words = {
        "entropy": "over-optimised: top-k entropy {drop:.3f} bits below its best, the chosen answers less likely",
        "mass": "over-optimised: top-k mass {drop:.3f} below its best",
    }
    return [
        Alarm(INDICATORS[signal.name == "mass"], signal.step,
              f"{words[signal.name].format(drop=signal.drop)}; the best was at step {signal.restore_step:,}")
        for signal in monitor.signals
    ]  # fmt: skip


def _drift(logs: RunLogs) -> list[Alarm]:
    """Chosen answers that get less likely while the margin grows: what DPO's loss does not see."""
    chosen, margins = logs.series.get("logps/chosen"), logs.series.get("rewards/margins")
    if chosen is None or margins is None:
        return []
    values, wide = chosen.values, margins.values
    if len(values) < FEWEST or len(wide) < FEWEST:
        return []
    size = max(2, len(values) // 4)
    drift, growth = _mean(values[-size:]) - _mean(values[:size]), _mean(wide[-size:]) - _mean(wide[:size])
    error = math.hypot(_error(values[-size:]), _error(values[:size]))
    if drift > -2 * error or growth <= 0:
        return []
    words = f"the chosen answers lost {-drift:.3g} ± {error:.2g} nats a text (first to last quarter) while the margin "
    return [Alarm("logps/chosen", chosen.steps[-1], f"{words}grew by {growth:.3g}: watch their top-k entropy and mass")]


def forecast_of(columns: Sequence[Watched]) -> tuple[Ceiling | None, str]:
    """The ceiling of the score by its law with entropy, or why there is none."""
    entropies = [
        one
        for one in columns
        if one.column and one.column.entropy and one.column.entropy.kind == "Shannon"
        and ("completions" in one.column.entropy.average or "response tokens" in one.column.entropy.average)
    ]  # fmt: skip
    if not entropies:
        return None, "no Shannon entropy of the policy's own text is logged"
    scores = sorted((one for one in columns if one.role == "reward" and _is_score(one.name)), key=_preference)
    for entropy in entropies:
        for score in scores:
            steps = [step for step in score.series.steps if step in entropy.series.points]
            pairs = [(entropy.series.points[step], score.series.points[step]) for step in steps]
            pairs = [pair for pair in pairs if math.isfinite(pair[0])]
            if len(pairs) >= FEWEST:
                return _fitted(entropy.name, score.name, pairs[:: -(-len(pairs) // MOST)])
    return None, f"it takes a reward or score at {FEWEST} steps that have an entropy too"


def _is_score(name: str) -> bool:
    return name in ("reward", "eval/reward", "critic/score/mean") or name.startswith("val-core/")


def _preference(one: Watched) -> tuple[int, str]:
    """Validation scores first: the law is of those."""
    order = ("val-core/", "eval/reward", "reward", "critic/")
    return next(place for place, start in enumerate(order) if one.name.startswith(start)), one.name


def _fitted(entropy: str, score: str, pairs: list[tuple[float, float]]) -> tuple[Ceiling | None, str]:
    entropies, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    try:
        found = forecast_ceiling(entropies, scores)
    except ValueError as error:
        return None, str(error)
    last = _mean(scores[-max(1, len(scores) // 4) :])
    return Ceiling(entropy, score, found.ceiling, found.low, found.high, pairs, found.a, found.b, last), ""


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _error(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def json_lines(state: State) -> Any:
    """The tidy table as dictionaries, a line each, then what the run says as one."""
    for point in state.logs.points():
        finite = math.isfinite(point.value)
        yield {"step": point.step, "name": point.name, "value": point.value if finite else None}
    forecast = None
    if state.forecast is not None:
        forecast = {**state.forecast._asdict(), "pairs": len(state.forecast.pairs)}
    yield {
        "run": str(state.logs.path),
        "files": [str(file) for file in state.logs.files],
        "last_step": state.logs.last_step,
        "columns": [_told(one) for one in state.columns],
        "alarms": [alarm._asdict() for alarm in state.alarms],
        "forecast": forecast,
        "no_forecast": state.without or None,
        "target": state.target,
        "notes": state.logs.notes,
    }


def _told(one: Watched) -> dict[str, Any]:
    values, steps = one.series.values, one.series.steps
    return {
        "name": one.name,
        "known": one.column is not None,
        "role": one.role,
        "unit": one.unit or None,
        "says": one.says,
        "entropy": None if one.column is None or one.column.entropy is None else one.column.entropy._asdict(),
        "points": len(one.series.points),
        "first": values[0] if values else None,
        "last": values[-1] if values else None,
        "last_step": steps[-1] if steps else None,
    }
