"""Mirostat's claim: judged rightly on planted texts, and run once at the tiny scale."""

import numpy as np
import pytest

from hartley.papers import mirostat
from hartley.papers.paper import verdict_from
from hartley.papers.texts import Text

from .evidence_checks import check_evidence

LENGTH = 40


def planted(bits: np.ndarray, variety: int) -> list[Text]:
    """Three texts of this surprise, whose tokens come round again after ``variety`` of them."""
    nats = bits * np.log(2)
    return [Text(np.arange(LENGTH) % (variety - i), nats * (1 + 0.001 * i), nats, nats) for i in range(3)]


def as_claimed() -> dict[str, list[Text]]:
    """Texts that behave as the paper says: held at the target, or drifting, and varied where surprising."""
    ramp = np.linspace(-1, 1, LENGTH)
    texts = {"plain": planted(5 + 0 * ramp, 40), "top-k 10": planted(2 - 0.5 * ramp, 8)}
    texts["top-k 1000"] = planted(4.5 + 0.5 * ramp, 36)
    for name, tau in mirostat.TARGETS.items():
        texts[name] = planted(tau + 0 * ramp, 8 * tau)
    return {name: texts[name] for name in mirostat.samplers()}


def test_texts_that_do_what_the_paper_says_hold() -> None:
    assert verdict_from(mirostat.judge(as_claimed())) == "holds"


@pytest.mark.parametrize("missed", [-0.3, 0.3])
def test_a_missed_target_does_not_hold(missed: float) -> None:
    texts = as_claimed()
    texts["mirostat 3 bits"] = planted(np.full(LENGTH, 3 + missed), 24)
    rows = {row.what: row for row in mirostat.judge(texts)}
    row = rows["mirostat 3 bits: mean surprise less its target"]
    assert row.holds is False
    assert row.measured == pytest.approx(missed, abs=0.01)
    assert rows["mirostat 2 bits: mean surprise less its target"].holds is True
    assert verdict_from(rows.values()) == "holds in part"


def test_a_drift_the_other_way_does_not_hold() -> None:
    texts = as_claimed()
    texts["top-k 10"], texts["top-k 1000"] = texts["top-k 1000"], texts["top-k 10"]
    judged = [row for row in mirostat.judge(texts) if row.what.startswith("top-k") and row.holds is not None]
    assert [row.holds for row in judged] == [False, False]


def test_the_figure_says_how_far_off_the_worst_target_was() -> None:
    texts = as_claimed()
    texts["mirostat 4 bits"] = planted(np.full(LENGTH, 3.5), 24)
    assert "0.50 bits" in mirostat.draw(texts).get_suptitle()


@pytest.mark.model
@pytest.mark.slow
def test_reproduces_at_the_tiny_scale() -> None:
    check_evidence(mirostat.reproduce("tiny"), axes=2)
