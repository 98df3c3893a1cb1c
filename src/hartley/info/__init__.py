"""The mathematics everything else is built from: entropies, their estimators and bounds, and the Head of a distribution."""

from hartley.info.head import Head

__all__ = ["Head"]
