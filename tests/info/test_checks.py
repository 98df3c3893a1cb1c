"""Every refusal names the argument, the value or row, and what is allowed."""

import math
import re

import numpy as np
import pytest
import torch

from hartley.info import checks

BAD = [
    (checks.check_fraction, 0, "p must be in (0, 1]; got 0"),
    (checks.check_fraction, 1.5, "p must be in (0, 1]; got 1.5"),
    (checks.check_fraction, math.nan, "p must be in (0, 1]; got nan"),
    (checks.check_fraction, torch.tensor([0.5, 2.0, -1.0]), "p must be in (0, 1]; got 2.0 in row 1 (and 1 more)"),
    (checks.check_fraction, np.array([[0.5], [0.0]]), "p must be in (0, 1]; got 0.0 in row (1, 0)"),
    (checks.check_positive, 0.0, "p must be finite and above 0; got 0.0"),
    (checks.check_positive, math.inf, "p must be finite and above 0; got inf"),
    (checks.check_non_negative, -0.5, "p must be finite and at least 0; got -0.5"),
    (checks.check_count, 0, "p must be a whole number of at least 1; got 0"),
    (checks.check_count, torch.tensor([3, 0]), "p must be a whole number of at least 1; got 0 in row 1"),
]


@pytest.mark.parametrize(("check", "value", "message"), BAD)
def test_a_bad_value_is_named(check, value, message):
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        check("p", value)


@pytest.mark.parametrize("value", ["0.5", None, True, [0.5], object()])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^p must be a number"):
        checks.check_fraction("p", value)


@pytest.mark.parametrize("value", [1.0, np.float64(2.0), torch.tensor([1.0])])
def test_a_count_is_an_integer(value):
    with pytest.raises(TypeError, match=r"^k must be a whole number"):
        checks.check_count("k", value)


def test_good_values_pass():
    checks.check_fraction("p", 1.0)
    checks.check_fraction("p", torch.tensor([1e-9, 1.0]))
    checks.check_positive("t", np.float32(3.0))
    checks.check_non_negative("t", 0)
    checks.check_count("k", np.int64(1))
    checks.check_count("k", torch.tensor([1, 50]))
    checks.check_base(None)
    checks.check_base(2)
    checks.check_axis(-3, 3, "logits")


@pytest.mark.parametrize("base", [0, 1, -2, math.inf, math.nan])
def test_a_base_is_above_one(base):
    with pytest.raises(ValueError, match="base must be None"):
        checks.check_base(base)


@pytest.mark.parametrize("axis", [2, -3])
def test_an_axis_exists(axis):
    with pytest.raises(ValueError, match=f"axis {axis} is out of range: logits has 2 dimensions"):
        checks.check_axis(axis, 2, "logits")


def test_exactly_one_names_what_was_given():
    with pytest.raises(ValueError, match="exactly one of logits=, probs=; got none"):
        checks.check_exactly_one(logits=None, probs=None)
    with pytest.raises(ValueError, match="got logits= and probs="):
        checks.check_exactly_one(logits=1, probs=2)


LOGITS = torch.zeros(3, 5)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((1, 4), math.nan, "logits must be finite or -inf; got NaN at index 4 in row 1"),
        ((2, 0), math.inf, r"logits must be finite or -inf; got \+inf at index 0 in row 2"),
        ((0,), -math.inf, "logits must leave at least one token above -inf; got nothing but -inf in row 0"),
    ],
)
def test_bad_logits_name_the_row(place, value, message):
    logits = LOGITS.clone()
    logits[place] = value
    with pytest.raises(ValueError, match=message):
        checks.check_logits(logits)


def test_nan_is_found_beside_infinities():
    logits = torch.tensor([[math.inf, math.nan], [-math.inf, -math.inf]])
    with pytest.raises(ValueError, match="NaN at index 1 in row 0"):
        checks.check_logits(logits)


def test_logits_keep_their_legal_forms():
    checks.check_logits(torch.tensor([[0.0, -math.inf], [-math.inf, 3e38]]))
    checks.check_logits(torch.tensor([7.0]))
    checks.check_logits(torch.zeros(0, 5))  # no rows, nothing wrong


def test_logits_are_floating_point_rows():
    with pytest.raises(TypeError, match=r"logits must be floating point; got torch\.int64"):
        checks.check_logits(torch.tensor([1, 2]))
    for empty in (torch.zeros(3, 0), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="at least one value a row"):
            checks.check_logits(empty)


def test_one_of_a_few():
    checks.check_one_of("rule", "paper", ("paper", "partial"))
    with pytest.raises(ValueError, match="rule must be one of 'paper', 'partial'; got 'papers'"):
        checks.check_one_of("rule", "papers", ("paper", "partial"))
