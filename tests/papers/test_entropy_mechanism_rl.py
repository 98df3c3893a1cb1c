"""The entropy mechanism's claim: judged rightly on planted curves, and run once at the tiny scale."""

import numpy as np
import pytest
import torch

from hartley.papers import entropy_mechanism_rl as paper
from hartley.papers.decoy_bandit import ACTIONS, CONTEXTS, Curve, bandit, learn, normalised, of_tokens
from hartley.papers.paper import verdict_from
from hartley.training.rl import ppo_loss

from .evidence_checks import check_evidence


def planted(end: float, shift: float, rollouts: int = 100) -> list[Curve]:
    """Runs that obey the law, lose their entropy early and end with a given one."""
    covariances = np.r_[np.full(20, 5.0), np.linspace(-0.1, 0.1, 1000)]
    curves = []
    for i in range(3):
        h = end + 0.001 * i + (2.4 - end) * np.exp(-np.arange(rollouts + 1) / 5)
        curves.append(Curve(h, shift + 0.001 * i + 0.65 - 0.03 * np.exp(h), covariances))
    return curves


def as_claimed() -> dict[str, list[Curve]]:
    more = {paper.CLIP: (0.3, 0.05), paper.KL: (0.5, 0.2)}
    return {name: planted(*more.get(name, (0.05, 0.0))) for name in paper.ways(0)}


def test_curves_that_do_what_the_paper_says_hold() -> None:
    assert verdict_from(paper.judge(as_claimed())) == "holds"


def test_a_reward_that_the_penalty_does_not_raise_is_said() -> None:
    runs = as_claimed()
    runs[paper.PLAIN] = planted(0.05, 0.3)
    found = {row.what: row.holds for row in paper.judge(runs)}
    assert found["reward: KL-Cov less the same without its penalty"] is False
    assert found["reward: KL-Cov less GRPO"] is True
    assert "Only KL-Cov" not in paper.draw(runs).get_suptitle()


def test_a_reward_off_the_law_does_not_hold() -> None:
    runs = as_claimed()
    runs[paper.GRPO] = [c._replace(reward=c.reward + 0.1 * (np.arange(101) > 50)) for c in runs[paper.GRPO]]
    rows = {row.what: row for row in paper.judge(runs)}
    row = rows["GRPO: error of the law on rollouts it was not fitted to"]
    assert row.holds is False
    assert row.measured > 0.05


def test_the_bandit_is_as_described() -> None:
    problem = bandit(7)
    probs = problem.logits.softmax(-1)
    torch.testing.assert_close(probs.sum(-1), torch.ones(CONTEXTS))
    torch.testing.assert_close(probs[:, 0], torch.full((CONTEXTS,), 0.5))
    hidden = probs[problem.reward == 1]
    assert len(hidden) == CONTEXTS
    torch.testing.assert_close(hidden, torch.full((CONTEXTS,), 0.006))
    assert problem.reward.shape == (CONTEXTS, ACTIONS)
    assert (problem.reward[:, 0] == 0.6).all()
    advantages = normalised(torch.tensor([[1.0, 0.0], [0.6, 0.6]]))
    torch.testing.assert_close(advantages, torch.tensor([[1.0, -1.0], [0.0, 0.0]]) / 2**0.5, atol=1e-5, rtol=0)


def test_a_run_repeats_itself_and_moves_to_the_decoy() -> None:
    one, again = (learn(of_tokens(ppo_loss), 3, 5) for _ in range(2))
    assert np.array_equal(one.reward, again.reward)
    assert one.entropy[0] == pytest.approx(2.39, abs=0.1)
    assert one.entropy[-1] < one.entropy[0]
    assert one.reward[-1] > one.reward[0]


@pytest.mark.slow
def test_reproduces_at_the_tiny_scale() -> None:
    check_evidence(paper.reproduce("tiny"), axes=3)
