"""STEER's claim: judged rightly on planted numbers, and run once at the tiny scale."""

import numpy as np
import pytest

from hartley.papers import steer
from hartley.papers.decoy_bandit import Curve
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence

TRUE = np.linspace(-1, 1, 50)


def planted(noise: float) -> list[steer.Foretold]:
    """Estimates of which Omega has this much noise, and the covariance ten times as much."""
    found = []
    for seed in range(3):
        wobble = np.random.default_rng(seed).normal(size=50)
        sizes = {steer.OMEGA: noise, steer.OFFICIAL: 5 * noise, steer.COVARIANCE: 10 * noise, steer.EXACT: 0.0}
        found.append(steer.Foretold(TRUE, {name: TRUE + size * wobble for name, size in sizes.items()}))
    return found


def curves(early: float, reward: float) -> list[Curve]:
    return [Curve(np.full(10, early + 0.001 * i), np.full(10, reward + 0.001 * i), np.zeros(1)) for i in range(3)]


def as_claimed() -> dict[str, list[Curve]]:
    return {steer.GRPO: curves(0.5, 0.5), steer.MILD: curves(0.6, 0.55), steer.STRONG: curves(0.7, 0.6)}


def test_numbers_that_do_what_the_paper_says_hold() -> None:
    assert verdict_from(steer.judge({"V=20": planted(0.1)}, as_claimed())) == "holds"


def test_no_gain_of_reward_is_said() -> None:
    runs = as_claimed() | {steer.MILD: curves(0.6, 0.4)}
    found = {row.what: row.holds for row in steer.judge({"V=20": planted(0.1)}, runs)}
    assert found[f"reward at the end: {steer.MILD} less GRPO"] is False
    assert found[f"entropy after 5 rollouts: {steer.MILD} less GRPO"] is True
    assert verdict_from(steer.judge({"V=20": planted(0.1)}, runs)) == "holds in part"


def test_an_estimator_no_better_than_the_covariance_is_said() -> None:
    same = [
        f._replace(said=f.said | {steer.OMEGA: f.said[steer.COVARIANCE], steer.COVARIANCE: f.said[steer.OMEGA]})
        for f in planted(0.1)
    ]
    assert steer.judge({"V=20": same}, as_claimed())[0].holds is False


@pytest.mark.parametrize("size", [20, 200])
def test_estimators_against_the_true_change(size: int) -> None:
    found = steer.foretell(size, 1, 2000, 0)
    assert found.correlation(steer.EXACT) > 0.9999
    assert found.error(steer.OMEGA) < 0.05 * found.error(steer.COVARIANCE)
    assert found.correlation(steer.OMEGA) > found.correlation(steer.COVARIANCE)


@pytest.mark.slow
def test_reproduces_at_the_tiny_scale() -> None:
    check_evidence(steer.reproduce("tiny"), axes=3)
