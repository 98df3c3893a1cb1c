"""Indicators against closed forms, the detector on series whose answer is known, and its false alarms counted."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hartley.training import (
    CollapseAlarm,
    OverOptimisationMonitor,
    expectation_adjusted_distinct,
    forecast_ceiling,
    read_sums,
    top_k_sums,
)

tables = st.tuples(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 12))


def table_of(seed, size):
    logits = 3 * torch.randn(2, 3, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if size > 2:
        logits[0, 0, 1] = -torch.inf
    return logits


def by_hand(logits, k, renormalise):
    """Entropy (bits) and mass of each row's k likeliest, in NumPy."""
    probs = np.sort(torch.softmax(logits, -1).numpy(), -1)[..., ::-1][..., :k]
    mass = probs.sum(-1, keepdims=True)
    q = probs / mass if renormalise else probs
    terms = np.where(q > 0, q * np.log2(np.where(q > 0, q, 1)), 0.0)
    return -terms.sum(-1), mass[..., 0]


@given(tables)
@settings(max_examples=60)
def test_sums_are_those_of_the_definition(drawn):
    seed, size, k = drawn
    logits = table_of(seed, size)
    for renormalise in (True, False):
        entropy, mass = by_hand(logits, k, renormalise)
        sums = top_k_sums(logits, k=k, renormalise=renormalise)
        assert np.allclose(sums.numpy(), np.stack([np.full(2, 3), entropy.sum(-1), mass.sum(-1)], -1), atol=1e-9)


@given(tables)
@settings(max_examples=60)
def test_bounds_and_the_identity_between_both_entropies(drawn):
    seed, size, k = drawn
    logits = table_of(seed, size)[:, :1]
    ren, raw = top_k_sums(logits, k=k), top_k_sums(logits, k=k, renormalise=False)
    mass = ren[:, 2]
    assert (ren[:, 1] >= -1e-9).all()
    assert (ren[:, 1] <= math.log2(min(k, size)) + 1e-9).all()
    assert ((mass > 0) & (mass <= 1 + 1e-9)).all()
    assert torch.allclose(raw[:, 1], mass * ren[:, 1] - mass * mass.log2(), atol=1e-9)
    shifted = top_k_sums(logits.flip(-1) + 5, k=k)
    assert torch.allclose(shifted, ren, atol=1e-9)


def test_uniform_and_one_hot():
    [row] = top_k_sums(torch.zeros(1, 1, 100)).tolist()
    assert row == pytest.approx([1, 3.3219, 0.1], abs=1e-4)
    assert top_k_sums(torch.zeros(1, 1, 100), renormalise=False)[0, 1].item() == pytest.approx(0.66439, abs=1e-5)
    sure = torch.full((1, 1, 50), -torch.inf)
    sure[..., 7] = 0.0
    assert top_k_sums(sure).tolist() == [[1, 0, 1]]
    assert top_k_sums(torch.zeros(1, 1, 4))[0].tolist() == pytest.approx([1, 2, 1])  # k above V is V


