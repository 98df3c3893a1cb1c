"""Measurements beside the peers, run by hand or by `make bench`; results land in `benchmarks/results/`."""
