"""Calibration: who counts, and what comes out for a model that is calibrated or is not."""

import math

import numpy as np
import pytest

from hartley.report.calibration import aligned, calibration, reliability
from hartley.report.readers import Reading, Text


def token(text, surprisal, *others):
    top = sorted([(text, -surprisal), *others], key=lambda one: -one[1])
    return {"text": text, "piece": text, "surprisal": surprisal, "top": [{"text": t, "log_prob": p} for t, p in top]}


def reading(*tokens, **facts):
    return Reading("file", "form", [Text("text", list(tokens), **facts)])


SAID = [
    token("The", 0.2, (" A", -2.0)),
    token(" cat", 1.5, (" dog", -0.5)),  # the first choice is the dog
    token(" sat", 0.4, (" lay", -1.3)),
]


def test_every_token_whose_context_is_the_reference_counts():
    pairs = aligned(reading(*SAID).texts[0], "The cat sat on the mat")
    assert pairs == [
        (pytest.approx(math.exp(-0.2)), True),
        (pytest.approx(math.exp(-0.5)), False),
        (pytest.approx(math.exp(-0.4)), True),
    ]


def test_the_place_where_the_text_leaves_the_reference_is_the_last_that_counts():
    pairs = aligned(reading(*SAID).texts[0], "The dog sat")
    assert pairs == [(pytest.approx(math.exp(-0.2)), True), (pytest.approx(math.exp(-0.5)), True)]
    pairs = aligned(reading(*SAID).texts[0], "The horse sat")
    assert pairs == [(pytest.approx(math.exp(-0.2)), True), (pytest.approx(math.exp(-0.5)), False)]


def test_prompts_and_spaces_at_the_start_are_passed_over():
    assert len(aligned(reading(*SAID, prompt="Once. ").texts[0], "Once. The cat sat")) == 3
    assert len(aligned(reading(token(" The", 0.2, (" A", -2.0)), *SAID[1:]).texts[0], "The cat sat")) == 3
    scored = Text("prompt", SAID[1:], is_prompt=True)  # a provider leaves out a prompt's first token
    assert len(aligned(scored, "The cat sat")) == 2


def test_a_first_choice_that_is_not_sure_does_not_count():
    alone = {"text": "The", "piece": "The", "surprisal": 1.0, "top": [{"text": "The", "log_prob": -1.0}]}
    assert aligned(reading(alone, *SAID[1:]).texts[0], "The cat sat")[0][0] == pytest.approx(math.exp(-0.5))
    assert len(aligned(reading(alone | {"surprisal": 0.1}, *SAID[1:]).texts[0], "The cat sat")) == 3
    assert len(aligned(reading(alone | {"rank": 1}, *SAID[1:]).texts[0], "The cat sat")) == 3


def test_a_reference_that_has_nothing_to_do_with_the_text_is_refused():
    with pytest.raises(ValueError, match="do not begin alike"):
        calibration(reading(*SAID), "Quite another text")
    with pytest.raises(ValueError, match="reference text is empty"):
        calibration(reading(*SAID), " \n")


def outcomes(seed, count, lift):
    """First choices that are right with their probability, plus ``lift`` logits of overconfidence."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=count) * 1.5
    right = rng.random(count) < 1 / (1 + np.exp(-logits))
    return list(zip((1 / (1 + np.exp(-(logits + lift)))).tolist(), right.tolist(), strict=True))


def test_a_calibrated_model_is_found_calibrated():
    """200 samples: the gap leaves 2 standard errors in 4.6 % of them; over 22 (11 %) has probability 1e-4."""
    left = sum(
        abs(found.gap) > 2 * found.error for found in (reliability(outcomes(s, 400, 0), 400) for s in range(200))
    )
    assert left <= 22


def test_an_overconfident_model_is_found_overconfident():
    found = reliability(outcomes(0, 4000, 1.0), 4000)
    assert "overconfident by" in found.verdict
    assert found.gap > 0.1
    assert found.expected_error >= abs(found.gap) - 1e-12  # by the triangle inequality
    assert sum(one.size for one in found.bins) == 4000
    assert all(one.low <= one.accuracy <= one.high for one in found.bins)
