import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.representation.tally import Tally, jackknife_error


@given(st.integers(0, 2**16), st.integers(1, 5))
def test_any_split_gives_the_same_means_and_errors(seed, groups):
    rng = np.random.default_rng(seed)
    batches = [(int(rng.integers(groups)), rng.normal(size=(int(rng.integers(1, 5)), 2))) for _ in range(8)]
    whole, left, right = Tally(groups), Tally(groups), Tally(groups)
    for number, (group, values) in enumerate(batches):
        whole.add("x", group, values)
        (left, right)[number % 2].add("x", group, values)
    for a, b in zip(whole.mean("x"), right.merge(left).mean("x"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert whole.count("x") == right.count("x") == sum(len(values) for _, values in batches)


def test_the_error_of_equal_groups_is_that_of_their_means():
    means = np.random.default_rng(0).normal(size=8)
    tally = Tally(8)
    for group, mean in enumerate(means):
        tally.add("x", group, torch.tensor([mean - 1, mean + 1]))
    value, stderr = tally.mean("x")
    assert value == pytest.approx(means.mean())
    assert stderr == pytest.approx(means.std(ddof=1) / np.sqrt(8))


def test_one_group_knows_no_error():
    assert np.isnan(Tally(4).add("x", 2, [1.0, 2.0]).mean("x").stderr)
    assert np.isnan(jackknife_error(np.ones((1, 3)))).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"group must be in 0\.\.3; got 4"):
        Tally(4).add("x", 4, [1.0])
    with pytest.raises(ValueError, match="name must be one that was counted, 'x'; got 'y'"):
        Tally(1).add("x", 0, [1.0]).mean("y")
    with pytest.raises(ValueError, match="other must have 4 groups, as this one; got 3"):
        Tally(4).merge(Tally(3))
