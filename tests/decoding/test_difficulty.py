"""Trace entropy in closed form, the label rule's truth table and its laws, and where thresholds come from."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.decoding import fit_thresholds, label_difficulty, trace_entropy
from strategies import entropy64, law, log_softmax64, rows

SHARES = st.integers(0, 10).map(lambda n: n / 10)
NATS = st.floats(0, 5)


@pytest.mark.parametrize(
    ("acc", "entropy", "label"),
    [
        (0.9, 0.4, "normal"),
        (0.9, 0.6, "easy"),
        (0.5, 0.4, "easy"),
        (0.2, 0.4, "hard"),
        (0.8, 0.5, "normal"),
        (0.3, 0.9, "easy"),
    ],
)
def test_the_truth_table(acc, entropy, label):
    assert label_difficulty(acc, entropy, alpha=0.8, beta=0.5, gamma=0.3) == label


@given(SHARES, NATS, SHARES, NATS, SHARES)
def test_the_rule_as_the_paper_writes_it(acc, entropy, alpha, beta, gamma):
    gamma, alpha = sorted((alpha, gamma))
    if acc >= alpha and entropy <= beta:
        expected = "normal"
    elif acc < gamma:
        expected = "hard"
    else:
        expected = "easy"
    assert label_difficulty(acc, entropy, alpha, beta, gamma) == expected
    # the order of the two tests does not matter
    assert not (acc >= alpha and entropy <= beta and acc < gamma)


@given(st.lists(st.tuples(SHARES, NATS), min_size=1, max_size=20))
def test_arrays_are_labelled_row_by_row(questions):
    acc, entropy = map(list, zip(*questions, strict=True))
    labels = label_difficulty(acc, entropy, beta=1.0)
    assert list(labels) == [label_difficulty(*one, beta=1.0) for one in questions]


def test_a_question_without_a_token_is_hard():
    assert label_difficulty(1.0, math.nan, beta=5.0) == "hard"
    assert label_difficulty([0.5, 0.5], [math.nan, 0.1], beta=5.0).tolist() == ["hard", "easy"]


def test_thresholds_are_ours_and_the_median_of_what_the_model_can_answer():
    found = fit_thresholds([1.0, 0.9, 0.8, 0.79, 0.0], [0.1, 0.5, 0.3, 9.0, math.nan])
    assert found == (0.8, 0.3, 0.3)
    assert fit_thresholds([0.1, 0.2, 0.5], [0.1, 0.5, 0.3]).beta == 0.3  # none it can answer: of all
    assert fit_thresholds([1.0, 0.6], [0.1, 0.4], alpha=0.5, gamma=0.5) == (0.5, 0.25, 0.5)


@given(st.lists(st.tuples(SHARES, NATS), min_size=1, max_size=30))
def test_at_least_half_of_what_the_model_can_answer_is_normal(questions):
    acc, entropy = (np.array(one) for one in zip(*questions, strict=True))
    labels = label_difficulty(acc, entropy, *fit_thresholds(acc, entropy))
    assert 2 * (labels == "normal").sum() >= (acc >= 0.8).sum()
    assert set(labels[acc < 0.8]) <= {"easy", "hard"}


def test_uniform_and_certain_traces():
    for size in (1, 2, 8, 300):
        assert trace_entropy(torch.zeros(5, size)).item() == pytest.approx(math.log(size), abs=1e-6)
    certain = torch.full((5, 8), -math.inf).index_fill_(1, torch.tensor([3]), 0.0)
    assert trace_entropy(certain) == 0


@law(rows(), st.integers(1, 3))
def test_a_mean_over_tokens_not_a_sum(logits, times):
    once = trace_entropy(logits.double())
    torch.testing.assert_close(once, entropy64(log_softmax64(logits)).mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(trace_entropy(logits.double().repeat(times, 1)), once, rtol=1e-9, atol=1e-12)


def test_only_generated_tokens_count_whatever_stands_in_the_others():
    logits = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).bool()
    spoiled = logits.masked_fill(~mask[..., None], math.nan)
    found = trace_entropy(spoiled, mask)
    for row in range(2):
        torch.testing.assert_close(found[row], entropy64(log_softmax64(logits[row, mask[row]])).mean())
    assert found[2].isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_half_precision_is_summed_in_float32(dtype):
    logits = torch.zeros(5000, 8, dtype=dtype)
    found = trace_entropy(logits)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.item() == pytest.approx(math.log(8), abs=1e-4)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: label_difficulty(1.1, 0.1), r"acc must be in \[0, 1\]; got 1.1"),
        (lambda: label_difficulty(math.nan, 0.1), "acc must be"),
        (lambda: label_difficulty(0.5, -0.1), "entropy must be finite and at least 0 nats; got -0.1"),
        (lambda: label_difficulty(0.5, math.inf), "entropy must be finite"),
        (lambda: label_difficulty(0.5, 0.1, alpha=0.2, gamma=0.3), "got gamma=0.3, alpha=0.2"),
        (lambda: label_difficulty(0.5, 0.1, beta=-1.0), "beta must be at least 0 nats; got -1.0"),
        (lambda: label_difficulty([0.5], [0.1, 0.2]), "shapes"),
        (lambda: fit_thresholds([0.5], [math.nan]), "every trace was empty"),
        (lambda: trace_entropy(torch.zeros(8)), r"logits must have shape \[..., T, V\]"),
        (lambda: trace_entropy(torch.zeros(2, 8), torch.ones(3)), r"mask must have shape \(2,\)"),
        (lambda: trace_entropy(torch.full((2, 8), math.nan)), "NaN"),
    ],
)
def test_what_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
