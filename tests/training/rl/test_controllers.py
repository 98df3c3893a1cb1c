import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hartley.training.rl import ConstantCoefficient, DeltaController, EntropyMeter, PIController

MAKERS = [
    lambda: ConstantCoefficient(0.01),
    lambda: DeltaController(target=1.0, delta=0.01),
    lambda: PIController(1.0, kp=0.2, ki=0.02),
]


@pytest.mark.parametrize("make", MAKERS)
@given(entropies=st.lists(st.floats(0, 3), min_size=2, max_size=20), cut=st.integers(0, 20))
def test_a_saved_controller_goes_on_as_if_never_stopped(make, entropies, cut):
    whole, first, second = make(), make(), make()
    expected = [whole.update(h) for h in entropies]
    found = [first.update(h) for h in entropies[:cut]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
    assert second.coefficient == first.coefficient
    assert found + [second.update(h) for h in entropies[cut:]] == expected


@given(entropies=st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_trls_rule_restated(entropies):
    rule = DeltaController(target=0.9, delta=0.3, minimum=0.1, maximum=0.8, initial=0.2)
    value = 0.2
    assert rule.coefficient == 0
    for h in entropies:
        value = min(value + 0.3, 0.8) if h <= 0.9 else max(value - 0.3, 0.1)
        assert rule.update(h) == (value if h <= 0.9 else 0.0)


@given(entropies=st.lists(st.floats(0, 3), max_size=60))
def test_pi_stays_in_its_range_and_does_not_wind_up(entropies):
    control = PIController(1.0, kp=0.5, ki=0.3, minimum=-0.2, maximum=0.4)
    for h in entropies:
        assert -0.2 <= control.update(h) <= 0.4
    for _ in range(200):
        control.update(0.0)
    assert control.coefficient == 0.4
    control.update(5.0)
    assert control.coefficient < 0.4, "it lets go at once"


def test_pi_holds_a_plant_that_leaks():
    """Entropy falls by 5% a step and rises by the coefficient: the integral finds the coefficient that holds it."""
    control, h = PIController(1.0, kp=0.3, ki=0.05), 2.0
    for _ in range(300):
        h += 0.3 * control.coefficient - 0.05 * h
        control.update(h)
    assert h == pytest.approx(1.0, abs=1e-3)


def test_the_meter_is_the_mean_of_tokens_not_of_batches():
    meter = EntropyMeter()
    assert meter.read() is None
    meter.add(torch.tensor([[2.0, 4.0]]), torch.tensor([[1, 1]]))
    meter.add(torch.tensor([[9.0, float("nan")]]), torch.tensor([[1, 0]]))
    assert meter.read() == 5.0
    meter.add(torch.tensor([[9.0]]), torch.tensor([[0]]))
    assert meter.read() is None


def test_errors():
    with pytest.raises(ValueError, match="entropy must be a finite number; got nan"):
        PIController(1.0).update(float("nan"))
    with pytest.raises(ValueError, match=r"initial must lie within minimum and maximum, \[0.0, 1.0\]; got 2"):
        DeltaController(initial=2)
    with pytest.raises(ValueError, match="state must hold value, last; got integral"):
        DeltaController().load_state_dict({"integral": 1.0})
    with pytest.raises(ValueError, match="target must be finite and above 0; got 0"):
        PIController(0)
    with pytest.raises(ValueError, match=r"one shape; got \(2,\) and \(3,\)"):
        EntropyMeter().add(torch.ones(2), torch.ones(3))
