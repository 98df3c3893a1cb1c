"""The hash encoders' claim: judged rightly on planted measurements, and run once at the tiny scale."""

import numpy as np
import pytest

from hartley.papers import hash_encoders
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence

SIZES = hash_encoders.SIZES["tiny"]._replace(seeds=4)
WIGGLE = np.array([0.01, -0.01, 0.02, 0.0])


def planted(**moved: np.ndarray | float) -> hash_encoders.Found:
    """Four seeds that do what the paper says, at widths 8, 16 and 128, after 0 and 1 epochs; shares."""
    seeds = WIGGLE[:, None, None]
    found = hash_encoders.Found(
        redundancy=np.array([[0.9, 0.5, 0.0], [0.8, 0.3, 0.0]]) + np.abs(seeds) * [1, 1, 0],
        test_redundancy=np.array([[0.8, 0.4, 0.0], [0.7, 0.2, 0.0]]) + np.zeros((4, 1, 1)),
        neighbors=np.array([[0.5, 0.7, 0.9], [0.7, 0.85, 0.95]]) + seeds * [[0, 0, 0], [0, 1, 1]],
        planes=np.array([[0.9, 0.3, 0.0], [0.5, 0.75, 0.94]]) + np.zeros((4, 1, 1)),
        purity=np.array([0.4, 0.6]) + WIGGLE[:, None] * [0, 1],
        logistic=np.array([0.7, 0.85]) + WIGGLE[:, None] * [0, 1],
        variants={"an eighth": 0.8 - WIGGLE, "wrong labels": 0.82 + WIGGLE, "weight decay": 0.84 + WIGGLE},
        random_inputs=0.1 + WIGGLE,
    )
    return found._replace(**moved)


def test_codes_that_do_what_the_paper_says_hold():
    rows = {row.what: row for row in hash_encoders.judge(planted(), SIZES)}
    assert verdict_from(rows.values()) == "holds"
    assert rows["accuracy of 9-NN: width 16 less 8"].measured == pytest.approx(15.5)
    assert rows["accuracy of 9-NN, width 16: trained less random hyperplanes"].measured == pytest.approx(10.5)


def test_training_that_makes_codes_alike_is_said():
    found = planted(redundancy=planted().redundancy[:, ::-1])
    rows = {row.what: row for row in hash_encoders.judge(found, SIZES)}
    assert rows["redundancy of training codes, width 16: untrained less trained"].holds is False
    assert rows["accuracy of 9-NN, width 16: trained less untrained"].holds is True
    assert verdict_from(rows.values()) == "holds in part"
    assert "0.0% of test digits share their code at width 128" in hash_encoders.draw(found, SIZES).get_suptitle()


def test_reproduces_at_the_tiny_scale():
    check_evidence(hash_encoders.reproduce("tiny"), axes=3)
