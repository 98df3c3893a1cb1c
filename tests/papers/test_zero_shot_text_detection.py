"""Zero-shot detection: rows follow the measurements, chains walk as they should, and one run at the tiny scale."""

import math

import numpy as np
import pytest
import torch

from hartley.detection import LAMBDAS, Scores
from hartley.papers import zero_shot_text_detection as paper
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence


def planted(own: float, other: list[float]) -> paper.Markov:
    """Two chains of 500 texts with these rates of rejection, at each length."""
    place = np.arange(500) / 500
    own_p = np.where(place < own, 0.01, 0.9)[None, :, None].repeat(2, 0).repeat(5, 2)
    other_p = np.stack([np.where(place < rate, 0.01, 0.9) for rate in other], -1)[None].repeat(2, 0)
    t = np.zeros((2, 500, 5))
    return paper.Markov(own_p, other_p, t, t + 1)


def scores(level: float, count: int, length: int = 32) -> list[Scores]:
    """Texts whose surprisal is this far above their entropy of 2 nats, give or take."""
    made = []
    for i in range(count):
        noise = torch.randn(length, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        entropy = torch.full((length,), 2.0, dtype=torch.float64)
        psi = torch.tensor([2 * value + value**2 / 2 for value in LAMBDAS], dtype=torch.float64).expand(length, -1)
        made.append(Scores(2 + level + noise, entropy, torch.ones_like(entropy), psi))
    return made


def test_errors_that_fall_hold_and_errors_that_do_not_are_said():
    good = paper.judge_markov(planted(0.01, [0.6, 0.9, 0.99, 1.0, 1.0]))
    assert verdict_from(good) == "holds"
    powers = {row.what: row.measured for row in good}
    assert powers["Markov, other writer's text rejected by token 100"] == pytest.approx(0.99)
    assert powers["Markov, other writer's text rejected at 25 tokens, calibrated"] == 1.0
    bad = paper.judge_markov(planted(0.048, [0.6] * 5))
    assert verdict_from(bad) == "not at this scale"


def test_a_bound_is_exact():
    assert paper.upper(0, 2000) == pytest.approx(1 - 0.05 ** (1 / 2000))
    assert paper.upper(5, 5) == 1.0
    assert paper.rate("a", "b", 0, 100, None).error > 0


def test_model_rows_follow_the_texts():
    good = paper.Model(scores(0.0, 20), scores(0.1, 20), scores(2.0, 20))
    rows = {row.what: row for row in paper.judge_model(good, 32)}
    assert rows["AUROC of T at 32 tokens less 0.9"].measured == pytest.approx(0.1)
    assert rows["AUROC of T at 32 tokens less 0.9"].holds
    assert rows["person's text rejected by token 32, E-value"].measured == 1.0
    assert rows["model's own text rejected, E-value"].holds
    same = paper.Model(scores(0.0, 20), scores(0.0, 20), scores(0.0, 20))
    rows = {row.what: row for row in paper.judge_model(same, 32)}
    assert rows["AUROC of T at 32 tokens"].measured == 0.5
    assert rows["AUROC of T at 32 tokens less 0.9"].holds is False
    turned = paper.Model(scores(2.0, 20), scores(0.0, 20), scores(0.0, 20))
    rows = {row.what: row for row in paper.judge_model(turned, 32)}
    assert rows["model's own text rejected, E-value"].holds is False


def test_a_walk_follows_its_chain():
    """Four standard errors of each of 9 shares: a false alarm in 2,000 runs."""
    chain = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.6, 0.4, 0.0]])
    chain = np.pad(chain, ((0, 47), (0, 47)))
    chain[3:, 0] = 1.0
    texts = paper.walk(chain, 50, 400, np.random.default_rng(0))
    for state in range(3):
        following = texts[:, 1:][texts[:, :-1] == state]
        share = np.bincount(following, minlength=50)[:3] / len(following)
        limit = 4 * np.sqrt(chain[state, :3] * (1 - chain[state, :3]) / len(following))
        assert (np.abs(share - chain[state, :3]) <= limit + 1e-12).all()


def test_people_wrote_enough():
    texts = paper.human_texts(48)
    assert len(set(texts)) == 48
    assert min(map(len, texts)) > 700
    kept = paper.WithoutEnds(frozenset({1})).mask(torch.zeros(2, 3))
    assert kept[:, 1].tolist() == [-math.inf] * 2


@pytest.mark.model
@pytest.mark.slow
def test_reproduces_at_the_tiny_scale():
    check_evidence(paper.reproduce("tiny"), axes=3)
