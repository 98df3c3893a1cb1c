"""Typical sampling's claim: judged rightly on planted texts, and run once at the tiny scale."""

import numpy as np
import pytest

from hartley.papers import locally_typical as typical
from hartley.papers.paper import verdict_from
from hartley.papers.texts import Text

from .evidence_checks import check_evidence

LENGTH = 40


def planted(nats: float, variety: int = 40) -> list[Text]:
    """Three texts whose surprisal lies ``nats`` from the entropy, above and below in turn."""
    entropy = np.full(LENGTH, 4.0)
    swing = np.where(np.arange(LENGTH) % 2, nats, -nats)
    return [
        Text(np.arange(LENGTH) % (variety - i), entropy + swing * (1 + 0.01 * i), entropy, entropy) for i in range(3)
    ]


def as_claimed() -> dict[str, list[Text]]:
    """Texts that behave as the paper says."""
    far = {typical.HUMAN: 1.0, "plain": 2.0, "top-p 0.9": 1.8, "typical 0.2": 0.5, "typical 0.95": 1.0}
    texts = {name: planted(far.get(name, 1.5)) for name in (typical.HUMAN, *typical.SAMPLERS)}
    return texts | {"top-k 10": planted(1.5, 10), "top-k 30": planted(1.5, 20)}


def test_deviation_counts_both_sides() -> None:
    np.testing.assert_allclose(typical.deviation(planted(1.5)), [1.5, 1.515, 1.53])


def test_texts_that_do_what_the_paper_says_hold() -> None:
    assert verdict_from(typical.judge(as_claimed())) == "holds"


def test_human_text_far_from_the_entropy_does_not_hold() -> None:
    texts = as_claimed()
    texts[typical.HUMAN] = planted(2.6)
    rows = {row.what: row for row in typical.judge(texts)}
    row = rows["deviation: plain less human"]
    assert row.holds is False
    assert row.measured == pytest.approx(-0.606)
    assert verdict_from(rows.values()) == "holds in part"
    assert "2.63 nats from the entropy in human text" in typical.draw(texts).get_suptitle()


def test_no_difference_in_repetition_does_not_hold() -> None:
    texts = as_claimed()
    texts["top-k 30"] = planted(1.5)
    rows = {row.what: row for row in typical.judge(texts)}
    assert rows["repetition: top-k 30 less typical 0.2"].holds is False
    assert rows["repetition: top-k 10 less typical 0.2"].holds is True


@pytest.mark.model
@pytest.mark.slow
def test_reproduces_at_the_tiny_scale() -> None:
    check_evidence(typical.reproduce("tiny"), axes=6)
