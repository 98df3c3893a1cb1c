"""The E-value: fair at every length, by enumeration of every text; the p-value valid, also for who peeks."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from hartley.detection import Detector, decide, log_wealth, score_from_logits
from hartley.detection.wealth import SIDES
from hartley.papers.zero_shot_text_detection import walk

LENGTH = 6


@pytest.fixture(scope="module")
def every_text():
    """Every text of 6 transitions of a chain of 3 states, its probability and its running E-values by alternative."""
    rng = np.random.default_rng(3)
    chain = rng.dirichlet(np.full(3, 0.4), 3)
    table = torch.from_numpy(np.log(chain))
    texts = torch.tensor(list(itertools.product(range(3), repeat=LENGTH)))
    texts = torch.cat([torch.zeros(len(texts), 1, dtype=torch.int64), texts], 1)
    scores = score_from_logits(table[texts], texts)
    probability = torch.stack([(-score.surprisal.sum()).exp() for score in scores])
    return probability, {side: torch.stack([log_wealth(score, side) for score in scores]) for side in SIDES}


def test_every_e_value_has_mean_one_at_every_length(every_text):
    probability, wealth = every_text
    assert float(probability.sum()) == pytest.approx(1, abs=1e-9)
    for side, log_e in wealth.items():
        means = (probability[:, None] * log_e.exp()).sum(0)
        assert means.tolist() == pytest.approx([1.0] * LENGTH, abs=1e-9), side


@pytest.mark.parametrize("alpha", [0.9, 0.5, 0.2, 0.05])
def test_peeking_rejects_no_more_often_than_the_level(every_text, alpha):
    probability, wealth = every_text
    for log_e in wealth.values():
        ever = log_e.amax(1) >= -math.log(alpha)
        assert float(probability[ever].sum()) <= alpha


def test_the_statistic_has_mean_zero_and_the_stated_variance():
    rng = np.random.default_rng(5)
    p = torch.from_numpy(rng.dirichlet(np.full(4, 0.5)))
    texts = torch.tensor([[0, *tokens] for tokens in itertools.product(range(4), repeat=4)])
    scores = score_from_logits(p.log().expand(*texts.shape, 4), texts)
    probability = torch.stack([(-score.surprisal.sum()).exp() for score in scores])
    statistic = torch.tensor([score.statistic for score in scores], dtype=torch.float64)
    assert float((probability * statistic).sum()) == pytest.approx(0, abs=1e-12)
    variance = scores[0].total_variance / 16
    assert float((probability * statistic.square()).sum()) == pytest.approx(variance, rel=1e-9)


def test_quadrupling_the_length_halves_the_deviation():
    short = score_from_logits(torch.randn(1, 9).expand(101, 9), torch.zeros(101, dtype=torch.int64))
    ratio = math.sqrt(short.total_variance) / 100
    long = short + short + short + short
    assert math.sqrt(long.total_variance) / 400 == pytest.approx(ratio / 2)


def test_type_one_error_over_2000_texts_and_power_against_length():
    """Were the rate 0.05, 2,000 texts would show 0.035 or less, and the test pass by luck, with a chance of 7e-4."""
    rng = np.random.default_rng(11)
    a, noise = rng.dirichlet(np.full(50, 0.3), (2, 50))
    table = torch.from_numpy(np.log(np.maximum(a, 1e-300))).float()
    power = []
    for writer, count in ((a, 2000), (0.7 * a + 0.3 * noise, 300)):
        ids = torch.from_numpy(walk(writer, 101, count, rng)).flatten()
        joined = score_from_logits(table[ids], ids)
        peaks = torch.stack([log_wealth(joined[i : i + 100]) for i in range(0, len(ids), 101)]).cummax(1).values
        power.append([float((peaks[:, end - 1] >= math.log(20)).double().mean()) for end in (25, 50, 100)])
    own, other = power
    assert max(own) <= 0.035
    assert stats.binom.cdf(0.035 * 2000, 2000, 0.05) < 1e-3
    assert other[0] > 0.4  # 0.67, 0.905, 0.998 on another chain
    assert other[0] < other[1] < other[2]
    assert other[2] > 0.97


def test_greedy_text_is_too_predictable():
    logits = torch.randn(1500, 50, generator=torch.Generator().manual_seed(2)) * 1.5
    ids = torch.cat([torch.zeros(1, dtype=torch.int64), logits.argmax(-1)[:-1]])
    found = decide(score_from_logits(logits, ids))
    assert found.statistic < 0
    assert found.decision == "rejected"
    assert decide(score_from_logits(logits, ids), alternative="greater").decision == "not rejected"
    assert decide(score_from_logits(logits, ids), alternative="less").decision == "rejected"


@pytest.mark.parametrize("alternative", list(SIDES))
def test_a_stream_says_what_the_whole_text_says(alternative):
    logits = torch.randn(80, 30, generator=torch.Generator().manual_seed(4))
    ids = torch.randint(30, (80,), generator=torch.Generator().manual_seed(5))
    detector = Detector(alternative=alternative)
    for at in range(79):
        streamed = detector.update(logits[at], int(ids[at + 1]))
        if at in (0, 17, 78):
            whole = decide(score_from_logits(logits[: at + 2], ids[: at + 2]), alternative=alternative)
            assert streamed.decision == whole.decision
            assert streamed.n_tokens == whole.n_tokens
            for name in ("p_value", "statistic", "log_e_value", "z_score", "total_variance", "sufficient"):
                assert getattr(streamed, name) == pytest.approx(getattr(whole, name), rel=1e-6, abs=1e-9), name


def test_once_rejected_always_rejected():
    detector = Detector(alternative="greater")
    sure, flat = torch.tensor([9.0, 0.0, 0.0]), torch.tensor([1.0, 0.5, 0.0])
    assert detector.verdict.decision == "undecidable"
    decisions = [detector.update(sure, 1).decision for _ in range(3)]
    decisions += [detector.update(flat, 0).decision for _ in range(300)]
    assert decisions[0] == "rejected" or decisions[2] == "rejected"
    assert decisions[-1] == "rejected"
    assert detector.verdict.p_value < 0.05
    assert detector.verdict.log_e_value < math.log(20)  # E itself has fallen again


@pytest.mark.parametrize("alternative", list(SIDES))
def test_an_impossible_token_rejects_at_once_unless_floored(alternative):
    logits = torch.tensor([0.0, 0.0, -torch.inf])
    detector = Detector(alternative=alternative)
    assert detector.update(logits, 0).decision == "undecidable"
    found = detector.update(logits, 2)
    assert (found.decision, found.p_value, found.impossible) == ("rejected", 0.0, 1)
    assert found.statistic == math.inf
    assert found.to_dict()["statistic"] is None
    assert detector.update(logits, 0).decision == "rejected"
    assert Detector(alternative=alternative, floor=0.01).update(logits, 2).decision == "undecidable"


def test_a_stream_takes_one_step_at_a_time():
    with pytest.raises(ValueError, match=r"logits must have shape \[V\]"):
        Detector().update(torch.zeros(2, 3), 0)
    with pytest.raises(ValueError, match="alpha"):
        Detector(alpha=2)
