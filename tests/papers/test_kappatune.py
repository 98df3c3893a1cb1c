"""KappaTune's claim: judged rightly on planted curves, its pieces as they are said, and run once at the tiny scale."""

import numpy as np
import pytest
import torch

from hartley.papers import kappatune
from hartley.papers.digit_nets import generators
from hartley.papers.paper import verdict_from
from hartley.representation import WeightCondition, condition_numbers

from .evidence_checks import check_evidence

WIGGLE = np.array([0.01, -0.01, 0.02, 0.0])
SIZES = kappatune.SIZES["tiny"]


def planted(**left: float) -> kappatune.Curves:
    """Four seeds that learn alike in two stops, and forget as the paper says."""
    ends = {"lowest": 0.9, "random": 0.5, "highest": 0.3, "all": 0.4, **left}
    wiggle = {name: WIGGLE * (name == "lowest") for name in ends}
    new = {name: np.array([0.1, 0.5, 0.9]) + np.zeros((4, 1)) for name in ends}
    old = {
        name: np.stack([0.95 + WIGGLE, 0.5 + end / 2 + wiggle[name], end + wiggle[name]], 1)
        for name, end in ends.items()
    }
    return kappatune.Curves(new, old)


def entropies() -> kappatune.Entropies:
    kappa = np.array([1.0, 2.0, 4.0, 8.0]) + np.zeros((4, 1))
    return kappatune.Entropies(kappa, -kappa - np.array([[0, 0, 0, 1]] * 3 + [[0, 0, 0, -7]]), WIGGLE / 10)


def weights() -> list[WeightCondition]:
    return [
        WeightCondition(f"layers.{i}.{kind}", (4, 4), 2.0 + i, 0.0, 4.0, 16, f"x.{kind}")
        for i in range(2)
        for kind in kappatune.KINDS
    ]


def test_forgetting_as_claimed_holds():
    rows = {row.what: row for row in kappatune.judge(entropies(), planted(), weights())}
    assert verdict_from(rows.values()) == "holds"
    assert rows["old accuracy left at the same new accuracy: lowest less random"].measured == pytest.approx(40.5)


def test_forgetting_more_than_all_is_said():
    curves = planted(all=0.95)
    rows = {row.what: row for row in kappatune.judge(entropies(), curves, weights())}
    assert rows["old accuracy left at the same new accuracy: lowest less all"].holds is False
    assert verdict_from(rows.values()) == "holds in part"
    title = kappatune.draw(entropies(), curves, weights(), SIZES).get_suptitle()
    assert "90% of the old is left by the lowest kappa, 50% by random matrices" in title


def test_groups_are_compared_where_the_slowest_ends():
    curves = planted()
    curves.new["lowest"] = np.array([0.1, 0.2, 0.3]) + np.zeros((4, 1))
    found = kappatune.matched(curves)
    np.testing.assert_allclose(found["lowest"], curves.old["lowest"][:, 2])
    np.testing.assert_allclose(found["random"], curves.old["random"][:, :2].mean(1))  # 0.3 lies between 0.1 and 0.5


def test_who_learns():
    nets = kappatune.Mixtures(generators([1, 2]))
    found = {name: kappatune.chosen(nets, name, [5, 6]) for name in kappatune.GROUPS}
    for place in range(2):
        kappas = torch.tensor(
            [
                [each.kappa for each in condition_numbers({f"{i}": w for i, w in enumerate(nets.weights[name][place])})]
                for name in ("up", "down")
            ]
        )
        masks = {name: torch.stack([group["up"][place], group["down"][place]]) for name, group in found.items()}
        assert [int(masks[name].sum()) for name in kappatune.GROUPS] == [4, 4, 4, 16]
        assert kappas[masks["lowest"]].max() < kappas[~masks["lowest"]].min()
        assert kappas[masks["highest"]].min() > kappas[~masks["highest"]].max()


@pytest.mark.model
def test_reproduces_at_the_tiny_scale():
    check_evidence(kappatune.reproduce("tiny"), axes=3)
