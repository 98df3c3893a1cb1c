"""Rare events, zeros of zeta, chains of tokens: the pieces against closed forms, then the whole at tiny scale."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hartley.papers import riemann_ce
from hartley.papers.riemann_ce import BEAM, EVENTS, JOINT, STEPS, PlantedTree, compare, independent, seek
from hartley.papers.zeta import zeta


@given(st.floats(0, 4), st.floats(-1000, 1000))
@settings(max_examples=60)
def test_zeta_is_that_of_mpmath(real, imaginary):
    s = complex(real, imaginary)
    if abs(s - 1) > 1e-3:
        assert abs(zeta(s) - complex(mpmath.zeta(s))) < 1e-11 * max(1, abs(zeta(s)))


def test_zeta_at_known_points():
    assert zeta(2) == pytest.approx(math.pi**2 / 6, abs=1e-15)
    assert zeta(0) == pytest.approx(-0.5, abs=1e-15)
    assert zeta(-1) == pytest.approx(-1 / 12, abs=1e-14)
    assert zeta(0.5) == pytest.approx(-1.4603545, abs=1e-7)
    assert np.isinf(zeta(1))
    grid = np.array([[2, 4], [0.5 + 14.134725141734693j, 1 + 9.0647j]])  # where the alternating series divides by 0
    assert zeta(grid).shape == (2, 2)
    assert zeta(grid)[1, 0] == pytest.approx(0, abs=1e-13)
    assert zeta(grid)[1, 1] == pytest.approx(complex(mpmath.zeta(1 + 9.0647j)), abs=1e-13)


@pytest.mark.parametrize(("low", "high", "zero"), [(12, 17, 14.134725142), (20, 23, 21.022039639)])
def test_the_first_zeros_are_found_from_every_seed(low, high, zero):
    for seed in range(8):
        assert float(seek(low, high, seed).x[0]) == pytest.approx(zero, abs=2e-9)


def test_a_window_with_several_zeros_lands_on_one():
    zeros = [30.424876126, 32.935061588]
    found = float(seek(29, 34, 0).x[0])
    assert min(abs(found - zero) for zero in zeros) < 1e-8


def test_a_window_without_a_zero_finds_none():
    found = seek(15, 16, 0)
    assert found.fun > 0.1
    assert 15 <= found.x[0] <= 16


def test_rare_events_know_their_exact_probability():
    exact = {event.gamma: event.exact for event in EVENTS}
    assert exact[4] == pytest.approx(3.16712e-5, rel=1e-5)
    assert exact[30] == pytest.approx(math.exp(-30) * sum(30**k / math.factorial(k) for k in range(5)))
    # 4e4 crude samples expect 1.27 hits above 4, and none with probability .28
    assert 4e4 * exact[4] == pytest.approx(1.27, abs=0.005)
    assert (1 - exact[4]) ** 4e4 == pytest.approx(0.28, abs=0.005)


def test_a_planted_tree_is_a_distribution_whose_best_chain_is_known():
    tree = PlantedTree(3)
    model, size = tree.model(), tree.vocabulary
    every = {}
    for tokens in itertools.product(range(size), repeat=3):
        rows = [model(torch.tensor([[0, *tokens[:i]]]), None)[0].log_softmax(-1) for i in range(3)]
        every[tokens] = float(sum(row[token] for row, token in zip(rows, tokens, strict=True)))
    assert math.fsum(map(math.exp, every.values())) == pytest.approx(1, abs=1e-5)
    found = compare(tree, 64, 0, (BEAM,))[BEAM]
    assert found.log_prob == pytest.approx(tree.best, abs=1e-4)
    assert found.right
    assert not compare(tree, 1, 0, (BEAM,))[BEAM].right  # one path, nothing drawn: greedy is misled


def test_a_single_path_is_ordinary_top_p():
    """Both ways draw the first token of the tree alike: a chi-square of 5 degrees of freedom, false alarm 1e-6."""
    tree, n = PlantedTree(1), 200
    tree.depth = 1
    first = np.exp(tree.tables[0][0])
    order = np.argsort(-first)
    kept = order[: int((np.cumsum(first[order]) < riemann_ce.TOP_P).sum()) + 1]
    counts = {way: np.zeros(tree.vocabulary) for way in (JOINT, STEPS)}
    for seed in range(n):
        for way, best in compare(tree, 1, seed, (JOINT, STEPS)).items():
            counts[way][np.abs(np.log(first) - best.log_prob).argmin()] += 1
    for count in counts.values():
        assert count.sum() == count[kept].sum()
        expected = n * first[kept] / first[kept].sum()
        assert ((count[kept] - expected) ** 2 / expected).sum() < 35.9


def test_independent_samples_end_where_they_should():
    tree = PlantedTree(2)
    tree.ends = frozenset({0, 1})
    paths = independent(tree, 5, torch.Generator().manual_seed(0))
    assert len(paths) == 5
    for path in paths:
        assert path.finished == (path.tokens[-1] in tree.ends)
        assert len(path.tokens) == tree.depth or path.finished
        assert not tree.ends & set(path.tokens[:-1])


def test_tiny_scale_shows_the_first_half_of_the_claim():
    evidence = riemann_ce.reproduce("tiny")
    judged = {row.what: row.holds for row in evidence.rows}
    rare = [holds for what, holds in judged.items() if "error" in what or "estimate" in what]
    assert len(rare) == 2 * len(EVENTS)
    assert all(rare)
    assert judged["zeros of zeta found for t from 10 to 26"]
    assert evidence.verdict in ("holds", "holds in part")
    assert evidence.figure is not None


def test_nothing_suggests_a_proof():
    text = riemann_ce.reproduce.__doc__ + riemann_ce.PAPER.claim
    assert "says nothing about any other" in " ".join(text.split())
    assert "proof" not in text
    assert "prove" not in text


@pytest.mark.model
@pytest.mark.slow
def test_the_default_model_adds():
    [found] = riemann_ce.ask_default_model(1, (2,))[2]
    assert found[JOINT].log_prob < 0
    assert set(found) == {JOINT, STEPS}