def test_masked_tokens_do_not_count_and_half_precision_is_read_in_float32():
    logits = torch.zeros(2, 2, 100)
    logits[0, 1] = torch.nan
    sums = top_k_sums(logits, torch.tensor([[1, 0], [0, 0]]))
    assert sums[0].tolist() == pytest.approx([1, math.log2(10), 0.1], abs=1e-6)
    assert sums[1].tolist() == [0, 0, 0]
    found = read_sums(sums)
    assert (found.tokens, found.sequences, found.mass) == (1, 1, pytest.approx(0.1))
    assert math.isnan(found.mass_error)
    half = torch.randn(1, 4, 200, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.allclose(top_k_sums(half), top_k_sums(half.float()))


def test_nothing_at_all_is_nan_and_passed_by():
    found = read_sums(top_k_sums(torch.zeros(2, 3, 5), torch.zeros(2, 3)))
    assert math.isnan(found.entropy)
    assert (found.tokens, found.sequences) == (0, 0)
    monitor = OverOptimisationMonitor()
    assert monitor.update(0, topk_entropy=found.entropy, topk_mass=found.mass, logps_chosen=-1.0) == []
    assert monitor.steps == []


def test_the_error_bar_is_that_of_answers_drawn_again():
    """Tokens of one answer are alike; 400 sets of 30 answers, whose spread has a relative error of 4%."""
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(400):
        tokens = rng.integers(1, 9, size=30)
        sums = torch.tensor(np.stack([tokens, tokens * rng.normal(2, 0.5, 30), tokens * 0.5], -1))
        found = read_sums(sums)
        means.append(found.entropy)
        errors.append(found.entropy_error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.15)


def test_token_means_and_sequence_means_differ_where_lengths_do():
    found = read_sums(torch.tensor([[1.0, 1.0, 0.5], [9.0, 0.0, 9.0]]))
    assert (found.entropy, found.sequence_entropy) == (pytest.approx(0.1), pytest.approx(0.5))
    assert (found.mass, found.sequence_mass) == (pytest.approx(0.95), pytest.approx(0.75))


# Distinct n-grams


def test_distinct_n_grams():
    assert expectation_adjusted_distinct([[5] * 6], 100, orders=(1,)) == pytest.approx(1 / (100 * (1 - 0.99**6)))
    assert expectation_adjusted_distinct([[1], [2]], 100) == pytest.approx(2 / (100 * (1 - 0.99**2)))  # unigrams alone
    assert math.isnan(expectation_adjusted_distinct([[]], 100))
    assert expectation_adjusted_distinct([[0, 0, 0]], 1) == 1.0


def test_uniform_tokens_are_as_distinct_as_expected():
    """EAD is 1 in the mean for tokens that are uniform over V; 20,000 draws over 5,000, so 1% is far off."""
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 5000, 100).tolist() for _ in range(200)]
    assert expectation_adjusted_distinct(texts, 5000, orders=(1,)) == pytest.approx(1.0, abs=0.01)


# The detector


def fed(monitor, entropy, mass=None, logps=None, error=0.0):
    for place, value in enumerate(entropy):
        monitor.update(
            50 * place,
            topk_entropy=value,
            topk_mass=0.9 if mass is None else mass[place],
            logps_chosen=-1.0 - 0.1 * place if logps is None else logps[place],
            entropy_error=error,
        )
    return monitor


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=60))
def test_what_never_falls_never_fires(rises):
    entropy = np.cumsum(rises)
    assert not fed(OverOptimisationMonitor(patience=1), entropy, mass=np.minimum(entropy, 1.0)).fired


def test_rise_and_fall_fire_once_and_go_back_to_the_averages_maximum():
    entropy = np.concatenate([np.linspace(2.0, 2.5, 20), np.linspace(2.5, 1.0, 30)])
    averages = [entropy[0]]
    for value in entropy[1:]:
        averages.append(0.9 * averages[-1] + 0.1 * value)
    below = max(averages) - np.array(averages) > 0.05
    below[: int(np.argmax(averages))] = False
    third = int(np.flatnonzero(below)[2])
    monitor = fed(OverOptimisationMonitor(), entropy)
    [signal] = monitor.signals
    assert (signal.name, signal.step) == ("entropy", 50 * third)
    assert monitor.restore_step == signal.restore_step == 50 * int(np.argmax(averages))
    assert signal.restore_step >= 50 * int(np.argmax(entropy))  # an average lags behind
    assert monitor.likelihood_drift == pytest.approx(-4.9)


def test_a_fall_with_likelihood_at_its_start_or_within_its_errors_is_no_signal():
    entropy = np.linspace(2.0, 1.0, 40)
    assert fed(OverOptimisationMonitor(), entropy).fired
    assert not fed(OverOptimisationMonitor(), entropy, logps=np.full(40, -1.0)).fired
    assert not fed(OverOptimisationMonitor(), entropy, error=0.5).fired
    assert fed(OverOptimisationMonitor(), entropy, error=math.nan).fired


def test_mass_that_leaks_is_the_second_signal():
    monitor = fed(OverOptimisationMonitor(), np.linspace(2, 3, 30), mass=np.linspace(0.95, 0.5, 30))
    assert [signal.name for signal in monitor.signals] == ["mass"]
    assert monitor.restore_step == 0


