"""The claim on superposition: judged rightly on planted counts, and run once at the tiny scale."""

import numpy as np
import pytest
import torch

from hartley.papers import superposition_entropy as paper
from hartley.papers.digit_nets import Nets, digits, generators
from hartley.papers.paper import verdict_from

from .evidence_checks import check_evidence

WIGGLE = np.array([0.1, -0.1, 0.2, 0.0])
TRUTH = np.array([6.0, 6.2, 9.7, 12.0, 15.0, 20.0, 24.0])[:, None] + WIGGLE


def planted(counted=TRUTH, dropout=12.0, large=20.0, small=4.0):
    toy = paper.Toy(
        TRUTH, {0.1: counted, 1.0: TRUTH}, TRUTH * 0 + 5 + WIGGLE, TRUTH * 0 + 4 + WIGGLE, {0.1: TRUTH, 1.0: TRUTH}
    )

    def nets(features, robust):
        return paper.Trained(features + WIGGLE, 95 + WIGGLE, robust + WIGGLE[::-1])

    dropped = {share: nets(16 if share == 0 else dropout, 5) for share in paper.DROPOUTS}
    attacked = {(paper.LARGE, 0.0): nets(15, 5), (paper.LARGE, paper.EPSILON): nets(large, 60)}
    return toy, dropped, attacked | {(paper.SMALL, 0.0): nets(6, 5), (paper.SMALL, paper.EPSILON): nets(small, 15)}


def test_counts_that_do_what_the_paper_says_hold():
    assert verdict_from(paper.judge(*planted())) == "holds"


def test_a_count_that_stops_is_said():
    stopped = np.minimum(TRUTH, 8 + WIGGLE)
    rows = {row.what: row for row in paper.judge(*planted(stopped))}
    assert rows["correlation of counted and represented features, penalty 0.1"].holds is False
    assert rows["correlation of counted and represented features, penalty 1"].holds is True
    assert rows["sparsity 0.8: counted features less the 6 neurons"].holds is True
    assert verdict_from(rows.values()) == "holds in part"
    title = paper.draw(*planted(stopped)).get_suptitle()
    assert "where at most 8.1 of 24.1 are counted; 1.00 at ten times it" in title


def test_dropout_and_attacks_that_go_the_other_way_are_said():
    rows = {row.what: row for row in paper.judge(*planted(dropout=20.0, large=10.0, small=8.0))}
    assert rows["dropout 0.5: share of features lost"].holds is False
    assert rows["large network, easy task: change of features by adversarial training"].holds is False
    assert rows["small network, hard task: change of features by adversarial training"].measured == pytest.approx(2)
    assert rows["small network, hard task: change of features by adversarial training"].holds is False


def test_an_attack_stays_near_and_makes_labels_less_likely():
    x, y = digits()
    x, y = x[:40].expand(2, 40, 64), y[:40].expand(2, 40)
    nets = Nets([64, 16, 10], generators([0, 1]), torch.relu)
    moved = paper.attack(nets, x, y, 0.1, generators([2, 3]))
    assert (moved - x).abs().max() <= 0.1 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert paper.surprisal(nets, moved, y) > paper.surprisal(nets, x, y)


def test_sparse_inputs_are_as_sparse_as_asked():
    x = paper.inputs(400, generators([0, 1])).unflatten(0, (7, 2))
    assert ((x == 0).double().mean((1, 2, 3)) - torch.tensor(paper.SPARSITIES)).abs().max() < 0.02
    assert (x[3, 0] != x[3, 1]).any()


def test_reproduces_at_the_tiny_scale():
    check_evidence(paper.reproduce("tiny"), axes=3)
