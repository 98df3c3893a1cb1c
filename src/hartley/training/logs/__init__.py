"""Training logs of TRL, verl and transformers, read while they grow; and what each column really is."""

from hartley.training.logs.columns import COLUMNS, Column, Entropy, canonical, meaning
from hartley.training.logs.points import Point
from hartley.training.logs.run import RunLogs, Series

__all__ = ["COLUMNS", "Column", "Entropy", "Point", "RunLogs", "Series", "canonical", "meaning"]
