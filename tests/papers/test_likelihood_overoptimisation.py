"""The bigram policy: exact expectations against samples, the detector on its runs, and the whole at tiny scale."""

import math

import numpy as np
import pytest
import torch

from hartley.papers import likelihood_overoptimisation as paper
from papers.evidence_checks import check_evidence


@pytest.fixture(scope="module")
def world():
    return paper.make_world(2)


def test_pairs_answer_one_prompt_and_the_chosen_one_has_more_reward(world):
    for seed in range(2):
        gains = [
            world.reward[seed][texts[..., :-1], texts[..., 1:]].sum(-1)
            for texts in (world.chosen[seed], world.rejected[seed])
        ]
        assert (gains[0] >= gains[1]).all()
        assert torch.equal(world.chosen[seed, :, 0], world.rejected[seed, :, 0])
    assert not torch.equal(world.chosen[0], world.chosen[1])


def test_expectations_are_those_of_texts_drawn(world):
    """20,000 texts: the mean reward within 4 standard errors (false alarm 6e-5), and the mean entropy too."""
    generator = torch.Generator().manual_seed(5)
    table = world.reference[0]
    prompts = torch.randint(paper.VOCABULARY, (20_000,), generator=generator)
    texts = paper.write(table, prompts, generator)
    reward, _, _, entropy, mass = (column[0] for column in paper.evaluate(world, world.reference.clone()))
    gains = world.reward[0][texts[:, :-1], texts[:, 1:]].sum(-1)
    assert abs(gains.mean() - reward) < 4 * gains.std() / math.sqrt(len(texts))
    top = table.exp().topk(10, -1).values
    q = top / top.sum(-1, keepdim=True)
    rows = -(q * q.log2()).sum(-1)[texts[:, :-1]].mean(-1)
    assert abs(rows.mean() - entropy) < 4 * rows.std() / math.sqrt(len(texts))
    masses = top.sum(-1)[texts[:, :-1]].mean(-1)
    assert abs(masses.mean() - mass) < 4 * masses.std() / math.sqrt(len(texts))


def test_seeds_side_by_side_are_as_alone(world):
    both = paper.train(world, paper.LOOSE, 100)
    alone = paper.train(paper.World(*(part[1:] for part in world)), paper.LOOSE, 100)
    for field in ("reward", "margin", "entropy"):
        assert np.allclose(getattr(both, field)[:, 1:], getattr(alone, field), atol=1e-4)


def test_the_parabola_is_recognised():
    x = np.linspace(-5, -2, 30)[:, None]
    course = paper.Course(list(range(30)), -((x + 3) ** 2), x, x, x, x)
    curvature, gain = paper.inverted_u([course], 0)
    assert curvature == pytest.approx(-1)
    assert gain == pytest.approx(1)


def test_tiny_scale():
    evidence = paper.reproduce("tiny")
    check_evidence(evidence, axes=6)
    holds = {row.what: row.holds for row in evidence.rows}
    assert holds[f"{paper.LOOSE}: margin at the end less at step {paper.EARLY}"]
    assert holds[f"{paper.LOOSE}: reward at step {paper.EARLY} less at the end"]
