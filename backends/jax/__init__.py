"""JAX: whole-array candidates."""
