"""The phase chart: thresholds as they are stated."""

import numpy as np
import pytest

from hartley.representation import phase_chart


def test_the_regimes():
    sizes = [4, 8, 16, 32, 64]
    redundancy = [[0.9, 0.51, 0.5, 0.01, 0.0], [0.5, 0.1, 0.009, 0.009, 0.0]]
    accuracy = [[0.5, 0.6, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9, 0.95]]
    chart = phase_chart(sizes, redundancy, accuracy)
    assert chart.regime.tolist() == [
        ["under", "under", "critical", "critical", "sufficient"],
        ["critical", "critical", "sufficient", "critical", "critical"],
    ]
    steps = np.diff(accuracy, axis=1) / np.log(2)
    np.testing.assert_allclose(chart.slope[:, 1:-1], (steps[:, 1:] + steps[:, :-1]) / 2, atol=1e-12)
    np.testing.assert_allclose(chart.slope[:, [0, -1]], steps[:, [0, -1]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([4], [0.1], [0.1]), r"sizes must be at least two rising numbers above 0; got \[4.0\]"),
        (([4, 4], [0.1, 0.1], [0.1, 0.1]), r"sizes must be at least two rising"),
        (([0, 4], [0.1, 0.1], [0.1, 0.1]), r"sizes must be at least two rising"),
        (([4, 8], [0.1], [0.1]), r"redundancy must have shape \[..., 2\], as the other; got \(1,\)"),
        (([4, 8], [0.1, 0.2], [[0.1, 0.2]]), r"accuracy must have shape \[..., 2\], as the other; got \(1, 2\)"),
        (([4, 8], [0.1, 0.2], [0.1, 97.0]), r"accuracy must be shares in 0 .. 1; got 97"),
        (([4, 8], [0.1, float("nan")], [0.1, 0.2]), r"redundancy must be shares in 0 .. 1; got nan"),
    ],
)
def test_bad_charts(given, message):
    with pytest.raises(ValueError, match=message):
        phase_chart(*given)
