"""The geometry of strip charts."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hartley.report.strips import HEIGHT, log_marks, marks_to, strip

values = st.lists(st.none() | st.floats(0, 20), min_size=1, max_size=30)


def heights(area):
    """The value of each column, read back from the path: 0 at the axis, 1 at the top."""
    return [1 - float(y) / HEIGHT for y in re.findall(r"V([\d.]+)H", area)]


@given(st.floats(1e-2, 1e5))
def test_round_marks_reach_the_highest_value_and_not_far_beyond(highest):
    marks = marks_to(highest)
    assert marks[0] == 0
    assert 2 <= len(marks) <= 5
    assert highest <= marks[-1] * (1 + 1e-9)
    assert marks[-2] < highest


@given(st.integers(1, 10**7))
def test_log_marks_are_powers_of_ten_up_to_the_highest(highest):
    marks = log_marks(highest)
    assert marks[0] == 1
    assert marks[-1] <= max(10, highest)
    assert len(marks) <= 5


@given(values)
def test_columns_stand_as_high_as_their_values(values):
    found = strip("title", "nats", values, [])
    known = [value for value in values if value is not None]
    if not known:
        assert found is None
        return
    top = marks_to(max(known))[-1]
    drawn = heights(found.area)
    assert len(drawn) == len(values)
    for value, height in zip(values, drawn, strict=True):
        assert abs(height - (value or 0.0) / top) < 2e-4


@given(st.lists(st.integers(1, 50_000), min_size=1, max_size=30))
def test_counts_keep_their_order_on_a_logarithmic_axis_and_one_is_seen(counts):
    drawn = heights(strip("title", "tokens", counts, [], log=True).area)
    assert all(0 < height <= 1 for height in drawn)
    order = sorted(range(len(counts)), key=counts.__getitem__)
    assert all(drawn[i] <= drawn[j] for i, j in pairwise(order))


def test_dots_share_the_axis_with_the_columns():
    found = strip("title", "nats", [1.0, None], [], dots=[2.0, 4.0])
    assert found.dots == [(0.5, 50.0), (1.5, 0.0)]
