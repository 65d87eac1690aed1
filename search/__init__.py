"""Search: proposers, archive, budget, executors."""
