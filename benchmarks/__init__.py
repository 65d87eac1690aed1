"""Baselines by operator name, and the benchmark of the operator library against them."""
