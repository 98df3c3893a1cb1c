"""Information theory for machine learning: measure, steer and spend the entropy of real models."""

from importlib.metadata import version

__version__ = version("hartley")
