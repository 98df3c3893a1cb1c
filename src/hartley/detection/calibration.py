"""Calibration on texts whose writer is known: a p-value by rank, exact at every sample size."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hartley.detection.protocol import Reader, Transformation
from hartley.detection.reading import read

FORMAT = "hartley calibration 1"
MOST = 1_000_000  # texts in a file
LONGEST = 1 << 40  # tokens in a text


@dataclass(frozen=True)
class Calibration:
    """The statistic T of texts of one kind ("human", "model", ...) under one model, drawn as ``drawn`` says.

    **Guarantee.** Where a new text is exchangeable with these (the same kind, subject and lengths), it is rejected at
    level alpha with probability at most alpha, whatever the model and however few the texts. Nothing is guaranteed of
    texts of another kind, so a length outside the range seen here is undecidable.

    Raises ``ValueError`` for no texts, lists that do not match and numbers that are not finite or out of range.
    """

    kind: str  #: who wrote the texts, in a word
    model: str  #: whose statistic it is
    drawn: str  #: the sampler's text form under which it was taken, "" for the model as it is
    statistics: tuple[float, ...]  #: T of each text, nats a token
    lengths: tuple[int, ...]  #: N of each text, tokens

    def __post_init__(self) -> None:
        for name in ("kind", "model", "drawn"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be text; got {getattr(self, name)!r}")
        if not 1 <= len(self.statistics) == len(self.lengths) <= MOST:
            raise ValueError(
                f"statistics and lengths must hold 1 to {MOST} texts, as many each; got {len(self.statistics)} and "
                f"{len(self.lengths)}"
            )
        for value in self.statistics:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(
                    f"statistics must be finite numbers; got {value!r}: leave out texts of one token, and give floor= "
                    "where the sampler removes tokens"
                )
        for value in self.lengths:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LONGEST:
                raise ValueError(f"lengths must be whole numbers of tokens, at least 1; got {value!r}")

    def p_value(self, statistic: float, alternative: str = "two-sided") -> float:
        """Share of the texts, the new one among them, whose T is at least as extreme; 1 for NaN.

        Two-sided: twice the smaller of the two one-sided values.

        >>> known = Calibration("human", "m", "", (0.1, 0.2, 0.3, 0.4), (50, 50, 50, 50))
        >>> known.p_value(0.0, "less"), known.p_value(0.3, "greater"), known.p_value(0.0)
        (0.2, 0.6, 0.4)
        """
        if math.isnan(statistic):
            return 1.0
        count = len(self.statistics) + 1
        greater = (1 + sum(value >= statistic for value in self.statistics)) / count
        less = (1 + sum(value <= statistic for value in self.statistics)) / count
        return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]

    def smallest_p_value(self, alternative: str) -> float:
        """The strongest verdict that so few texts can give."""
        return min(1.0, (2 if alternative == "two-sided" else 1) / (len(self.statistics) + 1))

    def to_json(self) -> str:
        """The calibration as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read back what :meth:`to_json` wrote; ``ValueError`` for anything else."""
        try:
            content = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"a calibration must be JSON; {error}") from None
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise ValueError(f"a calibration must say format: {FORMAT!r}")
        known = set(cls.__dataclass_fields__)
        if set(content) != known:
            raise ValueError(f"a calibration must hold {', '.join(sorted(known))}; got {', '.join(sorted(content))}")
        if not isinstance(content["statistics"], list) or not isinstance(content["lengths"], list):
            raise ValueError("statistics and lengths of a calibration must be lists")
        numbers: dict[str, Any] = {key: tuple(content.pop(key)) for key in ("statistics", "lengths")}
        return cls(**content, **numbers)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a calibration file; ``ValueError`` naming the file if it is none, ``OSError`` if it cannot be read."""
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # no JSON, no UTF-8, or no calibration
            raise ValueError(f"{path} is not a calibration file: {error}") from error


def calibrate(
    texts: Iterable[str | Sequence[int]],
    model: Reader,
    kind: str = "human",
    *,
    prompt: str | Sequence[int] = "",
    temperature: float = 1.0,
    sampler: Transformation | None = None,
    floor: float | None = None,
    window: int | None = None,
) -> Calibration:
    """Take the statistic of texts whose writer is known; ``detect(..., method="calibrated", calibration=...)`` uses it.

    ``kind`` names the writer: with "human" texts, ``alternative="less"`` rejects text too predictable to be like
    them; with the model's own, the test asks what the E-value asks, with a threshold measured instead of proved. At
    least 1/alpha - 1 texts are needed for a rejection at level alpha, twice as many two-sided. Otherwise as
    :func:`hartley.detection.detect`. Save it with ``to_json``.
    """
    settings: dict[str, Any] = {"temperature": temperature, "sampler": sampler, "floor": floor, "window": window}
    scores = [read(text, model, prompt=prompt, **settings) for text in texts]
    return Calibration(
        kind,
        model.model_name,
        drawn(temperature, sampler),
        tuple(score.statistic for score in scores),
        tuple(score.n_tokens for score in scores),
    )


def drawn(temperature: float, sampler: Transformation | None) -> str:
    """The text form of how a text is supposed to have been drawn."""
    return f"temperature={temperature:g}" if sampler is None and temperature != 1 else str(sampler or "")
