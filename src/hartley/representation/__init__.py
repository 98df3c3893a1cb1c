"""What a network encodes: how much, in how many directions, and where."""

from hartley.representation.recorder import record
from hartley.representation.reservoir import Reservoir

__all__ = ["Reservoir", "record"]
