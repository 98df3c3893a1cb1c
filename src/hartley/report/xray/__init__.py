"""Examine a network: what its layers encode, what its heads do, which tensors to tune, where it is unsure."""
