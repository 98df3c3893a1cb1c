import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from hartley.representation.sketch import SIZE, sketched_change, weight_sketch


@given(st.integers(0, 2**16), st.floats(-3, 3))
def test_a_sketch_is_linear(seed, factor):
    a, b = torch.randn(2, 9, 13, generator=torch.Generator().manual_seed(seed))
    np.testing.assert_allclose(
        weight_sketch(a + factor * b), weight_sketch(a) + factor * weight_sketch(b), rtol=1e-4, atol=1e-4
    )


def test_squares_add_up_on_average():
    """Of Gaussian entries each sum is Gaussian, so the squares follow chi-squared; false alarm 1e-6 on either side."""
    draws, entries = 200, SIZE * 50
    rows = torch.randn(draws, entries, generator=torch.Generator().manual_seed(0))
    total = sum(float((weight_sketch(row) ** 2).sum()) for row in rows) / 50
    assert chi2.ppf(1e-6, draws * SIZE) < total < chi2.isf(1e-6, draws * SIZE)


@pytest.mark.parametrize("change", [1e-3, 0.1])
def test_a_change_is_estimated_within_its_error(change):
    """Within 4.5 standard errors in each of 50 draws: a false alarm in about 3 in 10,000 runs of a fixed seed."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        before, step = torch.randn(2, 64, 96, generator=generator)
        found = sketched_change(weight_sketch(before), weight_sketch(before + change * step))
        true = change * float(step.norm() / before.norm())
        assert abs(found.value - true) < 4.5 * found.stderr


def test_nothing_changed_and_bad_input():
    sketch = weight_sketch(torch.ones(5))
    assert sketched_change(sketch, sketch) == (0.0, 0.0)
    assert sketched_change(np.zeros(4), np.zeros(4)) == (0.0, 0.0)
    assert sketched_change(np.zeros(4), np.ones(4)).value == np.inf
    with pytest.raises(ValueError, match=r"size of before, \(4,\); got \(5,\)"):
        sketched_change(np.zeros(4), np.zeros(5))
