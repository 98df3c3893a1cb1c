"""The bounds' claim: judged rightly on planted measurements, and run once at the tiny scale."""

import numpy as np
import pytest
import torch

from hartley.papers import it_generalization_bounds as paper
from hartley.papers.digit_nets import Nets, generators
from hartley.papers.paper import verdict_from
from hartley.representation import Funnel

from .evidence_checks import check_evidence

WIGGLE = np.array([0.01, -0.01, 0.005, 0.0])


def funnel(smallest: float) -> Funnel:
    """Bounds that fall to the last hidden layer."""
    bounds = tuple(smallest * factor for factor in (30.0, 20.0, 10.0, 5.0, 1.0, 2.0))
    return Funnel(("input", "1", "3", "5", "7", "8"), bounds, (1.0,) * 6, (1.0,) * 6)


def as_claimed() -> paper.Found:
    sizes = {60: 2.0, 240: 1.0, 960: 0.5}
    return paper.Found(
        {widths: np.array([0.05, 0.06, 0.04, 0.05]) for widths in paper.ARCHITECTURES},
        {n: [funnel(4 * gap + w) for w in WIGGLE] for n, gap in sizes.items()},
        {n: gap + WIGGLE / 9 for n, gap in sizes.items()},
        {n: gap + WIGGLE for n, gap in sizes.items()},
        {w: 0.1 * w + WIGGLE for w in paper.WIDTHS},
        dict.fromkeys(paper.WIDTHS, 1.0 + WIGGLE),
    )


def test_what_the_paper_says_holds():
    rows = paper.judge(as_claimed())
    assert verdict_from(rows) == "holds"
    shown = {row.what: row.measured for row in rows}
    assert shown["digits, 960 examples: depth of the funnel"] == 4
    assert shown["digits: ln(bound at the input / at the last hidden layer)"] == pytest.approx(np.log(30))
    assert shown["Gibbs algorithm, two weights, n = 10: gap"] == pytest.approx(0.0521635, abs=1e-7)


def test_a_gap_above_its_bound_is_said():
    found = as_claimed()
    found.gaussian[64, 16, 4, 1][:] = 0.2 + WIGGLE
    found.gaps[60][:] = 1e6 * (1 + WIGGLE)
    found.fresh[60][:] = found.fresh[240][:] = found.fresh[960][:] = 1e3
    found.dropout[16][:] = 0.01 + WIGGLE / 10
    found.dropout[1][:] = 9 + WIGGLE
    rows = {row.what: row for row in paper.judge(found)}
    assert rows["Gaussian classes, layers 64-16-4-1: bound less gap"].holds is False
    assert rows["Gaussian classes, layers 64: bound less gap"].holds is True
    assert rows["digits: ln(funnel's bound / gap), the least over n"].holds is False
    assert rows["dropout 1/2: the gap follows sqrt(eta) of the width"].holds is False
    assert rows["dropout 1/2: the gap over that without dropout follows sqrt(eta)"].holds is False
    assert rows["digits: ln(funnel's bound / that of fresh digits)"].holds is False
    assert "With 960 digits the bound is 60 nats at the input, 2 at the last" in paper.draw(found).get_suptitle()


def test_gaussian_gaps_are_near_those_of_the_sheet():
    gaps = paper.gaussian_gaps((64, 16), 20, 400, 0)
    assert gaps.mean() == pytest.approx(0.250, abs=5 * gaps.std() / 20)


def test_one_network_out_of_many_computes_the_same():
    nets = Nets([64, 5, 10], generators([1, 2]), torch.tanh)
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(paper.as_sequential(nets, 1)(x), nets(x)[1])


def test_reproduces_at_the_tiny_scale():
    check_evidence(paper.reproduce("tiny"), axes=3)