def test_patience_counts_evaluations_in_a_row():
    saw = [2.0, 2.0, 1.0, 1.0, 9.0] * 3  # four low values, then a new maximum
    assert not fed(OverOptimisationMonitor(patience=5, delta_h=0.01), saw).fired
    assert fed(OverOptimisationMonitor(patience=4, delta_h=0.01), saw).fired


def test_false_alarms_on_constant_entropy_with_noise():
    """400 runs of 100 evaluations whose entropy has a noise of 0.05 bits, with a likelihood that falls.

    Told that noise as the standard error, 5% of the runs fire, not told it 30%: the average starts at the first value,
    noise and all. With a noise of 0.02 bits it is 1.5% in both ways. The rates have a deviation of 2.3 points at most.
    """
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((400, 100))

    def rate(size, error):
        return np.mean([fed(OverOptimisationMonitor(), 2.5 + size * run, error=error).fired for run in noise])

    assert rate(0.05, 0.05) == pytest.approx(0.05, abs=0.033)
    assert rate(0.05, 0.0) == pytest.approx(0.30, abs=0.069)
    assert rate(0.02, 0.02) == pytest.approx(0.015, abs=0.015)


def test_a_monitor_goes_on_from_its_state():
    entropy = np.concatenate([np.linspace(2.0, 2.5, 10), np.linspace(2.5, 1.0, 30)])
    whole = fed(OverOptimisationMonitor(), entropy)
    first = fed(OverOptimisationMonitor(), entropy[:15])
    second = OverOptimisationMonitor()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for place in range(15, 40):
        second.update(50 * place, topk_entropy=entropy[place], topk_mass=0.9, logps_chosen=-1.0 - 0.1 * place)
    assert second.state_dict() == whole.state_dict()


def test_when_an_evaluation_is_due():
    assert [step for step in range(1, 151) if OverOptimisationMonitor(every=50).due(step)] == [50, 100, 150]


# Collapse and forecast


def test_the_alarm_rings_once_after_its_patience_and_says_since_when():
    alarm = CollapseAlarm(floor=0.3, share=0.1, patience=3)
    rings = [alarm.update(step, value) for step, value in enumerate([2.0, 0.2, 0.5, 0.2, 0.2, math.nan, 0.1, 0.1])]
    assert rings == [False] * 6 + [True, False]
    assert (alarm.since, alarm.level) == (3, 0.3)
    other = CollapseAlarm(floor=0.3, share=0.1)
    other.load_state_dict(json.loads(json.dumps(alarm.state_dict())))
    assert not other.update(9, 0.1)


def test_the_forecast_finds_the_laws_ceiling_and_refuses_what_is_no_law():
    rng = np.random.default_rng(3)
    entropy = np.linspace(1.6, 0.3, 60)
    score = 0.8 - 0.2 * np.exp(entropy) + 0.01 * rng.standard_normal(60)
    found = forecast_ceiling(entropy, score)
    assert found.low < 0.6 < found.high
    assert found.high - found.low < 0.05
    with pytest.raises(ValueError, match="score fell as the entropy did"):
        forecast_ceiling(entropy, -score)
    with pytest.raises(ValueError, match="at least 8 steps; got 3"):
        forecast_ceiling(entropy[:3], score[:3])


BAD = [
    (lambda: OverOptimisationMonitor(k=0), "k must be a whole number of at least 1; got 0"),
    (lambda: OverOptimisationMonitor(delta_h=-1), "delta_h must be finite and at least 0; got -1"),
    (lambda: fed(OverOptimisationMonitor(), [1, 1]).update(50, topk_entropy=1, topk_mass=1, logps_chosen=0), "after"),
    (lambda: CollapseAlarm(None, None), "floor and share are both None"),
    (lambda: CollapseAlarm(share=2.0), "share must be in \\(0, 1\\]; got 2.0"),
    (lambda: top_k_sums(torch.zeros(2, 3)), "logits must be \\[B, T, V\\]; got shape \\(2, 3\\)"),
    (lambda: top_k_sums(torch.zeros(2, 3, 4), torch.zeros(3, 2)), "mask must have shape \\(2, 3\\).*got \\(3, 2\\)"),
    (lambda: top_k_sums(torch.full((1, 1, 3), torch.nan)), "logits must be finite or -inf"),
    (lambda: expectation_adjusted_distinct([[1]], 0), "vocab_size must be a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
