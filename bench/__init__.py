"""Benchmarks: `make bench`. Each figure beside its budget, with the machine it was taken on."""
