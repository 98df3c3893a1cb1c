"""The claim on pretraining: judged rightly on planted risks, and run once at the tiny scale."""

import numpy as np
import pytest

from hartley.papers import unsupervised_pretraining as paper
from hartley.papers.paper import verdict_from
from hartley.representation.pretraining import ExcessRiskCurve, linear_bayes, linear_excess_risk

from .evidence_checks import check_evidence

WIGGLE = np.array([1.0, 1.02, 0.98, 1.01])


def curve(pretrained, ridge):
    many, few = np.array([0.1, 0.07, 0.06])[:, None] * WIGGLE, np.array(pretrained)[:, None] * WIGGLE
    ridge = np.array(ridge)[:, None] * WIGGLE
    return ExcessRiskCurve((200, 20_000), (20, 200, 1000), np.stack([many, few]), ridge, 2 * ridge, 0.5)


def planted(few=(0.06, 0.01, 0.002), contrastive=0.1, mixture=70.0):
    return paper.Found(
        curve(few, (0.7, 0.15, 0.03)),
        curve((0.5, 0.4, 0.3), (0.6, 0.4, 0.1)),
        {"pretrained": np.full((3, 4), 0.5) * WIGGLE, "ridge": np.full((3, 4), 0.1) * WIGGLE},
        np.full((3, 4), contrastive) * WIGGLE,
        {"mixture": np.full((5, 4), mixture) * WIGGLE, "pixels": np.full((5, 4), 60.0) * WIGGLE},
    )


def test_risks_that_do_what_the_paper_says_hold():
    found = planted()
    assert verdict_from(paper.judge(found)) == "holds"
    assert (
        "20 labels after 20,000 unlabelled rows: excess risk 0.060; 200 labels alone: 0.150"
        in paper.draw(found).get_suptitle()
    )


def test_losing_is_said():
    rows = {row.what: row for row in paper.judge(planted(few=(0.2, 0.1, 0.05), contrastive=0.8, mixture=50.0))}
    first = "excess risk: ridge with 200 labels less pretraining on 20000 rows with 20"
    assert rows[first].measured == pytest.approx(-0.05, abs=0.001)
    for what in (
        first,
        "excess risk with 20 labels: 200 unlabelled rows less 20000",
        "excess risk with 20 labels: ridge less contrastive on 20000 pairs",
        "digits with 20 labels: accuracy of the mixture less that of the pixels",
    ):
        assert rows[what].holds is False
    assert verdict_from(rows.values()) == "holds in part"


def test_its_risk_is_the_house_s_and_its_labels_are_as_described():
    B = paper.loadings(paper.STRONG)
    np.testing.assert_allclose(np.linalg.norm(B, axis=0), 2)
    w = np.random.default_rng(0).normal(size=(3, paper.D))
    np.testing.assert_allclose(paper.risk(w), linear_excess_risk(w, B, paper.BETA))
    x, other, y = paper.rows_of(np.random.default_rng(0), 20_000, paper.OUTSIDE)
    towards = B @ paper.BETA + paper.OUTSIDE * np.eye(paper.D)[0]
    best = np.linalg.solve(B @ B.T + np.eye(paper.D), towards)
    assert paper.risk(best, paper.OUTSIDE) == pytest.approx(0, abs=1e-12)
    assert paper.risk(linear_bayes(B, paper.BETA), paper.OUTSIDE) > 0.5
    least = paper.BETA @ paper.BETA + paper.OUTSIDE**2 + paper.NOISE**2 - towards @ best
    assert ((x @ best - y) ** 2).mean() == pytest.approx(least, rel=5 * np.sqrt(2 / len(x)))
    np.testing.assert_allclose(x.T @ other / len(x), B @ B.T, atol=0.06)


def test_reproduces_at_the_tiny_scale():
    check_evidence(paper.reproduce("tiny"), axes=3)
