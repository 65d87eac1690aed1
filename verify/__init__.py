"""Gates: obligations, proofs, differential tests, certificates."""
