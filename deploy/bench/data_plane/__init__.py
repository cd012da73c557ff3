"""Benchmarks of the data plane: Vecino and its peers side by side in one run."""
