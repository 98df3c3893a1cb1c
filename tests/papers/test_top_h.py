"""Top-H's claim: judged rightly on planted texts, and run once at the tiny scale."""

import numpy as np
import pytest

from hartley.papers import top_h
from hartley.papers.paper import verdict_from
from hartley.papers.texts import Text

from .evidence_checks import check_evidence

LENGTH = 20
ENTROPY = np.linspace(0.5, 6, LENGTH)


def planted(nats: float) -> list[Text]:
    """Three texts of this surprisal, whose pool grows with the entropy of the step."""
    return [
        Text(np.arange(LENGTH), np.full(LENGTH, nats + 0.01 * i), ENTROPY, np.exp(ENTROPY).round()) for i in range(3)
    ]


def as_claimed() -> dict[str, dict[float, list[Text]]]:
    """Texts that behave as the paper says: Top-H, by either rule, coolest at temperature 2."""
    hot = {"plain": 9.0, "top-p 0.9": 8.0, "min-p 0.1": 4.0, "top-H 0.4": 3.0, "top-H 0.4, partial": 2.5}
    return {name: {top_h.COOL: planted(2.0), top_h.HOT: planted(hot[name])} for name in top_h.TRUNCATIONS}


def test_texts_that_do_what_the_paper_says_hold() -> None:
    assert verdict_from(top_h.judge(as_claimed())) == "holds"


def test_losing_to_min_p_is_said() -> None:
    texts = as_claimed()
    texts["top-H 0.4"][top_h.HOT] = planted(5.0)
    rows = {row.what: row for row in top_h.judge(texts)}
    row = rows["surprisal at T=2: min-p less Top-H"]
    assert row.holds is False
    assert row.measured == pytest.approx(-1.0)
    assert rows["surprisal at T=2: top-p less Top-H"].holds is True
    assert verdict_from(rows.values()) == "holds in part"
    assert "8.0 nats a token under top-p, 5.0 under Top-H, 4.0 under min-p" in top_h.draw(texts).get_suptitle()


def test_a_pool_that_does_not_follow_the_entropy_does_not_hold() -> None:
    texts = as_claimed()
    cool = texts["top-H 0.4"][top_h.COOL]
    texts["top-H 0.4"][top_h.COOL] = [text._replace(kept=np.full(LENGTH, 5.0)) for text in cool]
    rows = {row.what: row for row in top_h.judge(texts)}
    assert rows["pool of Top-H at T=1 follows the step's entropy"].holds is False


@pytest.mark.model
@pytest.mark.slow
def test_reproduces_at_the_tiny_scale() -> None:
    check_evidence(top_h.reproduce("tiny"), axes=2)
