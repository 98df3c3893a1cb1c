"""Controllers of the entropy bonus: each turns the measured entropy into the coefficient c of ``loss - c * entropy``.

A controller has a ``coefficient`` to use now, ``update(entropy)`` once an optimizer step, and a state that is saved and
resumed. Give it what `EntropyMeter` measures over all micro-batches and processes of the step, and every process holds
the same coefficient.
"""

from typing import Protocol

import torch
from torch import Tensor

from hartley.info.checks import check_non_negative, check_positive
from hartley.info.processes import Group, total


class Controller(Protocol):
    """What a trainer asks of a controller."""

    @property
    def coefficient(self) -> float:
        """The coefficient of the entropy bonus until the next update."""
        ...

    def update(self, entropy: float) -> float:
        """Take the entropy measured at a step (nats) and return the coefficient for the next."""
        ...

    def state_dict(self) -> dict[str, float | None]:
        """What changes while training, as JSON can hold it."""
        ...

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from a state."""
        ...


class ConstantCoefficient:
    """The same coefficient for ever: the plain entropy bonus.

    >>> ConstantCoefficient(1e-3).update(0.2)
    0.001
    """

    def __init__(self, coefficient: float) -> None:
        _check_finite("coefficient", coefficient)
        self.coefficient = coefficient

    def update(self, entropy: float) -> float:
        """Return the coefficient."""
        _check_finite("entropy", entropy)
        return self.coefficient

    def state_dict(self) -> dict[str, float | None]:
        """Nothing changes."""
        return {}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Nothing to go on from; raises ``ValueError`` for a state that holds something."""
        _check_names(state, self.state_dict())


