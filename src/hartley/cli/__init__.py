"""The commands: a module each, run by ``hartley``."""