class DeltaController:
    """TRL's rule: one step of ``delta`` up while the entropy is at or below ``target``, else one down.

    The coefficient stays within ``minimum`` and ``maximum``, and is applied (``coefficient``) only after a measurement
    at or below the target: above it, and before the first one, the bonus is 0. ``target`` is in nats; names and
    defaults are those of ``GRPOConfig`` without their prefix.

    >>> rule = DeltaController(target=0.2)
    >>> rule.coefficient, rule.update(0.1), rule.update(0.15), rule.update(0.5)
    (0.0, 0.005, 0.01, 0.0)
    """

    def __init__(
        self,
        target: float = 0.2,
        delta: float = 0.005,
        *,
        minimum: float = 0.0,
        maximum: float = 1.0,
        initial: float = 0.0,
    ) -> None:
        check_non_negative("target", target)
        check_non_negative("delta", delta)
        _check_range(minimum, maximum, initial)
        self.target, self.delta, self.minimum, self.maximum = target, delta, minimum, maximum
        self._value = initial
        self._last: float | None = None

    @property
    def coefficient(self) -> float:
        """The coefficient if the last entropy was at or below the target, else 0."""
        return self._value if self._last is not None and self._last <= self.target else 0.0

    def update(self, entropy: float) -> float:
        """Take the entropy of a step (nats) and return the coefficient for the next."""
        _check_finite("entropy", entropy)
        step = self.delta if entropy <= self.target else -self.delta
        self._value = min(max(self._value + step, self.minimum), self.maximum)
        self._last = entropy
        return self.coefficient

    def state_dict(self) -> dict[str, float | None]:
        """The coefficient beneath, and the last entropy."""
        return {"value": self._value, "last": self._last}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from a state."""
        _check_names(state, self.state_dict())
        self._value, self._last = _number(state, "value"), state["last"]


class PIController:
    """Proportional and integral control: ``initial + kp e + ki sum(e)``, e the target less the measured entropy.

    ``target`` is in nats, ``kp`` and ``ki`` in units of the coefficient per nat (``ki`` each step). The integral stops
    while the coefficient is held at ``minimum`` or ``maximum`` (no wind-up). A ``minimum`` below 0 allows entropy to be
    pressed down too.

    >>> control = PIController(target=1.0, kp=0.1, ki=0.01)
    >>> [round(control.update(entropy), 4) for entropy in (0.5, 0.5, 1.0, 2.0)]
    [0.055, 0.06, 0.01, 0.0]
    """

    def __init__(
        self,
        target: float,
        *,
        kp: float = 0.1,
        ki: float = 0.01,
        minimum: float = 0.0,
        maximum: float = 1.0,
        initial: float = 0.0,
    ) -> None:
        check_positive("target", target)
        check_non_negative("kp", kp)
        check_non_negative("ki", ki)
        _check_range(minimum, maximum, initial)
        self.target, self.kp, self.ki, self.minimum, self.maximum = target, kp, ki, minimum, maximum
        self._integral = self._coefficient = initial

    @property
    def coefficient(self) -> float:
        """The coefficient of the entropy bonus until the next update."""
        return self._coefficient

    def update(self, entropy: float) -> float:
        """Take the entropy of a step (nats) and return the coefficient for the next."""
        _check_finite("entropy", entropy)
        error = self.target - entropy
        integral = self._integral + self.ki * error
        wanted = integral + self.kp * error
        held = min(max(wanted, self.minimum), self.maximum)
        if held == wanted or (wanted > held) == (error < 0):  # free, or on its way back
            self._integral = integral
        self._coefficient = held
        return held

    def state_dict(self) -> dict[str, float | None]:
        """The integral and the coefficient."""
        return {"integral": self._integral, "coefficient": self._coefficient}

    def load_state_dict(self, state: dict[str, float | None]) -> None:
        """Go on from a state."""
        _check_names(state, self.state_dict())
        self._integral, self._coefficient = _number(state, "integral"), _number(state, "coefficient")


class EntropyMeter:
    """The mean entropy of the tokens of one optimizer step, over its micro-batches and over processes.

    Sums and counts are kept apart, so that the mean is that of the tokens, whoever holds how many.

    >>> meter = EntropyMeter()
    >>> meter.add(torch.tensor([1.0, 3.0]), torch.tensor([1, 1]))
    >>> meter.add(torch.tensor([5.0, 9.0]), torch.tensor([1, 0]))
    >>> meter.read(), meter.read()
    (3.0, None)
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, entropy: Tensor, mask: Tensor) -> None:
        """Take the entropies of a micro-batch (nats) and the mask of those that count, of one shape."""
        if entropy.shape != mask.shape:
            shapes = f"{tuple(entropy.shape)} and {tuple(mask.shape)}"
            raise ValueError(f"entropy and mask must have one shape; got {shapes}")
        kept = mask.bool()
        found = torch.stack([torch.where(kept, entropy.detach(), 0).double().sum(), kept.sum().double()])
        self._sums = found if self._sums is None else self._sums + found

    def read(self, group: Group = None) -> float | None:
        """The mean since the last reading, over the processes of ``group``; None where no token counted.

        Every process of the group must call it, after it added at least once.
        """
        if self._sums is None:
            return None
        entropy, count = total(self._sums, group).tolist()
        self._sums = None
        return entropy / count if count else None


def _check_finite(name: str, value: float) -> None:
    if not abs(value) < float("inf"):
        raise ValueError(f"{name} must be a finite number; got {value}")


def _check_range(minimum: float, maximum: float, initial: float) -> None:
    if not minimum <= initial <= maximum:
        raise ValueError(f"initial must lie within minimum and maximum, [{minimum}, {maximum}]; got {initial}")


def _check_names(state: dict[str, float | None], wanted: dict[str, float | None]) -> None:
    if set(state) != set(wanted):
        raise ValueError(f"state must hold {', '.join(wanted) or 'nothing'}; got {', '.join(state) or 'nothing'}")


def _number(state: dict[str, float | None], name: str) -> float:
    value = state[name]
    if value is None:
        raise ValueError(f"state's {name} must be a number; got None")
    return value
